//! Making a connection whose socket can be closed at any time.
//!
//! A thread of the library's own has the socket. It waits there for as long as the broker is silent
//! in the handshake, and it writes nothing, not even the closing, while the broker blocks publishers.
//! So a second handle of the socket is kept, to shut it down. The library's own recovery stays off.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPScheme;
use lapin::{Connection, ConnectionProperties};
use tokio::time::timeout;

use super::address::Address;

/// How long one of the host's addresses may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// Shuts a connection's sockets down when it is dropped.
#[derive(Default)]
pub struct HangUp(Sockets);

/// Second handles of sockets; `None` once they are shut down.
#[derive(Clone)]
struct Sockets(Arc<Mutex<Option<Vec<TcpStream>>>>);

impl Default for Sockets {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Some(Vec::new()))))
    }
}

impl Sockets {
    /// Keeps a handle of one more; an error if it comes too late.
    fn keep(&self, socket: impl AsFd) -> io::Result<()> {
        let handle = socket.as_fd().try_clone_to_owned()?;
        let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let late = || io::Error::from(io::ErrorKind::TimedOut);
        sockets.as_mut().ok_or_else(late)?.push(handle.into());
        Ok(())
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        let sockets = &self.0.0;
        let mut sockets = sockets.lock().unwrap_or_else(PoisonError::into_inner);
        for socket in sockets.take().into_iter().flatten() {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// Connects, and logs in. The broker shows the connection under `name`.
///
/// # Errors
///
/// What the broker or the network says. It has no time limit as a whole.
pub async fn dial(
    address: &Address,
    hang_up: &HangUp,
    name: &'static str,
) -> lapin::Result<Connection> {
    let runtime = lapin::runtime::default_runtime()?;
    let (address, sockets) = (address.clone(), hang_up.0.clone());
    let uri = address.uri.clone();
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    Connection::connector(
        uri,
        runtime,
        async move |uri, runtime| {
            let authority = (uri.authority.host.clone(), uri.authority.port);
            let addresses = runtime.to_socket_addrs(authority);
            let stream = timeout(ANSWER_MAX, AsyncTcpStream::connect(&runtime, addresses));
            let late = |_| io::Error::from(io::ErrorKind::TimedOut);
            let stream = stream.await.map_err(late)??;
            if let AsyncTcpStream::Plain(socket) = &stream {
                sockets.keep(socket.get_ref())?;
            }
            Ok(match uri.scheme {
                AMQPScheme::AMQP => stream,
                AMQPScheme::AMQPS => {
                    let host = &uri.authority.host;
                    stream.into_rustls(&address.encryption()?, host).await?
                }
            })
        },
        properties,
    )
    .await
}
