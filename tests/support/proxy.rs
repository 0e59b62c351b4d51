//! A TCP proxy before a PostgreSQL server or a broker, for one node: its connections can be cut, or fall silent
//! as when a cable is pulled.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A proxy, until it is dropped.
pub struct Proxy {
    address: SocketAddr,
    connections: Connections,
    accepting: JoinHandle<()>,
}

type Connections = Arc<Mutex<Vec<Connection>>>;

struct Connection {
    fate: watch::Sender<Fate>,
    /// Whether the node listens for notifications on it.
    listens: Arc<AtomicBool>,
    /// Whether the node notifies others on it.
    notifies: Arc<AtomicBool>,
}

/// What is behind a proxy.
#[derive(Clone)]
enum Server {
    Socket(PathBuf),
    Port(u16),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Server {
    async fn connect(&self) -> std::io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Socket(path) => Box::new(UnixStream::connect(path).await?),
            Self::Port(port) => Box::new(TcpStream::connect(("127.0.0.1", *port)).await?),
        })
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Goes,
    /// Both ends are told that it is over.
    Cut,
    /// Nothing comes through any more, and neither end is told.
    Silent,
}

/// Which connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those on which the node listens for notifications.
    Listening,
    /// Those on which the node notifies others.
    Notifying,
}

impl Proxy {
    /// A proxy before the PostgreSQL server that listens on this socket.
    pub async fn before(socket: PathBuf) -> Self {
        Self::before_server(Server::Socket(socket)).await
    }

    /// A proxy before the server that listens on this port of this machine.
    pub async fn before_port(port: u16) -> Self {
        Self::before_server(Server::Port(port)).await
    }

    async fn before_server(server: Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let connections = Connections::default();
        let accepted = Arc::clone(&connections);
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                tokio::spawn(carry(client, server.clone(), Arc::clone(&accepted)));
            }
        });
        Self {
            address,
            connections,
            accepting,
        }
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of a database behind it.
    pub fn url(&self, database: &str) -> String {
        format!(
            "postgres://tests@{}/{database}?sslmode=disable",
            self.address
        )
    }

    /// Decides over connections that go.
    pub fn decide(&self, which: Which, fate: Fate) {
        let mut connections = self.connections.lock().expect("the connections");
        connections.retain(|connection| !connection.fate.is_closed());
        let chosen = connections
            .iter()
            .filter(|it| match which {
                Which::All => true,
                Which::Listening => it.listens.load(Ordering::SeqCst),
                Which::Notifying => it.notifies.load(Ordering::SeqCst),
            })
            .filter(|it| *it.fate.borrow() == Fate::Goes);
        for connection in chosen {
            connection.fate.send_replace(fate);
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Carries bytes both ways until an end closes or it is decided otherwise.
async fn carry(mut client: TcpStream, server: Server, connections: Connections) {
    // A server that is away: closing says so.
    let Ok(mut server) = server.connect().await else {
        return;
    };
    let (fate, mut decided) = watch::channel(Fate::Goes);
    let (listens, notifies) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let connection = Connection {
        fate,
        listens: Arc::clone(&listens),
        notifies: Arc::clone(&notifies),
    };
    connections
        .lock()
        .expect("the connections")
        .push(connection);
    drop(connections);
    let (mut asked, mut answered) = ([0; 16 * 1024], [0; 16 * 1024]);
    loop {
        tokio::select! {
            biased;
            changed = decided.changed() => match *decided.borrow_and_update() {
                // The proxy is gone, or this connection.
                Fate::Goes | Fate::Cut => return,
                Fate::Silent if changed.is_err() => return,
                Fate::Silent => break,
            },
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                let bytes = &asked[..length];
                if bytes.windows(7).any(|word| word == b"LISTEN ") {
                    listens.store(true, Ordering::SeqCst);
                }
                if bytes.windows(17).any(|word| word == b"unnest($2::text[]") {
                    notifies.store(true, Ordering::SeqCst);
                }
                if server.write_all(bytes).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
    // Silent until the proxy goes.
    let _gone = decided.wait_for(|fate| *fate == Fate::Cut).await;
}
