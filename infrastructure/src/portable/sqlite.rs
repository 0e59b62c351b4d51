//! The statements on SQLite: as few texts as possible, because each is a hand-over to the
//! connection's thread (see [`Exchange`]).

use async_trait::async_trait;

use super::{Engine, Row, Statement, Transaction, Value, query};
use crate::database::{BEGIN, BEGIN_REPLAYABLE, Database, Exchange};

#[async_trait]
impl Engine for Database {
    async fn read(&self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        let found = query(&statement.sql, statement.values)
            .fetch_all(self.readers())
            .await?;
        Ok(found.into_iter().map(Row::Sqlite).collect())
    }

    async fn write(&self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        write(self, BEGIN, statement).await
    }

    async fn write_replayable(&self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        write(self, BEGIN_REPLAYABLE, statement).await
    }

    async fn begin(&self) -> Result<Box<dyn Transaction + '_>, sqlx::Error> {
        let mut exchange = self.exchange().await?;
        rows(&mut exchange, BEGIN, Vec::new()).await?;
        Ok(Box::new(exchange))
    }

    /// The write lock is taken before the select, and is every row's.
    async fn revise(
        &self,
        select: Statement,
    ) -> Result<(Box<dyn Transaction + '_>, Vec<Row>), sqlx::Error> {
        let mut exchange = self.exchange().await?;
        let sql = format!("{BEGIN_REPLAYABLE}{}", select.sql);
        let rows = rows(&mut exchange, &sql, select.values).await?;
        Ok((Box::new(exchange), rows))
    }
}

#[async_trait]
impl Transaction for Exchange<'_> {
    async fn run(&mut self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        rows(self, &statement.sql, statement.values).await
    }

    async fn commit(mut self: Box<Self>, last: Statement) -> Result<Vec<Row>, sqlx::Error> {
        let sql = format!("{}; commit", last.sql);
        let rows = rows(&mut self, &sql, last.values).await?;
        self.done();
        Ok(rows)
    }

    async fn rollback(self: Box<Self>) -> Result<(), sqlx::Error> {
        Exchange::rollback(*self).await
    }
}

/// A transaction of one statement.
async fn write(
    database: &Database,
    begin: &str,
    statement: Statement,
) -> Result<Vec<Row>, sqlx::Error> {
    let mut exchange = database.exchange().await?;
    let sql = format!("{begin}{}; commit", statement.sql);
    let rows = rows(&mut exchange, &sql, statement.values).await?;
    exchange.done();
    Ok(rows)
}

/// All rows, which is also what makes every statement of the text run.
async fn rows(
    exchange: &mut Exchange<'_>,
    sql: &str,
    values: Vec<Value>,
) -> Result<Vec<Row>, sqlx::Error> {
    let found = query(sql, values).fetch_all(exchange.connection()).await?;
    Ok(found.into_iter().map(Row::Sqlite).collect())
}
