//! The ledger in a SQLite file of its own. One process has the file, so what is in memory after a
//! commit is the newest there is.

mod append;
mod keys;
mod read;

use std::sync::Arc;

use application::doorbell::Doorbell;
use application::ports::{
    Append, AppendError, Appended, Clock, Head, HistoryFilter, Ledger, RecordedEvent,
    RecordedOutcome, StoredEvent, Unavailable,
};
use async_trait::async_trait;
use cqrs_es::persist::{PersistedEventRepository, SerializedEvent};
use domain::card::DigitalCard;
use domain::event::{AggregateKind, Decoder};
use domain::ids::{Position, TenantId};
use domain::subscription::TenantSubscription;
use sqlite_es::SqliteEventRepository;
use sqlx::Sqlite;
use sqlx::migrate::Migrator;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;

use self::append::SqliteEngine;
use self::keys::Keys;
use super::writer::Writer;
use super::{Engine, Memory};
use crate::database::Database;

/// The schema of a tenant's file.
pub static MIGRATOR: Migrator = sqlx::migrate!("../migrations/sqlite/tenant");

/// A query with values bound to it.
type Bound<'q> = Query<'q, Sqlite, SqliteArguments<'q>>;

const WHAT: &str = "the tenant's ledger";

/// A tenant's ledger, open.
pub struct SqliteLedger {
    memory: Arc<Memory>,
    writer: Writer,
    database: Arc<Database>,
    repository: SqliteEventRepository,
    keys: Arc<Keys>,
}

impl SqliteLedger {
    /// Reads the head and starts the writer, before which at most `waiting_max` appends may wait.
    /// `database` has the schema of [`MIGRATOR`].
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if the head or the subscription cannot be read.
    pub async fn open(
        tenant: TenantId,
        database: Arc<Database>,
        clock: Arc<dyn Clock>,
        doorbell: Doorbell,
        waiting_max: usize,
    ) -> Result<Self, Unavailable> {
        let keys = Arc::<Keys>::default();
        let engine = SqliteEngine::new(tenant, Arc::clone(&database), Arc::clone(&keys));
        let decoder = Decoder::default();
        let state = engine
            .load(&decoder)
            .await
            .map_err(|error| Unavailable::because(WHAT, error))?;
        let memory = Arc::new(Memory::new(tenant, state, clock, doorbell, decoder));
        Ok(Self {
            writer: Writer::spawn(engine, Arc::clone(&memory), waiting_max),
            repository: SqliteEventRepository::new(database.readers().clone()),
            memory,
            database,
            keys,
        })
    }

    /// Finishes what is queued; every later append is refused. The database stays open.
    pub async fn close(&self) {
        self.writer.close().await;
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    fn head(&self) -> Arc<Head> {
        self.memory.head.load_full()
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.writer.append(append).await
    }

    async fn load(
        &self,
        kind: AggregateKind,
        id: &str,
    ) -> Result<Vec<SerializedEvent>, Unavailable> {
        match kind {
            AggregateKind::Card => self.repository.get_events::<DigitalCard>(id).await,
            AggregateKind::Subscription => {
                self.repository.get_events::<TenantSubscription>(id).await
            }
        }
        .map_err(|error| Unavailable::because(WHAT, error))
    }

    async fn outcome(&self, key: &str) -> Result<Option<RecordedOutcome>, Unavailable> {
        self.keys
            .outcome(self.database.readers(), key)
            .await
            .map_err(|error| Unavailable::because(WHAT, error))
    }

    async fn next_card_serial(&self) -> Result<u64, Unavailable> {
        self.writer.next_serial().await
    }

    async fn read(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Arc<RecordedEvent>>, Unavailable> {
        if after >= self.memory.head.load().position {
            return Ok(vec![]);
        }
        if let Some(events) = self.memory.tail.read(after, limit) {
            return Ok(events);
        }
        read::events(self.database.readers(), &self.memory.decoder, after, limit)
            .await
            .map_err(|error| Unavailable::because(WHAT, error))
    }

    async fn history(
        &self,
        filter: &HistoryFilter,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, Unavailable> {
        read::history(self.database.readers(), filter, limit)
            .await
            .map_err(|error| Unavailable::because(WHAT, error))
    }
}
