//! Reading a ledger back from its PostgreSQL schema.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use application::ports::restore::OutcomePage;
use application::ports::{HistoryFilter, RecordedOutcome, StoredEvent};
use cqrs_es::Aggregate;
use cqrs_es::persist::SerializedEvent;
use domain::event::{AggregateKind, Decoder};
use domain::ids::{TenantId, Version};
use domain::subscription::TenantSubscription;
use domain::usage::Usage;
use sqlx::postgres::PgRow;
use sqlx::query_builder::QueryBuilder;
use sqlx::types::Json;
use sqlx::{PgExecutor, Postgres, Row};

use super::super::admission::Versions;
use super::super::column::{self, from_i64, to_i64};
use super::super::stored::{Reader, push_conditions};
use super::super::{Before, HeadRow, StoreError};
use crate::patience::limited;
use crate::projections::cards::companion::Companion;
use crate::shard::Room;
use crate::shard::schema::is_missing;

pub(super) const HEAD: &str = "revision, position, hash, issued, active, suspended, revoked, expired, \
     replaced, subscription_version, card_serials_reserved";

/// The statements that read a tenant's schema, and the way into it.
///
/// Aggregates are loaded without `PostgresEventRepository`, which takes connections from an sqlx pool
/// by itself: they would be in no room. A pool a tenant would give it some that are, and cost
/// each tenant a server process. The tables are those it expects; a test loads through it.
#[derive(Clone)]
pub struct PostgresReader {
    pub(super) room: Room,
    tenant: TenantId,
    texts: Arc<Texts>,
    not_there: Arc<AtomicBool>,
    pub(super) cards: Arc<Companion>,
}

/// Made once.
struct Texts {
    before: String,
    state: String,
    load: String,
    outcome: String,
    outcomes: String,
    serials: String,
    history: String,
}

/// A row of an outcome as JSON: key, fingerprint, outcome, position.
type OutcomeRow = (String, String, String, i64);
/// Aggregate id, aggregate type, how many events it has.
type VersionRow = (String, String, i64);

impl PostgresReader {
    pub(super) fn new(tenant: TenantId, room: Room) -> Self {
        let schema = room.schema();
        let head = schema.table("head");
        let events = schema.table("events");
        let idempotency = schema.table("idempotency");
        let texts = Texts {
            before: format!(
                "select {HEAD}, array(select json_build_array(key, encode(fingerprint, 'hex'), \
                 outcome, position) from {idempotency} where key = any($1)), \
                 array(select json_build_array(aggregate_id, aggregate_type, max(sequence)) \
                 from {events} where aggregate_id = any($2) \
                 group by aggregate_id, aggregate_type), moved_to is not null \
                 from {head} where id = 1"
            ),
            state: format!(
                "select {HEAD}, array(select json_build_array(aggregate_type, event_type, \
                 event_version, payload::text) from {events} \
                 where aggregate_id = $1 and aggregate_type = $2 order by sequence) \
                 from {head} where id = 1"
            ),
            load: format!(
                "select sequence, event_type, event_version, payload, metadata from {events} \
                 where aggregate_id = $1 and aggregate_type = $2 order by sequence"
            ),
            outcome: format!(
                "select fingerprint, outcome, position from {idempotency} where key = $1"
            ),
            outcomes: format!(
                "select key, fingerprint, outcome, position, recorded_at from {idempotency} \
                 where key > $1 order by key limit $2"
            ),
            serials: format!("select card_serials_reserved from {head} where id = 1"),
            history: format!(
                "select position, aggregate_type, aggregate_id, sequence, event_type, \
                 event_version, payload::text, metadata::text, recorded_at, hash from {events}"
            ),
        };
        Self {
            room,
            tenant,
            texts: Arc::new(texts),
            not_there: Arc::default(),
            cards: Arc::default(),
        }
    }

    pub(super) fn was_not_there(&self) -> bool {
        self.not_there.swap(false, Ordering::Relaxed)
    }

    /// The revision of the head, and what a batch must know at it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Frozen`] if no batch may be appended.
    pub(super) async fn before(
        &self,
        executor: impl PgExecutor<'_>,
        keys: &[&str],
        ids: &[&str],
    ) -> Result<(i64, Before), StoreError> {
        let row = sqlx::query(&self.texts.before)
            .bind(keys)
            .bind(ids)
            .fetch_one(executor)
            .await;
        if row.as_ref().is_err_and(is_missing) {
            self.not_there.store(true, Ordering::Relaxed);
        }
        let row = row?;
        if row.try_get(13)? {
            self.not_there.store(true, Ordering::Relaxed);
            return Err(StoreError::Frozen);
        }
        let outcomes: Vec<Json<OutcomeRow>> = row.try_get(11)?;
        let versions: Vec<Json<VersionRow>> = row.try_get(12)?;
        let before = Before {
            head: head_row(&row)?,
            outcomes: outcomes_of(outcomes)?,
            versions: versions_of(versions)?,
        };
        Ok((row.try_get(0)?, before))
    }

    /// The revision of the head, the head, and the tenant's subscription at it, folded.
    pub(super) async fn state(
        &self,
        executor: impl PgExecutor<'_>,
        decoder: &Decoder,
    ) -> Result<(i64, HeadRow, TenantSubscription), StoreError> {
        let row = sqlx::query(&self.texts.state)
            .bind(self.tenant.to_string())
            .bind(TenantSubscription::TYPE)
            .fetch_one(executor)
            .await?;
        let head = head_row(&row)?;
        let events: Vec<Json<[String; 4]>> = row.try_get(11)?;
        if events.len() as Version != head.subscription_version {
            return Err(StoreError::Malformed("subscription version"));
        }
        let mut subscription = TenantSubscription::default();
        for Json(event) in &events {
            let event = event.each_ref().map(String::as_str);
            column::evolve(&mut subscription, decoder, event)?;
        }
        Ok((row.try_get(0)?, head, subscription))
    }
}

impl Reader for PostgresReader {
    const ALONE: bool = false;

    async fn load(
        &self,
        kind: AggregateKind,
        id: &str,
    ) -> Result<Vec<SerializedEvent>, StoreError> {
        let mut connection = self.room.connection().await?;
        let query = sqlx::query(&self.texts.load).bind(id).bind(kind.as_str());
        let rows = limited(query.fetch_all(connection.work())).await;
        let event = |row: &PgRow| {
            Ok(SerializedEvent {
                aggregate_id: id.to_owned(),
                sequence: from_i64(row.try_get(0)?)? as usize,
                aggregate_type: kind.as_str().to_owned(),
                event_type: row.try_get(1)?,
                event_version: row.try_get(2)?,
                payload: row.try_get(3)?,
                metadata: row.try_get(4)?,
            })
        };
        connection.done(rows)?.iter().map(event).collect()
    }

    async fn outcome(&self, key: &str) -> Result<Option<RecordedOutcome>, StoreError> {
        let mut connection = self.room.connection().await?;
        let query = sqlx::query(&self.texts.outcome).bind(key);
        let row = limited(query.fetch_optional(connection.work())).await;
        let row = connection.done(row)?;
        row.map(|row| column::outcome(row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
            .transpose()
    }

    async fn history(
        &self,
        filter: &HistoryFilter,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new(&self.texts.history);
        push_conditions(&mut query, filter, limit);
        let mut connection = self.room.connection().await?;
        let rows = limited(query.build().fetch_all(connection.work())).await;
        connection.done(rows)?.iter().map(stored_event).collect()
    }

    /// In the order of their keys.
    async fn outcomes(&self, from: Option<&str>, limit: usize) -> Result<OutcomePage, StoreError> {
        let mut connection = self.room.connection().await?;
        let query = sqlx::query(&self.texts.outcomes)
            .bind(from.unwrap_or_default())
            .bind(to_i64(limit as u64));
        let rows = limited(query.fetch_all(connection.work())).await;
        let rows = connection.done(rows)?;
        let stored = |row: &PgRow| {
            let answer = column::outcome(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
            column::stored_outcome(row.try_get(0)?, answer, row.try_get(4)?)
        };
        let items = rows.iter().map(stored).collect::<Result<Vec<_>, _>>()?;
        let next = items.last().filter(|_| items.len() == limit);
        let next = next.map(|last| last.key.clone());
        Ok(OutcomePage { items, next })
    }

    async fn card_serials_reserved(&self) -> Result<u64, StoreError> {
        let mut connection = self.room.connection().await?;
        let query = sqlx::query_scalar(&self.texts.serials);
        let reserved = limited(query.fetch_one(connection.work())).await;
        from_i64(connection.done(reserved)?)
    }
}

/// A row that begins with [`HEAD`].
pub(super) fn head_row(row: &PgRow) -> Result<HeadRow, StoreError> {
    Ok(HeadRow {
        position: from_i64(row.try_get(1)?)?,
        hash: column::hash(row.try_get(2)?)?,
        usage: Usage {
            issued: from_i64(row.try_get(3)?)?,
            active: from_i64(row.try_get(4)?)?,
            suspended: from_i64(row.try_get(5)?)?,
            revoked: from_i64(row.try_get(6)?)?,
            expired: from_i64(row.try_get(7)?)?,
            replaced: from_i64(row.try_get(8)?)?,
        },
        subscription_version: from_i64(row.try_get(9)?)?,
        card_serials_reserved: from_i64(row.try_get(10)?)?,
    })
}

fn outcomes_of(
    rows: Vec<Json<OutcomeRow>>,
) -> Result<HashMap<String, RecordedOutcome>, StoreError> {
    let by_key = |Json((key, hex, outcome, position)): Json<OutcomeRow>| {
        let bytes = hex::decode(hex).map_err(|_| StoreError::Malformed("fingerprint"))?;
        Ok((key, column::outcome(&bytes, outcome, position)?))
    };
    rows.into_iter().map(by_key).collect()
}

fn versions_of(rows: Vec<Json<VersionRow>>) -> Result<Versions, StoreError> {
    let mut versions = Versions::default();
    for Json((id, kind, version)) in rows {
        let kind = AggregateKind::parse(&kind).ok_or(StoreError::Malformed("aggregate type"))?;
        versions.set(kind, id, from_i64(version)?);
    }
    Ok(versions)
}

fn stored_event(row: &PgRow) -> Result<StoredEvent, StoreError> {
    Ok(StoredEvent {
        position: from_i64(row.try_get(0)?)?,
        aggregate_type: row.try_get(1)?,
        aggregate_id: row.try_get(2)?,
        sequence: from_i64(row.try_get(3)?)?,
        event_type: row.try_get(4)?,
        event_version: row.try_get(5)?,
        payload: row.try_get(6)?,
        metadata: row.try_get(7)?,
        recorded_at: column::time(row.try_get(8)?)?,
        hash: column::hash(row.try_get(9)?)?,
    })
}
