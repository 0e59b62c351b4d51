//! Cards as rows: reading and writing many at once.

use std::sync::LazyLock;

use application::cards::Card;
use domain::card::{Holder, Status};
use domain::ids::CardId;
use domain::text::HolderName;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{Row, Sqlite, Transaction};

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
const DERIVED: [&str; 2] = ["name_sort", "search"];

/// The most rows a statement writes or looks up. Numbers of rows are powers of two, so that
/// there are few texts to prepare.
const ROWS_MAX: usize = 64;

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
            placeholders(places)
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
    let updates: Vec<_> = columns[1..]
        .iter()
        .map(|column| format!("{column} = excluded.{column}"))
        .collect();
    let (name, names, updates) = (table.name(), columns.join(", "), updates.join(", "));
    let statement = |rows: usize| {
        let values = vec![format!("({})", placeholders(columns.len())); rows].join(", ");
        format!(
            "insert into {name} ({names}) values {values} on conflict (id) do update set {updates}"
        )
    };
    (0..=ROWS_MAX.ilog2())
        .map(|power| statement(1 << power))
        .collect()
}

/// Places without a number: SQLite finds a numbered one's value by walking over all of them, so
/// that many rows would cost their number squared.
fn placeholders(count: usize) -> String {
    vec!["?"; count].join(", ")
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
