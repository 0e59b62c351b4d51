//! The checkpoints of subscribers whose effect is in no database of ours, in the tenant's store.
//!
//! On SQLite one process has the store, so it is always its turn. On PostgreSQL any node may take a
//! turn that is nobody's, and keeps it for [`TURN`] after it last worked with the tenant: so in the
//! steady state one node does a tenant's work, different tenants have different nodes, and a node
//! that is gone is stood in for when its turn has lapsed. The clock is the server's, so that no node's
//! own, however wrong, keeps a turn from lapsing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use application::ports::checkpoints::{Checkpoints, Turn};
use application::ports::{Clock, Unavailable};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::Position;
use uuid::Uuid;

use crate::database::{Database, begin_replayable, unavailable};
use crate::patience::limited;
use crate::projections::row;
use crate::shard::Room;

/// How long a turn lasts after it was last kept.
pub const TURN: Duration = Duration::from_secs(10);
/// The shortest wait for a turn to lapse: clocks differ.
const WAIT_MIN: Duration = Duration::from_millis(200);

/// The server's clock, in microseconds since 1970.
const NOW: &str = "(extract(epoch from clock_timestamp()) * 1000000)::bigint";

const WHAT: &str = "the tenant's checkpoints";

/// Checkpoints in a tenant's file.
pub struct FileCheckpoints {
    database: Arc<Database>,
}

impl FileCheckpoints {
    /// Those in this database, which has the schema of a tenant's file.
    pub const fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    async fn find(&self, subscriber: &str) -> Result<Position, sqlx::Error> {
        // On the writing connection, which is there: a reading one costs a thread.
        let mut writer = self.database.writer().await?;
        let found: Option<i64> =
            sqlx::query_scalar("select position from checkpoints where subscriber = $1")
                .bind(subscriber)
                .fetch_optional(&mut *writer)
                .await?;
        row::position(found.unwrap_or_default())
    }

    /// A power loss may take the last ones back; what was handled after them is handled again.
    async fn store(&self, subscriber: &str, position: Position) -> Result<(), sqlx::Error> {
        let mut writer = self.database.writer().await?;
        let mut transaction = begin_replayable(&mut writer).await?;
        sqlx::query(
            "insert into checkpoints (subscriber, position) values ($1, $2) \
             on conflict (subscriber) do update set position = \
             max(checkpoints.position, excluded.position)",
        )
        .bind(subscriber)
        .bind(row::column(position))
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await
    }
}

#[async_trait]
impl Checkpoints for FileCheckpoints {
    async fn position(&self, subscriber: &'static str) -> Result<Position, Unavailable> {
        self.find(subscriber).await.map_err(unavailable(WHAT))
    }

    async fn turn(&self, _subscriber: &'static str) -> Result<Turn, Unavailable> {
        Ok(Turn::Here)
    }

    async fn advance(
        &self,
        subscriber: &'static str,
        position: Position,
    ) -> Result<(), Unavailable> {
        let stored = self.store(subscriber, position).await;
        stored.map_err(unavailable(WHAT))
    }
}

/// Checkpoints in a tenant's schema.
pub struct SchemaCheckpoints {
    room: Room,
    node: String,
    clock: Arc<dyn Clock>,
    texts: Texts,
    /// The turns that this node has, by subscriber, and until when by its own clock: only how much
    /// of it has passed counts.
    held_until: Mutex<HashMap<&'static str, DateTime<Utc>>>,
}

/// Made once: the connections keep statements prepared by their text.
struct Texts {
    position: String,
    take: String,
    held: String,
    advance: String,
    bring: String,
}

impl SchemaCheckpoints {
    /// Those in this room, whose schema is there and up to date, for the process with this id.
    pub fn new(room: Room, node: Uuid, clock: Arc<dyn Clock>) -> Self {
        let table = room.schema().table("checkpoints");
        let texts = Texts {
            position: format!("select position from {table} where subscriber = $1"),
            take: format!(
                "insert into {table} as it (subscriber, position, holder, held_until) \
                 values ($1, 0, $2, {NOW} + $3) on conflict (subscriber) do update \
                 set holder = excluded.holder, held_until = excluded.held_until \
                 where it.holder is null or it.holder = excluded.holder or it.held_until < {NOW} \
                 returning position"
            ),
            held: format!("select position, held_until - {NOW} from {table} where subscriber = $1"),
            advance: format!(
                "insert into {table} as it (subscriber, position, holder, held_until) \
                 values ($1, $2, $3, {NOW} + $4) on conflict (subscriber) do update \
                 set position = greatest(it.position, excluded.position), held_until = \
                 case when it.holder = excluded.holder then excluded.held_until \
                 else it.held_until end \
                 returning it.holder is not distinct from $3"
            ),
            bring: format!(
                "insert into {table} as it (subscriber, position) values ($1, $2) \
                 on conflict (subscriber) do update \
                 set position = greatest(it.position, excluded.position)"
            ),
        };
        Self {
            room,
            node: node.to_string(),
            clock,
            texts,
            held_until: Mutex::default(),
        }
    }

    async fn find(&self, subscriber: &str) -> Result<Position, sqlx::Error> {
        let mut connection = self.room.connection().await?;
        let found = sqlx::query_scalar::<_, i64>(&self.texts.position)
            .bind(subscriber)
            .fetch_optional(connection.work());
        let found = limited(found).await;
        row::position(connection.done(found)?.unwrap_or_default())
    }

    async fn take(&self, subscriber: &'static str) -> Result<Turn, sqlx::Error> {
        let until = self.clock.now() + TURN;
        let mut connection = self.room.connection().await?;
        let taken = sqlx::query_scalar::<_, i64>(&self.texts.take)
            .bind(subscriber)
            .bind(&self.node)
            .bind(micros(TURN))
            .fetch_optional(connection.work());
        let taken = limited(taken).await;
        if let Some(checkpoint) = taken? {
            connection.rest();
            self.holds_until(subscriber, Some(until));
            return Ok(Turn::HereFrom(row::position(checkpoint)?));
        }
        let held = sqlx::query_as::<_, (i64, Option<i64>)>(&self.texts.held)
            .bind(subscriber)
            .fetch_one(connection.work());
        let held = limited(held).await;
        let (checkpoint, left) = connection.done(held)?;
        let left = left.and_then(|left| u64::try_from(left).ok());
        let left = Duration::from_micros(left.unwrap_or_default());
        Ok(Turn::Elsewhere {
            checkpoint: row::position(checkpoint)?,
            lapses_in: left.clamp(WAIT_MIN, TURN),
        })
    }

    async fn store(&self, subscriber: &'static str, position: Position) -> Result<(), sqlx::Error> {
        let until = self.clock.now() + TURN;
        let mut connection = self.room.connection().await?;
        let stored = sqlx::query_scalar::<_, bool>(&self.texts.advance)
            .bind(subscriber)
            .bind(row::column(position))
            .bind(&self.node)
            .bind(micros(TURN))
            .fetch_one(connection.work());
        let stored = limited(stored).await;
        let held = connection.done(stored)?;
        self.holds_until(subscriber, held.then_some(until));
        Ok(())
    }

    /// The subscriber has handled everything up to `position`, elsewhere; it is nobody's turn for that.
    ///
    /// # Errors
    ///
    /// [`Unavailable`]: it may have been stored.
    pub async fn bring(&self, subscriber: &str, position: Position) -> Result<(), Unavailable> {
        let brought = async {
            let mut connection = self.room.connection().await?;
            let brought = sqlx::query(&self.texts.bring)
                .bind(subscriber)
                .bind(row::column(position))
                .execute(connection.work());
            let brought = limited(brought).await;
            connection.done(brought).map(drop)
        };
        brought.await.map_err(unavailable(WHAT))
    }

    fn holds_until(&self, subscriber: &'static str, until: Option<DateTime<Utc>>) {
        let mut held = self
            .held_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match until {
            Some(until) => held.insert(subscriber, until),
            None => held.remove(subscriber),
        };
    }

    /// Whether this node's turn lasts for a while yet.
    fn holds(&self, subscriber: &str) -> bool {
        let soon = self.clock.now() + TURN / 2;
        let held = self
            .held_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        held.get(subscriber).is_some_and(|until| *until > soon)
    }
}

#[async_trait]
impl Checkpoints for SchemaCheckpoints {
    async fn position(&self, subscriber: &'static str) -> Result<Position, Unavailable> {
        self.find(subscriber).await.map_err(unavailable(WHAT))
    }

    async fn turn(&self, subscriber: &'static str) -> Result<Turn, Unavailable> {
        match self.holds(subscriber) {
            true => Ok(Turn::Here),
            false => self.take(subscriber).await.map_err(unavailable(WHAT)),
        }
    }

    async fn advance(
        &self,
        subscriber: &'static str,
        position: Position,
    ) -> Result<(), Unavailable> {
        let stored = self.store(subscriber, position).await;
        stored.map_err(unavailable(WHAT))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
