//! What a handler leaves of a body: it is read all the same, up to a bound, and thrown away. A client
//! that is still sending when it is answered and cut off sees a broken connection, not the answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::header::EXPECT;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::timeout;

/// How many bytes are read at most.
const DISCARDED_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How long they may take: the answer waits for them.
const DISCARDING_MAX: Duration = Duration::from_secs(2);

/// The body of a request that is being answered.
pub(super) struct Unread(Shared);

/// The same, for the handler.
#[derive(Clone)]
struct Shared(Arc<Mutex<Body>>);

impl Unread {
    /// The request for its handler, and its body, if it has one. A client that waits to be asked for
    /// its body (`Expect`) is not asked on the way out.
    pub(super) fn of(request: Request) -> (Request, Option<Self>) {
        if request.body().is_end_stream() || request.headers().contains_key(EXPECT) {
            return (request, None);
        }
        let (parts, body) = request.into_parts();
        let shared = Shared(Arc::new(Mutex::new(body)));
        let request = Request::from_parts(parts, Body::new(shared.clone()));
        (request, Some(Self(shared)))
    }

    /// Reads what is left.
    pub(super) async fn discard(mut self) {
        let rest = async {
            let mut discarded = 0;
            while discarded < DISCARDED_BYTES_MAX
                && let Some(Ok(frame)) =
                    poll_fn(|context| Pin::new(&mut self.0).poll_frame(context)).await
            {
                discarded += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        // Whoever takes longer is cut off.
        let _ = timeout(DISCARDING_MAX, rest).await;
    }
}

impl Shared {
    fn body(&self) -> MutexGuard<'_, Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.body()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body().size_hint()
    }
}
