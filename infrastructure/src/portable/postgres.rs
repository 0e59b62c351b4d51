//! The statements on PostgreSQL, over a pool that any number of nodes may have the like of.

use std::borrow::Cow;

use async_trait::async_trait;
use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{Connection, PgPool, Postgres};

use super::{Engine, Notice, Row, Statement, Transaction, Value, query};
use crate::database::SchemaTooNew;

/// A PostgreSQL database.
///
/// How long somebody waits for a connection is the pool's `acquire_timeout`.
pub struct PostgresDatabase {
    pool: PgPool,
}

impl PostgresDatabase {
    /// Brings the database's schema up to date. Two nodes may do so at once: the migrator holds an
    /// advisory lock meanwhile.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says; [`SchemaTooNew`] in [`sqlx::Error::Configuration`].
    pub async fn connect(pool: PgPool, migrator: &Migrator) -> Result<Self, sqlx::Error> {
        // The lock is the session's. Should this future be dropped, it must end with the session,
        // so the connection never goes back to the pool.
        let mut connection = pool.acquire().await?.detach();
        let migrated = migrator.run_direct(&mut connection).await;
        connection.close().await?;
        migrated.map_err(|error| refused(error, migrator))?;
        Ok(Self { pool })
    }

    /// Closes its connections, each as soon as nobody uses it.
    pub async fn close(&self) {
        self.pool.close().await;
    }
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

/// Why the schema was not brought up to date.
fn refused(error: MigrateError, migrator: &Migrator) -> sqlx::Error {
    let known = migrator.iter().map(|it| it.version).max().unwrap_or(0);
    match error {
        MigrateError::VersionMissing(found) if found > known => {
            sqlx::Error::Configuration(SchemaTooNew { found, known }.into())
        }
        error => error.into(),
    }
}

#[async_trait]
impl Engine for PostgresDatabase {
    async fn read(&self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        let (sql, values) = with_notice(statement);
        let found = query(&sql, values).fetch_all(&self.pool).await?;
        Ok(found.into_iter().map(Row::Postgres).collect())
    }

    async fn write(&self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        self.read(statement).await
    }

    async fn begin(&self) -> Result<Box<dyn Transaction + '_>, sqlx::Error> {
        Ok(Box::new(self.pool.begin().await?))
    }

    /// The commit is waited for all the same: the server can fail without this process, which
    /// would go on from a checkpoint that the row no longer has.
    async fn begin_replayable(
        &self,
        select: Statement,
    ) -> Result<(Box<dyn Transaction + '_>, Vec<Row>), sqlx::Error> {
        let mut transaction = self.begin().await?;
        let locking = Statement {
            sql: format!("{} for update", select.sql).into(),
            ..select
        };
        let rows = transaction.run(locking).await?;
        Ok((transaction, rows))
    }
}

#[async_trait]
impl Transaction for sqlx::Transaction<'static, Postgres> {
    async fn run(&mut self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        let (sql, values) = with_notice(statement);
        let found = query(&sql, values).fetch_all(&mut **self).await?;
        Ok(found.into_iter().map(Row::Postgres).collect())
    }

    async fn commit(mut self: Box<Self>, last: Statement) -> Result<Vec<Row>, sqlx::Error> {
        let rows = self.run(last).await?;
        sqlx::Transaction::commit(*self).await?;
        Ok(rows)
    }

    async fn rollback(self: Box<Self>) -> Result<(), sqlx::Error> {
        sqlx::Transaction::rollback(*self).await
    }
}
