//! The append in SQLite: one text to begin and read, one to store and commit.
//!
//! A text is a hand-over to the connection's thread, which costs more than what is in it (see
//! [`Exchange`]). How many rows a text stores is a power of two, so that the connection's
//! statement cache holds all texts; places that are left over are bound to null and passed over.
//!
//! The table of cards, which is in the same file, is taken along (see
//! [`companion`](crate::projections::cards::companion)). What is wrong with it costs no append: the
//! transaction is begun again without it, on the connection that nobody else writes on.

use std::sync::Arc;
use std::time::Instant;

use application::cards::Card;
use application::ports::RecordedEvent;
use application::subscribers::CARDS;
use domain::event::{AggregateKind, Decoder};
use domain::ids::{Position, TenantId};
use domain::subscription::TenantSubscription;
use metrics::histogram;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::super::admission::{Admission, NewOutcome, Prepared, Versions};
use super::super::column::{from_i64, to_i64};
use super::super::recount::{Count, Pages};
use super::super::{
    Before, Committed, Engine, HeadRow, Memory, StoreError, Transaction, work_through,
};
use super::Bound;
use super::keys::{self, FIND, INDEX, Keys, LAST, Slice, json};
use super::read;
use crate::database::{BEGIN, Database, Exchange};
use crate::projections::cards::live::{Along, LiveCards};
use crate::projections::cards::rows;
use crate::projections::cards::table::Table;

/// The most rows a text stores: 256 events and as many outcomes are 4,096 of the 32,766 variables
/// that SQLite allows.
const ROWS_MAX: usize = 256;

/// The ids are a JSON list, so that the text is always the same.
const VERSIONS: &str = "select aggregate_id, aggregate_type, max(sequence) from events \
     where aggregate_id in (select value from json_each(?)) \
     group by aggregate_id, aggregate_type";

const INSERT_EVENTS: &str = "insert into events (position, aggregate_type, aggregate_id, \
     sequence, event_type, event_version, payload, metadata, recorded_at, hash) \
     select * from (values ";
const EVENT: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const EVENT_COLUMNS: usize = 10;

const INSERT_OUTCOMES: &str = "insert into idempotency (number, key, fingerprint, outcome, \
     position, recorded_at) select * from (values ";
const OUTCOME: &str = "(?, ?, ?, ?, ?, ?)";
const OUTCOME_COLUMNS: usize = 6;

const PRESENT: &str = ") where column1 is not null; ";

/// A head that is no longer where it was read makes this fail: its position may not be null.
const MOVE_HEAD: &str = "update head set position = case when position = ? then ? end, hash = ?, \
     issued = ?, active = ?, suspended = ?, revoked = ?, expired = ?, replaced = ?, \
     subscription_version = ?, card_serials_reserved = ? where id = 1; commit";

/// As many as the rows of cards have, and no other rows that are read.
const KNOWN_COLUMNS: usize = rows::COLUMNS.len();

/// The tenant's file, for writing.
pub(super) struct SqliteEngine {
    tenant: TenantId,
    database: Arc<Database>,
    keys: Arc<Keys>,
    cards: Arc<LiveCards>,
}

impl SqliteEngine {
    pub(super) const fn new(
        tenant: TenantId,
        database: Arc<Database>,
        keys: Arc<Keys>,
        cards: Arc<LiveCards>,
    ) -> Self {
        Self {
            tenant,
            database,
            keys,
            cards,
        }
    }
}

impl Engine for SqliteEngine {
    async fn commit(&self, batch: &[Prepared], memory: &Memory) -> Result<Committed, StoreError> {
        let append = SqliteAppend {
            tenant: self.tenant,
            exchange: self.database.exchange().await?,
            keys: &self.keys,
            cards: &self.cards,
            known: None,
            began: Instant::now(),
        };
        work_through(append, batch, memory).await
    }

    async fn load(&self, decoder: &Decoder) -> Result<(HeadRow, TenantSubscription), StoreError> {
        // Nobody else writes while the writing connection is held, so the two belong together.
        let mut writer = self.database.writer().await?;
        let head = read::head(&mut writer).await?;
        self.keys.catch_up(&mut writer).await?;
        self.cards.look(&mut writer).await?;
        let subscription = read::subscription(&mut writer, self.tenant, decoder).await?;
        Ok((head, subscription))
    }

    fn distrust(&self) {
        self.database.distrust_writer();
    }
}

struct SqliteAppend<'a> {
    tenant: TenantId,
    exchange: Exchange<'a>,
    keys: &'a Keys,
    cards: &'a LiveCards,
    /// The rows of the batch's cards, if the table is where the batch begins.
    known: Option<Vec<Card>>,
    began: Instant,
}

impl SqliteAppend<'_> {
    /// Begins and reads; the rows of `cards` as well, if there are any.
    async fn read(&mut self, batch: &[Prepared], cards: &[&str]) -> Result<Before, StoreError> {
        let keys: Vec<_> = batch.iter().filter_map(Prepared::key).collect();
        let ids: Vec<_> = batch.iter().flat_map(Prepared::ids).collect();
        let mut text = format!("{BEGIN}{}; {LAST}; {FIND}; {VERSIONS}", read::HEAD);
        if !cards.is_empty() {
            text.push_str("; ");
            text.push_str(&rows::select_in(Table::Live));
        }
        let mut query = self.keys.bind(sqlx::query(&text), &keys)?.bind(json(&ids)?);
        if !cards.is_empty() {
            query = query.bind(json(cards)?);
        }
        let found = query.fetch_all(self.exchange.connection()).await?;
        // The rows of the statements come in one list; their widths tell them apart.
        let (mut head, mut last, mut outcomes, mut versions) = (vec![], vec![], vec![], vec![]);
        let mut known = vec![];
        for row in found {
            match row.len() {
                1 => last.push(row),
                3 => versions.push(row),
                4 => outcomes.push(row),
                KNOWN_COLUMNS => known.push(rows::card(&row)?),
                _ => head.push(row),
            }
        }
        let last: i64 = last.first().map_or(Ok(0), |row| row.try_get(0))?;
        if last != self.keys.last() {
            self.keys.catch_up(self.exchange.connection()).await?;
        }
        self.known = Some(known);
        let head = head.first().ok_or(StoreError::Malformed("head"))?;
        Ok(Before {
            head: read::head_row(head)?,
            outcomes: keys::outcomes(&outcomes)?,
            versions: versions_of(&versions)?,
        })
    }

    /// Stores, and commits; what of the keys' index went along.
    async fn store(
        &mut self,
        from: Position,
        admitted: &Admission,
        outcomes: &[NewOutcome<'_>],
        mut along: Option<Along>,
    ) -> Result<Slice, StoreError> {
        let recorded_at = admitted.now.timestamp_micros();
        let (mut events, mut outcomes) = (admitted.events.as_slice(), outcomes);
        let mut number = self.keys.last() + 1;
        while events.len() > ROWS_MAX || outcomes.len() > ROWS_MAX {
            let (some_events, other_events) = events.split_at(events.len().min(ROWS_MAX));
            let (some, others) = outcomes.split_at(outcomes.len().min(ROWS_MAX));
            let text = inserts(some_events.len(), some.len());
            bind_rows(sqlx::query(&text), some_events, some, number, recorded_at)
                .execute(self.exchange.connection())
                .await?;
            (events, outcomes) = (other_events, others);
            number += some.len() as i64;
        }
        while let Some(some) = along.as_mut().and_then(Along::split) {
            some.execute(self.exchange.connection()).await?;
        }
        let slice = self.keys.slice();
        let mut text = inserts(events.len(), outcomes.len());
        text.push_str(INDEX);
        if let Some(along) = &along {
            along.push_to(&mut text);
        }
        text.push_str(MOVE_HEAD);
        let query = bind_rows(sqlx::query(&text), events, outcomes, number, recorded_at);
        let mut query = slice.bind(query)?;
        if let Some(along) = along {
            query = along.bind(query);
        }
        bind_head(query, from, &admitted.head)
            .execute(self.exchange.connection())
            .await?;
        Ok(slice)
    }

    /// Something is wrong with the table of cards, or with more than that, which then comes out
    /// without it. If the transaction can be rolled back, nothing of it was done; else the error
    /// stands.
    async fn leave_cards(&mut self, error: StoreError) -> Result<(), StoreError> {
        self.cards.companion.leave_because(self.tenant, &error);
        let rollback = sqlx::query("rollback").execute(self.exchange.connection());
        rollback.await.map(drop).map_err(|_| error)
    }
}

impl Pages for SqliteAppend<'_> {
    async fn count(&mut self, count: Count, up_to: Position) -> Result<Count, StoreError> {
        read::count(self.exchange.connection(), count, up_to).await
    }
}

impl Transaction for SqliteAppend<'_> {
    async fn begin(&mut self, batch: &[Prepared]) -> Result<Before, StoreError> {
        let mut along = self.cards.companion.goes_along();
        let cards: Vec<_> = match along {
            true => batch.iter().flat_map(Prepared::known_cards).collect(),
            false => vec![],
        };
        let before = match self.read(batch, &cards).await {
            Err(error) if !cards.is_empty() => {
                self.leave_cards(error).await?;
                along = false;
                self.read(batch, &[]).await?
            }
            read => read?,
        };
        // Rows that were not asked for are not known, wherever the table has come to meanwhile.
        if !along || self.cards.companion.reached() != Some(before.head.position) {
            self.known = None;
        }
        Ok(before)
    }

    async fn subscription(&mut self, decoder: &Decoder) -> Result<TenantSubscription, StoreError> {
        read::subscription(self.exchange.connection(), self.tenant, decoder).await
    }

    async fn commit(mut self, from: Position, admitted: &Admission) -> Result<(), StoreError> {
        let outcomes = admitted.new_outcomes();
        let known = self.known.take();
        let along = known.and_then(|known| Along::of(known, &admitted.events));
        let with_cards = along.is_some();
        let slice = match self.store(from, admitted, &outcomes, along).await {
            Err(error) if with_cards => {
                self.leave_cards(error).await?;
                sqlx::query(BEGIN)
                    .execute(self.exchange.connection())
                    .await?;
                self.store(from, admitted, &outcomes, None).await?
            }
            stored => {
                let slice = stored?;
                if with_cards {
                    self.cards.companion.moved(admitted.head.position);
                    histogram!("subscriber_delay_seconds", "subscriber" => CARDS)
                        .record(self.began.elapsed());
                }
                slice
            }
        };
        self.exchange.done();
        let keys = outcomes.iter().map(|(key, _)| *key);
        self.keys.committed(keys, &slice);
        Ok(())
    }

    async fn rollback(self) -> Result<(), StoreError> {
        Ok(self.exchange.rollback().await?)
    }
}

fn versions_of(rows: &[SqliteRow]) -> Result<Versions, StoreError> {
    let mut versions = Versions::default();
    for row in rows {
        let kind =
            AggregateKind::parse(row.try_get(1)?).ok_or(StoreError::Malformed("aggregate type"))?;
        versions.set(kind, row.try_get(0)?, from_i64(row.try_get(2)?)?);
    }
    Ok(versions)
}

/// The statements that store so many events and outcomes.
fn inserts(events: usize, outcomes: usize) -> String {
    let mut text = String::new();
    for (insert, row, rows) in [
        (INSERT_EVENTS, EVENT, events),
        (INSERT_OUTCOMES, OUTCOME, outcomes),
    ] {
        if rows > 0 {
            text.push_str(insert);
            text.push_str(&vec![row; rows.next_power_of_two()].join(","));
            text.push_str(PRESENT);
        }
    }
    text
}

fn bind_rows<'q>(
    mut query: Bound<'q>,
    events: &'q [Arc<RecordedEvent>],
    outcomes: &'q [NewOutcome<'q>],
    first_number: i64,
    recorded_at: i64,
) -> Bound<'q> {
    for event in events {
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
    query = bind_nulls(query, left_over(events.len()) * EVENT_COLUMNS);
    for (number, (key, outcome)) in (first_number..).zip(outcomes) {
        query = query
            .bind(number)
            .bind(*key)
            .bind(outcome.fingerprint.as_slice())
            .bind(&outcome.outcome)
            .bind(to_i64(outcome.position))
            .bind(recorded_at);
    }
    bind_nulls(query, left_over(outcomes.len()) * OUTCOME_COLUMNS)
}

/// How many more rows a text has places for that has them for `rows`.
const fn left_over(rows: usize) -> usize {
    match rows {
        0 => 0,
        rows => rows.next_power_of_two() - rows,
    }
}

fn bind_nulls(query: Bound<'_>, count: usize) -> Bound<'_> {
    (0..count).fold(query, |query, _| query.bind(None::<i64>))
}

fn bind_head<'q>(query: Bound<'q>, from: Position, to: &'q HeadRow) -> Bound<'q> {
    query
        .bind(to_i64(from))
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
}
