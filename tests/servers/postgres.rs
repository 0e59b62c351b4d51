//! A private PostgreSQL cluster for tests: from the installed binaries, in a temporary directory,
//! reached by a socket in it, so that no port can be anybody else's. It ends with the test
//! process, however that ends.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use sqlx::postgres::PgConnectOptions;

/// A running cluster, shared by the tests of a process.
pub struct Cluster {
    directory: PathBuf,
    /// Its standard input is what the cluster lives by, and where it is told to stop or start.
    keeper: Child,
}

/// Makes the cluster, starts it, says where it is, and stops it when nobody holds the input any
/// more. PostgreSQL refuses to run as root; then it runs as the user that its package made.
const KEEPER: &str = r#"
set -eu
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
as=()
if [ "$(id -u)" -eq 0 ]; then
  chown postgres "$directory"
  as=(setpriv --reuid=postgres --regid=postgres --clear-groups)
fi
cd "$directory"
"${as[@]}" "$BIN/initdb" --pgdata=data --username=tests --auth=trust --no-sync \
  >initdb.log 2>&1 || { cat initdb.log >&2; exit 1; }
server=
start() {
  "${as[@]}" "$BIN/postgres" -D data -k "$directory" -c listen_addresses= -c max_connections=500 \
    </dev/null >>server.log 2>&1 &
  server=$!
  ready=
  for _ in $(seq 300); do
    "${as[@]}" "$BIN/pg_isready" -q -h "$directory" && { ready=yes; break; }
    kill -0 "$server" || break
    sleep 0.1 # a server that starts has nothing to be waited on
  done
  [ "$ready" ] || { cat server.log >&2; exit 1; }
}
stop() {
  [ "$server" ] || return 0
  kill -INT "$server"
  wait "$server" || true
  server=
}
start
echo "$directory"
while read -r order; do
  "$order"
  echo "$order"
done
stop
"#;

impl Cluster {
    /// The cluster of this process, started when it is first asked for.
    pub fn shared() -> &'static Self {
        static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
        &CLUSTER
    }

    /// A cluster of the caller's own, that it may stop.
    pub fn start() -> Self {
        let mut keeper = Command::new("bash")
            .args(["-c", KEEPER])
            .env("BIN", binaries())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash");
        let mut directory = String::new();
        let mut said = BufReader::new(keeper.stdout.as_mut().expect("piped"));
        said.read_line(&mut directory).expect("readable");
        assert!(
            !directory.is_empty(),
            "PostgreSQL did not start; what it said is above"
        );
        Self {
            directory: directory.trim_end().into(),
            keeper,
        }
    }

    /// Stops the server, which cuts every connection.
    #[allow(dead_code, reason = "not every test binary stops a server")]
    pub fn stop(&mut self) {
        self.order("stop");
    }

    /// Starts the stopped server, with the data it had.
    #[allow(dead_code, reason = "not every test binary stops a server")]
    pub fn start_again(&mut self) {
        self.order("start");
    }

    fn order(&mut self, order: &str) {
        let orders = self.keeper.stdin.as_mut().expect("piped");
        writeln!(orders, "{order}").expect("the keeper listens");
        let mut done = String::new();
        let said = self.keeper.stdout.as_mut().expect("piped");
        BufReader::new(said).read_line(&mut done).expect("readable");
        assert_eq!(done.trim_end(), order, "what went wrong is above");
    }

    /// How to reach it.
    pub fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(&self.directory)
            .username("tests")
            .database("postgres")
    }
}

#[allow(
    dead_code,
    reason = "not every program that has a cluster asks for all of it"
)]
impl Cluster {
    /// Where its socket is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// One of the programs that came with it: `pgbench`.
    pub fn program(&self, name: &str) -> PathBuf {
        binaries().join(name)
    }

    /// How a service is told of one of its databases.
    pub fn url(&self, database: &str) -> String {
        let directory = self.directory.display();
        format!("postgres://tests@localhost/{database}?host={directory}")
    }
}

/// Where the newest installed version is: Debian keeps them beside each other, off the path.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let newest = versions
        .flatten()
        .map(|version| version.path().join("bin"))
        .filter(|bin| bin.join("initdb").exists())
        .max_by_key(|bin| version(bin));
    newest.expect("PostgreSQL is not installed: apt-get install postgresql, or run tests/run.sh")
}

fn version(bin: &Path) -> u32 {
    let directory = bin.parent().and_then(Path::file_name);
    let number = directory.and_then(|name| name.to_str()?.parse().ok());
    number.unwrap_or(0)
}
