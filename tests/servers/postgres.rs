//! A private PostgreSQL cluster for tests: from the installed binaries, in a temporary directory,
//! reached by a socket in it, so that no port can be anybody else's. It ends with the test
//! process, however that ends.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use sqlx::postgres::PgConnectOptions;

/// A running cluster: the one that the tests of a process share, or one of a test's own.
pub struct Cluster {
    directory: PathBuf,
    keeper: Mutex<Keeper>,
}

/// What starts and stops the server. Its standard input is what the cluster lives by.
struct Keeper {
    process: Child,
    said: BufReader<ChildStdout>,
}

/// Makes the cluster, starts it, says where it is, does as it is told, and ends it when nobody holds
/// the input any more. PostgreSQL refuses to run as root; then it runs as the user that its package
/// made.
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

start() {
  "${as[@]}" "$BIN/postgres" -D data -k "$directory" -c listen_addresses= -c max_connections=500 \
    -c fsync="$FSYNC" </dev/null >>server.log 2>&1 &
  server=$!
  for _ in $(seq 1800); do
    "${as[@]}" "$BIN/pg_isready" -q -h "$directory" && return
    kill -0 "$server" || break
    sleep 0.1 # a server that starts has nothing to be waited on
  done
  cat server.log >&2
  exit 1
}

# None of its processes can tell anybody, or finish anything.
crash() {
  kill -STOP "$server"
  others=$(grep -ls "^PPid:[[:space:]]*$server\$" /proc/[0-9]*/status | cut -d / -f 3)
  kill -KILL "$server" $others
  { wait "$server" || true; } 2>/dev/null # says that it was killed
  for other in $others; do
    while grep -qs . "/proc/$other/cmdline"; do sleep 0.01; done # init's children cannot be waited for
  done
  server=
}

stop() {
  [ "$server" ] || return 0
  kill -INT "$server"
  wait "$server" || true
  server=
}

start
"${as[@]}" "$BIN/psql" -q -h "$directory" -U tests -d postgres \
  -c 'create role shards login noinherit createrole createdb' \
  -c 'grant create on database postgres to shards with grant option' >&2
echo "$directory"
while read -r command; do
  "$command"
  echo done
done
[ ! "$server" ] || crash
"#;

impl Cluster {
    /// The cluster of this process, started when it is first asked for.
    pub fn shared() -> &'static Self {
        static CLUSTER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
        &CLUSTER
    }

    /// A cluster of one's own. It ends with this value.
    pub fn start() -> Self {
        Self::start_with("on")
    }

    fn start_with(fsync: &str) -> Self {
        let mut process = Command::new("bash")
            .args(["-c", KEEPER])
            .env("BIN", binaries())
            .env("FSYNC", fsync)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash");
        let mut directory = String::new();
        let mut said = BufReader::new(process.stdout.take().expect("piped"));
        said.read_line(&mut directory).expect("readable");
        assert!(
            !directory.is_empty(),
            "PostgreSQL did not start; what it said is above"
        );
        Self {
            directory: directory.trim_end().into(),
            keeper: Mutex::new(Keeper { process, said }),
        }
    }

    /// How to reach it, as a superuser.
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
    /// A cluster of one's own that syncs nothing to disk, so that it starts and stops quickly. Its
    /// data survives its processes, not the machine.
    pub fn start_unsynced() -> Self {
        Self::start_with("off")
    }

    /// How to reach it for shards: as a role that is no superuser, to which PostgreSQL refuses what
    /// it may not do.
    pub fn shard(&self) -> PgConnectOptions {
        self.options().username("shards")
    }

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

    /// The socket on which it listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.join(".s.PGSQL.5432")
    }

    /// Runs statements in one of its databases, each for itself; what they answered.
    pub fn run(&self, database: &str, statements: &str) -> String {
        let psql = Command::new(self.program("psql"))
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align"])
            .args(["--set=ON_ERROR_STOP=1", "--username=tests", "--dbname"])
            .arg(database)
            .arg("--host")
            .arg(&self.directory)
            .arg("--command")
            .arg(statements)
            .output()
            .expect("psql");
        let complaint = String::from_utf8_lossy(&psql.stderr);
        assert!(psql.status.success(), "{statements}: {complaint}");
        String::from_utf8(psql.stdout).expect("UTF-8")
    }

    /// Stops the server, which cuts every connection.
    pub fn stop(&self) {
        self.tell("stop");
    }

    /// Kills all its processes at once (`kill -9`).
    pub fn crash(&self) {
        self.tell("crash");
    }

    /// Starts the stopped server, with the data it had.
    pub fn start_again(&self) {
        self.tell("start");
    }

    fn tell(&self, command: &str) {
        let mut keeper = self.keeper.lock().expect("the keeper does as it is told");
        let input = keeper.process.stdin.as_mut().expect("piped");
        writeln!(input, "{command}").expect("the keeper is there");
        let mut done = String::new();
        keeper.said.read_line(&mut done).expect("readable");
        assert_eq!(done, "done\n", "PostgreSQL did not {command}; see above");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut();
        let keeper = keeper.unwrap_or_else(PoisonError::into_inner);
        drop(keeper.process.stdin.take());
        let _ = keeper.process.wait();
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
