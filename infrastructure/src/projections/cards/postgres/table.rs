//! The table of cards in a schema, and what is beside it in the table of checkpoints.

use application::ports::HandlerError;
use domain::ids::Position;
use sqlx::{Connection, PgConnection, PgExecutor};

use super::super::failed;
use super::super::table::{self, GENERATION, INDEXES, Table};
use crate::projections::row;
use crate::shard::schema::Schema;

/// Texts are compared byte by byte, as SQLite does, whatever language the database was made for.
const TEXT: &str = "text collate \"C\"";

/// Where it is counted how often the live table was replaced.
pub const SWAPS: &str = "cards.swaps";

/// Makes the live table and its checkpoint, unless they are there.
pub async fn create_first(
    connection: &mut PgConnection,
    schema: &Schema,
) -> Result<(), sqlx::Error> {
    let found = checkpoint(&mut *connection, schema, Table::Live).await?;
    if found.is_some() {
        return Ok(());
    }
    let mut transaction = connection.begin().await?;
    // Of two nodes that found none, one makes it and the other finds it then.
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(schema.table(Table::Live.name()))
        .execute(&mut *transaction)
        .await?;
    let found = checkpoint(&mut *transaction, schema, Table::Live).await?;
    if found.is_none() {
        create(&mut transaction, schema, Table::Live).await?;
        set(&mut transaction, schema, SWAPS, 0).await?;
        for index in INDEXES {
            create_index(&mut transaction, schema, Table::Live, index, 0).await?;
        }
    }
    transaction.commit().await
}

/// Makes an empty table to build in, in place of one that was left unfinished; answers the number
/// for its indexes, which are best made when it is full.
pub async fn create_next(
    connection: &mut PgConnection,
    schema: &Schema,
) -> Result<i64, sqlx::Error> {
    let checkpoints = schema.table("checkpoints");
    // Waits for a step of the building before it, which holds this row (see `generation`).
    let sql = format!(
        "insert into {checkpoints} as building (subscriber, position) values ($1, 1) \
         on conflict (subscriber) do update set position = building.position + 1 \
         returning position"
    );
    let generation = sqlx::query_scalar(&sql)
        .bind(GENERATION)
        .fetch_one(&mut *connection)
        .await?;
    let next = schema.table(Table::Next.name());
    execute(connection, &format!("drop table if exists {next}")).await?;
    create(connection, schema, Table::Next).await?;
    Ok(generation)
}

/// The number of the latest building, which stays the latest until the transaction ends.
pub async fn generation(
    connection: &mut PgConnection,
    schema: &Schema,
) -> Result<i64, sqlx::Error> {
    let checkpoints = schema.table("checkpoints");
    let sql = format!("select position from {checkpoints} where subscriber = $1 for share");
    sqlx::query_scalar(&sql)
        .bind(GENERATION)
        .fetch_one(connection)
        .await
}

async fn create(
    connection: &mut PgConnection,
    schema: &Schema,
    table: Table,
) -> Result<(), sqlx::Error> {
    let name = schema.table(table.name());
    let statement = format!("create table {name} ({})", table::columns(TEXT));
    execute(connection, &statement).await?;
    set(connection, schema, table.checkpoint(), 0).await
}

async fn set(
    connection: &mut PgConnection,
    schema: &Schema,
    subscriber: &str,
    position: Position,
) -> Result<(), sqlx::Error> {
    let checkpoints = schema.table("checkpoints");
    let sql = format!(
        "insert into {checkpoints} (subscriber, position) values ($1, $2) \
         on conflict (subscriber) do update set position = excluded.position"
    );
    sqlx::query(&sql)
        .bind(subscriber)
        .bind(row::column(position))
        .execute(connection)
        .await?;
    Ok(())
}

/// Makes one index of a table.
pub async fn create_index(
    connection: &mut PgConnection,
    schema: &Schema,
    table: Table,
    index: table::Index,
    generation: i64,
) -> Result<(), sqlx::Error> {
    let name = schema.table(table.name());
    execute(connection, &index.statement(&name, generation)).await
}

/// Keeps the live table as it is until the transaction ends; it can be read meanwhile.
///
/// It comes before the live checkpoint's row is locked: who handles events locks the table first
/// and the row then, and the other way round each would wait for the other.
pub async fn hold(connection: &mut PgConnection, schema: &Schema) -> Result<(), sqlx::Error> {
    let live = schema.table(Table::Live.name());
    let statement = format!("lock table {live} in share row exclusive mode");
    execute(connection, &statement).await
}

/// Puts the table that was built in the place of the live one, with its checkpoint.
pub async fn swap(
    connection: &mut PgConnection,
    schema: &Schema,
    position: Position,
) -> Result<(), sqlx::Error> {
    let (live, next) = (Table::Live.name(), schema.table(Table::Next.name()));
    execute(connection, &format!("drop table {}", schema.table(live))).await?;
    execute(connection, &format!("alter table {next} rename to {live}")).await?;
    set(connection, schema, Table::Live.checkpoint(), position).await?;
    let checkpoints = schema.table("checkpoints");
    let swapped = format!("update {checkpoints} set position = position + 1 where subscriber = $1");
    let done = format!("delete from {checkpoints} where subscriber = $1");
    for (sql, subscriber) in [(swapped, SWAPS), (done, Table::Next.checkpoint())] {
        sqlx::query(&sql)
            .bind(subscriber)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// Runs a statement that is too rare to be kept prepared.
pub async fn execute(connection: &mut PgConnection, statement: &str) -> Result<(), sqlx::Error> {
    sqlx::query(statement)
        .persistent(false)
        .execute(connection)
        .await?;
    Ok(())
}

/// Up to where a table has the ledger; `None` if there is no such table.
pub async fn checkpoint(
    executor: impl PgExecutor<'_>,
    schema: &Schema,
    table: Table,
) -> Result<Option<Position>, sqlx::Error> {
    let checkpoints = schema.table("checkpoints");
    let sql = format!("select position from {checkpoints} where subscriber = $1");
    let found: Option<i64> = sqlx::query_scalar(&sql)
        .bind(table.checkpoint())
        .fetch_optional(executor)
        .await?;
    found.map(row::position).transpose()
}

/// As [`checkpoint`]; there must be one.
pub async fn reached(
    executor: impl PgExecutor<'_>,
    schema: &Schema,
    table: Table,
) -> Result<Position, HandlerError> {
    let checkpoint = checkpoint(executor, schema, table).await.map_err(failed)?;
    checkpoint.ok_or_else(|| table::missing(table))
}
