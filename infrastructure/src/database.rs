//! A SQLite database file, opened so that it neither loses what it acknowledged nor corrupts.
//!
//! WAL with `synchronous=FULL`: a commit is on disk before it is answered, except where
//! [`begin_replayable`] says otherwise. Exactly one connection
//! a file ever writes or checkpoints (SQLite up to 3.50 can lose a WAL reset when two do);
//! readers are opened read-only, and closed before it. One process owns a data directory; see
//! [`DataDirectory`].

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use application::ports::Unavailable;
use sqlx::migrate::Migrator;
use sqlx::pool::PoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool, Transaction};
use tokio::sync::{Mutex, MutexGuard};

/// Reading connections a file, at most; each is a thread and 3 file descriptors.
const READERS_MAX: u32 = 4;
/// How long a reading connection stays open unused.
const READER_IDLE: Duration = Duration::from_secs(60);
/// How long to wait for a reading connection.
const READER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long to wait for a lock held by another process (a backup tool, say).
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
/// Prepared statements kept a connection.
const STATEMENTS_KEPT: usize = 128;

/// One database file, open: one connection that writes, a few that read.
pub struct Database {
    writer: Mutex<SqliteConnection>,
    readers: SqlitePool,
}

impl Database {
    /// Opens the file, making it if it is not there, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// What SQLite says; also if the file's schema is newer than this program.
    pub async fn open(path: &Path, migrator: &Migrator) -> Result<Self, sqlx::Error> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(LOCK_WAIT_MAX)
            .statement_cache_capacity(STATEMENTS_KEPT)
            .disable_statement_logging();
        let mut writer = options.clone().create_if_missing(true).connect().await?;
        migrator.run_direct(&mut writer).await?;
        let readers = PoolOptions::new()
            .max_connections(READERS_MAX)
            .min_connections(0)
            .idle_timeout(READER_IDLE)
            .max_lifetime(None)
            .acquire_timeout(READER_WAIT_MAX)
            .test_before_acquire(false)
            .connect_lazy_with(options.read_only(true));
        Ok(Self {
            writer: Mutex::new(writer),
            readers,
        })
    }

    /// The writing connection, as soon as nobody else has it. Every write belongs into a
    /// transaction of [`begin`] or [`begin_replayable`].
    pub async fn writer(&self) -> MutexGuard<'_, SqliteConnection> {
        self.writer.lock().await
    }

    /// The reading connections.
    pub const fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Closes readers, then the writer. Whoever asks afterwards gets an error.
    pub async fn close(self) -> Result<(), sqlx::Error> {
        self.readers.close().await;
        self.writer.into_inner().close().await
    }
}

/// Begins a writing transaction: takes the write lock at once, so that nothing read in it can
/// be outdated. Its commit is on disk before it is answered. Rolled back when dropped.
pub async fn begin(writer: &mut SqliteConnection) -> Result<Transaction<'_, Sqlite>, sqlx::Error> {
    writer
        .begin_with("pragma synchronous=full; begin immediate")
        .await
}

/// Begins a writing transaction whose commit may be lost if the power fails, though never a part
/// of it, and never one that a later commit begun by [`begin`] stands on. For what can be made
/// again from a ledger, if it is committed together with the checkpoint that says how far it is:
/// both are lost or neither.
///
/// Each transaction sets its own level, so a dropped future cannot leave the weaker one behind.
pub async fn begin_replayable(
    writer: &mut SqliteConnection,
) -> Result<Transaction<'_, Sqlite>, sqlx::Error> {
    writer
        .begin_with("pragma synchronous=normal; begin immediate")
        .await
}

/// A directory of database files, owned by this process alone for as long as this value lives.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    _lock: File,
}

/// A data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirectoryError {
    /// Another process owns it.
    #[error("{0} is in use by another digital-card process")]
    InUse(PathBuf),
    /// It cannot be made or locked.
    #[error("{0}: {1}")]
    Io(PathBuf, std::io::Error),
}

impl DataDirectory {
    /// Takes the directory, making it if it is not there.
    ///
    /// # Errors
    ///
    /// [`DataDirectoryError`] if another process has it, or it cannot be made.
    pub fn take(path: &Path) -> Result<Self, DataDirectoryError> {
        let failed = |error| DataDirectoryError::Io(path.to_owned(), error);
        std::fs::create_dir_all(path.join("tenants")).map_err(failed)?;
        let lock = File::create(path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DataDirectoryError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// The landlord's database file.
    pub fn landlord(&self) -> PathBuf {
        self.path.join("landlord.db")
    }

    /// The directory of the tenants' database files.
    pub fn tenants(&self) -> PathBuf {
        self.path.join("tenants")
    }
}

/// `what` did not answer, because of what SQLite says.
pub fn unavailable(what: &'static str) -> impl FnOnce(sqlx::Error) -> Unavailable {
    move |error| Unavailable::because(what, error)
}
