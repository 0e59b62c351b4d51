//! Filling a PostgreSQL schema with a history from elsewhere, under a name that no tenant has.

use application::ports::StoredEvent;
use application::ports::restore::{RestoreError, RestoringStore, StoredOutcome};
use domain::chain::Hash;
use domain::ids::{Position, Slug, TenantId};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection, Postgres};

use super::super::column::to_i64;
use super::super::restore::{
    Filling, ROWS_MAX, Restoring, failed, insert_events, insert_outcomes, update_head,
};
use super::super::{HeadRow, StoreError};
use crate::patience::{STEP_MAX, WHOLE_LEDGER_MAX, limited, limited_to};
use crate::shard::schema::{LOCK_WAIT_MAX, Schema};

/// Held for as long as the connection lives, by whoever fills the schema.
const LOCK: &str = "select pg_try_advisory_lock(hashtextextended($1, 1))";
/// The same lock, waited for, and let go at the end of the transaction.
pub(super) const LOCK_FILLED: &str = "select pg_advisory_xact_lock(hashtextextended($1, 1))";
/// The name is taken.
const DUPLICATE_SCHEMA: &str = "42P06";

/// Begins to fill the schema of a tenant, who has none in this shard.
///
/// # Errors
///
/// [`RestoreError::InProgress`] if somebody else does.
pub async fn restore(
    tenant: TenantId,
    shard: &PgConnectOptions,
) -> Result<Box<dyn RestoringStore>, RestoreError> {
    let begun = SchemaBeside::begin(Schema::of(tenant), shard).await;
    match begun.map_err(failed)? {
        Some(filling) => Ok(Box::new(Restoring::new(tenant, filling))),
        None => Err(RestoreError::InProgress),
    }
}

/// The same, of a tenant that is moved `to` this shard: the ledger is frozen.
///
/// # Errors
///
/// As [`restore`].
pub async fn restore_frozen(
    tenant: TenantId,
    shard: &PgConnectOptions,
    to: &Slug,
) -> Result<Box<dyn RestoringStore>, RestoreError> {
    let begun = SchemaBeside::begin(Schema::of(tenant), shard).await;
    let Some(mut filling) = begun.map_err(failed)? else {
        return Err(RestoreError::InProgress);
    };
    let frozen = sqlx::query("update head set moved_to = $1 where id = 1")
        .bind(to.as_str())
        .execute(&mut filling.connection);
    let frozen = limited(frozen).await;
    frozen.map_err(|error| failed(StoreError::from(error)))?;
    Ok(Box::new(Restoring::new(tenant, filling)))
}

/// The schema being filled.
struct SchemaBeside {
    /// What it will be.
    schema: Schema,
    /// What it is.
    filled: Schema,
    /// A connection of its own, whose search path is the schema.
    connection: PgConnection,
}

impl SchemaBeside {
    /// Nothing, if somebody else fills it.
    async fn begin(schema: Schema, shard: &PgConnectOptions) -> Result<Option<Self>, StoreError> {
        let filled = schema.filled();
        let options = shard.clone().options([("lock_timeout", LOCK_WAIT_MAX)]);
        let mut connection = limited(options.connect()).await?;
        let locked = sqlx::query_scalar(LOCK).bind(filled.name());
        if !limited(locked.fetch_one(&mut connection)).await? {
            limited(connection.close()).await?;
            return Ok(None);
        }
        let mut begun = Self {
            schema,
            filled,
            connection,
        };
        // An earlier attempt's; who may drop it is made if it was not there.
        begun.filled.migrate(shard).await?;
        limited(begun.filled.settle(&mut begun.connection)).await?;
        begun.drop_filled().await?;
        begun.filled.migrate(shard).await?;
        Ok(Some(begun))
    }

    /// Whoever renames a schema must own it and may create one: for that moment, the tenant's role
    /// may too.
    async fn rename(&mut self) -> Result<(), sqlx::Error> {
        let (filled, schema) = (self.filled.name(), self.schema.name());
        let (role, enter) = (self.schema.role(), self.schema.set_role());
        let current = "select quote_ident(current_database())";
        let database = sqlx::query_scalar(current).fetch_one(&mut self.connection);
        let database: String = limited(database).await?;
        // Two grants on a database at once: one of them fails.
        let rename = format!(
            "begin; select pg_advisory_xact_lock(hashtextextended('grants', 2)); \
             reset role; grant create on database {database} to {role}; {enter}; \
             alter schema {filled} rename to {schema}; \
             reset role; revoke create on database {database} from {role}; commit"
        );
        let renamed = self.connection.execute(rename.as_str());
        let renamed = limited_to(STEP_MAX, renamed).await;
        if renamed.is_err() {
            limited(self.connection.execute("rollback")).await?;
        }
        renamed.map(drop)
    }

    async fn drop_filled(&mut self) -> Result<(), StoreError> {
        let drop = format!("drop schema if exists {} cascade", self.filled.name());
        let dropped = sqlx::query(&drop).execute(&mut self.connection);
        limited_to(STEP_MAX, dropped).await?;
        Ok(())
    }
}

impl Filling for SchemaBeside {
    async fn events(&mut self, events: &[StoredEvent]) -> Result<(), StoreError> {
        let stored = async {
            let mut transaction = self.connection.begin().await?;
            for some in events.chunks(ROWS_MAX) {
                insert_events::<Postgres>(some, "::json")
                    .build()
                    .execute(&mut *transaction)
                    .await?;
            }
            Ok(transaction.commit().await?)
        };
        limited_to(STEP_MAX, stored).await
    }

    async fn outcomes(&mut self, outcomes: &[StoredOutcome]) -> Result<(), StoreError> {
        let stored = async {
            let mut transaction = self.connection.begin().await?;
            for some in outcomes.chunks(ROWS_MAX) {
                insert_outcomes::<Postgres>(some)
                    .build()
                    .execute(&mut *transaction)
                    .await?;
            }
            Ok(transaction.commit().await?)
        };
        limited_to(STEP_MAX, stored).await
    }

    async fn finds(&mut self, query: &str) -> Result<bool, StoreError> {
        let found = sqlx::query_scalar(query).fetch_one(&mut self.connection);
        Ok(limited_to(WHOLE_LEDGER_MAX, found).await?)
    }

    async fn head(&mut self, head: &HeadRow) -> Result<(), StoreError> {
        let mut update = update_head::<Postgres>(head);
        limited(update.build().execute(&mut self.connection)).await?;
        Ok(())
    }

    async fn publish(mut self) -> Result<Result<(), Self>, StoreError> {
        match self.rename().await {
            Ok(()) => {
                // The connection has served; what it says in parting changes nothing.
                let _ = limited(self.connection.close()).await;
                Ok(Ok(()))
            }
            Err(sqlx::Error::Database(error))
                if error.code().as_deref() == Some(DUPLICATE_SCHEMA) =>
            {
                Ok(Err(self))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn is_there(&mut self, position: Position, hash: &Hash) -> Result<bool, StoreError> {
        let events = self.schema.table("events");
        let is_stored =
            format!("select exists (select from {events} where position = $1 and hash = $2)");
        let found = sqlx::query_scalar(&is_stored)
            .bind(to_i64(position))
            .bind(hash.as_bytes().as_slice());
        Ok(limited(found.fetch_one(&mut self.connection)).await?)
    }

    async fn discard(mut self) -> Result<(), StoreError> {
        self.drop_filled().await?;
        Ok(limited(self.connection.close()).await?)
    }
}
