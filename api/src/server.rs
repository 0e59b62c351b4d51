//! Serving HTTP/1 with a bound on everything a client can take its time with.
//!
//! `axum::serve` has no timeouts, so connections are driven here: at most so many at a time,
//! each with a time limit on a request's head, on resting between requests, and on taking
//! nothing of an answer (see [`patience`]); the body's limit is in the extractor. When all
//! [`places`] are taken, a connection that rests makes room for one that waits. When the process is
//! asked to stop, the listener closes, requests in flight are finished up to a limit, and idle
//! connections are closed at once.

pub mod patience;
pub mod places;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use metrics::gauge;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::patience::{Patience, Patient};
use self::places::Places;
use crate::config::Limits;

/// The pause after the listener failed (no file descriptor is left, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Bytes of a request's head that are read at most; the door refuses smaller ones already, and says
/// so.
const HEAD_BYTES_MAX: usize = 128 * 1024;

/// Serves until `stop`, then finishes what is in flight.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    stop: CancellationToken,
) {
    let places = Arc::new(Places::new(limits.connections_max));
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
                let (stop, places) = (stop.clone(), Arc::clone(&places));
                connections.spawn(async move {
                    let _place = place;
                    gauge!("http_connections").increment(1);
                    drive(stream, router, patience, stop, &places).await;
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
    places: &Places,
) {
    let (stream, requests) = Patient::new(stream, patience);
    let guest = places.seat(requests.clone());
    let service =
        hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
            let in_hand = requests.begin();
            let answer = tower::Service::call(&mut router.clone(), request);
            async move {
                let answer = answer.await?;
                // It is in hand until the answer's body is through, or given up.
                let held = move |_: &Frame<Bytes>| {
                    let _ = &in_hand;
                };
                Ok::<_, Infallible>(answer.map(|body| body.inspect_frame(held)))
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
        () = guest.makes_room() => return,
    };
    if let Err(error) = ended {
        // Clients that hang up or idle away are their own business.
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "a connection ended"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::body::Body;
    use axum::routing::get;
    use futures::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::config::CommandLine;

    /// Serves one page in the background; where.
    async fn serving(
        page: impl Fn() -> Body + Clone + Send + Sync + 'static,
        knobs: &[&str],
    ) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().route("/", get(async move || page()));
        let line = CommandLine::read([&["digital-card"][..], knobs].concat()).expect("knobs");
        tokio::spawn(async move {
            let limits = &line.config.limits;
            serve(listener, router, limits, CancellationToken::new()).await;
        });
        address
    }

    /// A connection that has asked for the page.
    async fn asking(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.expect("sent");
        stream
    }

    async fn answer(mut stream: TcpStream) -> String {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    }

    /// A download that finds nothing to send for some time.
    fn late(pause: Duration) -> impl Fn() -> Body + Clone + Send + Sync + 'static {
        move || {
            let parts = stream::once(async move {
                tokio::time::sleep(pause).await;
                Ok::<_, Infallible>("found")
            });
            Body::from_stream(parts)
        }
    }

    #[tokio::test]
    async fn a_download_that_pauses_is_not_idle() {
        let page = late(Duration::from_millis(500));
        let address = serving(page, &["--idle-timeout-s=0.2"]).await;
        assert!(answer(asking(address).await).await.contains("found"));
    }

    #[tokio::test]
    async fn a_download_that_pauses_makes_no_room() {
        let page = late(Duration::from_millis(1_500));
        let address = serving(page, &["--connections-max=1"]).await;
        let download = asking(address).await;
        let waiting = asking(address).await;
        assert!(answer(download).await.contains("found"));
        assert!(answer(waiting).await.contains("found"));
    }

    #[tokio::test]
    async fn a_download_that_nobody_takes_is_given_up() {
        let given_up = CancellationToken::new();
        let token = given_up.clone();
        let endless = move || {
            let body = token.clone().drop_guard();
            let parts = stream::repeat_with(move || {
                let _ = &body;
                Ok::<_, Infallible>(Bytes::from_static(&[0; 64 * 1024]))
            });
            Body::from_stream(parts)
        };
        let address = serving(endless, &["--write-timeout-s=0.2"]).await;
        let _nobody_reads = asking(address).await;
        let given_up = timeout(Duration::from_secs(10), given_up.cancelled()).await;
        assert!(given_up.is_ok(), "it goes on for ever");
    }
}
