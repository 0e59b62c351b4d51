//! The landlord's own records: tenants, API keys, and the answers to repeat.
//!
//! One transaction a method, each on disk before it is answered. Who comes second with a slug or
//! an idempotency key is told by `on conflict … do nothing` having inserted nothing: no error to
//! interpret, and the same on every engine. What changes is news to the other nodes, told by the
//! transaction that changes it: no crash comes between the two.

mod moves;
mod restore;
mod usage_audits;

use std::path::Path;
use std::sync::Arc;

use application::keys::ApiKey;
use application::news::News;
use application::ports::restore::StoredOutcome;
use application::ports::{
    IdempotencyRecord, Landlord, LandlordError, Recorded, RecordedOutcome, Unavailable,
};
use application::shards::Shard;
use application::tenants::Tenant;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{KeyId, Slug, TenantId};
use sqlx::PgPool;
use sqlx::migrate::Migrator;

use crate::database::{Database, Older, too_old, unavailable};
use crate::news::{CHANNEL, word};
use crate::portable::postgres::PostgresDatabase;
use crate::portable::{Engine, Row, Statement, Transaction, statement};
use crate::projections::{row, search};

static SQLITE: Migrator = sqlx::migrate!("../migrations/sqlite/landlord");
static POSTGRES: Migrator = sqlx::migrate!("../migrations/postgres/landlord");

/// Whose fault it is when it does not answer.
pub(crate) const THE_DATABASE: &str = "the landlord's database";

/// The columns of `tenants`, in the order that [`tenant`] reads them.
pub(crate) const TENANT_COLUMNS: &str = "tenants.id, tenants.name, tenants.slug, tenants.first_plan, tenants.isolation, \
     tenants.created_at, tenants.ready, tenants.shard";

/// The columns of `api_keys`, in the order that [`key`] reads them.
const KEY_COLUMNS: &str = "id, hash, role, tenant_id, name, created_at";

/// Opens the landlord's database file. One that is not there is made, unless it would be refused.
///
/// # Errors
///
/// What SQLite says; also if the file's schema is newer than this program, or older and refused.
pub async fn open(path: &Path, older: Older) -> Result<Database, sqlx::Error> {
    match older {
        Older::Migrate => Database::open(path, &SQLITE).await,
        Older::Refuse if !path.exists() => Err(too_old(0, &SQLITE)),
        Older::Refuse => Database::open_existing(path, &SQLITE, older).await,
    }
}

/// The landlord's database on PostgreSQL, up to date. Any number of nodes may use it.
///
/// # Errors
///
/// What PostgreSQL says; also if the database's schema is newer than this program, or older and
/// refused.
pub async fn connect(pool: PgPool, older: Older) -> Result<PostgresDatabase, sqlx::Error> {
    PostgresDatabase::connect(pool, &POSTGRES, older).await
}

/// The landlord's records.
pub struct LandlordDatabase {
    database: Arc<dyn Engine>,
}

impl LandlordDatabase {
    /// The records in a database made by [`open`] or [`connect`].
    pub fn new(database: Arc<impl Engine + 'static>) -> Self {
        Self { database }
    }

    /// Adds a key, and the tenant that it is the first of, if it is; all or none of it, and the
    /// answer to give again.
    async fn add(
        &self,
        tenant: Option<&Tenant>,
        key: &ApiKey,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        let mut transaction = self.database.begin().await.map_err(failed)?;
        match begin_adding(&mut *transaction, tenant, key.created_at, idempotency).await {
            Ok(Recorded::New) => {
                let committed = transaction.commit(insert_key(key)).await;
                committed.map_err(failed)?;
                Ok(Recorded::New)
            }
            Err(LandlordError::Unavailable(error)) => Err(error.into()),
            otherwise => {
                transaction.rollback().await.map_err(failed)?;
                otherwise
            }
        }
    }

    /// Records a shard with `change`, unless it is recorded as the same already, and the answer to
    /// give again.
    async fn record_shard(
        &self,
        shard: &Shard,
        change: Statement,
        at: DateTime<Utc>,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        let mut transaction = self.database.begin().await.map_err(failed)?;
        match begin_adding(&mut *transaction, None, at, idempotency).await {
            Ok(Recorded::New) => {
                transaction.run(change).await.map_err(failed)?;
            }
            Err(LandlordError::Unavailable(error)) => return Err(error.into()),
            otherwise => {
                transaction.rollback().await.map_err(failed)?;
                return otherwise;
            }
        }
        let found = transaction.run(select_shard(&shard.name)).await;
        let found = found.map_err(failed)?;
        let recorded = found.first().map(self::shard).transpose();
        if recorded.map_err(failed)?.as_ref() != Some(shard) {
            transaction.rollback().await.map_err(failed)?;
            return Err(LandlordError::ShardExists);
        }
        let last = select_shard(&shard.name);
        transaction.commit(last).await.map_err(failed)?;
        Ok(Recorded::New)
    }

    /// What a statement finds, read by `read`.
    async fn found<T>(
        &self,
        select: Statement,
        read: fn(&Row) -> Result<T, sqlx::Error>,
    ) -> Result<Vec<T>, Unavailable> {
        let found = self.database.read(select).await;
        found
            .and_then(|rows| rows.iter().map(read).collect())
            .map_err(unavailable(THE_DATABASE))
    }
}

#[async_trait]
impl Landlord for LandlordDatabase {
    async fn tenants(&self) -> Result<Vec<Tenant>, Unavailable> {
        let sql = format!("select {TENANT_COLUMNS} from tenants order by id");
        self.found(statement(sql), tenant).await
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, Unavailable> {
        let sql = format!("select {TENANT_COLUMNS} from tenants where id = $1");
        let found = self.found(statement(sql).bind(id.to_string()), tenant);
        Ok(found.await?.pop())
    }

    async fn add_tenant(
        &self,
        tenant: &Tenant,
        key: &ApiKey,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        self.add(Some(tenant), key, idempotency).await
    }

    async fn mark_ready(&self, tenant: TenantId) -> Result<(), Unavailable> {
        let mark = statement("update tenants set ready = 1 where id = $1 returning id")
            .bind(tenant.to_string())
            .notify(CHANNEL, word(News::Tenant(tenant)));
        let marked = self.database.write(mark).await;
        marked.map(drop).map_err(unavailable(THE_DATABASE))
    }

    async fn shards(&self) -> Result<Vec<Shard>, Unavailable> {
        let sql = "select name, url, open from shards order by name";
        self.found(statement(sql), shard).await
    }

    async fn add_shard(
        &self,
        shard: &Shard,
        at: DateTime<Utc>,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        self.record_shard(shard, insert_shard(shard), at, idempotency)
            .await
    }

    async fn change_shard(
        &self,
        shard: &Shard,
        at: DateTime<Utc>,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        self.record_shard(shard, update_shard(shard), at, idempotency)
            .await
    }

    async fn keys(&self) -> Result<Vec<ApiKey>, Unavailable> {
        let sql =
            format!("select {KEY_COLUMNS} from api_keys where revoked_at is null order by id");
        self.found(statement(sql), key).await
    }

    async fn key(&self, id: KeyId) -> Result<Option<ApiKey>, Unavailable> {
        let sql =
            format!("select {KEY_COLUMNS} from api_keys where id = $1 and revoked_at is null");
        let found = self.found(statement(sql).bind(id.to_string()), key);
        Ok(found.await?.pop())
    }

    async fn add_key(
        &self,
        key: &ApiKey,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        self.add(None, key, idempotency).await
    }

    async fn revoke_key(&self, id: KeyId, at: DateTime<Utc>) -> Result<bool, Unavailable> {
        let sql = "update api_keys set revoked_at = $2 where id = $1 and revoked_at is null \
                   returning id";
        let revoke = statement(sql)
            .bind(id.to_string())
            .bind(at.timestamp_micros())
            .notify(CHANNEL, word(News::Key(id)));
        let revoked = self.database.write(revoke).await;
        let revoked = revoked.map_err(unavailable(THE_DATABASE))?;
        Ok(!revoked.is_empty())
    }

    async fn outcome(&self, key: &str) -> Result<Option<RecordedOutcome>, Unavailable> {
        Ok(self.found(remembered(key), outcome).await?.pop())
    }

    async fn answers(
        &self,
        after: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredOutcome>, Unavailable> {
        let found = self.database.read(restore::answers(after, before, limit));
        found
            .await
            .and_then(|found| found.iter().map(restore::answer).collect())
            .map_err(unavailable(THE_DATABASE))
    }

    async fn restore(
        &self,
        tenant: Option<&Tenant>,
        keys: &[ApiKey],
        answers: &[StoredOutcome],
    ) -> Result<(), LandlordError> {
        let mut transaction = self.database.begin().await.map_err(failed)?;
        match restore::add(&mut *transaction, tenant, keys, answers).await {
            Ok(true) => {
                let last = transaction.commit(statement("select 1")).await;
                last.map(drop).map_err(failed)
            }
            Ok(false) => {
                transaction.rollback().await.map_err(failed)?;
                Err(LandlordError::SlugTaken)
            }
            Err(error) => Err(failed(error)),
        }
    }
}

/// All that can be refused: remembers the answer to give again, unless one was remembered before,
/// and adds the tenant.
async fn begin_adding(
    transaction: &mut dyn Transaction,
    tenant: Option<&Tenant>,
    at: DateTime<Utc>,
    idempotency: Option<&IdempotencyRecord>,
) -> Result<Recorded, LandlordError> {
    if let Some(record) = idempotency
        && let Some(before) = answered(transaction, record, at).await?
    {
        return Ok(Recorded::Replayed(before));
    }
    if let Some(tenant) = tenant {
        let added = transaction.run(insert_tenant(tenant)).await;
        if added.map_err(failed)?.is_empty() {
            return Err(LandlordError::SlugTaken);
        }
    }
    Ok(Recorded::New)
}

/// Adds a tenant; no row comes back if another has its slug, or its id.
fn insert_tenant(tenant: &Tenant) -> Statement {
    let sql = "insert into tenants \
               (id, name, slug, search, first_plan, isolation, created_at, ready, shard) \
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing \
               returning id";
    statement(sql)
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
        .bind(tenant.shard.as_ref().map(Slug::as_str))
        .notify(CHANNEL, word(News::Tenant(tenant.id)))
}

/// Adds a shard, unless there is one of its name.
fn insert_shard(shard: &Shard) -> Statement {
    let sql = "insert into shards (name, url, open) values ($1, $2, $3) \
               on conflict (name) do nothing returning name";
    statement(sql)
        .bind(shard.name.as_str())
        .bind(shard.url.to_string())
        .bind(i64::from(shard.open))
        .notify(CHANNEL, word(News::Shards))
}

fn update_shard(shard: &Shard) -> Statement {
    statement("update shards set open = $2 where name = $1 returning name")
        .bind(shard.name.as_str())
        .bind(i64::from(shard.open))
        .notify(CHANNEL, word(News::Shards))
}

fn select_shard(name: &Slug) -> Statement {
    statement("select name, url, open from shards where name = $1").bind(name.as_str())
}

fn insert_key(key: &ApiKey) -> Statement {
    let sql = "insert into api_keys (id, hash, role, tenant_id, name, created_at) \
               values ($1, $2, $3, $4, $5, $6) returning id";
    statement(sql)
        .bind(key.id.to_string())
        .bind(key.hash.as_slice())
        .bind(key.role.as_str())
        .bind(key.tenant.map(|tenant| tenant.to_string()))
        .bind(key.name.as_str())
        .bind(key.created_at.timestamp_micros())
        .notify(CHANNEL, word(News::Key(key.id)))
}

/// Remembers the answer to give again; or answers what was remembered before under its key.
async fn answered(
    transaction: &mut dyn Transaction,
    record: &IdempotencyRecord,
    at: DateTime<Utc>,
) -> Result<Option<RecordedOutcome>, LandlordError> {
    let sql = "insert into idempotency (key, fingerprint, outcome, recorded_at) \
               values ($1, $2, $3, $4) on conflict (key) do nothing returning key";
    let insert = statement(sql)
        .bind(record.key.as_str())
        .bind(record.fingerprint.as_slice())
        .bind(record.outcome.as_str())
        .bind(at.timestamp_micros());
    if !transaction.run(insert).await.map_err(failed)?.is_empty() {
        return Ok(None);
    }
    let found = transaction.run(remembered(&record.key)).await;
    let found = found.map_err(failed)?;
    match found.first().map(outcome).transpose().map_err(failed)? {
        Some(before) if before.fingerprint != record.fingerprint => Err(LandlordError::KeyReused),
        before => Ok(before),
    }
}

fn remembered(key: &str) -> Statement {
    statement("select fingerprint, outcome from idempotency where key = $1").bind(key)
}

fn outcome(found: &Row) -> Result<RecordedOutcome, sqlx::Error> {
    Ok(RecordedOutcome {
        fingerprint: hash(found.get(0)?)?,
        outcome: found.get(1)?,
        // The landlord's records are in no ledger.
        position: 0,
    })
}

/// The tenant of a row that begins with [`TENANT_COLUMNS`].
pub(crate) fn tenant(found: &Row) -> Result<Tenant, sqlx::Error> {
    Ok(Tenant {
        id: row::id(found.get(0)?)?,
        name: row::text(found.get(1)?)?,
        slug: row::text(found.get(2)?)?,
        first_plan: row::text(found.get(3)?)?,
        isolation: row::word(found.get(4)?)?,
        created_at: row::time(found.get(5)?)?,
        ready: found.get::<i64>(6)? != 0,
        shard: found.get::<Option<String>>(7)?.map(row::text).transpose()?,
    })
}

fn shard(found: &Row) -> Result<Shard, sqlx::Error> {
    Ok(Shard {
        name: row::text(found.get(0)?)?,
        url: row::id(found.get(1)?)?,
        open: found.get::<i64>(2)? != 0,
    })
}

fn key(found: &Row) -> Result<ApiKey, sqlx::Error> {
    let tenant: Option<&str> = found.get(3)?;
    Ok(ApiKey {
        id: row::id(found.get(0)?)?,
        hash: hash(found.get(1)?)?,
        role: row::word(found.get(2)?)?,
        tenant: tenant.map(row::id).transpose()?,
        name: row::text(found.get(4)?)?,
        created_at: row::time(found.get(5)?)?,
    })
}

fn failed(error: sqlx::Error) -> LandlordError {
    unavailable(THE_DATABASE)(error).into()
}

fn hash(column: &[u8]) -> Result<[u8; 32], sqlx::Error> {
    column.try_into().map_err(row::broken)
}
