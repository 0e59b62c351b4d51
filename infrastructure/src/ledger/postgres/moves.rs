//! A ledger that is moved to another shard: frozen at its old place, and at its new one until it is
//! used from there.
//!
//! Freezing moves the head's revision, so an append that was decided before it stores nothing, and
//! one that is decided after it is refused.

use application::ports::moves::{Condition, Frozen};
use domain::ids::Slug;
use sqlx::{Connection, PgConnection, Row};

use super::restore::LOCK_FILLED;
use crate::patience::{WHOLE_LEDGER_MAX, limited, limited_to};
use crate::shard::Room;
use crate::shard::schema::is_missing;

/// A ledger that is not frozen is in use.
#[derive(Debug, thiserror::Error)]
#[error("the schema {0} is not frozen, so it is not dropped")]
struct NotFrozen(String);

impl Room {
    /// Freezes the ledger, because it is moved to a shard. One that is frozen stays so, at another
    /// revision.
    pub(crate) async fn freeze(&self, to: &Slug) -> Result<Frozen, sqlx::Error> {
        let freeze = format!(
            "update {} set moved_to = $1, revision = revision + 1 where id = 1 returning revision",
            self.schema().table("head")
        );
        let mut connection = self.connection().await?;
        let freeze = sqlx::query_scalar(&freeze).bind(to.as_str());
        let frozen = limited(freeze.fetch_one(connection.work())).await;
        connection.done(frozen).map(Frozen)
    }

    /// Whether the ledger is there and frozen, and at which revision. One without a head is none.
    pub(crate) async fn condition(&self) -> Result<Condition, sqlx::Error> {
        let head = self.schema().table("head");
        let select = format!("select moved_to is not null, revision from {head} where id = 1");
        let asked = async {
            let mut connection = self.connection().await?;
            let found = sqlx::query_as::<_, (bool, i64)>(&select);
            let found = limited(found.fetch_optional(connection.work())).await;
            connection.done(found)
        };
        match asked.await {
            Err(error) if is_missing(&error) => Ok(Condition::Missing),
            Err(error) => Err(error),
            Ok(None) => Ok(Condition::Missing),
            Ok(Some((false, _))) => Ok(Condition::InUse),
            Ok(Some((true, revision))) => Ok(Condition::Frozen(Frozen(revision))),
        }
    }

    /// Lets the ledger take appends, if it is as it was seen.
    pub(crate) async fn thaw(&self, seen: Frozen) -> Result<bool, sqlx::Error> {
        let thaw = format!(
            "update {} set moved_to = null, revision = revision + 1 \
             where id = 1 and moved_to is not null and revision = $1",
            self.schema().table("head")
        );
        let mut connection = self.connection().await?;
        let thaw = sqlx::query(&thaw).bind(seen.0);
        let thawed = limited(thaw.execute(connection.work())).await;
        Ok(connection.done(thawed)?.rows_affected() == 1)
    }

    /// All that two copies of a ledger have in common; nothing if it is not there, or not frozen.
    pub(crate) async fn summary(&self) -> Result<Option<String>, sqlx::Error> {
        let (head, events) = (self.schema().table("head"), self.schema().table("events"));
        let idempotency = self.schema().table("idempotency");
        let summary = format!(
            "select row(position, hash, issued, active, suspended, revoked, expired, replaced, \
             subscription_version, card_serials_reserved, (select count(*) from {events}), \
             (select count(*) from {idempotency}))::text \
             from {head} where id = 1 and moved_to is not null"
        );
        let asked = async {
            let mut connection = self.separate().await?;
            let summary = sqlx::query_scalar(&summary);
            let summary = summary.fetch_optional(&mut connection);
            let summary = limited_to(WHOLE_LEDGER_MAX, summary).await;
            let _ = limited(connection.close()).await;
            summary
        };
        match asked.await {
            Err(error) if is_missing(&error) => Ok(None),
            summary => summary,
        }
    }

    /// Drops the schema if it is there and frozen; also what was filled to become it. Whether there
    /// is nothing of it any more.
    pub(crate) async fn drop_frozen(&self) -> Result<(), sqlx::Error> {
        let mut connection = match self.separate().await {
            Err(error) if is_missing(&error) => return Ok(()),
            connection => connection?,
        };
        let dropped = limited_to(WHOLE_LEDGER_MAX, self.drop_on(&mut connection)).await;
        let _ = limited(connection.close()).await;
        dropped
    }

    async fn drop_on(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let mut transaction = connection.begin().await?;
        let is_there = format!(
            "select to_regclass('{}') is not null",
            self.schema().table("head")
        );
        if sqlx::query_scalar(&is_there)
            .fetch_one(&mut *transaction)
            .await?
        {
            // Locked: whoever wants to thaw it waits, and then finds nothing.
            let head = self.schema().table("head");
            let frozen = format!("select moved_to is not null from {head} where id = 1 for update");
            let frozen = sqlx::query(&frozen).fetch_one(&mut *transaction).await?;
            if !frozen.try_get::<bool, _>(0)? {
                let error = NotFrozen(self.schema().name().to_owned());
                return Err(sqlx::Error::Configuration(error.into()));
            }
            let drop = format!("drop schema {} cascade", self.schema().name());
            sqlx::query(&drop).execute(&mut *transaction).await?;
        }
        let filled = self.schema().filled();
        sqlx::query(LOCK_FILLED)
            .bind(filled.name())
            .execute(&mut *transaction)
            .await?;
        let drop = format!("drop schema if exists {} cascade", filled.name());
        sqlx::query(&drop).execute(&mut *transaction).await?;
        transaction.commit().await
    }
}
