//! Tenants' own databases, beside the shard's on its server.
//!
//! The schema in one has the same name as it would have in the shard, so every statement is the
//! same. Its rings go through the shard's doorbell: they are hints, and need no second listener.

use std::sync::{Arc, PoisonError};

use domain::ids::{Slug, TenantId};

use super::*;
use crate::patience::{STEP_MAX, limited, limited_to};
use crate::shard::schema::Schema;

/// How often a database is tried to be dropped: a node that does not use the
/// tenant lets go of it within twice [`DEDICATED_CONNECTION_IDLE`].
const DROP_TRIES_MAX: u32 = 90;
const DROP_PAUSE: Duration = Duration::from_secs(1);

/// The shard's login may not make databases.
#[derive(Debug, thiserror::Error)]
#[error("the login may not make databases: grant it CREATEDB")]
struct MayNotMakeDatabases;

impl ConnectedShards {
    pub(super) fn dedicated(&self, name: &Slug, tenant: TenantId, shard: &Place) -> Arc<Place> {
        let key = (name.clone(), tenant);
        let mut dedicated = self
            .dedicated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = dedicated.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        dedicated.retain(|_, it| it.strong_count() > 0);
        let options = shard.options.clone().database(Schema::of(tenant).name());
        let connections_max = self.node.dedicated_connections_max;
        let place = Arc::new(Place {
            shard: connections(&options, connections_max, DEDICATED_CONNECTION_IDLE),
            options,
            beside: Some(shard.options.clone()),
        });
        dedicated.insert(key, Arc::downgrade(&place));
        place
    }
}

impl Place {
    /// Makes the database if it is a tenant's own and not there. Two nodes may do so at once.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says; in [`sqlx::Error::Configuration`], that the login may not.
    pub async fn make_database(&self, schema: &Schema) -> Result<(), sqlx::Error> {
        let Some(shard) = &self.beside else {
            return Ok(());
        };
        let mut connection = limited(shard.connect()).await?;
        let made = make_database(&mut connection, schema.name());
        let made = limited_to(STEP_MAX, made).await;
        // What went wrong in the making says more than what goes wrong in the closing.
        let _ = limited(connection.close()).await;
        made
    }
}

impl Place {
    /// Drops a tenant's own database, once nobody is connected to it any more. One that cannot be
    /// dropped is empty, and left.
    pub(super) async fn drop_database(&self, schema: &Schema) {
        let Some(shard) = &self.beside else {
            return;
        };
        self.shard.close().await;
        // Never by force: who is connected may be somebody who has a tenant there by now.
        let drop = format!("drop database if exists {}", schema.name());
        let mut tries = 0;
        while let Err(error) = execute(shard, &drop).await {
            tries += 1;
            if tries == DROP_TRIES_MAX {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(database = schema.name(), error, "an empty database is left");
                return;
            }
            tokio::time::sleep(DROP_PAUSE).await;
        }
    }
}

async fn execute(database: &PgConnectOptions, statement: &str) -> Result<(), sqlx::Error> {
    let mut connection = limited(database.connect()).await?;
    let done = sqlx::query(statement).execute(&mut connection);
    let done = limited_to(STEP_MAX, done).await;
    let _ = limited(connection.close()).await;
    done.map(drop)
}

async fn make_database(connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    let there = "select exists (select from pg_database where datname = $1)";
    let there = sqlx::query_scalar(there).bind(name);
    if there.fetch_one(&mut *connection).await? {
        return Ok(());
    }
    let make = format!("create database {name} template template0");
    let made = sqlx::query(&make).execute(connection).await;
    match made {
        // Another node was faster: it is there, or its name was taken meanwhile.
        Err(sqlx::Error::Database(error))
            if ["42P04", "23505"].contains(&&*error.code().unwrap_or_default()) =>
        {
            Ok(())
        }
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => {
            Err(sqlx::Error::Configuration(MayNotMakeDatabases.into()))
        }
        made => made.map(drop),
    }
}
