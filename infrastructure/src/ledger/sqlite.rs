//! The ledger in a SQLite file of its own. One process has the file, so what is in memory after a
//! commit is the newest there is.

mod append;
mod keys;
mod read;
mod restore;

use std::sync::Arc;

use application::doorbell::Doorbell;
use application::ports::{Clock, Unavailable};
use domain::ids::TenantId;
use sqlx::Sqlite;
use sqlx::migrate::Migrator;
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;

use self::append::SqliteEngine;
use self::keys::Keys;
pub use self::read::SqliteReader;
pub(crate) use self::read::look;
pub use self::restore::restore;
use super::stored::StoredLedger;
use crate::database::Database;
use crate::projections::cards::LiveCards;

/// The schema of a tenant's file.
pub static MIGRATOR: Migrator = sqlx::migrate!("../migrations/sqlite/tenant");

/// A query with values bound to it.
type Bound<'q> = Query<'q, Sqlite, SqliteArguments<'q>>;

/// A tenant's ledger, open.
pub type SqliteLedger = StoredLedger<SqliteReader>;

impl SqliteLedger {
    /// Reads the head and starts the writer, before which at most `waiting_max` appends may wait.
    /// `database` has the schema of [`MIGRATOR`].
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if the head or the subscription cannot be read.
    pub async fn open(
        tenant: TenantId,
        database: Arc<Database>,
        clock: Arc<dyn Clock>,
        doorbell: Doorbell,
        waiting_max: usize,
    ) -> Result<Self, Unavailable> {
        let keys = Arc::<Keys>::default();
        let cards = Arc::new(LiveCards::of(Arc::clone(&database)));
        let readers = database.readers().clone();
        let reader = SqliteReader::new(readers, Arc::clone(&keys), Arc::clone(&cards));
        let engine = SqliteEngine::new(tenant, database, keys, cards);
        Self::start(tenant, engine, reader, clock, doorbell, waiting_max).await
    }

    /// The table of cards in the same file, which appends take along.
    pub fn cards(&self) -> Arc<LiveCards> {
        self.reader.cards()
    }
}
