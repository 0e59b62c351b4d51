//! The ledger in a PostgreSQL schema of its own. Any number of nodes may write it.

mod append;
mod read;
mod restore;

use std::sync::Arc;

use application::doorbell::Doorbell;
use application::ports::{Clock, Unavailable};
use domain::ids::TenantId;
use sqlx::migrate::Migrator;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgPool};

use self::append::PostgresEngine;
pub use self::read::PostgresReader;
pub use self::restore::restore;
use super::stored::StoredLedger;
use crate::database::SchemaTooNew;

static MIGRATOR: Migrator = sqlx::migrate!("../migrations/postgres/tenant");

/// The schema of a tenant's tables. Made from its id only, so it can stand in a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema(String);

impl Schema {
    /// The schema of a tenant.
    pub fn of(tenant: TenantId) -> Self {
        // A UUID's text: hexadecimal digits and dashes.
        Self(format!("t_{}", tenant.to_string().replace('-', "")))
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
            .options([("search_path", &self.0)])
            .connect()
            .await?;
        let made = self.make(&mut connection).await;
        // What went wrong in the making says more than what goes wrong in the closing.
        let _ = connection.close().await;
        made
    }

    /// Brings the schema, which must be there, up to date. One that is needs a single question.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says; `42P01` (undefined table) if it is not there; [`SchemaTooNew`] in
    /// [`sqlx::Error::Configuration`].
    pub async fn bring_up_to_date(
        &self,
        shard: &PgConnectOptions,
        connections: &PgPool,
    ) -> Result<(), sqlx::Error> {
        let migrations = self.table("_sqlx_migrations");
        let version = format!("select max(version) from {migrations} where success");
        let found: Option<i64> = sqlx::query_scalar(&version).fetch_one(connections).await?;
        let known = MIGRATOR.iter().map(|it| it.version).max();
        match (found, known) {
            (Some(found), Some(known)) if found > known => {
                let error = SchemaTooNew { found, known };
                Err(sqlx::Error::Configuration(error.into()))
            }
            _ if found == known => Ok(()),
            _ => self.migrate(shard).await,
        }
    }

    async fn make(&self, connection: &mut sqlx::PgConnection) -> Result<(), sqlx::Error> {
        // `if not exists` is checked before the name is taken: two nodes at once need a lock.
        let lock = "select pg_advisory_xact_lock(hashtextextended($1, 0))";
        let mut transaction = connection.begin().await?;
        sqlx::query(lock)
            .bind(&self.0)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(&format!("create schema if not exists {}", self.0))
            .execute(&mut *transaction)
            .await?;
        transaction.commit().await?;
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
}
