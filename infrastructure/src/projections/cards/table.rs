//! The table of cards and its checkpoint: what they are on every engine, and how SQLite makes
//! them, moves them and swaps them.
//!
//! There are two such tables while the read model is built anew. Index names are the database's,
//! not the table's, so they carry a number that grows with each building.

use application::ports::{HandlerError, Unavailable};
use domain::ids::Position;
use sqlx::{Executor, Sqlite, SqliteConnection, Transaction};

use super::failed;
use crate::projections::row;

/// The cards that can fall due, as the index over them says it and as queries must say it.
pub const IN_CIRCULATION: &str =
    "expires_at is not null and status in ('issued', 'active', 'suspended')";

/// Where the number of the latest building is kept.
pub const GENERATION: &str = "cards.generation";

/// One of the two tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    /// The one that is read.
    Live,
    /// The one that is being built.
    Next,
}

impl Table {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Live => "cards",
            Self::Next => "cards_next",
        }
    }

    /// The name of its checkpoint.
    pub const fn checkpoint(self) -> &'static str {
        match self {
            Self::Live => "cards",
            Self::Next => "cards.next",
        }
    }
}

/// Whether the live table is there.
pub async fn exists<'c>(
    executor: impl Executor<'c, Database = Sqlite>,
) -> Result<bool, sqlx::Error> {
    Ok(checkpoint(executor, Table::Live).await?.is_some())
}

/// Makes the live table and its checkpoint, unless they are there.
pub async fn create_first(transaction: &mut Transaction<'_, Sqlite>) -> Result<(), sqlx::Error> {
    if !exists(&mut **transaction).await? {
        create(transaction, Table::Live).await?;
        for index in INDEXES {
            create_index(transaction, Table::Live, index, 0).await?;
        }
    }
    Ok(())
}

/// Makes an empty table to build in, in place of one that was left unfinished; answers the number
/// for its indexes, which are best made when it is full.
pub async fn create_next(transaction: &mut Transaction<'_, Sqlite>) -> Result<i64, sqlx::Error> {
    let generation = sqlx::query_scalar(
        "insert into checkpoints (subscriber, position) values ($1, 1) \
         on conflict (subscriber) do update set position = checkpoints.position + 1 \
         returning position",
    )
    .bind(GENERATION)
    .fetch_one(&mut **transaction)
    .await?;
    execute(transaction, "drop table if exists cards_next").await?;
    create(transaction, Table::Next).await?;
    Ok(generation)
}

/// The number of the latest building.
pub async fn generation(transaction: &mut Transaction<'_, Sqlite>) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select position from checkpoints where subscriber = $1")
        .bind(GENERATION)
        .fetch_one(&mut **transaction)
        .await
}

/// The columns as a table is made with them. Texts are of a type that compares them byte by byte.
pub fn columns(text: &str) -> String {
    format!(
        "id {text} not null primary key, number {text} not null, status {text} not null, \
         holder_name {text} not null, holder_email {text}, external_ref {text}, \
         tier {text} not null, issued_at bigint not null, expires_at bigint, replaces {text}, \
         replaced_by {text}, version bigint not null, name_sort {text} not null, \
         search {text} not null"
    )
}

async fn create(
    transaction: &mut Transaction<'_, Sqlite>,
    table: Table,
) -> Result<(), sqlx::Error> {
    let name = table.name();
    let statement = format!("create table {name} ({})", columns("text"));
    execute(transaction, &statement).await?;
    sqlx::query(
        "insert into checkpoints (subscriber, position) values ($1, 0) \
         on conflict (subscriber) do update set position = excluded.position",
    )
    .bind(table.checkpoint())
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// An index over the cards. The order by name has none: names come in no order, so each new card
/// would dirty a page of its own (49 µs a row with that index, 13.5 µs without, measured once, 50
/// rows a transaction). A page of that order is found by a scan instead.
#[derive(Clone, Copy, Debug)]
pub enum Index {
    IssuedAt,
    Due,
}

/// All of them.
pub const INDEXES: [Index; 2] = [Index::IssuedAt, Index::Due];

impl Index {
    /// The statement that makes it for the table of this name.
    pub fn statement(self, table: &str, generation: i64) -> String {
        match self {
            Self::IssuedAt => {
                format!("create index cards_issued_at_{generation} on {table} (issued_at, id)")
            }
            Self::Due => format!(
                "create index cards_due_{generation} on {table} (expires_at, id) \
                 where {IN_CIRCULATION}"
            ),
        }
    }
}

/// Makes one index of a table.
pub async fn create_index(
    transaction: &mut Transaction<'_, Sqlite>,
    table: Table,
    index: Index,
    generation: i64,
) -> Result<(), sqlx::Error> {
    execute(transaction, &index.statement(table.name(), generation)).await
}

/// Puts the table that was built in the place of the live one, with its checkpoint.
pub async fn swap(
    transaction: &mut Transaction<'_, Sqlite>,
    position: Position,
) -> Result<(), sqlx::Error> {
    execute(transaction, "drop table cards").await?;
    execute(transaction, "alter table cards_next rename to cards").await?;
    sqlx::query("update checkpoints set position = $2 where subscriber = $1")
        .bind(Table::Live.checkpoint())
        .bind(row::column(position))
        .execute(&mut **transaction)
        .await?;
    sqlx::query("delete from checkpoints where subscriber = $1")
        .bind(Table::Next.checkpoint())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Runs a statement that is too rare to be kept prepared.
async fn execute(
    transaction: &mut Transaction<'_, Sqlite>,
    statement: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query(statement)
        .persistent(false)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Up to where a table has the ledger; `None` if there is no such table.
pub async fn checkpoint<'c>(
    executor: impl Executor<'c, Database = Sqlite>,
    table: Table,
) -> Result<Option<Position>, sqlx::Error> {
    let found: Option<i64> =
        sqlx::query_scalar("select position from checkpoints where subscriber = $1")
            .bind(table.checkpoint())
            .fetch_optional(executor)
            .await?;
    found.map(row::position).transpose()
}

/// As [`checkpoint`]; there must be one.
pub async fn reached(
    connection: &mut SqliteConnection,
    table: Table,
) -> Result<Position, HandlerError> {
    let checkpoint = checkpoint(connection, table).await.map_err(failed)?;
    checkpoint.ok_or_else(|| missing(table))
}

/// There is no such table.
pub fn missing(table: Table) -> HandlerError {
    let checkpoint = table.checkpoint();
    HandlerError::Failed(format!("there is no checkpoint {checkpoint}"))
}

/// Moves the live table's checkpoint, from a place that is bound first to one that is bound then.
/// Fails if it is elsewhere or not there: a position may not be null.
pub const MOVE_LIVE: &str = "insert into checkpoints (subscriber, position) values ('cards', \
     case (select position from checkpoints where subscriber = 'cards') when ? then ? end) \
     on conflict (subscriber) do update set position = excluded.position";

/// Moves the checkpoint of the table that is being built.
pub async fn advance_next(
    transaction: &mut Transaction<'_, Sqlite>,
    from: Position,
    to: Position,
) -> Result<(), HandlerError> {
    let moved =
        sqlx::query("update checkpoints set position = $3 where subscriber = $1 and position = $2")
            .bind(Table::Next.checkpoint())
            .bind(row::column(from))
            .bind(row::column(to))
            .execute(&mut **transaction)
            .await
            .map_err(failed)?;
    match moved.rows_affected() {
        0 => Err(Unavailable::new("the checkpoint, which others are moving too").into()),
        _ => Ok(()),
    }
}
