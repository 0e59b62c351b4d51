//! The table of cards and its checkpoint: making them, and reading and writing many rows at once.
//!
//! There are two such tables while the read model is built anew. Index names are the database's,
//! not the table's, so they carry a number that grows with each building.

use std::sync::LazyLock;

use application::cards::Card;
use domain::card::{Holder, Status};
use domain::ids::{CardId, Position};
use domain::text::HolderName;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Executor, Row, Sqlite, Transaction};

use crate::projections::{row, search};

/// The columns of a card, in the order that [`card`] reads and [`bind`] binds them.
pub const COLUMNS: [&str; 12] = [
    "id",
    "number",
    "status",
    "holder_name",
    "holder_email",
    "external_ref",
    "tier",
    "issued_at",
    "expires_at",
    "replaces",
    "replaced_by",
    "version",
];

/// What is stored beside them to sort and search by.
const DERIVED: [&str; 2] = ["name_sort", "search"];

/// The cards that can fall due, as the index over them says it and as queries must say it.
pub const IN_CIRCULATION: &str =
    "expires_at is not null and status in ('issued', 'active', 'suspended')";

/// The most rows a statement writes or looks up. Numbers of rows are powers of two, so that
/// there are few texts to prepare.
const ROWS_MAX: usize = 64;

const GENERATION: &str = "cards.generation";

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
        create(transaction, Table::Live, 0).await?;
    }
    Ok(())
}

/// Makes an empty table to build in, in place of one that was left unfinished.
pub async fn create_next(transaction: &mut Transaction<'_, Sqlite>) -> Result<(), sqlx::Error> {
    let generation: i64 = sqlx::query_scalar(
        "insert into checkpoints (subscriber, position) values ($1, 1) \
         on conflict (subscriber) do update set position = checkpoints.position + 1 \
         returning position",
    )
    .bind(GENERATION)
    .fetch_one(&mut **transaction)
    .await?;
    execute(transaction, "drop table if exists cards_next").await?;
    create(transaction, Table::Next, generation).await
}

async fn create(
    transaction: &mut Transaction<'_, Sqlite>,
    table: Table,
    generation: i64,
) -> Result<(), sqlx::Error> {
    let name = table.name();
    let statements = [
        format!(
            "create table {name} (id text not null primary key, number text not null, \
             status text not null, holder_name text not null, holder_email text, \
             external_ref text, tier text not null, issued_at bigint not null, \
             expires_at bigint, replaces text, replaced_by text, version bigint not null, \
             name_sort text not null, search text not null)"
        ),
        format!("create index cards_issued_at_{generation} on {name} (issued_at, id)"),
        format!("create index cards_name_sort_{generation} on {name} (name_sort, id)"),
        format!(
            "create index cards_due_{generation} on {name} (expires_at, id) \
             where {IN_CIRCULATION}"
        ),
    ];
    for statement in &statements {
        execute(transaction, statement).await?;
    }
    sqlx::query(
        "insert into checkpoints (subscriber, position) values ($1, 0) \
         on conflict (subscriber) do update set position = excluded.position",
    )
    .bind(table.checkpoint())
    .execute(&mut **transaction)
    .await?;
    Ok(())
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

/// Moves a table's checkpoint; `false` if it is not where it was.
pub async fn advance(
    transaction: &mut Transaction<'_, Sqlite>,
    table: Table,
    from: Position,
    to: Position,
) -> Result<bool, sqlx::Error> {
    let moved =
        sqlx::query("update checkpoints set position = $3 where subscriber = $1 and position = $2")
            .bind(table.checkpoint())
            .bind(row::column(from))
            .bind(row::column(to))
            .execute(&mut **transaction)
            .await?;
    Ok(moved.rows_affected() > 0)
}

/// The rows of those of the cards that have one.
pub async fn load(
    transaction: &mut Transaction<'_, Sqlite>,
    table: Table,
    ids: &[CardId],
) -> Result<Vec<Card>, sqlx::Error> {
    let mut cards = Vec::with_capacity(ids.len());
    for chunk in ids.chunks(ROWS_MAX) {
        // Asking for the last one again fills up to a power of two.
        let places = chunk.len().next_power_of_two();
        let (columns, name) = (COLUMNS.join(", "), table.name());
        let sql = format!(
            "select {columns} from {name} where id in ({})",
            placeholders(1, places)
        );
        let mut query = sqlx::query(&sql);
        for place in 0..places {
            query = query.bind(chunk[place.min(chunk.len() - 1)].to_string());
        }
        let rows = query.fetch_all(&mut **transaction).await?;
        for found in &rows {
            cards.push(card(found)?);
        }
    }
    Ok(cards)
}

/// Writes cards, whether or not they have a row.
pub async fn store(
    transaction: &mut Transaction<'_, Sqlite>,
    table: Table,
    cards: Vec<Card>,
) -> Result<(), sqlx::Error> {
    let mut cards = cards.into_iter();
    while cards.len() > 0 {
        let power = cards.len().min(ROWS_MAX).ilog2() as usize;
        let mut query = sqlx::query(upsert(table, power));
        for card in cards.by_ref().take(1 << power) {
            query = bind(query, card);
        }
        query.execute(&mut **transaction).await?;
    }
    Ok(())
}

/// The statement that writes `2^power` rows.
fn upsert(table: Table, power: usize) -> &'static str {
    static LIVE: LazyLock<Vec<String>> = LazyLock::new(|| upserts(Table::Live));
    static NEXT: LazyLock<Vec<String>> = LazyLock::new(|| upserts(Table::Next));
    match table {
        Table::Live => &LIVE[power],
        Table::Next => &NEXT[power],
    }
}

fn upserts(table: Table) -> Vec<String> {
    let columns: Vec<_> = COLUMNS.into_iter().chain(DERIVED).collect();
    let width = columns.len();
    let updates: Vec<_> = columns[1..]
        .iter()
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    let (name, names, updates) = (table.name(), columns.join(", "), updates.join(", "));
    let statement = |rows: usize| {
        let values: Vec<_> = (0..rows)
            .map(|row| format!("({})", placeholders(row * width + 1, width)))
            .collect();
        let values = values.join(", ");
        format!(
            "insert into {name} ({names}) values {values} on conflict (id) do update set {updates}"
        )
    };
    (0..=ROWS_MAX.ilog2())
        .map(|power| statement(1 << power))
        .collect()
}

fn placeholders(first: usize, count: usize) -> String {
    let all: Vec<_> = (first..first + count).map(|n| format!("${n}")).collect();
    all.join(", ")
}

type CardQuery<'q> = Query<'q, Sqlite, SqliteArguments<'q>>;

fn bind(query: CardQuery<'_>, card: Card) -> CardQuery<'_> {
    let name_sort = name_sort(&card.holder.name);
    let email = card.holder.email.map(String::from);
    let external_ref = card.external_ref.map(String::from);
    let (name, number) = (String::from(card.holder.name), String::from(card.number));
    let searched = [
        Some(name.as_str()),
        email.as_deref(),
        Some(number.as_str()),
        external_ref.as_deref(),
    ];
    let search = search::searchable(searched.into_iter().flatten());
    query
        .bind(card.id.to_string())
        .bind(number)
        .bind(card.status.as_str())
        .bind(name)
        .bind(email)
        .bind(external_ref)
        .bind(String::from(card.tier))
        .bind(card.issued_at.timestamp_micros())
        .bind(card.expires_at.map(|end| end.timestamp_micros()))
        .bind(card.replaces.map(|id| id.to_string()))
        .bind(card.replaced_by.map(|id| id.to_string()))
        .bind(row::column(card.version))
        .bind(name_sort)
        .bind(search)
}

/// What cards are sorted by under their holder's name.
pub fn name_sort(name: &HolderName) -> String {
    name.as_str().to_lowercase()
}

/// The card of a row that begins with [`COLUMNS`].
pub fn card(found: &SqliteRow) -> Result<Card, sqlx::Error> {
    let email: Option<String> = found.try_get(4)?;
    let external_ref: Option<String> = found.try_get(5)?;
    let expires_at: Option<i64> = found.try_get(8)?;
    let replaces: Option<&str> = found.try_get(9)?;
    let replaced_by: Option<&str> = found.try_get(10)?;
    let status = row::word(found.try_get(2)?)?;
    if (status == Status::Replaced) != replaced_by.is_some() {
        return Err(row::broken("a card is replaced if and only if by another"));
    }
    Ok(Card {
        id: row::id(found.try_get(0)?)?,
        number: row::text(found.try_get(1)?)?,
        status,
        holder: Holder {
            name: row::text(found.try_get(3)?)?,
            email: email.map(row::text).transpose()?,
        },
        external_ref: external_ref.map(row::text).transpose()?,
        tier: row::text(found.try_get(6)?)?,
        issued_at: row::time(found.try_get(7)?)?,
        expires_at: expires_at.map(row::time).transpose()?,
        replaces: replaces.map(row::id).transpose()?,
        replaced_by: replaced_by.map(row::id).transpose()?,
        version: row::position(found.try_get(11)?)?,
    })
}
