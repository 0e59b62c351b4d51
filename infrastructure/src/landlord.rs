//! The landlord's own records: tenants, API keys, and the answers to repeat.
//!
//! One transaction a method, each on disk before it is answered. Who comes second with a slug or
//! an idempotency key is told by `on conflict … do nothing` having inserted nothing: no error to
//! interpret, and the same on every engine.

use std::path::Path;
use std::sync::Arc;

use application::keys::ApiKey;
use application::ports::{
    IdempotencyRecord, Landlord, LandlordError, Recorded, RecordedOutcome, Unavailable,
};
use application::tenants::Tenant;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{KeyId, TenantId};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use crate::database::{Database, begin, unavailable};
use crate::projections::{row, search};

static MIGRATOR: Migrator = sqlx::migrate!("../migrations/sqlite/landlord");

/// Whose fault it is when it does not answer.
pub(crate) const THE_DATABASE: &str = "the landlord's database";

/// The columns of `tenants`, in the order that [`tenant`] reads them.
pub(crate) const TENANT_COLUMNS: &str = "tenants.id, tenants.name, tenants.slug, tenants.first_plan, tenants.isolation, \
     tenants.created_at, tenants.ready";

/// Opens the landlord's database file, making it if it is not there.
///
/// # Errors
///
/// What SQLite says; also if the file's schema is newer than this program.
pub async fn open(path: &Path) -> Result<Database, sqlx::Error> {
    Database::open(path, &MIGRATOR).await
}

/// The landlord's records.
pub struct LandlordDatabase {
    database: Arc<Database>,
}

impl LandlordDatabase {
    /// The records in a database made by [`open`].
    pub const fn new(database: Arc<Database>) -> Self {
        Self { database }
    }

    async fn all_tenants(&self) -> Result<Vec<Tenant>, sqlx::Error> {
        let sql = format!("select {TENANT_COLUMNS} from tenants order by id");
        let rows = sqlx::query(&sql).fetch_all(self.database.readers()).await?;
        rows.iter().map(tenant).collect()
    }

    async fn keys_in_force(&self) -> Result<Vec<ApiKey>, sqlx::Error> {
        let sql = "select id, hash, role, tenant_id, name, created_at from api_keys \
                   where revoked_at is null order by id";
        let rows = sqlx::query(sql).fetch_all(self.database.readers()).await?;
        rows.iter().map(key).collect()
    }
}

#[async_trait]
impl Landlord for LandlordDatabase {
    async fn tenants(&self) -> Result<Vec<Tenant>, Unavailable> {
        self.all_tenants().await.map_err(unavailable(THE_DATABASE))
    }

    async fn add_tenant(
        &self,
        tenant: &Tenant,
        key: &ApiKey,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        let mut writer = self.database.writer().await.map_err(failed)?;
        let mut transaction = begin(&mut writer).await.map_err(failed)?;
        if let Some(before) = answered(&mut transaction, idempotency, tenant.created_at).await? {
            return Ok(Recorded::Replayed(before));
        }
        if !insert_tenant(&mut transaction, tenant)
            .await
            .map_err(failed)?
        {
            return Err(LandlordError::SlugTaken);
        }
        insert_key(&mut transaction, key).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Recorded::New)
    }

    async fn mark_ready(&self, tenant: TenantId) -> Result<(), Unavailable> {
        let work = async {
            let mut writer = self.database.writer().await?;
            let mut transaction = begin(&mut writer).await?;
            sqlx::query("update tenants set ready = 1 where id = $1")
                .bind(tenant.to_string())
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        };
        work.await.map_err(unavailable(THE_DATABASE))
    }

    async fn keys(&self) -> Result<Vec<ApiKey>, Unavailable> {
        self.keys_in_force()
            .await
            .map_err(unavailable(THE_DATABASE))
    }

    async fn add_key(
        &self,
        key: &ApiKey,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        let mut writer = self.database.writer().await.map_err(failed)?;
        let mut transaction = begin(&mut writer).await.map_err(failed)?;
        if let Some(before) = answered(&mut transaction, idempotency, key.created_at).await? {
            return Ok(Recorded::Replayed(before));
        }
        insert_key(&mut transaction, key).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Recorded::New)
    }

    async fn revoke_key(&self, id: KeyId, at: DateTime<Utc>) -> Result<bool, Unavailable> {
        let work = async {
            let mut writer = self.database.writer().await?;
            let mut transaction = begin(&mut writer).await?;
            let sql = "update api_keys set revoked_at = $2 where id = $1 and revoked_at is null";
            let revoked = sqlx::query(sql)
                .bind(id.to_string())
                .bind(at.timestamp_micros())
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await?;
            Ok(revoked.rows_affected() > 0)
        };
        work.await.map_err(unavailable(THE_DATABASE))
    }

    async fn outcome(&self, key: &str) -> Result<Option<RecordedOutcome>, Unavailable> {
        remembered(self.database.readers(), key)
            .await
            .map_err(unavailable(THE_DATABASE))
    }
}

/// Adds a tenant; `false` if another has its slug.
async fn insert_tenant(
    transaction: &mut Transaction<'_, Sqlite>,
    tenant: &Tenant,
) -> Result<bool, sqlx::Error> {
    let sql = "insert into tenants \
               (id, name, slug, search, first_plan, isolation, created_at, ready) \
               values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (slug) do nothing";
    let inserted = sqlx::query(sql)
        .bind(tenant.id.to_string())
        .bind(tenant.name.as_str())
        .bind(tenant.slug.as_str())
        .bind(search::searchable([
            tenant.name.as_str(),
            tenant.slug.as_str(),
        ]))
        .bind(tenant.first_plan.as_str())
        .bind(tenant.isolation.as_str())
        .bind(tenant.created_at.timestamp_micros())
        .bind(i64::from(tenant.ready))
        .execute(&mut **transaction)
        .await?;
    Ok(inserted.rows_affected() > 0)
}

async fn insert_key(
    transaction: &mut Transaction<'_, Sqlite>,
    key: &ApiKey,
) -> Result<(), sqlx::Error> {
    let sql = "insert into api_keys (id, hash, role, tenant_id, name, created_at) \
               values ($1, $2, $3, $4, $5, $6)";
    sqlx::query(sql)
        .bind(key.id.to_string())
        .bind(key.hash.as_slice())
        .bind(key.role.as_str())
        .bind(key.tenant.map(|tenant| tenant.to_string()))
        .bind(key.name.as_str())
        .bind(key.created_at.timestamp_micros())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Remembers the answer to give again; or answers what was remembered before under its key.
async fn answered(
    transaction: &mut Transaction<'_, Sqlite>,
    idempotency: Option<&IdempotencyRecord>,
    at: DateTime<Utc>,
) -> Result<Option<RecordedOutcome>, LandlordError> {
    let Some(record) = idempotency else {
        return Ok(None);
    };
    let sql = "insert into idempotency (key, fingerprint, outcome, recorded_at) \
               values ($1, $2, $3, $4) on conflict (key) do nothing";
    let inserted = sqlx::query(sql)
        .bind(record.key.as_str())
        .bind(record.fingerprint.as_slice())
        .bind(record.outcome.as_str())
        .bind(at.timestamp_micros())
        .execute(&mut **transaction)
        .await
        .map_err(failed)?;
    if inserted.rows_affected() > 0 {
        return Ok(None);
    }
    match remembered(&mut **transaction, &record.key)
        .await
        .map_err(failed)?
    {
        Some(before) if before.fingerprint != record.fingerprint => Err(LandlordError::KeyReused),
        before => Ok(before),
    }
}

async fn remembered<'c>(
    executor: impl sqlx::Executor<'c, Database = Sqlite>,
    key: &str,
) -> Result<Option<RecordedOutcome>, sqlx::Error> {
    let row = sqlx::query("select fingerprint, outcome from idempotency where key = $1")
        .bind(key)
        .fetch_optional(executor)
        .await?;
    row.map(|found| {
        Ok(RecordedOutcome {
            fingerprint: hash(found.try_get(0)?)?,
            outcome: found.try_get(1)?,
            // The landlord's records are in no ledger.
            position: 0,
        })
    })
    .transpose()
}

/// The tenant of a row that begins with [`TENANT_COLUMNS`].
pub(crate) fn tenant(found: &SqliteRow) -> Result<Tenant, sqlx::Error> {
    Ok(Tenant {
        id: row::id(found.try_get(0)?)?,
        name: row::text(found.try_get(1)?)?,
        slug: row::text(found.try_get(2)?)?,
        first_plan: row::text(found.try_get(3)?)?,
        isolation: row::word(found.try_get(4)?)?,
        created_at: row::time(found.try_get(5)?)?,
        ready: found.try_get::<i64, _>(6)? != 0,
    })
}

fn key(found: &SqliteRow) -> Result<ApiKey, sqlx::Error> {
    let tenant: Option<&str> = found.try_get(3)?;
    Ok(ApiKey {
        id: row::id(found.try_get(0)?)?,
        hash: hash(found.try_get(1)?)?,
        role: row::word(found.try_get(2)?)?,
        tenant: tenant.map(row::id).transpose()?,
        name: row::text(found.try_get(4)?)?,
        created_at: row::time(found.try_get(5)?)?,
    })
}

fn failed(error: sqlx::Error) -> LandlordError {
    unavailable(THE_DATABASE)(error).into()
}

fn hash(column: &[u8]) -> Result<[u8; 32], sqlx::Error> {
    column.try_into().map_err(row::broken)
}
