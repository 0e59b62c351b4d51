//! A kept HTTP/1.1 connection that costs the client next to nothing.

use std::io::Write;

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// One connection, one request at a time.
pub struct Connection {
    stream: TcpStream,
    host: String,
    request: Vec<u8>,
    received: Vec<u8>,
    /// How many of the received bytes belong to the answer before.
    taken: usize,
}

/// An answer, until the next question.
pub struct Answer<'a> {
    pub status: u16,
    pub body: &'a str,
}

impl Connection {
    pub async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            host: address.to_owned(),
            request: Vec::with_capacity(1024),
            received: Vec::with_capacity(16 * 1024),
            taken: 0,
        })
    }

    /// Prepares a command.
    pub fn write_post(&mut self, path: &str, key: &str, idempotency: &str, body: &str) {
        self.write_command("POST", path, key, idempotency, body);
    }

    /// The same, by any method.
    pub fn write_command(
        &mut self,
        method: &str,
        path: &str,
        key: &str,
        idempotency: &str,
        body: &str,
    ) {
        self.request.clear();
        // Writing to memory cannot fail.
        let _ = write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {key}\r\n\
             Idempotency-Key: {idempotency}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.host,
            body.len(),
        );
    }

    /// Prepares a question.
    pub fn write_get(&mut self, path: &str) {
        self.request.clear();
        let _ = write!(
            self.request,
            "GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n",
            self.host
        );
    }

    /// Prepares a question of somebody with a key.
    pub fn write_get_as(&mut self, path: &str, key: &str) {
        self.request.clear();
        let _ = write!(
            self.request,
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {key}\r\n\r\n",
            self.host
        );
    }

    /// Sends what was prepared and waits for the answer.
    pub async fn ask(&mut self) -> anyhow::Result<Answer<'_>> {
        self.stream.write_all(&self.request).await?;
        self.received.drain(..self.taken);
        self.taken = 0;
        loop {
            if let Some((status, head, length)) = head(&self.received)?
                && self.received.len() >= head + length
            {
                self.taken = head + length;
                let body = std::str::from_utf8(&self.received[head..self.taken])?;
                return Ok(Answer { status, body });
            }
            if self.stream.read_buf(&mut self.received).await? == 0 {
                bail!("the service closed the connection");
            }
        }
    }
}

/// Status, length of the head, length of the body; `None` until the whole head is there.
fn head(received: &[u8]) -> anyhow::Result<Option<(u16, usize, usize)>> {
    let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(&received[..end])?;
    let status = text.get(9..12).context("no status")?.parse()?;
    let length = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length = match (status, length) {
        (204, _) => 0,
        (_, length) => {
            let (_, length) = length.context("an answer without Content-Length")?;
            length.trim().parse()?
        }
    };
    Ok(Some((status, end + 4, length)))
}
