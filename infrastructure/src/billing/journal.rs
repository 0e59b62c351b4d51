//! The biller's file: each message once, in its tenant's order, as it was said.
//!
//! The key of a message (tenant and sequence) is the table's, so a repetition changes nothing: the
//! file is its own checkpoint. A repetition that says something else is remembered as a doubt. Bills are made when they are asked for. What was kept under a type
//! that a later program understands counts then.

mod keep;

use std::fs::{File, TryLockError};
use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use application::billing::message::{self, Message};
use application::billing::rejected::{ClaimedId, Rejected};
use chrono::{DateTime, Utc};
use domain::billing::Period;
use domain::billing::accountant::{Account, Accountant, Doubt, Entry};
use domain::ids::{Position, TenantId};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqlitePool};

use crate::database::{Database, begin, newest};

static MIGRATOR: Migrator = sqlx::migrate!("../migrations/sqlite/billing");

/// How many messages are read at a time.
const PAGE_MESSAGES: usize = 1_000;

/// The file, open for writing by this process alone.
pub struct Journal {
    database: Database,
    _lock: File,
}

/// The file, open for reading, whoever writes it.
pub struct Books {
    readers: SqlitePool,
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another process writes it.
    #[error("{} is in use by another biller", .0.display())]
    InUse(PathBuf),
    /// It is not there, or not to be made.
    #[error("{}", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    /// It was made by another version of this program, or by another program.
    #[error("{} is of schema version {found}; this program reads {known}", .path.display())]
    Schema {
        /// Which.
        path: PathBuf,
        /// Its version; 0 if it has none.
        found: i64,
        /// The version known here.
        known: i64,
    },
    /// What SQLite says.
    #[error("the biller's file")]
    Database(#[from] sqlx::Error),
    /// What is in it cannot be read.
    #[error("the biller's file: message {0}/{1} is damaged")]
    Damaged(TenantId, Position),
    /// There is a tenant in it that is none.
    #[error("the biller's file: {0:?} is no tenant")]
    Tenant(String),
}

/// What became of some messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// They are kept now.
    pub new: u64,
    /// Of those: they came after one that is behind them in their tenant's ledger.
    pub late: u64,
    /// They were kept before.
    pub repeated: u64,
    /// Of those: they say something else than what was kept.
    pub contradicted: u64,
    /// They are put aside.
    pub rejected: u64,
}

impl Kept {
    /// How many messages they were.
    pub const fn messages(self) -> u64 {
        self.new + self.repeated + self.rejected
    }
}

impl AddAssign for Kept {
    fn add_assign(&mut self, more: Self) {
        self.new += more.new;
        self.late += more.late;
        self.repeated += more.repeated;
        self.contradicted += more.contradicted;
        self.rejected += more.rejected;
    }
}

impl Journal {
    /// Opens the file, making it if it is not there.
    ///
    /// # Errors
    ///
    /// [`JournalError`]; also if another process writes the file.
    pub async fn open(path: &Path) -> Result<Self, JournalError> {
        let beside = beside(path);
        let failed = |error| JournalError::File(beside.clone(), error);
        let lock = File::create(&beside).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(JournalError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let database = Database::open(path, &MIGRATOR).await?;
        Ok(Self {
            database,
            _lock: lock,
        })
    }

    /// Keeps messages, and remembers which were put aside, all or nothing; on disk when it is
    /// answered.
    ///
    /// # Errors
    ///
    /// What SQLite says; nothing was kept then.
    pub async fn keep(
        &self,
        messages: &[Message],
        rejected: &[Rejected],
        now: DateTime<Utc>,
    ) -> Result<Kept, sqlx::Error> {
        let mut writer = self.database.writer().await?;
        let mut transaction = begin(&mut writer).await?;
        let mut kept = match messages.is_empty() {
            true => Kept::default(),
            false => keep::receive(&mut transaction, messages).await?,
        };
        keep::put_aside(&mut transaction, rejected, now).await?;
        kept.rejected = rejected.len() as u64;
        transaction.commit().await?;
        Ok(kept)
    }

    /// Forgets the messages that were put aside; which they were.
    ///
    /// # Errors
    ///
    /// What SQLite says; none is forgotten then.
    pub async fn forget_rejected(&self) -> Result<Vec<Rejected>, sqlx::Error> {
        let mut writer = self.database.writer().await?;
        let mut transaction = begin(&mut writer).await?;
        let forgotten = sqlx::query("delete from rejected returning message_id, reason")
            .fetch_all(&mut *transaction)
            .await?;
        transaction.commit().await?;
        forgotten.iter().map(rejected).collect()
    }

    /// Remembers how many messages are among the dead letters now.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub async fn count_dead(&self, messages: u32) -> Result<(), sqlx::Error> {
        let mut writer = self.database.writer().await?;
        sqlx::query(
            "insert into dead_letters (only, messages) values (1, $1)
             on conflict (only) do update set messages = excluded.messages",
        )
        .bind(messages)
        .execute(&mut *writer)
        .await
        .map(drop)
    }

    /// What has been kept.
    pub fn books(&self) -> Books {
        Books {
            readers: self.database.readers().clone(),
        }
    }

    /// Closes the file.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub async fn close(self) -> Result<(), sqlx::Error> {
        self.database.close().await
    }
}

impl Books {
    /// Opens the file, which must be there, only to read it.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn open(path: &Path) -> Result<Self, JournalError> {
        std::fs::metadata(path).map_err(|error| JournalError::File(path.to_owned(), error))?;
        let readers = Database::readers_of(path);
        let (found, known) = (schema(&readers).await?, newest(&MIGRATOR));
        match found == known {
            true => Ok(Self { readers }),
            false => Err(JournalError::Schema {
                path: path.to_owned(),
                found,
                known,
            }),
        }
    }

    /// The tenants of whom there is any message, oldest first.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn tenants(&self) -> Result<Vec<TenantId>, JournalError> {
        let mut tenants = Vec::new();
        // From one to the next: a `distinct` would read every message's key.
        let mut last = String::new();
        loop {
            let next: Option<String> =
                sqlx::query_scalar("select min(tenant) from received where tenant > $1")
                    .bind(&last)
                    .fetch_one(&self.readers)
                    .await?;
            let Some(next) = next else { return Ok(tenants) };
            let tenant = next.parse();
            tenants.push(tenant.map_err(|_| JournalError::Tenant(next.clone()))?);
            last = next;
        }
    }

    /// A tenant's bill, from what has been kept; `progress` hears now and then how far it is.
    ///
    /// # Errors
    ///
    /// [`JournalError`].
    pub async fn account(
        &self,
        tenant: TenantId,
        period: Period,
        progress: &(dyn Fn(Position) + Sync),
    ) -> Result<Account, JournalError> {
        let mut accountant = Accountant::new(period);
        for sequence in self.contradicted(tenant, period).await? {
            accountant.doubt(Doubt::Contradicted(sequence));
        }
        let mut after = 0;
        loop {
            let entries = self.entries(tenant, after).await?;
            for entry in &entries {
                accountant.enter(entry);
                after = entry.sequence;
            }
            progress(after);
            if entries.len() < PAGE_MESSAGES || accountant.is_over() {
                return Ok(accountant.close());
            }
        }
    }

    /// The first messages that came again and said something else, as far as a period is concerned.
    async fn contradicted(
        &self,
        tenant: TenantId,
        period: Period,
    ) -> Result<Vec<Position>, sqlx::Error> {
        let sequences: Vec<i64> = sqlx::query_scalar(
            "select sequence from contradicted
             where tenant = $1 and at < $2 order by sequence limit $3",
        )
        .bind(tenant.to_string())
        .bind(period.end().timestamp_micros())
        .bind(i64::try_from(PAGE_MESSAGES).unwrap_or(i64::MAX))
        .fetch_all(&self.readers)
        .await?;
        Ok(sequences.into_iter().map(i64::cast_unsigned).collect())
    }

    async fn entries(&self, tenant: TenantId, after: Position) -> Result<Vec<Entry>, JournalError> {
        let rows = sqlx::query(
            "select sequence, name, at, data from received
             where tenant = $1 and sequence > $2 order by sequence limit $3",
        )
        .bind(tenant.to_string())
        .bind(after.cast_signed())
        .bind(i64::try_from(PAGE_MESSAGES).unwrap_or(i64::MAX))
        .fetch_all(&self.readers)
        .await?;
        rows.iter()
            .map(|row| {
                let sequence = row.try_get::<i64, _>(0)?.cast_unsigned();
                entry(row)?.ok_or(JournalError::Damaged(tenant, sequence))
            })
            .collect()
    }

    /// The messages that were put aside.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub async fn rejected(&self) -> Result<Vec<Rejected>, sqlx::Error> {
        let rows = sqlx::query("select message_id, reason from rejected order by at, message_id")
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(rejected).collect()
    }

    /// How many messages were among the dead letters when they were last looked at.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub async fn dead(&self) -> Result<u32, sqlx::Error> {
        let dead = sqlx::query_scalar("select messages from dead_letters")
            .fetch_optional(&self.readers)
            .await?;
        Ok(dead.unwrap_or_default())
    }
}

fn rejected(row: &SqliteRow) -> Result<Rejected, sqlx::Error> {
    Ok(Rejected {
        id: ClaimedId::of(row.try_get(0)?),
        reason: row.try_get(1)?,
    })
}

/// `None` if the row holds what nobody has written.
fn entry(row: &SqliteRow) -> Result<Option<Entry>, sqlx::Error> {
    let at = DateTime::from_timestamp_micros(row.try_get(2)?);
    let fact = message::fact(row.try_get(1)?, row.try_get(3)?).ok();
    Ok(at.zip(fact).map(|(at, fact)| Entry {
        sequence: row.get::<i64, _>(0).cast_unsigned(),
        at,
        fact,
    }))
}

async fn schema(readers: &SqlitePool) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("pragma user_version")
        .fetch_one(readers)
        .await
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    name.into()
}
