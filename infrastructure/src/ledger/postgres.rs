//! The ledger in a PostgreSQL schema of its own. Any number of nodes may write it.

mod append;
pub(crate) mod moves;
mod read;
pub(crate) mod recount;
mod restore;

use std::sync::Arc;

use application::doorbell::Doorbell;
use application::ports::{Clock, Unavailable};
use domain::ids::TenantId;

use self::append::PostgresEngine;
pub use self::read::PostgresReader;
pub use self::restore::{restore, restore_frozen};
use super::stored::StoredLedger;
use crate::projections::cards::companion::Companion;
use crate::shard::Shard;

/// A tenant's ledger, open.
pub type PostgresLedger = StoredLedger<PostgresReader>;

impl PostgresLedger {
    /// Reads the head and starts the writer, before which at most `waiting_max` appends may wait.
    /// The tenant's [`Schema`](crate::shard::schema::Schema) is there and up to date. Closing the
    /// ledger leaves the shard open.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if the head or the subscription cannot be read.
    pub async fn open(
        tenant: TenantId,
        shard: &Shard,
        clock: Arc<dyn Clock>,
        doorbell: Doorbell,
        waiting_max: usize,
    ) -> Result<Self, Unavailable> {
        let reader = PostgresReader::new(tenant, shard.room(tenant));
        let engine = PostgresEngine::new(tenant, reader.clone());
        Self::start(tenant, engine, reader, clock, doorbell, waiting_max).await
    }

    /// The table of cards in the same schema, which appends take along.
    pub fn cards(&self) -> Arc<Companion> {
        Arc::clone(&self.reader.cards)
    }

    /// Whether an append has found the ledger frozen or gone since this was last asked: the tenant
    /// may be in another shard by now.
    pub fn was_not_there(&self) -> bool {
        self.reader.was_not_there()
    }
}
