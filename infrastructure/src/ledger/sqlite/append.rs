//! The append in SQLite: few statements, each for many rows.
//!
//! Statements take a power of two of rows, so that a connection's statement cache holds all of
//! them: 63 events are inserted as 32, 16, 8, 4, 2 and 1.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use application::ports::RecordedOutcome;
use domain::event::{AggregateKind, Decoder};
use domain::ids::{Position, TenantId};
use domain::subscription::TenantSubscription;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{Row, Sqlite, SqliteConnection};

use super::super::admission::{Admission, Prepared, Versions};
use super::super::{Committed, Engine, HeadRow, Memory, StoreError, Transaction, work_through};
use super::read::{self, from_i64, to_i64};
use crate::database::{self, Database};

/// The most rows a statement takes, as a power of two: 256 events are 2,560 of the 32,766
/// variables that SQLite allows.
const ROWS_MAX_LOG2: u32 = 8;

static INSERT_EVENTS: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(
        "insert into events (position, aggregate_type, aggregate_id, sequence, event_type, \
         event_version, payload, metadata, recorded_at, hash) values ",
        "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        "",
    )
});
static INSERT_OUTCOMES: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(
        "insert into idempotency (key, fingerprint, outcome, position, recorded_at) values ",
        "(?, ?, ?, ?, ?)",
        "",
    )
});
static SELECT_OUTCOMES: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(
        "select key, fingerprint, outcome, position from idempotency where key in (",
        "?",
        ")",
    )
});
static SELECT_VERSIONS: LazyLock<Statements> = LazyLock::new(|| {
    Statements::new(
        "select aggregate_id, aggregate_type, max(sequence) from events where aggregate_id in (",
        "?",
        ") group by aggregate_id, aggregate_type",
    )
});

/// One statement's texts for 1, 2, 4 … rows.
struct Statements(Vec<String>);

impl Statements {
    fn new(head: &str, row: &str, foot: &str) -> Self {
        let text = |log2| format!("{head}{}{foot}", vec![row; 1_usize << log2].join(", "));
        Self((0..=ROWS_MAX_LOG2).map(text).collect())
    }

    /// The longest text that takes at most `rows`, which are at least one, and how many it takes.
    fn at_most(&self, rows: usize) -> (&str, usize) {
        let log2 = rows.ilog2().min(ROWS_MAX_LOG2);
        (&self.0[log2 as usize], 1 << log2)
    }

    /// The shortest text that takes at least `rows`, which are between one and the most.
    fn at_least(&self, rows: usize) -> (&str, usize) {
        let log2 = rows.next_power_of_two().ilog2();
        (&self.0[log2 as usize], 1 << log2)
    }
}

/// The tenant's file, for writing.
pub(super) struct SqliteEngine {
    tenant: TenantId,
    database: Arc<Database>,
}

impl SqliteEngine {
    pub(super) const fn new(tenant: TenantId, database: Arc<Database>) -> Self {
        Self { tenant, database }
    }
}

impl Engine for SqliteEngine {
    async fn commit(&self, batch: Vec<Prepared>, memory: &Memory) -> Result<Committed, StoreError> {
        let mut writer = self.database.writer().await?;
        let mut transaction = database::begin(&mut writer).await?;
        let mut append = SqliteAppend {
            tenant: self.tenant,
            connection: &mut transaction,
        };
        let committed = work_through(&mut append, batch, memory).await?;
        match committed.wrote {
            true => transaction.commit().await?,
            false => transaction.rollback().await?,
        }
        Ok(committed)
    }

    async fn load(&self, decoder: &Decoder) -> Result<(HeadRow, TenantSubscription), StoreError> {
        // Nobody else writes while the writing connection is held, so the two belong together.
        let mut writer = self.database.writer().await?;
        let head = read::head(&mut writer).await?;
        let subscription = read::subscription(&mut writer, self.tenant, decoder).await?;
        Ok((head, subscription))
    }

    fn distrust(&self) {
        self.database.distrust_writer();
    }
}

struct SqliteAppend<'a> {
    tenant: TenantId,
    connection: &'a mut SqliteConnection,
}

impl Transaction for SqliteAppend<'_> {
    async fn head(&mut self) -> Result<HeadRow, StoreError> {
        read::head(self.connection).await
    }

    async fn subscription(&mut self, decoder: &Decoder) -> Result<TenantSubscription, StoreError> {
        read::subscription(self.connection, self.tenant, decoder).await
    }

    async fn outcomes(
        &mut self,
        keys: &[&str],
    ) -> Result<HashMap<String, RecordedOutcome>, StoreError> {
        let mut found = HashMap::new();
        for keys in keys.chunks(1 << ROWS_MAX_LOG2) {
            let rows = bind_padded(&SELECT_OUTCOMES, keys)
                .fetch_all(&mut *self.connection)
                .await?;
            found.extend(read::outcomes(&rows)?);
        }
        Ok(found)
    }

    async fn versions(&mut self, ids: &[&str]) -> Result<Versions, StoreError> {
        let mut versions = Versions::default();
        for ids in ids.chunks(1 << ROWS_MAX_LOG2) {
            let rows = bind_padded(&SELECT_VERSIONS, ids)
                .fetch_all(&mut *self.connection)
                .await?;
            for row in rows {
                let kind = AggregateKind::parse(row.try_get(1)?)
                    .ok_or(StoreError::Malformed("aggregate type"))?;
                versions.set(kind, row.try_get(0)?, from_i64(row.try_get(2)?)?);
            }
        }
        Ok(versions)
    }

    async fn write(&mut self, from: Position, admitted: &Admission) -> Result<(), StoreError> {
        self.insert_events(admitted).await?;
        self.insert_outcomes(admitted).await?;
        self.move_head(from, &admitted.head).await
    }
}

impl SqliteAppend<'_> {
    async fn insert_events(&mut self, admitted: &Admission) -> Result<(), StoreError> {
        let recorded_at = admitted.now.timestamp_micros();
        let mut rest = admitted.events.as_slice();
        while !rest.is_empty() {
            let (text, rows) = INSERT_EVENTS.at_most(rest.len());
            let (now, later) = rest.split_at(rows);
            let mut query = sqlx::query(text);
            for event in now {
                let stored = &event.stored;
                query = query
                    .bind(to_i64(stored.position))
                    .bind(&stored.aggregate_type)
                    .bind(&stored.aggregate_id)
                    .bind(to_i64(stored.sequence))
                    .bind(&stored.event_type)
                    .bind(&stored.event_version)
                    .bind(&stored.payload)
                    .bind(&stored.metadata)
                    .bind(recorded_at)
                    .bind(stored.hash.as_bytes().as_slice());
            }
            query.execute(&mut *self.connection).await?;
            rest = later;
        }
        Ok(())
    }

    async fn insert_outcomes(&mut self, admitted: &Admission) -> Result<(), StoreError> {
        let recorded_at = admitted.now.timestamp_micros();
        let outcomes = admitted.new_outcomes();
        let mut rest = outcomes.as_slice();
        while !rest.is_empty() {
            let (text, rows) = INSERT_OUTCOMES.at_most(rest.len());
            let (now, later) = rest.split_at(rows);
            let mut query = sqlx::query(text);
            for (key, outcome) in now {
                query = query
                    .bind(*key)
                    .bind(outcome.fingerprint.as_slice())
                    .bind(&outcome.outcome)
                    .bind(to_i64(outcome.position))
                    .bind(recorded_at);
            }
            query.execute(&mut *self.connection).await?;
            rest = later;
        }
        Ok(())
    }

    /// Moves the head if it is still where the transaction found it.
    async fn move_head(&mut self, from: Position, to: &HeadRow) -> Result<(), StoreError> {
        let moved = sqlx::query(
            "update head set position = ?, hash = ?, issued = ?, active = ?, suspended = ?, \
             revoked = ?, expired = ?, replaced = ?, subscription_version = ?, \
             card_serials_reserved = ? where id = 1 and position = ?",
        )
        .bind(to_i64(to.position))
        .bind(to.hash.as_bytes().as_slice())
        .bind(to_i64(to.usage.issued))
        .bind(to_i64(to.usage.active))
        .bind(to_i64(to.usage.suspended))
        .bind(to_i64(to.usage.revoked))
        .bind(to_i64(to.usage.expired))
        .bind(to_i64(to.usage.replaced))
        .bind(to_i64(to.subscription_version))
        .bind(to_i64(to.card_serials_reserved))
        .bind(to_i64(from))
        .execute(&mut *self.connection)
        .await?;
        match moved.rows_affected() {
            1 => Ok(()),
            _ => Err(StoreError::HeadMoved),
        }
    }
}

/// Binds `values`, of which there are at least one and at most [`ROWS_MAX_LOG2`] allows, and
/// repeats the last one where the text takes more.
fn bind_padded<'q>(
    statements: &'q Statements,
    values: &[&'q str],
) -> Query<'q, Sqlite, SqliteArguments<'q>> {
    let (text, rows) = statements.at_least(values.len());
    let last = values.last().copied();
    let padded = values.iter().copied().chain(last.into_iter().cycle());
    padded.take(rows).fold(sqlx::query(text), Query::bind)
}
