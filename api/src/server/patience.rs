//! How long a connection waits for its client.
//!
//! hyper's own limit on heads also counts the rest between requests, so the limits are kept
//! here, around the socket. Each deadline is worked out from when something last happened, and
//! the timer is only set again when it fires or must fire sooner: a busy connection costs a look
//! at the clock, not a timer, a request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};

/// The limits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For a request's head, from its first byte.
    pub head: Duration,
    /// For the first byte of the next request, while nothing is in hand.
    pub idle: Duration,
    /// For the client to take anything of an answer.
    pub write: Duration,
}

/// A stream that ends with `TimedOut` when its patience does.
pub struct Patient<S> {
    stream: S,
    patience: Patience,
    requests: Requests,
    /// The requests begun when a head's first byte arrived, and when that was.
    head: Option<(u64, Instant)>,
    /// When a byte last moved.
    moved: Instant,
    reading: Pin<Box<Sleep>>,
    /// Since when the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// The connection's requests, for whoever serves them.
#[derive(Clone, Debug)]
pub struct Requests {
    counts: Arc<Counts>,
}

#[derive(Debug)]
struct Counts {
    begun: AtomicU64,
    ended: AtomicU64,
    opened: Instant,
    /// When something was last done for the client: milliseconds after `opened`.
    served_ms: AtomicU64,
}

impl Counts {
    fn served(&self) {
        let now = self.opened.elapsed().as_millis() as u64;
        self.served_ms.store(now, Ordering::Relaxed);
    }
}

impl Default for Requests {
    fn default() -> Self {
        let counts = Counts {
            begun: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            opened: Instant::now(),
            served_ms: AtomicU64::new(0),
        };
        Self {
            counts: Arc::new(counts),
        }
    }
}

/// A request in hand, until it is dropped.
#[derive(Debug)]
pub struct InHand {
    counts: Arc<Counts>,
}

impl Drop for InHand {
    fn drop(&mut self) {
        self.counts.ended.fetch_add(1, Ordering::Relaxed);
        self.counts.served();
    }
}

impl Requests {
    /// A request's head has arrived; it is in hand until its answer is through.
    pub fn begin(&self) -> InHand {
        self.counts.begun.fetch_add(1, Ordering::Relaxed);
        InHand {
            counts: Arc::clone(&self.counts),
        }
    }

    /// How long nothing has been done for the client; `None` while a request is in hand.
    pub fn rest(&self) -> Option<Duration> {
        let served = Duration::from_millis(self.counts.served_ms.load(Ordering::Relaxed));
        let rest = self.counts.opened.elapsed().saturating_sub(served);
        (!self.in_hand()).then_some(rest)
    }

    fn begun(&self) -> u64 {
        self.counts.begun.load(Ordering::Relaxed)
    }

    fn in_hand(&self) -> bool {
        self.counts.ended.load(Ordering::Relaxed) < self.begun()
    }
}

impl<S> Patient<S> {
    /// `stream`, and where to tell of its requests.
    pub fn new(stream: S, patience: Patience) -> (Self, Requests) {
        let now = Instant::now();
        let requests = Requests::default();
        let patient = Self {
            stream,
            patience,
            requests: requests.clone(),
            head: None,
            moved: now,
            reading: Box::pin(sleep_until(now + patience.idle)),
            stalled: None,
        };
        (patient, requests)
    }

    /// Until when the client may send nothing; `None` while it is the service's turn.
    fn deadline(&self) -> Option<Instant> {
        if self.requests.in_hand() {
            return None;
        }
        match self.head {
            Some((begun, since)) if begun == self.requests.begun() => {
                Some(since + self.patience.head)
            }
            _ => Some(self.moved + self.patience.idle),
        }
    }

    fn moved(&mut self) {
        self.moved = Instant::now();
    }

    /// Ready when the client's time to send is over.
    fn poll_reading(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let in_hand = || Instant::now() + self.patience.idle;
            let deadline = self.deadline().unwrap_or_else(in_hand);
            if deadline < self.reading.deadline() {
                self.reading.as_mut().reset(deadline);
            }
            ready!(self.reading.as_mut().poll(context));
            if Instant::now() >= deadline {
                return Poll::Ready(());
            }
            self.reading.as_mut().reset(deadline);
        }
    }

    /// Ready when the client's time to take something is over.
    fn poll_stalled(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let deadline = Instant::now() + self.patience.write;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        stalled.as_mut().poll(context)
    }

    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(written) => {
                self.stalled = None;
                self.moved();
                self.requests.counts.served();
                Poll::Ready(written)
            }
            Poll::Pending => {
                ready!(self.poll_stalled(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(read) => {
                self.moved();
                let begun = self.requests.begun();
                if !self.requests.in_hand() && self.head.is_none_or(|(at, _)| at != begun) {
                    self.head = Some((begun, self.moved));
                }
                Poll::Ready(read)
            }
            Poll::Pending => {
                ready!(self.poll_reading(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const PATIENCE: Patience = Patience {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        write: Duration::from_secs(30),
    };

    #[tokio::test(start_paused = true)]
    async fn a_resting_connection_ends_after_the_idle_time() {
        let (near, _far) = duplex(64);
        let (mut near, _requests) = Patient::new(near, PATIENCE);
        let began = Instant::now();
        let error = near.read_u8().await.expect_err("its end");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_ends_after_its_time() {
        let (near, mut far) = duplex(64);
        let (mut near, _requests) = Patient::new(near, PATIENCE);
        let began = Instant::now();
        let trickle = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        let error = loop {
            if let Err(error) = near.read_u8().await {
                break error;
            }
        };
        drop(near);
        trickle.await.expect("no panic");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_service_may_take_its_time() {
        let (near, mut far) = duplex(64);
        let (mut near, requests) = Patient::new(near, PATIENCE);
        far.write_all(b"x").await.expect("room");
        near.read_u8().await.expect("a byte");
        let in_hand = requests.begin();
        let slow = tokio::time::timeout(Duration::from_secs(1_000), near.read_u8()).await;
        assert!(slow.is_err(), "the connection ended during a request");
        drop(in_hand);
        near.write_all(b"answer").await.expect("room");
        let began = Instant::now();
        near.read_u8().await.expect_err("its end");
        assert_eq!(began.elapsed().as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_left() {
        let (near, _far) = duplex(8);
        let (mut near, _requests) = Patient::new(near, PATIENCE);
        let began = Instant::now();
        let error = near.write_all(&[0; 64]).await.expect_err("its end");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 30);
    }
}
