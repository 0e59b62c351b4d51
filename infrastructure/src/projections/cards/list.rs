//! What a tenant may ask of its cards: one, a page of those that match, and those that are due.
//! The same texts on every engine: their columns compare texts byte by byte on all of them.
//!
//! Pages begin after a place in the order (a row value, so an index finds it), never after a
//! number of rows: cards that come and go between two pages make none appear twice or not at all.

use application::cards::{
    Card, CardCursor, CardCursorKey, CardFilter, CardPage, CardSort, DueCard,
};
use chrono::{DateTime, Utc};
use domain::ids::CardId;
use sqlx::{ColumnIndex, Database, Decode, Encode, Executor, IntoArguments, Row, Type};

use super::rows::{self, COLUMNS};
use super::table::IN_CIRCULATION;
use crate::projections::{row, search};

/// The cards of a tenant, wherever they are.
pub struct Cards<'a, DB: Database> {
    /// The connection to ask on.
    pub reader: &'a mut DB::Connection,
    /// The table, as a statement names it.
    pub table: &'a str,
}

impl<DB: Database> Cards<'_, DB>
where
    for<'q> DB::Arguments<'q>: IntoArguments<'q, DB>,
    for<'c> &'c mut DB::Connection: Executor<'c, Database = DB>,
    for<'v> i64: Encode<'v, DB> + Decode<'v, DB> + Type<DB>,
    for<'v> String: Encode<'v, DB> + Decode<'v, DB> + Type<DB>,
    for<'v> &'v str: Encode<'v, DB> + Decode<'v, DB>,
    str: Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    /// One card.
    pub async fn one(self, id: CardId) -> Result<Option<Card>, sqlx::Error> {
        let sql = format!(
            "select {} from {} where id = $1",
            COLUMNS.join(", "),
            self.table
        );
        let found = sqlx::query(&sql)
            .bind(id.to_string())
            .fetch_optional(self.reader)
            .await?;
        found.as_ref().map(rows::card).transpose()
    }

    /// The cards that match, a page of them.
    pub async fn page(self, filter: &CardFilter) -> Result<CardPage, sqlx::Error> {
        // No text of a card has it, and PostgreSQL would refuse the question.
        if filter.q.as_ref().is_some_and(|q| q.contains('\0')) {
            let (items, next) = (vec![], None);
            return Ok(CardPage { items, next });
        }
        let sql = statement(self.table, filter);
        let mut query = sqlx::query(&sql);
        if let Some(status) = filter.status {
            query = query.bind(status.as_str());
        }
        if let Some(tier) = &filter.tier {
            query = query.bind(tier.as_str());
        }
        if let Some(q) = &filter.q {
            query = query.bind(search::pattern(q));
        }
        if let Some(after) = &filter.after {
            query = match &after.key {
                CardCursorKey::IssuedAt(micros) => query.bind(*micros),
                CardCursorKey::Name(name) => query.bind(name),
            };
            query = query.bind(after.id.to_string());
        }
        let limit = i64::try_from(filter.limit).unwrap_or(i64::MAX - 1);
        let found = query.bind(limit + 1).fetch_all(self.reader).await?;
        let items: Vec<_> = found
            .iter()
            .take(filter.limit)
            .map(rows::card)
            .collect::<Result<_, _>>()?;
        let more = found.len() > filter.limit;
        let last = items.last().filter(|_| more);
        let next = last.map(|card| place(card, filter.sort));
        Ok(CardPage { items, next })
    }

    /// Up to `limit` cards in circulation whose time was over by `now`, the longest overdue first.
    pub async fn due(self, now: DateTime<Utc>, limit: usize) -> Result<Vec<DueCard>, sqlx::Error> {
        let table = self.table;
        let sql = format!(
            "select id, status, expires_at, version from {table} \
             where {IN_CIRCULATION} and expires_at <= $1 order by expires_at, id limit $2"
        );
        let found = sqlx::query(&sql)
            .bind(now.timestamp_micros())
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(self.reader)
            .await?;
        let due = |found: &DB::Row| {
            let id: String = found.try_get(0)?;
            let status: String = found.try_get(1)?;
            Ok(DueCard {
                id: row::id(&id)?,
                status: row::word(&status)?,
                expires_at: row::time(found.try_get(2)?)?,
                version: row::position(found.try_get(3)?)?,
            })
        };
        found.iter().map(due).collect()
    }

    /// When the next card in circulation is due.
    pub async fn next_due(self) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
        let table = self.table;
        let sql = format!(
            "select expires_at from {table} where {IN_CIRCULATION} order by expires_at, id limit 1"
        );
        let found: Option<i64> = sqlx::query_scalar(&sql).fetch_optional(self.reader).await?;
        found.map(row::time).transpose()
    }
}

/// The query of a page. There are as many texts as there are ways to combine filters: few.
fn statement(table: &str, filter: &CardFilter) -> String {
    let (column, beyond, direction) = match filter.sort {
        CardSort::IssuedAt => ("issued_at", ">", "asc"),
        CardSort::IssuedAtDescending => ("issued_at", "<", "desc"),
        CardSort::Name => ("name_sort", ">", "asc"),
        CardSort::NameDescending => ("name_sort", "<", "desc"),
    };
    let mut bound = 0;
    let mut next = || {
        bound += 1;
        bound
    };
    let mut wanted = Vec::new();
    if filter.status.is_some() {
        wanted.push(format!("status = ${}", next()));
    }
    if filter.tier.is_some() {
        wanted.push(format!("tier = ${}", next()));
    }
    if filter.q.is_some() {
        wanted.push(format!("search like ${} escape '\\'", next()));
    }
    if filter.after.is_some() {
        let (key, id) = (next(), next());
        wanted.push(format!("({column}, id) {beyond} (${key}, ${id})"));
    }
    let condition = match wanted.is_empty() {
        true => String::new(),
        false => format!("where {}", wanted.join(" and ")),
    };
    format!(
        "select {} from {table} {condition} order by {column} {direction}, id {direction} limit ${}",
        COLUMNS.join(", "),
        next()
    )
}

/// A card's place in an order.
fn place(card: &Card, sort: CardSort) -> CardCursor {
    let key = match sort {
        CardSort::IssuedAt | CardSort::IssuedAtDescending => {
            CardCursorKey::IssuedAt(card.issued_at.timestamp_micros())
        }
        CardSort::Name | CardSort::NameDescending => {
            CardCursorKey::Name(rows::name_sort(&card.holder.name))
        }
    };
    CardCursor { key, id: card.id }
}
