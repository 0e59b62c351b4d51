//! The statements on PostgreSQL, over a pool that any number of nodes may have the like of.

use std::borrow::Cow;

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::pool::PoolConnection;
use sqlx::{Connection, PgPool, Postgres};

use super::{Engine, Notice, Row, Statement, Transaction, Value, query};
use crate::database::{Older, is_older};
use crate::patience::limited;

/// A PostgreSQL database.
///
/// How long somebody waits for a connection is the pool's `acquire_timeout`.
pub struct PostgresDatabase {
    pool: PgPool,
}

impl PostgresDatabase {
    /// Brings the database's schema up to date, if that may be done. Two nodes may do so at once:
    /// the migrator holds an advisory lock meanwhile.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says; [`SchemaTooNew`](crate::database::SchemaTooNew) or
    /// [`SchemaTooOld`](crate::database::SchemaTooOld) in [`sqlx::Error::Configuration`].
    pub async fn connect(
        pool: PgPool,
        migrator: &Migrator,
        older: Older,
    ) -> Result<Self, sqlx::Error> {
        let found = version(&pool).await?;
        if is_older(found, migrator, older)? {
            // The lock is the session's. Should this future be dropped, it must end with the
            // session, so the connection never goes back to the pool.
            let mut connection = pool.acquire().await?.detach();
            let migrated = migrator.run_direct(&mut connection).await;
            connection.close().await?;
            migrated?;
        }
        Ok(Self { pool })
    }

    /// Closes its connections, each as soon as nobody uses it.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// The version of the database's schema; 0 if it has none.
async fn version(pool: &PgPool) -> Result<i64, sqlx::Error> {
    let has_one = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null");
    if !has_one.fetch_one(pool).await? {
        return Ok(0);
    }
    let version = "select coalesce(max(version), 0) from _sqlx_migrations where success";
    sqlx::query_scalar(version).fetch_one(pool).await
}

/// A statement's text and values, its word told by the same statement. That takes a lock of the
/// whole cluster at the commit, so it is for what changes rarely.
fn with_notice(statement: Statement) -> (Cow<'static, str>, Vec<Value>) {
    let Statement {
        sql,
        mut values,
        notice,
    } = statement;
    let Some(Notice { channel, word }) = notice else {
        return (sql, values);
    };
    values.extend([channel.into(), word.into()]);
    let (word, channel) = (values.len(), values.len() - 1);
    let sql =
        format!("with done as ({sql}) select done.*, pg_notify(${channel}, ${word}) from done");
    (sql.into(), values)
}

#[async_trait]
impl Engine for PostgresDatabase {
    async fn read(&self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        let (sql, values) = with_notice(statement);
        let found = limited(query(&sql, values).fetch_all(&self.pool)).await?;
        Ok(found.into_iter().map(Row::Postgres).collect())
    }

    async fn write(&self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        self.read(statement).await
    }

    /// The commit is waited for: the server can fail without this process, which would go on from a
    /// checkpoint that the row no longer has.
    async fn write_replayable(&self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        self.read(statement).await
    }

    async fn begin(&self) -> Result<Box<dyn Transaction + '_>, sqlx::Error> {
        Ok(Box::new(limited(self.pool.begin()).await?))
    }

    /// No lock is held between the two statements, and neither is a transaction. The commit is
    /// waited for all the same, as in [`Self::write_replayable`].
    async fn revise(
        &self,
        select: Statement,
    ) -> Result<(Box<dyn Transaction + '_>, Vec<Row>), sqlx::Error> {
        let mut revision = Revision(self.pool.acquire().await?);
        let rows = revision.run(select).await?;
        Ok((Box::new(revision), rows))
    }
}

/// Statements on one connection, each of which is committed for itself.
struct Revision(PoolConnection<Postgres>);

#[async_trait]
impl Transaction for Revision {
    async fn run(&mut self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        let (sql, values) = with_notice(statement);
        let found = limited(query(&sql, values).fetch_all(&mut *self.0)).await;
        if found.is_err() {
            // It may still be under way.
            self.0.close_on_drop();
        }
        Ok(found?.into_iter().map(Row::Postgres).collect())
    }

    async fn commit(mut self: Box<Self>, last: Statement) -> Result<Vec<Row>, sqlx::Error> {
        self.run(last).await
    }

    async fn rollback(self: Box<Self>) -> Result<(), sqlx::Error> {
        Ok(())
    }
}

#[async_trait]
impl Transaction for sqlx::Transaction<'static, Postgres> {
    async fn run(&mut self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        let (sql, values) = with_notice(statement);
        let found = limited(query(&sql, values).fetch_all(&mut **self)).await?;
        Ok(found.into_iter().map(Row::Postgres).collect())
    }

    async fn commit(mut self: Box<Self>, last: Statement) -> Result<Vec<Row>, sqlx::Error> {
        let rows = self.run(last).await?;
        limited(sqlx::Transaction::commit(*self)).await?;
        Ok(rows)
    }

    async fn rollback(self: Box<Self>) -> Result<(), sqlx::Error> {
        limited(sqlx::Transaction::rollback(*self)).await
    }
}
