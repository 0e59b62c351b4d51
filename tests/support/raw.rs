//! HTTP by hand, for what a well-behaved client cannot send.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Client, DEADLINE};

/// An open connection.
pub struct Connection {
    stream: TcpStream,
}

/// An answer as far as a header trick needs it.
#[derive(Debug)]
pub struct RawAnswer {
    pub status: u16,
    pub body: String,
}

/// A request's head, with its last empty line.
pub fn head(client: &Client, line: &str, extra: &str) -> String {
    let key = client.key();
    format!("{line}\r\nHost: x\r\nAuthorization: Bearer {key}\r\n{extra}\r\n")
}

impl Connection {
    pub async fn open(address: &str) -> Self {
        Self::of(TcpStream::connect(address).await.expect("a connection"))
    }

    pub fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("no delay");
        Self { stream }
    }

    /// Sends bytes; whether the other side still takes them.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).await.is_ok()
    }

    /// Everything that comes until the other side closes or says nothing for a while.
    pub async fn read_all(&mut self, quiet: Duration) -> (Vec<u8>, bool) {
        let mut received = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            match timeout(quiet, self.stream.read(&mut buffer)).await {
                Ok(Ok(0)) | Ok(Err(_)) => return (received, true),
                Ok(Ok(count)) => received.extend_from_slice(&buffer[..count]),
                Err(_) => return (received, false),
            }
        }
    }

    /// Waits until the other side closes; how long that took.
    pub async fn closed(&mut self) -> Duration {
        let begun = tokio::time::Instant::now();
        let (_, closed) = self.read_all(DEADLINE).await;
        assert!(closed, "the connection was not closed within {DEADLINE:?}");
        begun.elapsed()
    }

    /// The next answer; `None` if the connection was closed without one.
    pub async fn answer(&mut self) -> Option<RawAnswer> {
        let mut received = Vec::new();
        let mut buffer = vec![0; 16 * 1024];
        loop {
            if let Some(answer) = parse(&received) {
                return Some(answer);
            }
            match timeout(DEADLINE, self.stream.read(&mut buffer)).await {
                Ok(Ok(0)) | Ok(Err(_)) => return parse_open(&received),
                Ok(Ok(count)) => received.extend_from_slice(&buffer[..count]),
                Err(_) => panic!(
                    "no answer within {DEADLINE:?}; so far: {}",
                    String::from_utf8_lossy(&received)
                ),
            }
        }
    }
}

/// One request on a connection of its own.
pub async fn exchange(address: &str, request: impl AsRef<[u8]>) -> Option<RawAnswer> {
    let mut connection = Connection::open(address).await;
    connection.send(request).await;
    connection.answer().await
}

/// A whole answer with a `Content-Length`.
fn parse(received: &[u8]) -> Option<RawAnswer> {
    let (head, body) = split(received)?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    })?;
    (body.len() >= length).then(|| read(&head, &body[..length]))
}

/// An answer that the end of the connection ends.
fn parse_open(received: &[u8]) -> Option<RawAnswer> {
    let (head, body) = split(received)?;
    Some(read(&head, body))
}

fn split(received: &[u8]) -> Option<(String, &[u8])> {
    let end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&received[..end]).into_owned();
    Some((head, &received[end + 4..]))
}

fn read(head: &str, body: &[u8]) -> RawAnswer {
    let status = head.split(' ').nth(1).and_then(|text| text.parse().ok());
    RawAnswer {
        status: status.unwrap_or_else(|| panic!("no status: {head}")),
        body: String::from_utf8_lossy(body).into_owned(),
    }
}
