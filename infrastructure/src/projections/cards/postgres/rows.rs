//! Reading and writing many cards at once: one statement that reads, one that writes, each of one
//! text however many the cards are.

use application::cards::Card;
use application::ports::HandlerError;
use domain::ids::{CardId, Position};
use sqlx::postgres::PgArguments;
use sqlx::query::QueryScalar;
use sqlx::{PgExecutor, Postgres, Row};

use super::super::failed;
use super::super::rows::{COLUMNS, DERIVED, card, name_sort, searched};
use super::super::table::{self, Table};
use super::table::SWAPS;
use crate::projections::row;
use crate::shard::schema::Schema;

/// What a table had of some cards at one moment.
pub struct Known {
    /// Those of the cards that have a row.
    pub cards: Vec<Card>,
    /// The table's checkpoint.
    pub checkpoint: Position,
    /// How often the live table had been replaced.
    pub swaps: i64,
}

/// Reads the rows of those of the cards that have one, with the checkpoint that they belong to.
pub async fn load(
    executor: impl PgExecutor<'_>,
    schema: &Schema,
    table: Table,
    ids: &[CardId],
) -> Result<Known, HandlerError> {
    let (cards, checkpoints) = (schema.table(table.name()), schema.table("checkpoints"));
    let sql = format!(
        "select {}, reached.position, swaps.position from {checkpoints} reached \
         join {checkpoints} swaps on swaps.subscriber = $2 \
         left join {cards} card on card.id = any($3) where reached.subscriber = $1",
        COLUMNS.map(|column| format!("card.{column}")).join(", ")
    );
    let ids: Vec<_> = ids.iter().map(CardId::to_string).collect();
    let rows = sqlx::query(&sql)
        .bind(table.checkpoint())
        .bind(SWAPS)
        .bind(ids)
        .fetch_all(executor)
        .await
        .map_err(failed)?;
    let first = rows.first().ok_or_else(|| table::missing(table))?;
    let known = || -> Result<Known, sqlx::Error> {
        let mut cards = Vec::with_capacity(rows.len());
        for row in &rows {
            // Without any of the cards there is one row, of the checkpoint alone.
            if row.try_get::<Option<&str>, _>(0)?.is_some() {
                cards.push(card(row)?);
            }
        }
        Ok(Known {
            cards,
            checkpoint: row::position(first.try_get(COLUMNS.len())?)?,
            swaps: first.try_get(COLUMNS.len() + 1)?,
        })
    };
    known().map_err(failed)
}

/// Moves a table's checkpoint and writes the cards, whether or not they have a row; both, or
/// neither if the checkpoint is not at `from`, or if the live table was replaced since `swaps` was
/// read. Answers whether it was done.
pub async fn store(
    executor: impl PgExecutor<'_>,
    schema: &Schema,
    table: Table,
    (from, to): (Position, Position),
    swaps: Option<i64>,
    cards: &[Card],
) -> Result<bool, sqlx::Error> {
    let statement = statement(schema, table);
    let query = sqlx::query_scalar(&statement)
        .bind(table.checkpoint())
        .bind(row::column(from))
        .bind(row::column(to))
        .bind(SWAPS)
        .bind(swaps);
    bind(query, cards).fetch_one(executor).await
}

/// A query whose values are bound one after the other.
pub type Bound<'q, T> = QueryScalar<'q, Postgres, T, PgArguments>;

/// Binds the columns of cards, one value each.
pub fn bind<'q, T>(query: Bound<'q, T>, cards: &'q [Card]) -> Bound<'q, T> {
    macro_rules! column {
        ($of:expr) => {
            cards.iter().map($of).collect::<Vec<_>>()
        };
    }
    query
        .bind(column!(|card| card.id.to_string()))
        .bind(column!(|card| card.number.as_str()))
        .bind(column!(|card| card.status.as_str()))
        .bind(column!(|card| card.holder.name.as_str()))
        .bind(column!(|card| card
            .holder
            .email
            .as_ref()
            .map(|it| it.as_str())))
        .bind(column!(|card| card
            .external_ref
            .as_ref()
            .map(|it| it.as_str())))
        .bind(column!(|card| card.tier.as_str()))
        .bind(column!(|card| card.issued_at.timestamp_micros()))
        .bind(column!(|card| card
            .expires_at
            .map(|end| end.timestamp_micros())))
        .bind(column!(|card| card.replaces.map(|id| id.to_string())))
        .bind(column!(|card| card.replaced_by.map(|id| id.to_string())))
        .bind(column!(|card| row::column(card.version)))
        .bind(column!(|card| name_sort(&card.holder.name)))
        .bind(column!(searched))
}

/// The text of [`store`].
fn statement(schema: &Schema, table: Table) -> String {
    let checkpoints = schema.table("checkpoints");
    format!(
        "with moved as (update {checkpoints} set position = $3 \
         where subscriber = $1 and position = $2 and ($5::bigint is null or $5 = \
         (select position from {checkpoints} where subscriber = $4)) returning 1), \
         stored as ({upsert}) select count(*) = 1 from moved",
        upsert = upsert(schema, table, "moved", 6),
    )
}

/// The parts of a statement that take the live table along to the position of its second value, if
/// the part `moved` has a row and the checkpoint is at the value at `first`, behind which the cards
/// come: `along` has a row then.
pub fn along(schema: &Schema, moved: &str, first: usize) -> String {
    let checkpoints = schema.table("checkpoints");
    format!(
        "along as (update {checkpoints} set position = $2 where subscriber = '{live}' \
         and position = ${first} and exists (select from {moved}) returning 1), \
         shown as ({upsert})",
        live = Table::Live.checkpoint(),
        upsert = upsert(schema, Table::Live, "along", first + 1),
    )
}

/// Writes cards, whether or not they have a row, if `part` has a row. Their values begin at `first`.
fn upsert(schema: &Schema, table: Table, part: &str, first: usize) -> String {
    let columns: Vec<_> = COLUMNS.into_iter().chain(DERIVED).collect();
    let arrays: Vec<_> = (first..)
        .zip(&columns)
        .map(|(place, column)| match *column {
            "issued_at" | "expires_at" | "version" => format!("${place}::bigint[]"),
            _ => format!("${place}::text[]"),
        })
        .collect();
    let updates: Vec<_> = columns[1..]
        .iter()
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    format!(
        "insert into {cards} ({names}) select card.* from {part}, unnest({arrays}) \
         as card on conflict (id) do update set {updates}",
        cards = schema.table(table.name()),
        names = columns.join(", "),
        arrays = arrays.join(", "),
        updates = updates.join(", "),
    )
}
