//! Filling a SQLite file with a history from elsewhere, beside the place that it is for.

use std::path::{Path, PathBuf};

use application::ports::StoredEvent;
use application::ports::restore::{RestoreError, RestoringStore, StoredOutcome};
use domain::chain::Hash;
use domain::ids::{Position, TenantId};
use sqlx::{Sqlite, SqliteConnection};
use tokio::fs;

use super::super::column::to_i64;
use super::super::restore::{
    Filling, ROWS_MAX, Restoring, failed, insert_events, insert_outcomes, update_head,
};
use super::super::{HeadRow, StoreError};
use super::MIGRATOR;
use super::keys::{entry, json};
use crate::database::{Database, Older, begin};

/// The entries of the index in the order of the outcomes: they are sorted once, at the end, so that
/// the index is written from its one end to the other, however many there are.
const ENTRIES: &str = "create temp table entries (entry integer not null)";
const ADD_ENTRIES: &str = "insert into entries (entry) select value from json_each(?)";
const INDEX: &str =
    "insert into idempotency_index (entry) select entry from entries order by entry";
const INDEXED: &str = "update checkpoints set position = \
     (select coalesce(max(number), 0) from idempotency) where subscriber = 'idempotency_index'";
const IS_STORED: &str = "select exists (select 1 from events where position = ? and hash = ?)";
/// What is in the log goes into the file; a row that begins with 0 if all of it did.
const EMPTY_THE_LOG: &str = "pragma wal_checkpoint(truncate)";

/// Begins to fill the file at `path`, where no file is.
///
/// # Errors
///
/// [`RestoreError::Exists`] if there is one.
pub async fn restore(
    tenant: TenantId,
    path: PathBuf,
) -> Result<Box<dyn RestoringStore>, RestoreError> {
    let filling = FileBeside::begin(path).await.map_err(failed)?;
    Ok(Box::new(Restoring::new(tenant, filling)))
}

/// The file being filled.
struct FileBeside {
    /// Where it is for.
    path: PathBuf,
    /// Where it is.
    filled: PathBuf,
    database: Database,
    outcomes: i64,
}

impl FileBeside {
    async fn begin(path: PathBuf) -> Result<Self, StoreError> {
        let filled = beside(&path, ".importing");
        // An earlier attempt's.
        remove(&filled).await?;
        let database = Database::open(&filled, &MIGRATOR).await?;
        sqlx::query(ENTRIES)
            .execute(&mut *database.writer().await?)
            .await?;
        Ok(Self {
            path,
            filled,
            database,
            outcomes: 0,
        })
    }

    async fn move_there(&self) -> Result<(), StoreError> {
        let log: (i64, i64, i64) = sqlx::query_as(EMPTY_THE_LOG)
            .fetch_one(&mut *self.database.writer().await?)
            .await?;
        if log.0 != 0 {
            return Err(StoreError::Malformed("log, which is still in use,"));
        }
        self.database.close().await?;
        fs::File::open(&self.filled).await?.sync_all().await?;
        fs::rename(&self.filled, &self.path).await?;
        if let Some(directory) = self.path.parent() {
            fs::File::open(directory).await?.sync_all().await?;
        }
        Ok(())
    }
}

impl Filling for FileBeside {
    async fn events(&mut self, events: &[StoredEvent]) -> Result<(), StoreError> {
        let mut writer = self.database.writer().await?;
        let mut transaction = begin(&mut writer).await?;
        for some in events.chunks(ROWS_MAX) {
            insert_events::<Sqlite>(some, "")
                .build()
                .execute(&mut *transaction)
                .await?;
        }
        Ok(transaction.commit().await?)
    }

    async fn outcomes(&mut self, outcomes: &[StoredOutcome]) -> Result<(), StoreError> {
        let mut writer = self.database.writer().await?;
        let mut transaction = begin(&mut writer).await?;
        for some in outcomes.chunks(ROWS_MAX) {
            // They are numbered by SQLite: 1, 2, 3 … in a table that nothing is deleted from.
            insert_outcomes::<Sqlite>(some)
                .build()
                .execute(&mut *transaction)
                .await?;
            let numbered = some.iter().zip(self.outcomes + 1..);
            let entries: Vec<_> = numbered.map(|(it, nth)| entry(&it.key, nth)).collect();
            sqlx::query(ADD_ENTRIES)
                .bind(json(&entries)?)
                .execute(&mut *transaction)
                .await?;
            self.outcomes += some.len() as i64;
        }
        Ok(transaction.commit().await?)
    }

    async fn finds(&mut self, query: &str) -> Result<bool, StoreError> {
        let mut writer = self.database.writer().await?;
        Ok(sqlx::query_scalar(query).fetch_one(&mut *writer).await?)
    }

    async fn head(&mut self, head: &HeadRow) -> Result<(), StoreError> {
        let mut writer = self.database.writer().await?;
        let mut transaction = begin(&mut writer).await?;
        run(&mut transaction, INDEX).await?;
        run(&mut transaction, INDEXED).await?;
        update_head::<Sqlite>(head)
            .build()
            .execute(&mut *transaction)
            .await?;
        Ok(transaction.commit().await?)
    }

    async fn publish(self) -> Result<Result<(), Self>, StoreError> {
        // Nobody else makes files here: the directory belongs to this process.
        if fs::try_exists(&self.path).await? {
            return Ok(Err(self));
        }
        match self.move_there().await {
            Ok(()) => Ok(Ok(())),
            Err(error) => {
                self.discard().await?;
                Err(error)
            }
        }
    }

    async fn is_there(&mut self, position: Position, hash: &Hash) -> Result<bool, StoreError> {
        let there = Database::open_existing(&self.path, &MIGRATOR, Older::Migrate).await?;
        let found = sqlx::query_scalar(IS_STORED)
            .bind(to_i64(position))
            .bind(hash.as_bytes().as_slice())
            .fetch_one(&mut *there.writer().await?)
            .await;
        there.close().await?;
        Ok(found?)
    }

    async fn discard(self) -> Result<(), StoreError> {
        self.database.close().await?;
        remove(&self.filled).await
    }
}

async fn run(connection: &mut SqliteConnection, sql: &str) -> Result<(), StoreError> {
    sqlx::query(sql).execute(connection).await?;
    Ok(())
}

/// Removes a database's files, those that are there.
async fn remove(path: &Path) -> Result<(), StoreError> {
    for suffix in ["-wal", "-shm", ""] {
        match fs::remove_file(beside(path, suffix)).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
