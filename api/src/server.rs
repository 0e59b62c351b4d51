//! Serving HTTP/1 with a bound on everything a client can take its time with.
//!
//! `axum::serve` has no timeouts, so connections are driven here: at most so many at a time,
//! each with a time limit on a request's head, on resting between requests, and on taking
//! nothing of an answer (see [`patience`]); the body's limit is in the extractor. When the
//! process is asked to stop, the listener closes, requests in flight are finished up to a limit,
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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::patience::{Patience, Patient};
use crate::config::Limits;

/// The pause after the listener failed (no file descriptor is left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a request's head, at most.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Serves until `stop`, then finishes what is in flight.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(limits.connections_max));
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
                let stop = stop.clone();
                connections.spawn(async move {
                    let _place = place;
                    gauge!("http_connections").increment(1);
                    drive(stream, router, patience, stop).await;
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

/// The next connection, as soon as there is a place for it.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

async fn drive(stream: TcpStream, router: Router, patience: Patience, stop: CancellationToken) {
    let (stream, requests) = Patient::new(stream, patience);
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
    };
    if let Err(error) = ended {
        // Clients that hang up or idle away are their own business.
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "a connection ended"
        );
    }
}
