//! Reading a ledger back from its SQLite file.

use std::sync::Arc;

use application::ports::restore::OutcomePage;
use application::ports::{HistoryFilter, RecordedOutcome, StoredEvent};
use cqrs_es::Aggregate;
use cqrs_es::persist::{PersistedEventRepository, SerializedEvent};
use domain::card::DigitalCard;
use domain::catalogue::Catalogue;
use domain::event::{AggregateKind, Decoder};
use domain::ids::{Position, TenantId};
use domain::subscription::TenantSubscription;
use domain::usage::Usage;
use sqlite_es::SqliteEventRepository;
use sqlx::query_builder::QueryBuilder;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, SqliteConnection, SqlitePool};

use super::super::column::{self, from_i64, to_i64};
use super::super::recount::Count;
use super::super::stored::{Reader, push_conditions};
use super::super::{HeadRow, StoreError};
use super::keys::Keys;
use crate::projections::cards::LiveCards;

const EVENT: &str = "select position, aggregate_type, aggregate_id, sequence, event_type, \
     event_version, payload, metadata, recorded_at, hash from events";

/// Reads through the file's reading connections.
pub struct SqliteReader {
    readers: SqlitePool,
    keys: Arc<Keys>,
    cards: Arc<LiveCards>,
    repository: SqliteEventRepository,
}

impl SqliteReader {
    pub(super) fn new(readers: SqlitePool, keys: Arc<Keys>, cards: Arc<LiveCards>) -> Self {
        Self {
            repository: SqliteEventRepository::new(readers.clone()),
            readers,
            keys,
            cards,
        }
    }

    pub(super) fn cards(&self) -> Arc<LiveCards> {
        Arc::clone(&self.cards)
    }

    async fn events_of(
        &self,
        kind: AggregateKind,
        id: &str,
    ) -> Result<Vec<SerializedEvent>, StoreError> {
        let rows = sqlx::query(
            "select sequence, event_type, event_version, payload, metadata from events \
             where aggregate_id = ? and aggregate_type = ? order by sequence",
        )
        .bind(id)
        .bind(kind.as_str())
        .fetch_all(&self.readers)
        .await?;
        let event = |row: &SqliteRow| {
            Ok(SerializedEvent {
                aggregate_id: id.to_owned(),
                sequence: from_i64(row.try_get(0)?)? as usize,
                aggregate_type: kind.as_str().to_owned(),
                event_type: row.try_get(1)?,
                event_version: row.try_get(2)?,
                payload: column::json(row.try_get(3)?)?,
                metadata: column::json(row.try_get(4)?)?,
            })
        };
        rows.iter().map(event).collect()
    }
}

impl Reader for SqliteReader {
    const ALONE: bool = true;

    async fn load(
        &self,
        kind: AggregateKind,
        id: &str,
    ) -> Result<Vec<SerializedEvent>, StoreError> {
        let events = match kind {
            AggregateKind::Card => self.repository.get_events::<DigitalCard>(id).await,
            AggregateKind::Subscription => {
                self.repository.get_events::<TenantSubscription>(id).await
            }
            AggregateKind::Catalogue => self.repository.get_events::<Catalogue>(id).await,
            // No aggregate, so nothing that the repository could load.
            AggregateKind::Usage => return self.events_of(kind, id).await,
        };
        Ok(events?)
    }

    async fn outcome(&self, key: &str) -> Result<Option<RecordedOutcome>, StoreError> {
        self.keys.outcome(&self.readers, key).await
    }

    async fn history(
        &self,
        filter: &HistoryFilter,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(EVENT);
        push_conditions(&mut query, filter, limit);
        let rows = query.build().fetch_all(&self.readers).await?;
        rows.iter().map(stored_event).collect()
    }

    /// In the order of their numbers, which is that of their making.
    async fn outcomes(&self, from: Option<&str>, limit: usize) -> Result<OutcomePage, StoreError> {
        let from = from.map_or(Ok(0), str::parse::<i64>);
        let rows = sqlx::query(
            "select key, fingerprint, outcome, position, recorded_at, number from idempotency \
             where number > ? order by number limit ?",
        )
        .bind(from.map_err(|_| StoreError::Malformed("place"))?)
        .bind(to_i64(limit as u64))
        .fetch_all(&self.readers)
        .await?;
        let stored = |row: &SqliteRow| {
            let answer = column::outcome(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
            column::stored_outcome(row.try_get(0)?, answer, row.try_get(4)?)
        };
        let next = match rows.last() {
            Some(last) if rows.len() == limit => Some(last.try_get::<i64, _>(5)?.to_string()),
            _ => None,
        };
        let items = rows.iter().map(stored).collect::<Result<_, _>>()?;
        Ok(OutcomePage { items, next })
    }

    async fn card_serials_reserved(&self) -> Result<u64, StoreError> {
        let row = sqlx::query(HEAD).fetch_one(&self.readers).await?;
        Ok(head_row(&row)?.card_serials_reserved)
    }
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
        hash: column::hash(row.try_get(1)?)?,
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

/// The head; and the count after the page that follows on it, up to a position at most.
pub(crate) async fn look(
    connection: &mut SqliteConnection,
    count: Count,
    up_to: Position,
) -> Result<(HeadRow, Count), StoreError> {
    let head = head(connection).await?;
    let end = count.page(up_to.min(head.position));
    let count = self::count(connection, count, end).await?;
    Ok((head, count))
}

/// Counts the events after where the count is, up to a position.
pub(super) async fn count(
    connection: &mut SqliteConnection,
    mut count: Count,
    up_to: Position,
) -> Result<Count, StoreError> {
    let rows = sqlx::query(
        "select position, aggregate_type, event_type, event_version, payload from events \
         where position > ? and position <= ? order by position",
    )
    .bind(to_i64(count.position))
    .bind(to_i64(up_to))
    .fetch_all(connection)
    .await?;
    let decoder = Decoder::default();
    for row in rows {
        let (kind, name): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
        let (version, payload): (&str, &str) = (row.try_get(3)?, row.try_get(4)?);
        let position = from_i64(row.try_get(0)?)?;
        count.follow(&decoder, position, [kind, name, version, payload])?;
    }
    Ok(count)
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
        let event = [kind, name, version, payload];
        column::evolve(&mut subscription, decoder, event)?;
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
        recorded_at: column::time(row.try_get(8)?)?,
        hash: column::hash(row.try_get(9)?)?,
    })
}
