//! The ledger in a PostgreSQL schema of its own. Any number of nodes may write it.

mod append;
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
use postgres_es::PostgresEventRepository;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgPool};

use self::append::PostgresEngine;
use super::writer::Writer;
use super::{Engine, Memory};

static MIGRATOR: Migrator = sqlx::migrate!("../migrations/postgres/tenant");

const WHAT: &str = "the tenant's ledger";

/// The schema of a tenant's tables. Made from its id only, so it can stand in a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema(String);

impl Schema {
    /// The schema of a tenant.
    pub fn of(tenant: TenantId) -> Self {
        // A UUID's text: hexadecimal digits and dashes.
        Self(format!("t_{}", tenant.to_string().replace('-', "")))
    }

    /// Makes the schema if it is not there, and brings it up to date. Two nodes may do so at
    /// once.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says.
    pub async fn migrate(&self, shard: &PgConnectOptions) -> Result<(), sqlx::Error> {
        let mut connection = shard
            .clone()
            .options([("search_path", &self.0)])
            .connect()
            .await?;
        let made = self.make(&mut connection).await;
        connection.close().await?;
        made
    }

    async fn make(&self, connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
        // `if not exists` is checked before the name is taken: two nodes at once need a lock.
        let lock = "select pg_advisory_xact_lock(hashtextextended($1, 0))";
        let mut transaction = connection.begin().await?;
        sqlx::query(lock)
            .bind(&self.0)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(&format!("create schema if not exists {}", self.0))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
        Ok(MIGRATOR.run_direct(connection).await?)
    }

    /// The qualified name of one of its tables.
    fn table(&self, name: &str) -> String {
        format!("{}.{name}", self.0)
    }
}

/// A tenant's ledger, open.
pub struct PostgresLedger {
    memory: Arc<Memory>,
    writer: Writer,
    reader: read::Reader,
    repository: PostgresEventRepository,
}

impl PostgresLedger {
    /// Reads the head and starts the writer, before which at most `waiting_max` appends may wait.
    /// The tenant's [`Schema`] is there and up to date.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if the head or the subscription cannot be read.
    pub async fn open(
        tenant: TenantId,
        shard: PgPool,
        clock: Arc<dyn Clock>,
        doorbell: Doorbell,
        waiting_max: usize,
    ) -> Result<Self, Unavailable> {
        let schema = Schema::of(tenant);
        let repository = PostgresEventRepository::new(shard.clone())
            .with_tables(&schema.table("events"), &schema.table("snapshots"));
        let reader = read::Reader::new(tenant, shard, &schema);
        let engine = PostgresEngine::new(reader.clone(), &schema);
        let decoder = Decoder::default();
        let state = engine
            .load(&decoder)
            .await
            .map_err(|error| Unavailable::because(WHAT, error))?;
        let memory = Arc::new(Memory::new(tenant, state, clock, doorbell, decoder));
        Ok(Self {
            writer: Writer::spawn(engine, Arc::clone(&memory), waiting_max),
            repository,
            reader,
            memory,
        })
    }

    /// Another node says that the ledger has reached `position`, or 0 to say that it may have
    /// moved: brings [`Ledger::head`] up to date, if it is not.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if it cannot be read; the next append reads it in any case.
    pub async fn heard(&self, position: Position) -> Result<(), Unavailable> {
        if position > 0 && self.memory.head.load().position >= position {
            return Ok(());
        }
        self.writer.look().await
    }

    /// Finishes what is queued; every later append is refused. The pool stays open.
    pub async fn close(&self) {
        self.writer.close().await;
    }
}

#[async_trait]
impl Ledger for PostgresLedger {
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
        self.reader
            .outcome(key)
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
        if let Some(events) = self.memory.tail.read(after, limit) {
            return Ok(events);
        }
        self.reader
            .events(&self.memory.decoder, after, limit)
            .await
            .map_err(|error| Unavailable::because(WHAT, error))
    }

    async fn history(
        &self,
        filter: &HistoryFilter,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, Unavailable> {
        self.reader
            .history(filter, limit)
            .await
            .map_err(|error| Unavailable::because(WHAT, error))
    }
}
