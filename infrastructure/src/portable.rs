//! One SQL text for every engine: statements in the subset that SQLite and PostgreSQL share.
//!
//! The subset: `$1` for parameters; text, bigint and blob as types; `on conflict`; row values; and
//! `returning` where somebody asks whether anything was done, because a row that comes back means
//! the same everywhere. What differs is here and nowhere else: how a transaction begins, how a row
//! is locked, how values and rows are typed.
//!
//! Behind `dyn`, so that nothing above it is generic: a call costs a box, beside a statement's way
//! to a disk or a server.

pub mod postgres;
mod sqlite;

use std::borrow::Cow;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::query::Query;
use sqlx::sqlite::SqliteRow;
use sqlx::{Decode, Encode, Postgres, Row as _, Sqlite, Type};

/// A database that understands the statements.
#[async_trait]
pub trait Engine: Send + Sync {
    /// The rows of a statement that only reads.
    ///
    /// # Errors
    ///
    /// What the engine says; also if no connection could be had in time.
    async fn read(&self, statement: Statement) -> Result<Vec<Row>, sqlx::Error>;

    /// Does one statement, which is on disk when it is answered.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    async fn write(&self, statement: Statement) -> Result<Vec<Row>, sqlx::Error>;

    /// Does one statement. Only for what can be made again from a ledger and carries its own
    /// checkpoint: a loss of power that ends this process too may take it back.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    async fn write_replayable(&self, statement: Statement) -> Result<Vec<Row>, sqlx::Error>;

    /// Begins a transaction whose commit is on disk when it is answered.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    async fn begin(&self) -> Result<Box<dyn Transaction + '_>, sqlx::Error>;

    /// The rows that `select` finds, to be stored anew by one statement. That statement has to check
    /// that they are still there as they were found: where others can change them, they may.
    ///
    /// Replayable, as [`Self::write_replayable`].
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    async fn revise(
        &self,
        select: Statement,
    ) -> Result<(Box<dyn Transaction + '_>, Vec<Row>), sqlx::Error>;
}

/// A transaction; without an effect if it is dropped, though [`Self::rollback`] is cheaper.
#[async_trait]
pub trait Transaction: Send {
    /// Does a statement.
    ///
    /// # Errors
    ///
    /// What the engine says; the transaction is of no use any more.
    async fn run(&mut self, statement: Statement) -> Result<Vec<Row>, sqlx::Error>;

    /// Does a last statement, and commits.
    ///
    /// # Errors
    ///
    /// What the engine says. Nothing was done then, unless it was the answer that got lost.
    async fn commit(self: Box<Self>, last: Statement) -> Result<Vec<Row>, sqlx::Error>;

    /// Ends it without an effect.
    ///
    /// # Errors
    ///
    /// What the engine says; it has no effect all the same.
    async fn rollback(self: Box<Self>) -> Result<(), sqlx::Error>;
}

/// A text of SQL in the subset, and the values of its parameters.
#[derive(Clone, Debug)]
pub struct Statement {
    sql: Cow<'static, str>,
    values: Vec<Value>,
    notice: Option<Notice>,
}

/// A word to whoever listens.
#[derive(Clone, Debug)]
struct Notice {
    channel: &'static str,
    word: String,
}

/// A statement without values yet.
pub fn statement(sql: impl Into<Cow<'static, str>>) -> Statement {
    Statement {
        sql: sql.into(),
        values: Vec::new(),
        notice: None,
    }
}

impl Statement {
    /// The value of the next parameter.
    #[must_use]
    pub fn bind(mut self, value: impl Into<Value>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Tells a word to whoever listens on `channel`, with the commit, if a row comes back. For a
    /// statement that ends in `returning`. An engine that serves one process has nobody to tell.
    #[must_use]
    pub fn notify(mut self, channel: &'static str, word: String) -> Self {
        self.notice = Some(Notice { channel, word });
        self
    }
}

/// The value of a parameter.
#[derive(Clone, Debug)]
pub enum Value {
    /// A text, or null.
    Text(Option<String>),
    /// A bigint, or null.
    Number(Option<i64>),
    /// A blob.
    Bytes(Vec<u8>),
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(Some(text))
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(Some(text.to_owned()))
    }
}

impl From<Option<String>> for Value {
    fn from(text: Option<String>) -> Self {
        Self::Text(text)
    }
}

impl From<Option<&str>> for Value {
    fn from(text: Option<&str>) -> Self {
        Self::Text(text.map(str::to_owned))
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(Some(number))
    }
}

impl From<Option<i64>> for Value {
    fn from(number: Option<i64>) -> Self {
        Self::Number(number)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

/// A row, from whichever engine.
pub enum Row {
    /// SQLite's.
    Sqlite(SqliteRow),
    /// PostgreSQL's.
    Postgres(PgRow),
}

impl Row {
    /// A column's value, by its place from 0.
    ///
    /// # Errors
    ///
    /// [`sqlx::Error`] if the column is not there or holds something else.
    pub fn get<'r, T>(&'r self, column: usize) -> Result<T, sqlx::Error>
    where
        T: Decode<'r, Sqlite> + Type<Sqlite> + Decode<'r, Postgres> + Type<Postgres>,
    {
        match self {
            Self::Sqlite(row) => row.try_get(column),
            Self::Postgres(row) => row.try_get(column),
        }
    }
}

/// A text and its values, as an engine takes them.
fn query<'q, D>(sql: &'q str, values: Vec<Value>) -> Query<'q, D, D::Arguments<'q>>
where
    D: sqlx::Database,
    Option<String>: Encode<'q, D> + Type<D>,
    Option<i64>: Encode<'q, D> + Type<D>,
    Vec<u8>: Encode<'q, D> + Type<D>,
{
    let bind = |query: Query<'q, D, D::Arguments<'q>>, value| match value {
        Value::Text(text) => query.bind(text),
        Value::Number(number) => query.bind(number),
        Value::Bytes(bytes) => query.bind(bytes),
    };
    values.into_iter().fold(sqlx::query(sql), bind)
}
