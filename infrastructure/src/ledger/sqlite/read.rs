//! Reading a ledger back from its SQLite file.

use std::sync::Arc;

use application::ports::{HistoryFilter, RecordedEvent, StoredEvent};
use chrono::DateTime;
use cqrs_es::Aggregate;
use domain::chain::Hash;
use domain::event::{Decoder, Event};
use domain::ids::{Position, TenantId};
use domain::subscription::TenantSubscription;
use domain::usage::Usage;
use sqlx::query_builder::QueryBuilder;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection, SqlitePool};

use super::super::{HeadRow, StoreError};

const EVENT: &str = "select position, aggregate_type, aggregate_id, sequence, event_type, \
     event_version, payload, metadata, recorded_at, hash from events";

/// Events after a position, decoded.
pub(super) async fn events(
    readers: &SqlitePool,
    decoder: &Decoder,
    after: Position,
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
    let stored = history(readers, &filter, limit).await?;
    stored.into_iter().map(decode).collect()
}

/// Events as stored. Conditions that are not asked for are left out, so that SQLite can use the
/// index of an aggregate and otherwise reads on from the position.
pub(super) async fn history(
    readers: &SqlitePool,
    filter: &HistoryFilter,
    limit: usize,
) -> Result<Vec<StoredEvent>, StoreError> {
    let mut query = QueryBuilder::<Sqlite>::new(EVENT);
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
    let rows = query.build().fetch_all(readers).await?;
    rows.iter().map(stored_event).collect()
}

/// Reads the head row; see [`head_row`].
pub(super) const HEAD: &str = "select position, hash, issued, active, suspended, revoked, expired, \
     replaced, subscription_version, card_serials_reserved from head where id = 1";

/// The head.
pub(super) async fn head(connection: &mut SqliteConnection) -> Result<HeadRow, StoreError> {
    let row = sqlx::query(HEAD).fetch_one(connection).await?;
    head_row(&row)
}

/// A row of [`HEAD`].
pub(super) fn head_row(row: &SqliteRow) -> Result<HeadRow, StoreError> {
    Ok(HeadRow {
        position: from_i64(row.try_get(0)?)?,
        hash: hash(row, 1)?,
        usage: Usage {
            issued: from_i64(row.try_get(2)?)?,
            active: from_i64(row.try_get(3)?)?,
            suspended: from_i64(row.try_get(4)?)?,
            revoked: from_i64(row.try_get(5)?)?,
            expired: from_i64(row.try_get(6)?)?,
            replaced: from_i64(row.try_get(7)?)?,
        },
        subscription_version: from_i64(row.try_get(8)?)?,
        card_serials_reserved: from_i64(row.try_get(9)?)?,
    })
}

/// The tenant's subscription, folded from its events.
pub(super) async fn subscription(
    connection: &mut SqliteConnection,
    tenant: TenantId,
    decoder: &Decoder,
) -> Result<TenantSubscription, StoreError> {
    let rows = sqlx::query(
        "select aggregate_type, event_type, event_version, payload from events \
         where aggregate_id = ? and aggregate_type = ? order by sequence",
    )
    .bind(tenant.to_string())
    .bind(TenantSubscription::TYPE)
    .fetch_all(connection)
    .await?;
    let mut subscription = TenantSubscription::default();
    for row in rows {
        let (kind, name): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let (version, payload): (&str, &str) = (row.try_get(2)?, row.try_get(3)?);
        if let Event::Subscription(event) = decoder.decode_text(kind, name, version, payload)? {
            subscription.evolve(event);
        }
    }
    Ok(subscription)
}

fn stored_event(row: &SqliteRow) -> Result<StoredEvent, StoreError> {
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

fn hash(row: &SqliteRow, column: usize) -> Result<Hash, StoreError> {
    Hash::try_from(row.try_get::<&[u8], _>(column)?).map_err(|_| StoreError::Malformed("hash"))
}

/// A count as stored. Counts beyond [`i64::MAX`] exist only as "past every position".
pub(super) fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) fn from_i64(stored: i64) -> Result<u64, StoreError> {
    u64::try_from(stored).map_err(|_| StoreError::Malformed("count"))
}
