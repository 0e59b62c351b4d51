//! What processes remember of a tenant, in the tenant's own store: one row a process.

use std::sync::Arc;

use application::ports::Unavailable;
use application::ports::usage::{ProcessStates, Remembered};
use async_trait::async_trait;
use domain::ids::TenantId;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Row, Type};

use crate::database::{Database, begin_replayable, unavailable};
use crate::patience::limited;
use crate::projections::cards::TenantDatabases;
use crate::projections::cards::postgres::TenantShards;
use crate::projections::row;

const THE_STORE: &str = "the tenant's store";

/// In the files of tenants whose stores are open.
pub struct FileProcesses(Arc<dyn TenantDatabases>);

impl FileProcesses {
    /// In the files that those databases are.
    pub fn new(databases: Arc<dyn TenantDatabases>) -> Self {
        Self(databases)
    }
}

#[async_trait]
impl ProcessStates for FileProcesses {
    async fn load(&self, tenant: TenantId, process: &str) -> Result<Remembered, Unavailable> {
        let database = self.0.database(tenant).await?;
        let found = find(&database, process).await;
        found.and_then(read).map_err(unavailable(THE_STORE))
    }

    async fn store(
        &self,
        tenant: TenantId,
        process: &str,
        remembered: &Remembered,
    ) -> Result<(), Unavailable> {
        let database = self.0.database(tenant).await?;
        let put = put(&database, process, remembered).await;
        put.map_err(unavailable(THE_STORE))
    }
}

async fn find(database: &Database, process: &str) -> Result<Option<SqliteRow>, sqlx::Error> {
    // A reading connection would cost a thread, and at the start every tenant is asked once.
    let mut writer = database.writer().await?;
    sqlx::query("select position, state from processes where name = $1")
        .bind(process)
        .fetch_optional(&mut *writer)
        .await
}

async fn put(
    database: &Database,
    process: &str,
    remembered: &Remembered,
) -> Result<(), sqlx::Error> {
    let mut writer = database.writer().await?;
    let mut transaction = begin_replayable(&mut writer).await?;
    sqlx::query(&upsert("processes"))
        .bind(process)
        .bind(row::column(remembered.position))
        .bind(&remembered.state)
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await
}

/// In tenants' schemas.
pub struct SchemaProcesses(Arc<dyn TenantShards>);

impl SchemaProcesses {
    /// In the schemas in those shards.
    pub fn new(shards: Arc<dyn TenantShards>) -> Self {
        Self(shards)
    }
}

#[async_trait]
impl ProcessStates for SchemaProcesses {
    async fn load(&self, tenant: TenantId, process: &str) -> Result<Remembered, Unavailable> {
        let room = self.0.shard(tenant).await?.room(tenant);
        let processes = room.schema().table("processes");
        let sql = format!("select position, state from {processes} where name = $1");
        let connection = room.connection().await;
        let mut connection = connection.map_err(unavailable(THE_STORE))?;
        let query = sqlx::query(&sql).bind(process);
        let found = limited(query.fetch_optional(connection.work())).await;
        let found = connection.done(found);
        found
            .and_then(read::<PgRow>)
            .map_err(unavailable(THE_STORE))
    }

    async fn store(
        &self,
        tenant: TenantId,
        process: &str,
        remembered: &Remembered,
    ) -> Result<(), Unavailable> {
        let room = self.0.shard(tenant).await?.room(tenant);
        let sql = upsert(&room.schema().table("processes"));
        let connection = room.connection().await;
        let mut connection = connection.map_err(unavailable(THE_STORE))?;
        let query = sqlx::query(&sql)
            .bind(process)
            .bind(row::column(remembered.position))
            .bind(&remembered.state);
        let stored = limited(query.execute(connection.work())).await;
        let stored = connection.done(stored);
        stored.map(drop).map_err(unavailable(THE_STORE))
    }
}

/// Of two nodes, the one that has come further is remembered.
fn upsert(processes: &str) -> String {
    format!(
        "insert into {processes} as kept (name, position, state) values ($1, $2, $3) \
         on conflict (name) do update set position = excluded.position, state = excluded.state \
         where kept.position <= excluded.position"
    )
}

fn read<R>(found: Option<R>) -> Result<Remembered, sqlx::Error>
where
    R: Row,
    usize: sqlx::ColumnIndex<R>,
    for<'r> i64: Decode<'r, R::Database> + Type<R::Database>,
    for<'r> String: Decode<'r, R::Database> + Type<R::Database>,
{
    let Some(found) = found else {
        return Ok(Remembered::default());
    };
    Ok(Remembered {
        position: row::position(found.try_get(0)?)?,
        state: found.try_get(1)?,
    })
}
