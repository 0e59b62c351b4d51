//! The read model of a tenant's cards: one row a card, in the tenant's own database file, beside
//! the ledger it is folded from. [`postgres`] keeps the same in a schema.
//!
//! Rows and checkpoint move in one transaction on the file's one writing connection, so handling
//! the same events twice has the effect of once. In the steady state that is the append's own (see
//! [`companion`]). Otherwise it is a replayable one (see
//! [`BEGIN_REPLAYABLE`](crate::database::BEGIN_REPLAYABLE)): the ledger's next commit makes it durable, and a power loss before that
//! takes back rows and checkpoint together. The ledger's writer waits for the same connection, so
//! what is done under it is kept short: few statements, each for many rows.

pub mod companion;
pub mod postgres;

mod fold;
mod list;
pub(crate) mod live;
mod rebuild;
pub(crate) mod rows;
pub(crate) mod table;

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
use sqlx::pool::PoolConnection;
use sqlx::{Sqlite, SqliteConnection};

use self::list::Cards;
pub use self::live::LiveCards;
use self::rebuild::InFile;
use self::table::Table;
use crate::database::{Database, begin, unavailable};

const THE_STORE: &str = "the tenant's store";

/// Finds the database of a tenant whose store is open: the very one that the store uses, because
/// a file has one writing connection.
#[async_trait]
pub trait TenantDatabases: Send + Sync {
    /// The tenant's database.
    async fn database(&self, tenant: TenantId) -> Result<Arc<Database>, Unavailable>;

    /// The table of its cards, as its ledger knows it.
    async fn cards(&self, tenant: TenantId) -> Result<Arc<LiveCards>, Unavailable>;
}

/// A tenant's cards, to be asked about.
pub struct CardsReadModel {
    database: Arc<Database>,
}

impl CardsReadModel {
    /// The read model in a tenant's database; its table is made if it is not there.
    ///
    /// # Errors
    ///
    /// What the database says.
    pub async fn open(database: Arc<Database>) -> Result<Self, sqlx::Error> {
        // Asked on the writing connection, which is there: a reading one costs a thread, and at
        // the start every tenant's store is opened once.
        let mut writer = database.writer().await?;
        if !table::exists(&mut *writer).await? {
            let mut transaction = begin(&mut writer).await?;
            table::create_first(&mut transaction).await?;
            transaction.commit().await?;
        }
        drop(writer);
        Ok(Self { database })
    }

    async fn reader(&self) -> Result<PoolConnection<Sqlite>, Unavailable> {
        let reader = self.database.readers().acquire().await;
        reader.map_err(unavailable(THE_STORE))
    }
}

/// The cards in the file that a connection is to.
fn cards(reader: &mut SqliteConnection) -> Cards<'_, Sqlite> {
    let table = Table::Live.name();
    Cards { reader, table }
}

#[async_trait]
impl CardsView for CardsReadModel {
    async fn get(&self, id: CardId) -> Result<Option<Card>, Unavailable> {
        let mut reader = self.reader().await?;
        let found = cards(&mut reader).one(id).await;
        found.map_err(unavailable(THE_STORE))
    }

    async fn list(&self, filter: &CardFilter) -> Result<CardPage, Unavailable> {
        let mut reader = self.reader().await?;
        let page = cards(&mut reader).page(filter).await;
        page.map_err(unavailable(THE_STORE))
    }

    async fn due(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<DueCard>, Unavailable> {
        let mut reader = self.reader().await?;
        let due = cards(&mut reader).due(now, limit).await;
        due.map_err(unavailable(THE_STORE))
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, Unavailable> {
        let mut reader = self.reader().await?;
        let next = cards(&mut reader).next_due().await;
        next.map_err(unavailable(THE_STORE))
    }
}

/// Keeps every tenant's cards up to date.
pub struct CardsProjection {
    databases: Arc<dyn TenantDatabases>,
}

impl CardsProjection {
    /// The projection into the databases of open stores.
    pub fn new(databases: Arc<dyn TenantDatabases>) -> Self {
        Self { databases }
    }
}

#[async_trait]
impl Subscriber for CardsProjection {
    fn name(&self) -> &'static str {
        CARDS
    }

    /// What appends have taken along is handled.
    async fn turn(&self, tenant: &TenantStore) -> Result<Turn, Unavailable> {
        let cards = self.databases.cards(tenant.tenant).await?;
        Ok(cards.companion.turn())
    }

    async fn checkpoint(&self, tenant: &TenantStore) -> Result<Position, Unavailable> {
        let database = self.databases.database(tenant.tenant).await?;
        // As in `open`: no reading connection for this.
        let mut writer = database.writer().await.map_err(unavailable(THE_STORE))?;
        let checkpoint = table::checkpoint(&mut *writer, Table::Live).await;
        let checkpoint = checkpoint.map_err(unavailable(THE_STORE))?;
        Ok(checkpoint.unwrap_or_default())
    }

    async fn handle(
        &self,
        tenant: &TenantStore,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        let cards = self.databases.cards(tenant.tenant).await?;
        cards.advance(tenant.ledger.as_ref(), events).await
    }

    async fn rebuild(
        &self,
        tenant: &TenantStore,
        progress: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<Position, HandlerError> {
        let database = self.databases.database(tenant.tenant).await?;
        let building = InFile::start(&database).await?;
        let position = rebuild::rebuild(building, tenant.ledger.as_ref(), progress).await?;
        let cards = self.databases.cards(tenant.tenant).await?;
        cards.companion.moved(position);
        Ok(position)
    }
}

fn failed(error: sqlx::Error) -> HandlerError {
    unavailable(THE_STORE)(error).into()
}
