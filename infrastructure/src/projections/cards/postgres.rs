//! The cards in a tenant's PostgreSQL schema, beside the ledger. Any number of nodes may keep them
//! up to date.
//!
//! Rows and checkpoint move in one statement: that of an append, as far as it tells of new cards and
//! of other things (see [`companion`](super::companion)), or one of the subscriber's. No lock is held
//! between two statements, and of several nodes that handle the same events one has the effect.
//!
//! Its commit is on disk before it is answered, unlike in a file: a server can lose its last
//! commits while this process lives on, which remembers that it has handled those events.

mod live;
mod rebuild;
pub(crate) mod rows;
mod table;

use std::sync::Arc;

use application::cards::{Card, CardFilter, CardPage, DueCard};
use application::ports::checkpoints::Turn;
use application::ports::{
    CardsView, HandlerError, RecordedEvent, Subscriber, TenantStore, Unavailable,
};
use application::subscribers::CARDS;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{CardId, Position, TenantId};
use sqlx::Postgres;

use self::rebuild::InSchema;
use super::companion::Companion;
use super::list::Cards;
use super::table::Table;
use super::{THE_STORE, rebuild as building};
use crate::database::unavailable;
use crate::lost::read_again;
use crate::patience::{limited, limited_or};
use crate::shard::{Room, RoomConnection, Shard};

/// Finds the shard of a tenant: the database that its schema is in.
#[async_trait]
pub trait TenantShards: Send + Sync {
    /// The tenant's shard.
    async fn shard(&self, tenant: TenantId) -> Result<Shard, Unavailable>;

    /// The table of its cards, as its ledger knows it.
    async fn cards(&self, tenant: TenantId) -> Result<Arc<Companion>, Unavailable>;
}

/// A tenant's cards in its schema, to be asked about.
pub struct PostgresCards {
    room: Room,
    table: String,
}

impl PostgresCards {
    /// The read model in a tenant's schema, which is there and up to date; its table is made if
    /// it is not there. Two nodes may do so at once.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says.
    pub async fn open(tenant: TenantId, shard: &Shard) -> Result<Self, sqlx::Error> {
        let room = shard.room(tenant);
        let mut connection = room.connection().await?;
        let made = limited(table::create_first(connection.work(), room.schema())).await;
        connection.done(made)?;
        Ok(Self {
            table: room.schema().table(Table::Live.name()),
            room,
        })
    }

    fn cards<'a>(&'a self, connection: &'a mut RoomConnection) -> Cards<'a, Postgres> {
        Cards {
            reader: connection.work(),
            table: &self.table,
        }
    }
}

#[async_trait]
impl CardsView for PostgresCards {
    async fn get(&self, id: CardId) -> Result<Option<Card>, Unavailable> {
        let read = || async {
            let mut connection = self.room.connection().await?;
            let found = limited(self.cards(&mut connection).one(id)).await;
            connection.done(found)
        };
        read_again(read).await.map_err(unavailable(THE_STORE))
    }

    async fn list(&self, filter: &CardFilter) -> Result<CardPage, Unavailable> {
        let read = || async {
            let mut connection = self.room.connection().await?;
            let page = limited(self.cards(&mut connection).page(filter)).await;
            connection.done(page)
        };
        read_again(read).await.map_err(unavailable(THE_STORE))
    }

    async fn due(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<DueCard>, Unavailable> {
        let read = || async {
            let mut connection = self.room.connection().await?;
            let due = limited(self.cards(&mut connection).due(now, limit)).await;
            connection.done(due)
        };
        read_again(read).await.map_err(unavailable(THE_STORE))
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, Unavailable> {
        let read = || async {
            let mut connection = self.room.connection().await?;
            let next = limited(self.cards(&mut connection).next_due()).await;
            connection.done(next)
        };
        read_again(read).await.map_err(unavailable(THE_STORE))
    }
}

async fn enter(room: &Room) -> Result<RoomConnection, Unavailable> {
    room.connection().await.map_err(unavailable(THE_STORE))
}

/// Keeps the cards of every tenant on a shard up to date.
pub struct PostgresCardsProjection {
    shards: Arc<dyn TenantShards>,
}

impl PostgresCardsProjection {
    /// The projection into the schemas of tenants whose stores are open.
    pub fn new(shards: Arc<dyn TenantShards>) -> Self {
        Self { shards }
    }

    async fn room(&self, tenant: &TenantStore) -> Result<Room, Unavailable> {
        let shard = self.shards.shard(tenant.tenant).await?;
        Ok(shard.room(tenant.tenant))
    }
}

#[async_trait]
impl Subscriber for PostgresCardsProjection {
    fn name(&self) -> &'static str {
        CARDS
    }

    /// What appends of this node have taken along is handled.
    async fn turn(&self, tenant: &TenantStore) -> Result<Turn, Unavailable> {
        Ok(self.shards.cards(tenant.tenant).await?.turn())
    }

    async fn checkpoint(&self, tenant: &TenantStore) -> Result<Position, Unavailable> {
        let room = self.room(tenant).await?;
        let mut connection = enter(&room).await?;
        let checkpoint = table::checkpoint(connection.work(), room.schema(), Table::Live);
        let checkpoint = limited(checkpoint).await;
        let checkpoint = connection.done(checkpoint);
        let checkpoint = checkpoint.map_err(unavailable(THE_STORE))?;
        Ok(checkpoint.unwrap_or_default())
    }

    async fn handle(
        &self,
        tenant: &TenantStore,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        let room = self.room(tenant).await?;
        let mut connection = enter(&room).await?;
        let late = |late| unavailable(THE_STORE)(late).into();
        let handled = live::advance(connection.work(), room.schema(), events);
        let handled = limited_or(late, handled).await;
        let position = connection.done(handled)?;
        self.shards.cards(tenant.tenant).await?.moved(position);
        Ok(position)
    }

    async fn rebuild(
        &self,
        tenant: &TenantStore,
        progress: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<Position, HandlerError> {
        let in_schema = InSchema::start(&self.room(tenant).await?).await?;
        let position = building::rebuild(in_schema, tenant.ledger.as_ref(), progress).await?;
        self.shards.cards(tenant.tenant).await?.moved(position);
        Ok(position)
    }
}
