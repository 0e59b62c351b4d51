//! A SQLite database file, opened so that it neither loses what it acknowledged nor corrupts.
//!
//! WAL with `synchronous=FULL`: a commit is on disk before it is answered, except where
//! [`begin_replayable`] says otherwise. Exactly one connection
//! a file ever writes or checkpoints (SQLite up to 3.50 can lose a WAL reset when two do);
//! readers are opened read-only, and closed before it. One process owns a data directory; see
//! [`DataDirectory`].

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use application::ports::Unavailable;
use sqlx::migrate::Migrator;
use sqlx::pool::PoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection, Sqlite, SqliteConnection, SqlitePool, Transaction};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};

/// Reading connections a file, at most; each is a thread and 3 file descriptors.
const READERS_MAX: u32 = 4;
/// How long a reading connection stays open unused.
const READER_IDLE: Duration = Duration::from_secs(60);
/// How long to wait for a reading connection.
const READER_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long to wait for a lock held by another process (a backup tool, say).
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
/// How many pages of 4 KiB the log takes before they are moved into the file, which the commit in
/// hand waits for: half of SQLite's default. At 6,000 issuances/s the slowest hundredth took 8 to
/// 10 ms with it, 14 to 18 ms with 1,000, 20 ms and more with 2,000; at full load 2,000 gives a
/// tenth more throughput.
const CHECKPOINT_PAGES: &str = "500";
/// Prepared statements kept a connection.
const STATEMENTS_KEPT: usize = 128;

/// One database file, open: one connection that writes, a few that read.
pub struct Database {
    options: SqliteConnectOptions,
    writer: Mutex<Option<SqliteConnection>>,
    distrusted: AtomicBool,
    readers: SqlitePool,
}

/// The writing connection, held.
pub type Writer<'a> = MappedMutexGuard<'a, SqliteConnection>;

/// The database was migrated by a newer program.
#[derive(Debug, thiserror::Error)]
#[error("the database's schema is version {found}; this program knows versions up to {known}")]
pub struct SchemaTooNew {
    /// The version of the database's schema.
    pub found: i64,
    /// The newest version known here.
    pub known: i64,
}

/// The database was not brought up to date, and nobody may do so here.
#[derive(Debug, thiserror::Error)]
#[error(
    "the database's schema is version {found}; this program needs {known}: run `digital-card migrate`"
)]
pub struct SchemaTooOld {
    /// The version of the database's schema; 0 if it has none.
    pub found: i64,
    /// The version needed here.
    pub known: i64,
}

/// What to do about a schema that is older than this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Older {
    /// Bring it up to date.
    Migrate,
    /// Refuse it: [`SchemaTooOld`].
    Refuse,
}

/// Whether a schema has to be brought up to date, which may be done.
pub(crate) fn is_older(found: i64, migrator: &Migrator, older: Older) -> Result<bool, sqlx::Error> {
    let known = newest(migrator);
    if found > known {
        let error = SchemaTooNew { found, known };
        return Err(sqlx::Error::Configuration(error.into()));
    }
    match older {
        Older::Refuse if found < known => Err(too_old(found, migrator)),
        Older::Refuse | Older::Migrate => Ok(found < known),
    }
}

/// A schema is older than this program, and refused.
pub(crate) fn too_old(found: i64, migrator: &Migrator) -> sqlx::Error {
    let known = newest(migrator);
    sqlx::Error::Configuration(SchemaTooOld { found, known }.into())
}

/// The version that a migrator leads to.
pub(crate) fn newest(migrator: &Migrator) -> i64 {
    migrator.iter().map(|it| it.version).max().unwrap_or(0)
}

impl Database {
    /// Opens the file, making it if it is not there, and brings its schema up to date.
    ///
    /// # Errors
    ///
    /// What SQLite says; [`SchemaTooNew`] in [`sqlx::Error::Configuration`].
    pub async fn open(path: &Path, migrator: &Migrator) -> Result<Self, sqlx::Error> {
        let options = options(path).create_if_missing(true);
        Self::open_with(options, migrator, Older::Migrate).await
    }

    /// Opens the file, which must be there, and brings its schema up to date if that may be done.
    ///
    /// # Errors
    ///
    /// As [`Self::open`]; also if the file is missing; [`SchemaTooOld`] in
    /// [`sqlx::Error::Configuration`].
    pub async fn open_existing(
        path: &Path,
        migrator: &Migrator,
        older: Older,
    ) -> Result<Self, sqlx::Error> {
        Self::open_with(options(path), migrator, older).await
    }

    /// The only connection to the file, which must be there, for as long as it lasts: nobody else
    /// in this process may have the file open or open it meanwhile.
    ///
    /// # Errors
    ///
    /// What SQLite says; also if the file is missing.
    pub async fn connect_alone(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
        options(path).connect().await
    }

    async fn open_with(
        options: SqliteConnectOptions,
        migrator: &Migrator,
        older: Older,
    ) -> Result<Self, sqlx::Error> {
        let mut writer = options.connect().await?;
        migrate(&mut writer, migrator, older).await?;
        let options = options.create_if_missing(false);
        Ok(Self {
            readers: readers(&options),
            options,
            writer: Mutex::new(Some(writer)),
            distrusted: AtomicBool::new(false),
        })
    }

    /// Connections that only read the file, which must be there; another process may write it
    /// meanwhile. What its schema is, is for the caller to ask.
    pub fn readers_of(path: &Path) -> SqlitePool {
        readers(&options(path))
    }

    /// The writing connection, as soon as nobody else has it. Every write belongs into a
    /// transaction of [`begin`] or [`begin_replayable`].
    ///
    /// # Errors
    ///
    /// [`sqlx::Error::PoolClosed`] after [`Self::close`]; what SQLite says, if the connection had
    /// to be opened anew.
    pub async fn writer(&self) -> Result<Writer<'_>, sqlx::Error> {
        let mut slot = self.writer.lock().await;
        if self.readers.is_closed() {
            return Err(sqlx::Error::PoolClosed);
        }
        let distrusted = self.distrusted.swap(false, Ordering::Relaxed);
        if distrusted || slot.as_ref().is_none_or(Connection::is_in_transaction) {
            self.reopen_unless_sound(&mut slot, distrusted).await?;
        }
        MutexGuard::try_map(slot, Option::as_mut).map_err(|_| sqlx::Error::PoolClosed)
    }

    /// The writing connection failed in a way that leaves its state open: it is opened anew
    /// before anybody uses it again.
    pub fn distrust_writer(&self) {
        self.distrusted.store(true, Ordering::Relaxed);
    }

    /// After a full disk or a failed read SQLite may have rolled back by itself; sqlx then counts
    /// a transaction that is not there, and would refuse the next one for ever.
    async fn reopen_unless_sound(
        &self,
        slot: &mut Option<SqliteConnection>,
        distrusted: bool,
    ) -> Result<(), sqlx::Error> {
        if let Some(writer) = slot.as_mut() {
            // A dropped transaction is rolled back by a queued command: let it run first.
            let answers = writer.ping().await.is_ok();
            if answers && !distrusted && !writer.is_in_transaction() {
                return Ok(());
            }
        }
        if let Some(unsound) = slot.take() {
            unsound.close().await?;
        }
        *slot = Some(self.options.connect().await?);
        Ok(())
    }

    /// The reading connections.
    pub const fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Closes readers, then the writer, each as soon as nobody uses it. Whoever asks afterwards
    /// gets an error.
    ///
    /// # Errors
    ///
    /// What SQLite says; the connections are gone all the same.
    pub async fn close(&self) -> Result<(), sqlx::Error> {
        self.readers.close().await;
        match self.writer.lock().await.take() {
            Some(writer) => writer.close().await,
            None => Ok(()),
        }
    }
}

fn readers(options: &SqliteConnectOptions) -> SqlitePool {
    PoolOptions::new()
        .max_connections(READERS_MAX)
        .min_connections(0)
        .idle_timeout(READER_IDLE)
        .max_lifetime(None)
        .acquire_timeout(READER_WAIT_MAX)
        .test_before_acquire(false)
        .connect_lazy_with(options.clone().read_only(true))
}

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(LOCK_WAIT_MAX)
        .statement_cache_capacity(STATEMENTS_KEPT)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .disable_statement_logging()
}

/// Brings the schema up to date. The version is also noted in the file's header, so that opening
/// an up-to-date file costs one pragma instead of the migrator's half dozen statements.
async fn migrate(
    writer: &mut SqliteConnection,
    migrator: &Migrator,
    older: Older,
) -> Result<(), sqlx::Error> {
    let found: i64 = sqlx::query_scalar("pragma user_version")
        .fetch_one(&mut *writer)
        .await?;
    let known = newest(migrator);
    if is_older(found, migrator, older)? || known == 0 {
        migrator.run_direct(writer).await?;
        sqlx::query(&format!("pragma user_version = {known}"))
            .execute(writer)
            .await?;
    }
    Ok(())
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

/// The first statements of an [`Exchange`] whose commit is on disk before it is answered.
pub const BEGIN: &str = "pragma synchronous=full; begin immediate; ";
/// The first statements of an [`Exchange`] like a transaction of [`begin_replayable`].
pub const BEGIN_REPLAYABLE: &str = "pragma synchronous=normal; begin immediate; ";

/// A writing transaction in a few texts of several statements each.
///
/// Each text is one hand-over to the connection's thread, and a hand-over costs more than the
/// statements in it; a transaction of sqlx is one statement a text. The text that begins the
/// transaction has [`BEGIN`] or [`BEGIN_REPLAYABLE`], the last ends with `commit` or `rollback`.
/// sqlx does not know of such a transaction: unless [`Self::done`] says that it is over, the
/// connection is opened anew before it is used again, if anything was sent at all.
pub struct Exchange<'a> {
    database: &'a Database,
    writer: Writer<'a>,
    over: bool,
}

impl Database {
    /// Takes the writing connection for an [`Exchange`], as soon as nobody else has it.
    ///
    /// # Errors
    ///
    /// As [`Self::writer`].
    pub async fn exchange(&self) -> Result<Exchange<'_>, sqlx::Error> {
        Ok(Exchange {
            writer: self.writer().await?,
            database: self,
            over: true,
        })
    }
}

impl Exchange<'_> {
    /// Where to send the texts.
    pub fn connection(&mut self) -> &mut SqliteConnection {
        self.over = false;
        &mut self.writer
    }

    /// The last text has succeeded.
    pub fn done(mut self) {
        self.over = true;
    }

    /// Ends it without an effect.
    ///
    /// # Errors
    ///
    /// What SQLite says; the connection is opened anew then.
    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        sqlx::query("rollback").execute(self.connection()).await?;
        self.done();
        Ok(())
    }
}

impl Drop for Exchange<'_> {
    fn drop(&mut self) {
        if !self.over {
            self.database.distrust_writer();
        }
    }
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
