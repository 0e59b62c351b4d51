//! A ledger that is moved to another shard: frozen at its old place, and at its new one until it is
//! used from there.
//!
//! Freezing moves the head's revision, so an append that was decided before it stores nothing, and
//! one that is decided after it is refused.

use domain::ids::Slug;
use sqlx::{PgPool, Row};

use super::Schema;
use super::restore::{LOCK_FILLED, filled};

/// A ledger that is not frozen is in use.
#[derive(Debug, thiserror::Error)]
#[error("the schema {0} is not frozen, so it is not dropped")]
struct NotFrozen(String);

impl Schema {
    /// Freezes the ledger, because it is moved to a shard. One that is frozen stays so.
    pub(crate) async fn freeze(&self, place: &PgPool, to: &Slug) -> Result<(), sqlx::Error> {
        let freeze = format!(
            "update {} set moved_to = $1, revision = revision + 1 \
             where id = 1 and moved_to is null",
            self.table("head")
        );
        let freeze = sqlx::query(&freeze).bind(to.as_str());
        freeze.execute(place).await.map(drop)
    }

    /// Lets the ledger take appends.
    pub(crate) async fn thaw(&self, place: &PgPool) -> Result<(), sqlx::Error> {
        let thaw = format!(
            "update {} set moved_to = null, revision = revision + 1 \
             where id = 1 and moved_to is not null",
            self.table("head")
        );
        sqlx::query(&thaw).execute(place).await.map(drop)
    }

    /// All that two copies of a ledger have in common; nothing if it is not there, or not frozen.
    pub(crate) async fn summary(&self, place: &PgPool) -> Result<Option<String>, sqlx::Error> {
        let (head, events) = (self.table("head"), self.table("events"));
        let idempotency = self.table("idempotency");
        let summary = format!(
            "select row(position, hash, issued, active, suspended, revoked, expired, replaced, \
             subscription_version, card_serials_reserved, (select count(*) from {events}), \
             (select count(*) from {idempotency}))::text \
             from {head} where id = 1 and moved_to is not null"
        );
        match sqlx::query_scalar(&summary).fetch_optional(place).await {
            Err(error) if is_missing(&error) => Ok(None),
            summary => summary,
        }
    }

    /// Drops the schema if it is there and frozen; also what was filled to become it. Whether there
    /// is nothing of it any more.
    pub(crate) async fn drop_frozen(&self, place: &PgPool) -> Result<(), sqlx::Error> {
        let mut transaction = match place.begin().await {
            Err(error) if is_missing(&error) => return Ok(()),
            begun => begun?,
        };
        let is_there = format!("select to_regclass('{}') is not null", self.table("head"));
        if sqlx::query_scalar(&is_there)
            .fetch_one(&mut *transaction)
            .await?
        {
            // Locked: whoever wants to thaw it waits, and then finds nothing.
            let head = self.table("head");
            let frozen = format!("select moved_to is not null from {head} where id = 1 for update");
            let frozen = sqlx::query(&frozen).fetch_one(&mut *transaction).await?;
            if !frozen.try_get::<bool, _>(0)? {
                let error = NotFrozen(self.0.clone());
                return Err(sqlx::Error::Configuration(error.into()));
            }
            let drop = format!("drop schema {} cascade", self.0);
            sqlx::query(&drop).execute(&mut *transaction).await?;
        }
        let filled = filled(self);
        sqlx::query(LOCK_FILLED)
            .bind(&filled.0)
            .execute(&mut *transaction)
            .await?;
        let drop = format!("drop schema if exists {} cascade", filled.0);
        sqlx::query(&drop).execute(&mut *transaction).await?;
        transaction.commit().await
    }
}

/// Whether there is no such table, schema or database.
pub(crate) fn is_missing(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|it| it.code());
    code.is_some_and(|code| ["42P01", "3F000", "3D000"].contains(&&*code))
}
