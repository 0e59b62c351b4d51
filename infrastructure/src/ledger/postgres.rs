//! The ledger in a PostgreSQL schema of its own. Any number of nodes may write it.

mod append;
pub(crate) mod moves;
mod read;
mod restore;

use std::sync::{Arc, LazyLock};

use application::doorbell::Doorbell;
use application::ports::{Clock, Unavailable};
use domain::ids::TenantId;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgPool};

use self::append::PostgresEngine;
pub use self::read::PostgresReader;
pub use self::restore::{restore, restore_frozen};
use super::stored::StoredLedger;
use crate::database::{Older, is_older};
#[cfg(doc)]
use crate::database::{SchemaTooNew, SchemaTooOld};

/// Without the migrator's own lock, which is the whole database's: see [`Schema::migrate`].
static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("../migrations/postgres/tenant");
    migrator.set_locking(false);
    migrator
});

/// How long a migration waits for a lock: of another node that migrates, or of appends.
const LOCK_WAIT_MAX: &str = "30s";

/// The schema of a tenant's tables. Made from its id only, so it can stand in a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema(String);

impl Schema {
    /// The schema of a tenant.
    pub fn of(tenant: TenantId) -> Self {
        // A UUID's text: hexadecimal digits and dashes.
        Self(format!("t_{}", tenant.to_string().replace('-', "")))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Makes the schema if it is not there, and brings it up to date. Two nodes may do so at
    /// once.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says.
    pub async fn migrate(&self, shard: &PgConnectOptions) -> Result<(), sqlx::Error> {
        let mut connection = shard
            .clone()
            .options([("search_path", &*self.0), ("lock_timeout", LOCK_WAIT_MAX)])
            .connect()
            .await?;
        let made = self.make(&mut connection).await;
        // What went wrong in the making says more than what goes wrong in the closing.
        let _ = connection.close().await;
        made
    }

    /// Brings the schema, which must be there, up to date if that may be done. One that is needs a
    /// single question.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says; `42P01` (undefined table) if it is not there; [`SchemaTooNew`] or
    /// [`SchemaTooOld`] in [`sqlx::Error::Configuration`].
    pub async fn bring_up_to_date(
        &self,
        shard: &PgConnectOptions,
        connections: &PgPool,
        older: Older,
    ) -> Result<(), sqlx::Error> {
        let migrations = self.table("_sqlx_migrations");
        let version = format!("select coalesce(max(version), 0) from {migrations} where success");
        let found = sqlx::query_scalar(&version).fetch_one(connections).await?;
        match is_older(found, &MIGRATOR, older)? {
            true => self.migrate(shard).await,
            false => Ok(()),
        }
    }

    async fn make(&self, connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
        // Two nodes at once need a lock: `if not exists` is checked before the name is taken. It
        // ends with the connection, however that ends.
        sqlx::query("select pg_advisory_lock(hashtextextended($1, 0))")
            .bind(&self.0)
            .execute(&mut *connection)
            .await?;
        sqlx::query(&format!("create schema if not exists {}", self.0))
            .execute(&mut *connection)
            .await?;
        Ok(MIGRATOR.run_direct(connection).await?)
    }

    /// The qualified name of one of its tables.
    pub(crate) fn table(&self, name: &str) -> String {
        format!("{}.{name}", self.0)
    }
}

/// A tenant's ledger, open.
pub type PostgresLedger = StoredLedger<PostgresReader>;

impl PostgresLedger {
    /// Reads the head and starts the writer, before which at most `waiting_max` appends may wait.
    /// The tenant's [`Schema`] is there and up to date. Closing the ledger leaves the pool open; its
    /// `acquire_timeout` and statement cache are the caller's.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if the head or the subscription cannot be read.
    pub async fn open(
        tenant: TenantId,
        shard: PgPool,
        clock: Arc<dyn Clock>,
        doorbell: Doorbell,
        waiting_max: usize,
    ) -> Result<Self, Unavailable> {
        let schema = Schema::of(tenant);
        let reader = PostgresReader::new(tenant, shard, &schema);
        let engine = PostgresEngine::new(reader.clone(), &schema);
        Self::start(tenant, engine, reader, clock, doorbell, waiting_max).await
    }

    /// Whether an append has found the ledger frozen or gone since this was last asked: the tenant
    /// may be in another shard by now.
    pub fn was_not_there(&self) -> bool {
        self.reader.was_not_there()
    }
}
