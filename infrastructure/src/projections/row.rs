//! What a column holds and what it stands for: ids and other parsed text, times as microseconds,
//! positions. A row that does not parse is a broken database, told as the database's error.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use domain::ids::Position;

/// The time that a column holds.
pub fn time(micros: i64) -> Result<DateTime<Utc>, sqlx::Error> {
    DateTime::from_timestamp_micros(micros)
        .ok_or_else(|| broken(format!("{micros} microseconds are no time")))
}

/// The position that a column holds.
pub fn position(column: i64) -> Result<Position, sqlx::Error> {
    Position::try_from(column).map_err(broken)
}

/// A position as a column holds it. One that no ledger reaches ([`Position::MAX`] for
/// "regardless") becomes the highest there can be.
pub fn column(position: Position) -> i64 {
    i64::try_from(position).unwrap_or(i64::MAX)
}

/// The id that a column holds.
pub fn id<T>(column: &str) -> Result<T, sqlx::Error>
where
    T: FromStr<Err: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    column.parse().map_err(broken)
}

/// The checked text that a column holds.
pub fn text<T>(column: String) -> Result<T, sqlx::Error>
where
    T: TryFrom<String, Error: Into<Box<dyn std::error::Error + Send + Sync>>>,
{
    T::try_from(column).map_err(broken)
}

/// The named value (a role, a status) that a column holds by its name.
pub fn word<'a, T: serde::Deserialize<'a>>(column: &'a str) -> Result<T, sqlx::Error> {
    T::deserialize(serde::de::value::BorrowedStrDeserializer::<
        serde::de::value::Error,
    >::new(column))
    .map_err(broken)
}

/// What a JSON column holds.
pub fn json<T: serde::de::DeserializeOwned>(column: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(column).map_err(broken)
}

/// The JSON for a column.
pub fn to_json(value: &impl serde::Serialize) -> Result<String, sqlx::Error> {
    serde_json::to_string(value).map_err(|error| sqlx::Error::Encode(Box::new(error)))
}

/// A column holds what it cannot.
pub fn broken(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> sqlx::Error {
    sqlx::Error::Decode(why.into())
}
