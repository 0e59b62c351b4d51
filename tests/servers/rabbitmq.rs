//! A private RabbitMQ node for tests: from the installed scripts, in a temporary directory, with a
//! name, ports and a name server of its own, so that it can be nobody else's. It ends with the test
//! process, however that ends.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// A running node.
pub struct Broker {
    port: u16,
    tls_port: u16,
    directory: PathBuf,
    keeper: Mutex<Keeper>,
}

/// What starts and stops the node. Its standard input is what the node lives by.
struct Keeper {
    process: Child,
    said: BufReader<ChildStdout>,
}

/// Starts the node, says where it is, does as it is told, and ends it when nobody holds the input any
/// more. Its certificate is signed by an authority of its own, in `authority.pem`.
const KEEPER: &str = r#"
set -euf # none of the words that it is told is a pattern
directory=$(mktemp -d)
trap '{ kill -KILL $server $names; wait; } 2>/dev/null; rm -rf "$directory"' EXIT
server= names=
cd "$directory"
export HOME=$directory ERL_EPMD_PORT=$NAMES_PORT ERL_EPMD_ADDRESS=127.0.0.1
export RABBITMQ_NODENAME=tests@localhost RABBITMQ_NODE_PORT=$PORT RABBITMQ_DIST_PORT=$DIST_PORT
export RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_CTL_DIST_PORT_MIN=0 RABBITMQ_CTL_DIST_PORT_MAX=0
export RABBITMQ_MNESIA_BASE=$directory/data RABBITMQ_LOG_BASE=$directory/log RABBITMQ_LOGS=-
export RABBITMQ_CONF_ENV_FILE=$directory/none
export RABBITMQ_ADVANCED_CONFIG_FILE=$directory/none RABBITMQ_ENABLED_PLUGINS_FILE=$directory/plugins
export RABBITMQ_GENERATED_CONFIG_DIR=$directory/config RABBITMQ_PID_FILE=$directory/pid
# With input allowed the script becomes the node, so that what is killed is the node.
export RABBITMQ_ALLOW_INPUT=yes RABBITMQ_SERVER_START_ARGS=-noinput
# With threads that look around before they sleep it starts in 5 s instead of 12 on two cores.
export RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS='+S 2:2 +sbwt very_short +sbwtdio very_short'
echo '[].' >plugins
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority \
  -keyout authority.key -out authority.pem 2>openssl.log
openssl req -newkey rsa:2048 -nodes -subj /CN=broker -keyout node.key -out node.csr 2>>openssl.log
printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n' >node.ext
openssl x509 -req -in node.csr -CA authority.pem -CAkey authority.key -CAcreateserial -days 2 \
  -extfile node.ext -out node.pem 2>>openssl.log
export RABBITMQ_CONFIG_FILE=$directory/node.conf
cat >node.conf <<END
listeners.ssl.1 = 127.0.0.1:$TLS_PORT
ssl_options.cacertfile = $directory/authority.pem
ssl_options.certfile = $directory/node.pem
ssl_options.keyfile = $directory/node.key
ssl_options.verify = verify_none
END
epmd -port "$NAMES_PORT" -address 127.0.0.1 >epmd.log 2>&1 &
names=$!

start() {
  "$BIN/rabbitmq-server" >>server.log 2>&1 </dev/null &
  server=$!
  # It needs some 4 s of a processor, in one thread: beside busy tests that has taken a minute.
  for _ in $(seq 1800); do
    grep -q 'Server startup complete' server.log && return
    kill -0 "$server" || break
    sleep 0.1 # a server that starts has nothing to be waited on
  done
  cat server.log >&2
  exit 1
}

crash() {
  kill -KILL "$server"
  { wait "$server" || true; } 2>/dev/null # says that it was killed
  mv server.log "server.$server.log"
  server=
}

ctl() {
  "$BIN/rabbitmqctl" -q "$@" >ctl.log 2>&1 || { cat ctl.log >&2; exit 1; }
}

start
echo "$directory"
while read -r command arguments; do
  "$command" $arguments
  echo done
done
"#;

impl Broker {
    /// A node of the caller's own.
    pub fn start() -> Self {
        let [port, tls_port, dist, names] = free_ports();
        let mut process = Command::new("bash")
            .args(["-c", KEEPER])
            .env("BIN", "/usr/lib/rabbitmq/bin")
            .env("PORT", port.to_string())
            .env("TLS_PORT", tls_port.to_string())
            .env("DIST_PORT", dist.to_string())
            .env("NAMES_PORT", names.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash");
        let mut said = BufReader::new(process.stdout.take().expect("piped"));
        let mut directory = String::new();
        said.read_line(&mut directory).expect("readable");
        assert!(!directory.is_empty(), "what went wrong is above");
        Self {
            port,
            tls_port,
            directory: directory.trim_end().into(),
            keeper: Mutex::new(Keeper { process, said }),
        }
    }

    /// `kill -9`: what it has confirmed, it has on disk.
    pub fn crash(&self) {
        self.order("crash");
    }

    /// Starts the killed node, with the data it had.
    pub fn start_again(&self) {
        self.order("start");
    }

    /// `rabbitmqctl` with these words, none of which has a space.
    pub fn ctl(&self, words: &str) {
        self.order(&format!("ctl {words}"));
    }

    /// How to reach it.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    /// How to reach it encrypted.
    pub fn tls_url(&self) -> String {
        format!("amqps://guest:guest@127.0.0.1:{}", self.tls_port)
    }

    /// Who vouches for it then: a file (PEM).
    pub fn authority(&self) -> PathBuf {
        self.directory.join("authority.pem")
    }

    /// Where it listens.
    pub const fn port(&self) -> u16 {
        self.port
    }

    fn order(&self, order: &str) {
        let mut keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let orders = keeper.process.stdin.as_mut().expect("piped");
        writeln!(orders, "{order}").expect("the keeper listens");
        let mut done = String::new();
        keeper.said.read_line(&mut done).expect("readable");
        assert_eq!(done.trim_end(), "done", "what went wrong is above");
    }
}

/// Ports that nobody listens on.
fn free_ports() -> [u16; 4] {
    let held = [(); 4].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    held.map(|listener| listener.local_addr().expect("bound").port())
}
