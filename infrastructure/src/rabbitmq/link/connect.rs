//! Making a connection whose socket can be closed at any time.
//!
//! A thread of the library's own has the socket. It waits there for as long as the broker is silent
//! in the handshake, and it writes nothing, not even the closing, while the broker blocks publishers.
//! So a second handle of the socket is kept, to shut it down.

use std::fmt;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::ConfirmSelectOptions;
use lapin::tcp::AsyncTcpStream;
use lapin::uri::AMQPScheme;
use lapin::{Channel, Connection, ConnectionProperties, ErrorKind};
use tokio::time::timeout;

use super::super::address::Address;
use super::super::topology;

/// How long one step of the conversation may take.
const STEP_MAX: Duration = Duration::from_secs(10);
/// What is there has other arguments (AMQP 0-9-1, 1.2).
const PRECONDITION_FAILED: u16 = 406;
/// Not allowed, no such virtual host, and the like: somebody must change something.
const REFUSALS: [u16; 4] = [402, 403, 404, 530];

/// Why there is no connection.
#[derive(Debug)]
pub enum Lost {
    /// It cannot be made, or was lost: another one may last.
    Broken(String),
    /// The broker refuses this user or address.
    Refused(String),
    /// Something else than is needed is at the broker.
    Conflict(String),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Broken(why) => write!(f, "no connection to the broker: {why}"),
            Self::Refused(why) => write!(f, "the broker refuses: {why}"),
            Self::Conflict(why) => write!(
                f,
                "the broker has an exchange or queue of the same name with other arguments, which \
                 somebody must delete or change: {why}"
            ),
        }
    }
}

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

/// Connects, declares what is needed, and opens the channel to publish on.
pub async fn connect(address: &Address, hang_up: &HangUp) -> Result<(Connection, Channel), Lost> {
    let runtime = lapin::runtime::default_runtime().map_err(Lost::of)?;
    let (address, sockets) = (address.clone(), hang_up.0.clone());
    let uri = address.uri.clone();
    let connecting = Connection::connector(
        uri,
        runtime,
        async move |uri, runtime| {
            let authority = (uri.authority.host.clone(), uri.authority.port);
            let addresses = runtime.to_socket_addrs(authority);
            let stream = timeout(STEP_MAX, AsyncTcpStream::connect(&runtime, addresses));
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
        properties(),
    );
    let connection = step("connecting", connecting).await?;
    // On a channel of its own: a refusal closes it.
    let declaring = step("opening a channel", connection.create_channel()).await?;
    step("declaring", topology::declare(&declaring)).await?;
    let _ = step("closing a channel", declaring.close(200, "OK".into())).await;
    let channel = step("opening a channel", connection.create_channel()).await?;
    let confirming = channel.confirm_select(ConfirmSelectOptions { nowait: false });
    step("asking for confirms", confirming).await?;
    Ok((connection, channel))
}

/// What the broker shows of this connection. Recovery by the library stays off.
fn properties() -> ConnectionProperties {
    ConnectionProperties::default().with_connection_name("digital-card publisher".into())
}

/// Something that may take [`STEP_MAX`].
pub async fn step<T>(
    what: &'static str,
    work: impl Future<Output = lapin::Result<T>>,
) -> Result<T, Lost> {
    match timeout(STEP_MAX, work).await {
        Ok(done) => done.map_err(Lost::of),
        Err(_) => Err(Lost::Broken(format!("{what}: no answer in time"))),
    }
}

impl Lost {
    fn of(error: lapin::Error) -> Self {
        let (code, why) = match error.kind() {
            ErrorKind::ProtocolError(said) => (Some(said.get_id()), said.get_message().to_string()),
            _ => (None, error.to_string()),
        };
        match code {
            Some(PRECONDITION_FAILED) => Self::Conflict(why),
            Some(code) if REFUSALS.contains(&code) => Self::Refused(why),
            _ => Self::Broken(why),
        }
    }
}
