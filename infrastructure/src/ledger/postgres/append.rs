//! The append in PostgreSQL: one statement to read, one to store, and no lock held between them.
//!
//! What a batch must know comes from one statement, so it belongs to one revision of the head. The
//! statement that stores moves the head, if it is still at that revision, and selects all that it
//! stores together with the moved head. So the lock is held for one statement, and a batch that
//! was decided on an outdated state stores nothing and is decided again. After a few such losses
//! the head is locked before it is read.
//!
//! The same makes it safe to store again what may have been stored: it is not stored twice.
//!
//! The cards are in the same schema, and taken along by the same statement (see
//! [`companion`](crate::projections::cards::companion)).

use std::io::ErrorKind;
use std::time::Duration;

use application::cards::Card;
use application::subscribers::CARDS;
use domain::event::Decoder;
use domain::ids::{Position, TenantId};
use domain::subscription::TenantSubscription;
use metrics::histogram;
use sqlx::Executor;
use tokio::time::Instant;

use super::super::admission::{Admission, Prepared};
use super::super::column::to_i64;
use super::super::recount::{Count, Pages};
use super::super::{
    Before, Committed, Engine, HeadRow, Memory, StoreError, Transaction, work_through,
};
use super::read::PostgresReader;
use super::recount;
use crate::lost::is_lost;
use crate::patience::limited;
use crate::projections::cards::companion::folded_anew;
use crate::projections::cards::postgres::rows::{self, Bound};
use crate::shard::RoomConnection;

/// How often another node may be faster before the head is locked.
const UNLOCKED_ATTEMPTS: usize = 2;
/// How often a statement is tried again that stores nothing.
const TRIES_MAX: u32 = 4;
/// How long to wait before a statement is tried again; it grows with each time.
const PAUSE: Duration = Duration::from_millis(20);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long it is tried to store, or to find out that it was stored, when the answer was lost: a
/// server that is started again answers within seconds. Meanwhile appends gather in the queue, which
/// is bounded. One that has no key can be resolved only here.
const STORE_TRIED_FOR: Duration = Duration::from_secs(5);

/// The tenant's schema, for writing.
pub(super) struct PostgresEngine {
    reader: PostgresReader,
    tenant: TenantId,
    lock: String,
    store: String,
    /// The same, taking the cards along.
    store_along: String,
    is_stored: String,
}

impl PostgresEngine {
    pub(super) fn new(tenant: TenantId, reader: PostgresReader) -> Self {
        let schema = reader.room.schema();
        let head = schema.table("head");
        let events = schema.table("events");
        let idempotency = schema.table("idempotency");
        let store = store(&head, &events, &idempotency);
        let along = rows::along(schema, "moved", STORE_VALUES + 1);
        Self {
            store: format!("{store} select count(*) from moved"),
            store_along: format!(
                "{store}, {along} select (select count(*) from moved) + (select count(*) from along)"
            ),
            reader,
            tenant,
            lock: format!(
                "begin; set local lock_timeout = '5s'; \
                 set local idle_in_transaction_session_timeout = '5s'; \
                 select 1 from {head} where id = 1 for update"
            ),
            is_stored: format!(
                "select exists (select from {events} where position = $1 and hash = $2)"
            ),
        }
    }
}

/// How many values [`store`] has.
const STORE_VALUES: usize = 25;

/// Moves the head, if it is still where it was read, and stores events and outcomes together with
/// it: `moved` has a row then.
fn store(head: &str, events: &str, idempotency: &str) -> String {
    format!(
        "with moved as (update {head} set revision = revision + 1, position = $2, \
                 hash = $3, issued = $4, active = $5, suspended = $6, revoked = $7, expired = $8, \
                 replaced = $9, subscription_version = $10, card_serials_reserved = $11 \
                 where id = 1 and revision = $1 and moved_to is null returning revision), \
                 happened as (insert into {events} (position, aggregate_type, aggregate_id, \
                 sequence, event_type, event_version, payload, metadata, hash, recorded_at) \
                 select event.position, aggregate_type, aggregate_id, sequence, event_type, \
                 event_version, payload::json, metadata::json, event.hash, $12 \
                 from moved, unnest($13::bigint[], $14::text[], $15::text[], $16::bigint[], \
                 $17::text[], $18::text[], $19::text[], $20::text[], $21::bytea[]) \
                 as event (position, aggregate_type, aggregate_id, sequence, event_type, \
                 event_version, payload, metadata, hash)), \
                 answered as (insert into {idempotency} (key, fingerprint, outcome, position, \
                 recorded_at) select key, fingerprint, outcome, answer.position, $12 \
                 from moved, unnest($22::text[], $23::bytea[], $24::text[], $25::bigint[]) \
                 as answer (key, fingerprint, outcome, position))"
    )
}

impl Engine for PostgresEngine {
    async fn commit(&self, batch: &[Prepared], memory: &Memory) -> Result<Committed, StoreError> {
        let mut attempts = 0;
        loop {
            let append = PostgresAppend {
                engine: self,
                lock_first: attempts >= UNLOCKED_ATTEMPTS,
                connection: None,
                revision: 0,
                began: std::time::Instant::now(),
            };
            match work_through(append, batch, memory).await {
                Err(StoreError::Moved) => attempts += 1,
                done => return done,
            }
        }
    }

    async fn load(&self, decoder: &Decoder) -> Result<(HeadRow, TenantSubscription), StoreError> {
        let mut connection = self.reader.room.connection().await?;
        let state = self.reader.state(connection.work(), decoder);
        let (_, head, subscription) = limited(state).await?;
        connection.rest();
        Ok((head, subscription))
    }

    fn distrust(&self) {
        // A connection that is not sound is closed; nothing else is held.
    }
}

struct PostgresAppend<'a> {
    engine: &'a PostgresEngine,
    lock_first: bool,
    /// On which the head was read; if it was locked first, in the transaction that has it locked.
    connection: Option<RoomConnection>,
    /// At which the head was read.
    revision: i64,
    began: std::time::Instant,
}

/// The cards as an append takes them along.
struct Along {
    from: Position,
    cards: Vec<Card>,
}

impl PostgresAppend<'_> {
    async fn read(&mut self, keys: &[&str], ids: &[&str]) -> Result<Before, StoreError> {
        let reader = &self.engine.reader;
        let mut connection = reader.room.connection().await?;
        if self.lock_first {
            limited(connection.work().execute(self.engine.lock.as_str())).await?;
        }
        let read = limited(reader.before(connection.work(), keys, ids)).await;
        if matches!(read, Err(StoreError::Frozen)) {
            self.leave(connection).await?;
            return Err(StoreError::Frozen);
        }
        let (revision, before) = read?;
        if !self.lock_first {
            connection.rest();
        }
        self.revision = revision;
        self.connection = Some(connection);
        Ok(before)
    }

    /// Lets a connection go on which nothing went wrong, and the lock that it may hold.
    async fn leave(&self, mut connection: RoomConnection) -> Result<(), sqlx::Error> {
        if self.lock_first {
            limited(connection.work().execute("rollback")).await?;
        }
        connection.rest();
        Ok(())
    }

    /// Whether the head was still where it was read; then all is stored and committed.
    async fn store(
        &mut self,
        admitted: &Admission,
        along: Option<&Along>,
    ) -> Result<bool, sqlx::Error> {
        // The first time, on the connection that it was read on.
        let (mut connection, locked) = match self.connection.take() {
            Some(connection) => (connection, self.lock_first),
            None => (self.engine.reader.room.connection().await?, false),
        };
        let query = self.query(admitted, along);
        let stored = limited(query.fetch_one(connection.work())).await?;
        if locked {
            limited(connection.work().execute("commit")).await?;
        }
        connection.rest();
        if along.is_some() {
            self.came_along(stored, admitted);
        }
        Ok(stored > 0)
    }

    /// What the cards are to do with an append: nothing if it changes cards that were there before,
    /// whose rows would have to be read.
    fn along(&self, from: Position, admitted: &Admission) -> Option<Along> {
        let companion = &self.engine.reader.cards;
        let is_there = companion.goes_along() && companion.reached() == Some(from);
        let goes_along = is_there && !admitted.events.is_empty();
        let cards = goes_along.then(|| folded_anew(&admitted.events)).flatten();
        cards.map(|cards| Along { from, cards })
    }

    /// One of two for the head, one for the cards.
    fn came_along(&self, stored: i64, admitted: &Admission) {
        let cards = &self.engine.reader.cards;
        match stored {
            0 => {}
            // Another node has not brought them to the head yet, or this one has not.
            1 => cards.leave(),
            _ => {
                cards.moved(admitted.head.position);
                histogram!("subscriber_delay_seconds", "subscriber" => CARDS)
                    .record(self.began.elapsed());
            }
        }
    }

    /// Whether a storing whose answer was lost has been done. One without events is decided again
    /// and then finds its outcomes.
    async fn is_stored(&self, admitted: &Admission) -> Result<bool, sqlx::Error> {
        if admitted.events.is_empty() {
            return Ok(false);
        }
        let mut connection = self.engine.reader.room.connection().await?;
        let query = sqlx::query_scalar(&self.engine.is_stored)
            .bind(to_i64(admitted.head.position))
            .bind(admitted.head.hash.as_bytes().as_slice());
        let stored = limited(query.fetch_one(connection.work())).await?;
        connection.rest();
        Ok(stored)
    }

    /// Stores, or finds that it was stored before.
    async fn store_once(
        &mut self,
        admitted: &Admission,
        along: Option<&Along>,
        again: bool,
    ) -> Result<bool, sqlx::Error> {
        Ok(self.store(admitted, along).await? || (again && self.is_stored(admitted).await?))
    }

    fn query<'q>(&'q self, admitted: &'q Admission, along: Option<&'q Along>) -> Bound<'q, i64> {
        let head = &admitted.head;
        let stored = admitted.events.iter().map(|event| &event.stored);
        macro_rules! events {
            ($column:expr) => {
                stored.clone().map($column).collect::<Vec<_>>()
            };
        }
        let outcomes = admitted.new_outcomes();
        macro_rules! outcomes {
            ($column:expr) => {
                outcomes.iter().map($column).collect::<Vec<_>>()
            };
        }
        let text = match along {
            None => &self.engine.store,
            Some(_) => &self.engine.store_along,
        };
        let query = sqlx::query_scalar(text)
            .bind(self.revision)
            .bind(to_i64(head.position))
            .bind(head.hash.as_bytes().as_slice())
            .bind(to_i64(head.usage.issued))
            .bind(to_i64(head.usage.active))
            .bind(to_i64(head.usage.suspended))
            .bind(to_i64(head.usage.revoked))
            .bind(to_i64(head.usage.expired))
            .bind(to_i64(head.usage.replaced))
            .bind(to_i64(head.subscription_version))
            .bind(to_i64(head.card_serials_reserved))
            .bind(admitted.now.timestamp_micros())
            .bind(events!(|event| to_i64(event.position)))
            .bind(events!(|event| event.aggregate_type.as_str()))
            .bind(events!(|event| event.aggregate_id.as_str()))
            .bind(events!(|event| to_i64(event.sequence)))
            .bind(events!(|event| event.event_type.as_str()))
            .bind(events!(|event| event.event_version.as_str()))
            .bind(events!(|event| event.payload.as_str()))
            .bind(events!(|event| event.metadata.as_str()))
            .bind(events!(|event| event.hash.as_bytes().as_slice()))
            .bind(outcomes!(|(key, _)| *key))
            .bind(outcomes!(|(_, it)| it.fingerprint.as_slice()))
            .bind(outcomes!(|(_, it)| it.outcome.as_str()))
            .bind(outcomes!(|(_, it)| to_i64(it.position)));
        match along {
            None => query,
            Some(Along { from, cards }) => rows::bind(query.bind(to_i64(*from)), cards),
        }
    }
}

impl Pages for PostgresAppend<'_> {
    /// Of events that are there for good, so it does not matter whether the head is locked.
    async fn count(&mut self, count: Count, up_to: Position) -> Result<Count, StoreError> {
        let reader = &self.engine.reader;
        let connection = self.connection.as_mut().ok_or(StoreError::Moved)?;
        let counted = limited(recount::page(connection.work(), &reader.room, count, up_to)).await?;
        if !self.lock_first {
            connection.rest();
        }
        Ok(counted)
    }
}

impl Transaction for PostgresAppend<'_> {
    async fn begin(&mut self, batch: &[Prepared]) -> Result<Before, StoreError> {
        let keys: Vec<_> = batch.iter().filter_map(Prepared::key).collect();
        let ids: Vec<_> = batch.iter().flat_map(Prepared::ids).collect();
        let mut tries = 0;
        loop {
            match self.read(&keys, &ids).await {
                Err(StoreError::Database(error)) if passes(&error) && tries < TRIES_MAX => {
                    tries += 1;
                    tokio::time::sleep(PAUSE * tries).await;
                }
                read => return read,
            }
        }
    }

    async fn subscription(&mut self, decoder: &Decoder) -> Result<TenantSubscription, StoreError> {
        let reader = &self.engine.reader;
        let connection = self.connection.as_mut().ok_or(StoreError::Moved)?;
        let (revision, _, subscription) = limited(reader.state(connection.work(), decoder)).await?;
        if !self.lock_first {
            connection.rest();
        }
        match revision == self.revision {
            true => Ok(subscription),
            false => Err(StoreError::Moved),
        }
    }

    async fn commit(mut self, from: Position, admitted: &Admission) -> Result<(), StoreError> {
        let mut along = self.along(from, admitted);
        let mut tries = 0;
        let mut lost_at = None;
        loop {
            let stored = self.store_once(admitted, along.as_ref(), tries > 0);
            match stored.await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(StoreError::Moved),
                Err(error) if may_pass(&error) => {
                    let lost_at = *lost_at.get_or_insert_with(Instant::now);
                    if lost_at.elapsed() > STORE_TRIED_FOR {
                        return Err(error.into());
                    }
                    // It may be the cards that it waited for.
                    if along.take().is_some() {
                        self.engine.reader.cards.leave();
                    }
                    tries += 1;
                    tokio::time::sleep(PAUSE_MAX.min(PAUSE * tries)).await;
                }
                // A statement that PostgreSQL refuses has done nothing, nor has what it was in.
                Err(error) if along.take().is_some() => {
                    let cards = &self.engine.reader.cards;
                    cards.leave_because(self.engine.tenant, &error);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn rollback(mut self) -> Result<(), StoreError> {
        match self.connection.take() {
            Some(connection) => Ok(self.leave(connection).await?),
            None => Ok(()),
        }
    }
}

/// Whether the same statement may succeed in a moment: the connection was lost, or the transaction was
/// given up for another's sake.
fn passes(error: &sqlx::Error) -> bool {
    let timed_out = matches!(error, sqlx::Error::Io(error) if error.kind() == ErrorKind::TimedOut);
    timed_out || is_lost(error) || is_given_up(error)
}

/// The same, for whoever can wait until there is a connection again.
fn may_pass(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::PoolTimedOut) || passes(error)
}

fn is_given_up(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|it| it.code());
    // Too many connections; a lock or an idle transaction took too long; serialization failure and
    // deadlock.
    code.is_some_and(|it| ["53300", "55P03", "25P03"].contains(&&*it) || it.starts_with("40"))
}
