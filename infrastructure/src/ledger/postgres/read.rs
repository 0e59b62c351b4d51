//! Reading a ledger back from its PostgreSQL schema.

use std::collections::HashMap;
use std::sync::Arc;

use application::ports::{HistoryFilter, RecordedEvent, RecordedOutcome, StoredEvent};
use chrono::DateTime;
use cqrs_es::Aggregate;
use domain::chain::Hash;
use domain::event::{AggregateKind, Decoder, Event};
use domain::ids::{TenantId, Version};
use domain::subscription::TenantSubscription;
use domain::usage::Usage;
use sqlx::postgres::PgRow;
use sqlx::query_builder::QueryBuilder;
use sqlx::types::Json;
use sqlx::{PgExecutor, PgPool, Postgres, Row};

use super::super::admission::Versions;
use super::super::{Before, HeadRow, StoreError};
use super::Schema;

const HEAD: &str = "revision, position, hash, issued, active, suspended, revoked, expired, \
     replaced, subscription_version, card_serials_reserved";

/// The statements that read a tenant's schema, and the shard's connections.
#[derive(Clone)]
pub(super) struct Reader {
    pub(super) pool: PgPool,
    tenant: TenantId,
    texts: Arc<Texts>,
}

/// Made once: the connections keep statements prepared by their text.
struct Texts {
    before: String,
    head: String,
    subscription: String,
    outcome: String,
    history: String,
}

/// A row of an outcome as JSON: key, fingerprint, outcome, position.
type OutcomeRow = (String, String, String, i64);
/// Aggregate id, aggregate type, how many events it has.
type VersionRow = (String, String, i64);

impl Reader {
    pub(super) fn new(tenant: TenantId, pool: PgPool, schema: &Schema) -> Self {
        let head = schema.table("head");
        let events = schema.table("events");
        let idempotency = schema.table("idempotency");
        let texts = Texts {
            before: format!(
                "select {HEAD}, array(select json_build_array(key, encode(fingerprint, 'hex'), \
                 outcome, position) from {idempotency} where key = any($1)), \
                 array(select json_build_array(aggregate_id, aggregate_type, max(sequence)) \
                 from {events} where aggregate_id = any($2) \
                 group by aggregate_id, aggregate_type) \
                 from {head} where id = 1"
            ),
            head: format!("select {HEAD} from {head} where id = 1"),
            subscription: format!(
                "select aggregate_type, event_type, event_version, payload::text from {events} \
                 where aggregate_id = $1 and aggregate_type = $2 order by sequence"
            ),
            outcome: format!(
                "select fingerprint, outcome, position from {idempotency} where key = $1"
            ),
            history: format!(
                "select position, aggregate_type, aggregate_id, sequence, event_type, \
                 event_version, payload::text, metadata::text, recorded_at, hash from {events}"
            ),
        };
        Self {
            pool,
            tenant,
            texts: Arc::new(texts),
        }
    }

    /// The revision of the head, and what a batch must know at it.
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
            .await?;
        let outcomes: Vec<Json<OutcomeRow>> = row.try_get(11)?;
        let versions: Vec<Json<VersionRow>> = row.try_get(12)?;
        let before = Before {
            head: head_row(&row)?,
            outcomes: outcomes_of(outcomes)?,
            versions: versions_of(versions)?,
        };
        Ok((row.try_get(0)?, before))
    }

    /// The head.
    pub(super) async fn head(&self) -> Result<HeadRow, StoreError> {
        let row = sqlx::query(&self.texts.head).fetch_one(&self.pool).await?;
        head_row(&row)
    }

    /// The tenant's subscription, folded from its events, and how many they are.
    pub(super) async fn subscription(
        &self,
        executor: impl PgExecutor<'_>,
        decoder: &Decoder,
    ) -> Result<(Version, TenantSubscription), StoreError> {
        let rows = sqlx::query(&self.texts.subscription)
            .bind(self.tenant.to_string())
            .bind(TenantSubscription::TYPE)
            .fetch_all(executor)
            .await?;
        let mut subscription = TenantSubscription::default();
        let version = rows.len() as Version;
        for row in rows {
            let (kind, name): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
            let (version, payload): (&str, &str) = (row.try_get(2)?, row.try_get(3)?);
            if let Event::Subscription(event) = decoder.decode_text(kind, name, version, payload)? {
                subscription.evolve(event);
            }
        }
        Ok((version, subscription))
    }

    /// What was answered under a key.
    pub(super) async fn outcome(&self, key: &str) -> Result<Option<RecordedOutcome>, StoreError> {
        let row = sqlx::query(&self.texts.outcome)
            .bind(key)
            .fetch_optional(&self.pool)
            .await?;
        let outcome = |row: PgRow| {
            Ok(RecordedOutcome {
                fingerprint: fingerprint(row.try_get(0)?)?,
                outcome: row.try_get(1)?,
                position: from_i64(row.try_get(2)?)?,
            })
        };
        row.map(outcome).transpose()
    }

    /// Events after a position, decoded.
    pub(super) async fn events(
        &self,
        decoder: &Decoder,
        after: u64,
        limit: usize,
    ) -> Result<Vec<Arc<RecordedEvent>>, StoreError> {
        let filter = HistoryFilter {
            after,
            ..HistoryFilter::default()
        };
        let decode = |stored: StoredEvent| {
            let event = decoder.decode_text(
                &stored.aggregate_type,
                &stored.event_type,
                &stored.event_version,
                &stored.payload,
            )?;
            Ok(Arc::new(RecordedEvent { stored, event }))
        };
        let stored = self.history(&filter, limit).await?;
        stored.into_iter().map(decode).collect()
    }

    /// Events as stored. Conditions that are not asked for are left out, so that the index of an
    /// aggregate is used where it helps.
    pub(super) async fn history(
        &self,
        filter: &HistoryFilter,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let mut query = QueryBuilder::<Postgres>::new(&self.texts.history);
        query
            .push(" where position > ")
            .push_bind(to_i64(filter.after));
        if let Some(id) = &filter.aggregate_id {
            query.push(" and aggregate_id = ").push_bind(id);
        }
        if let Some(name) = &filter.event_type {
            query.push(" and event_type = ").push_bind(name);
        }
        if let Some(from) = filter.from {
            query
                .push(" and recorded_at >= ")
                .push_bind(from.timestamp_micros());
        }
        if let Some(to) = filter.to {
            query
                .push(" and recorded_at < ")
                .push_bind(to.timestamp_micros());
        }
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        query.push(" order by position limit ").push_bind(limit);
        let rows = query.build().fetch_all(&self.pool).await?;
        rows.iter().map(stored_event).collect()
    }
}

fn head_row(row: &PgRow) -> Result<HeadRow, StoreError> {
    Ok(HeadRow {
        position: from_i64(row.try_get(1)?)?,
        hash: hash(row, 2)?,
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
        let outcome = RecordedOutcome {
            fingerprint: fingerprint(&bytes)?,
            outcome,
            position: from_i64(position)?,
        };
        Ok((key, outcome))
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

fn fingerprint(bytes: &[u8]) -> Result<[u8; 32], StoreError> {
    bytes
        .try_into()
        .map_err(|_| StoreError::Malformed("fingerprint"))
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
        recorded_at: DateTime::from_timestamp_micros(row.try_get(8)?)
            .ok_or(StoreError::Malformed("time"))?,
        hash: hash(row, 9)?,
    })
}

fn hash(row: &PgRow, column: usize) -> Result<Hash, StoreError> {
    Hash::try_from(row.try_get::<&[u8], _>(column)?).map_err(|_| StoreError::Malformed("hash"))
}

/// A count as stored. Counts beyond [`i64::MAX`] exist only as "past every position".
pub(super) fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn from_i64(stored: i64) -> Result<u64, StoreError> {
    u64::try_from(stored).map_err(|_| StoreError::Malformed("count"))
}
