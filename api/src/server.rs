//! Serving HTTP/1 with a bound on everything a client can take its time with.
//!
//! `axum::serve` has no timeouts, so connections are driven here: at most so many at a time,
//! each with a time limit on a request's head, on resting between requests, and on taking
//! nothing of an answer (see [`patience`]); the body's limit is in the extractor. When all places
//! are taken and somebody waits for one, connections that rest make room. When the process is asked to stop, the listener closes, requests in flight are finished up to a limit,
//! and idle connections are closed at once.

pub mod patience;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use metrics::gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::patience::{Patience, Patient, Requests};
use crate::config::Limits;

/// The pause after the listener failed (no file descriptor is left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a request's head that are read at most; the door refuses smaller ones already, and says
/// so.
const HEAD_BYTES_MAX: usize = 128 * 1024;
/// How long a connection rests before it makes room, when others wait for a place.
const REST_MIN: Duration = Duration::from_secs(1);
/// How often those with a place are asked for one.
const ASKING_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `stop`, then finishes what is in flight.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    stop: CancellationToken,
) {
    let places = Places::new(limits.connections_max);
    let connections = TaskTracker::new();
    let patience = Patience {
        head: limits.header_timeout,
        idle: limits.idle_timeout,
        write: limits.write_timeout,
    };
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, place)) => {
                let router = router.clone();
                let (stop, wanted) = (stop.clone(), Arc::clone(&places.wanted));
                connections.spawn(async move {
                    let _place = place;
                    gauge!("http_connections").increment(1);
                    drive(stream, router, patience, stop, &wanted).await;
                    gauge!("http_connections").decrement(1);
                });
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    if timeout(limits.drain_timeout, connections.wait())
        .await
        .is_err()
    {
        let left = connections.len();
        tracing::warn!(
            left,
            "connections were cut off: their time to finish was over"
        );
    }
}

/// The places for connections.
struct Places {
    free: Arc<Semaphore>,
    /// Told while somebody waits for one.
    wanted: Arc<Notify>,
}

impl Places {
    fn new(count: usize) -> Self {
        Self {
            free: Arc::new(Semaphore::new(count)),
            wanted: Arc::default(),
        }
    }

    /// A place, as soon as there is one.
    async fn take(&self) -> io::Result<OwnedSemaphorePermit> {
        loop {
            let free = Arc::clone(&self.free).acquire_owned();
            if let Ok(place) = timeout(ASKING_PAUSE, free).await {
                return place.map_err(io::Error::other);
            }
            self.wanted.notify_waiters();
        }
    }
}

/// The next connection, with a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Places,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, places.take().await?))
}

async fn drive(
    stream: TcpStream,
    router: Router,
    patience: Patience,
    stop: CancellationToken,
    wanted: &Notify,
) {
    let (stream, requests) = Patient::new(stream, patience);
    let resting = requests.clone();
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let in_hand = requests.begin();
            let answer = tower::Service::call(&mut router.clone(), request);
            async move {
                let answer = answer.await;
                drop(in_hand);
                answer
            }
        });
    let connection = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = make_room(wanted, &resting) => return,
    };
    if let Err(error) = ended {
        // Clients that hang up or idle away are their own business.
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "a connection ended"
        );
    }
}

/// Waits until somebody wants a place that this connection does not need.
async fn make_room(wanted: &Notify, requests: &Requests) {
    loop {
        wanted.notified().await;
        if requests.rest().is_some_and(|rest| rest >= REST_MIN) {
            return;
        }
    }
}
