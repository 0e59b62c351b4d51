//! Cards as rows: what a row holds on every engine, and how SQLite reads and writes many at once.

use std::sync::LazyLock;

use application::cards::Card;
use domain::card::{Holder, Status};
use domain::ids::CardId;
use domain::text::{Email, ExternalRef, HolderName};
use sqlx::query::Query;
use sqlx::sqlite::SqliteArguments;
use sqlx::{ColumnIndex, Decode, Row, Sqlite, SqliteConnection, Type};

use super::table::Table;
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
pub const DERIVED: [&str; 2] = ["name_sort", "search"];

/// The most rows a statement writes: 256 are 3,584 of the 32,766 variables that SQLite allows.
pub const ROWS_MAX: usize = 256;

/// The rows of those of the cards that have one.
pub async fn load(
    connection: &mut SqliteConnection,
    table: Table,
    ids: &[CardId],
) -> Result<Vec<Card>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(vec![]);
    }
    let rows = sqlx::query(&select_in(table))
        .bind(row::to_json(&ids)?)
        .fetch_all(connection)
        .await?;
    rows.iter().map(card).collect()
}

/// The statement that finds rows by their ids. These are a JSON list, so that the text is always the
/// same.
pub fn select_in(table: Table) -> String {
    format!(
        "select {} from {} where id in (select value from json_each(?))",
        COLUMNS.join(", "),
        table.name()
    )
}

/// Writes cards into the table that is being built, whether or not they have a row.
pub async fn store_next(
    connection: &mut SqliteConnection,
    cards: Vec<Card>,
) -> Result<(), sqlx::Error> {
    static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| upserts(Table::Next));
    let mut cards = cards.into_iter();
    while cards.len() > 0 {
        let count = cards.len().min(ROWS_MAX);
        let query = sqlx::query(&TEXTS[power(count)]);
        let query = cards.by_ref().take(count).fold(query, bind);
        query.execute(&mut *connection).await?;
    }
    Ok(())
}

/// The statements that write up to 1, 2, 4 … [`ROWS_MAX`] rows, few enough to be kept prepared.
/// Places that are left over at a text's end are null and passed over.
pub fn upserts(table: Table) -> Vec<String> {
    let columns: Vec<_> = COLUMNS.into_iter().chain(DERIVED).collect();
    let updates: Vec<_> = columns[1..]
        .iter()
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    let (name, names, updates) = (table.name(), columns.join(", "), updates.join(", "));
    // Places have no number: SQLite finds a numbered one's value by walking over all of them, so
    // that many rows would cost their number squared.
    let row = format!("({})", vec!["?"; columns.len()].join(", "));
    let statement = |rows: usize| {
        let values = vec![row.as_str(); rows].join(", ");
        format!(
            "insert into {name} ({names}) select * from (values {values}) \
             where column1 is not null on conflict (id) do update set {updates}"
        )
    };
    (0..=power(ROWS_MAX))
        .map(|power| statement(1 << power))
        .collect()
}

/// Which of [`upserts`] takes so many rows, at least one.
pub const fn power(rows: usize) -> usize {
    rows.next_power_of_two().ilog2() as usize
}

/// A query whose values are bound one after the other.
pub type CardQuery<'q> = Query<'q, Sqlite, SqliteArguments<'q>>;

/// Binds the next row.
pub fn bind(query: CardQuery<'_>, card: Card) -> CardQuery<'_> {
    let name_sort = name_sort(&card.holder.name);
    let search = searched(&card);
    query
        .bind(card.id.to_string())
        .bind(String::from(card.number))
        .bind(card.status.as_str())
        .bind(String::from(card.holder.name))
        .bind(card.holder.email.map(String::from))
        .bind(card.external_ref.map(String::from))
        .bind(String::from(card.tier))
        .bind(card.issued_at.timestamp_micros())
        .bind(card.expires_at.map(|end| end.timestamp_micros()))
        .bind(card.replaces.map(|id| id.to_string()))
        .bind(card.replaced_by.map(|id| id.to_string()))
        .bind(row::column(card.version))
        .bind(name_sort)
        .bind(search)
}

/// Binds a row that is passed over.
pub fn bind_none(query: CardQuery<'_>) -> CardQuery<'_> {
    let columns = COLUMNS.len() + DERIVED.len();
    (0..columns).fold(query, |query, _| query.bind(None::<i64>))
}

/// What cards are sorted by under their holder's name.
pub fn name_sort(name: &HolderName) -> String {
    name.as_str().to_lowercase()
}

/// What a card is found by.
pub fn searched(card: &Card) -> String {
    let texts = [
        Some(card.holder.name.as_str()),
        card.holder.email.as_ref().map(Email::as_str),
        Some(card.number.as_str()),
        card.external_ref.as_ref().map(ExternalRef::as_str),
    ];
    search::searchable(texts.into_iter().flatten())
}

/// The card of a row that begins with [`COLUMNS`].
pub fn card<'r, R: Row>(found: &'r R) -> Result<Card, sqlx::Error>
where
    usize: ColumnIndex<R>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    &'r str: Decode<'r, R::Database>,
    str: Type<R::Database>,
{
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
