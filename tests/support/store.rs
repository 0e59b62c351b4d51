//! Where a service keeps everything: on the engine that `TESTS_ON` names, and how it breaks there.
//!
//! `TESTS_ON=postgres cargo test --workspace --test it` runs the suite on PostgreSQL, each service on a
//! database of its own; what is not said is `embedded`, each on a directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use super::cluster::Cluster;
use super::unique;

/// A service's store; it goes with this value.
pub enum Store {
    Directory(Directory),
    Database(Database),
}

/// A directory of SQLite files.
pub struct Directory(TempDir);

/// A PostgreSQL database: the landlord's and the first shard.
pub struct Database {
    cluster: At,
    name: String,
}

/// In which cluster a database is.
enum At {
    Shared(&'static Cluster),
    Own(Arc<Cluster>),
}

impl Store {
    /// An empty one, on the engine of this run.
    pub fn new() -> Self {
        match std::env::var("TESTS_ON").as_deref() {
            Err(_) | Ok("embedded") => Self::Directory(Directory::new()),
            Ok("postgres") => Self::Database(Database::new()),
            Ok(other) => panic!("TESTS_ON is {other}: it must be embedded or postgres"),
        }
    }

    /// An empty one of files.
    pub fn files() -> Self {
        Self::Directory(Directory::new())
    }

    /// `STORE`
    pub fn url(&self) -> String {
        match self {
            Self::Directory(directory) => format!("sqlite:{}", directory.path().display()),
            Self::Database(database) => database.url(),
        }
    }

    /// Makes every further read and write of the landlord's records fail, while tenants' stores
    /// stay as they are. Nothing must be being written.
    pub fn lose_the_landlord(&self) {
        match self {
            Self::Directory(directory) => destroy(&directory.path().join("landlord.db")),
            Self::Database(database) => {
                database.run("alter schema public rename to lost");
            }
        }
    }

    /// Breaks the store of a tenant of a stopped service; how that will be told.
    pub fn break_tenant(&self, id: &str) -> &'static str {
        match self {
            Self::Directory(directory) => {
                let file = directory.path().join("tenants").join(format!("{id}.db"));
                assert!(file.exists(), "no {}: where is it?", file.display());
                fs::write(file, "not a database".repeat(1_000)).expect("broken");
                "not a database"
            }
            Self::Database(database) => {
                let schema = schema(id);
                database.run(&format!("drop table {schema}.head"));
                "does not exist"
            }
        }
    }

    /// Adds cards that there are not to the counters of a tenant of a stopped service.
    pub async fn miscount(&self, id: &str) {
        let by = |head: &str| format!("update {head} set active = active + 2, revoked = 7");
        match self {
            Self::Directory(directory) => {
                let file = directory.path().join("tenants").join(format!("{id}.db"));
                in_file(&file, &by("head")).await;
            }
            Self::Database(database) => {
                database.run(&by(&format!("{}.head", schema(id))));
            }
        }
    }

    /// Makes the landlord's read model of a tenant of a stopped service say something else, as of
    /// so many events later.
    pub async fn misread(&self, id: &str, ahead: u64) {
        let usage = r#"{"issued":9,"active":0,"suspended":0,"revoked":0,"expired":0,"replaced":0}"#;
        let change = format!(
            "update tenant_overviews set usage = '{usage}', position = position + {ahead} where tenant_id = '{id}'"
        );
        match self {
            Self::Directory(directory) => {
                in_file(&directory.path().join("landlord.db"), &change).await;
            }
            Self::Database(database) => {
                database.run(&change);
            }
        }
    }

    /// Everything that is kept, as it is on disk or would be backed up.
    pub fn contents(&self) -> Vec<u8> {
        match self {
            Self::Directory(directory) => {
                let mut contents = Vec::new();
                let mut directories = vec![directory.path()];
                while let Some(path) = directories.pop() {
                    for entry in fs::read_dir(path).expect("a directory").flatten() {
                        let path = entry.path();
                        match path.is_dir() {
                            true => directories.push(path),
                            false => contents.extend(fs::read(path).expect("a file")),
                        }
                    }
                }
                contents
            }
            Self::Database(database) => database.dump(),
        }
    }

    /// From now on no tenant's store can be made.
    pub fn refuse_tenants(&self) {
        match self {
            Self::Directory(directory) => {
                let tenants = directory.path().join("tenants");
                fs::rename(tenants, directory.elsewhere()).expect("moved away");
            }
            Self::Database(database) => {
                database.run(
                    "create function refuse() returns event_trigger language plpgsql as \
                     'begin raise ''no more schemas''; end'; \
                     create event trigger refuse on ddl_command_start \
                     when tag in ('CREATE SCHEMA') execute function refuse()",
                );
            }
        }
    }

    /// Undoes [`Self::refuse_tenants`].
    pub fn accept_tenants(&self) {
        match self {
            Self::Directory(directory) => {
                let tenants = directory.path().join("tenants");
                fs::rename(directory.elsewhere(), tenants).expect("moved back");
            }
            Self::Database(database) => {
                database.run("drop event trigger refuse");
            }
        }
    }
}

impl Directory {
    /// An empty one.
    pub fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary directory"))
    }

    /// Where the data is. The service makes it.
    pub fn path(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn elsewhere(&self) -> PathBuf {
        self.0.path().join("elsewhere")
    }
}

impl Database {
    /// An empty one in the cluster that the tests share.
    pub fn new() -> Self {
        Self::at(At::Shared(Cluster::shared()))
    }

    /// An empty one in a cluster of the test's own.
    pub fn within(cluster: &Arc<Cluster>) -> Self {
        Self::at(At::Own(Arc::clone(cluster)))
    }

    fn at(cluster: At) -> Self {
        let name = unique("store").replace('-', "_");
        cluster
            .get()
            .run("postgres", &format!("create database {name}"));
        Self { cluster, name }
    }

    /// Its address.
    pub fn url(&self) -> String {
        self.cluster.get().url(&self.name)
    }

    /// Its name in its cluster.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All of it, as `pg_dump` writes it.
    pub fn dump(&self) -> Vec<u8> {
        let cluster = self.cluster.get();
        let dump = Command::new(cluster.program("pg_dump"))
            .args(["--username=tests", "--host"])
            .arg(cluster.directory())
            .arg(&self.name)
            .output()
            .expect("pg_dump");
        assert!(dump.status.success());
        dump.stdout
    }

    /// Runs statements; what they answered.
    pub fn run(&self, statements: &str) -> String {
        self.cluster.get().run(&self.name, statements)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // A cluster of the test's own goes as a whole, and may be down.
        if let At::Shared(cluster) = self.cluster {
            let drop = format!("drop database {} with (force)", self.name);
            cluster.run("postgres", &drop);
        }
    }
}

impl At {
    fn get(&self) -> &Cluster {
        match self {
            Self::Shared(cluster) => cluster,
            Self::Own(cluster) => cluster,
        }
    }
}

/// Runs statements in a SQLite file.
pub async fn in_file(file: &Path, statements: &str) {
    let options = SqliteConnectOptions::new().filename(file);
    let mut connection = options.connect().await.expect("a database");
    let done = sqlx::raw_sql(statements).execute(&mut connection).await;
    done.expect("done");
    connection.close().await.expect("closed");
}

/// The schema of a tenant.
pub fn schema(tenant: &str) -> String {
    format!("t_{}", tenant.replace('-', ""))
}

/// Makes every further read and write of a file in use fail: garbage instead of its pages,
/// nothing in its log, and an index of the log that must be read anew.
fn destroy(database: &Path) {
    let length = fs::metadata(database).expect("the database").len();
    let garbage = vec![0xa5; usize::try_from(length).expect("a small file")];
    overwrite(database, &garbage);
    let beside = |suffix: &str| {
        let mut name = database.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    overwrite(&beside("-wal"), &[]);
    let index = fs::metadata(beside("-shm")).expect("the log's index").len();
    overwrite(
        &beside("-shm"),
        &vec![0; usize::try_from(index).expect("small")],
    );
}

/// In place: the service has the file open. An index that is in memory must not get shorter.
fn overwrite(file: &Path, bytes: &[u8]) {
    use std::io::Write;

    let mut open = fs::OpenOptions::new()
        .write(true)
        .open(file)
        .expect("the file");
    if bytes.is_empty() {
        open.set_len(0).expect("shortened");
    }
    open.write_all(bytes).expect("written");
}
