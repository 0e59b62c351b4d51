//! Reading what is counted again from a PostgreSQL schema.
//!
//! Its statements are not kept prepared: each tenant has its own, and would push out those of
//! tenants who are being served.

use domain::event::Decoder;
use domain::ids::Position;
use sqlx::{PgExecutor, Row};

use super::super::column::{from_i64, to_i64};
use super::super::recount::{Count, Source};
use super::super::{HeadRow, StoreError};
use super::read::{HEAD, head_row};
use crate::patience::limited;
use crate::shard::Room;

/// A tenant's schema, to be counted. A connection is had for each statement alone.
pub(crate) struct Schema(pub(crate) Room);

impl Source for Schema {
    async fn look(
        &mut self,
        count: Count,
        up_to: Position,
    ) -> Result<(HeadRow, Count), StoreError> {
        let mut connection = self.0.connection().await?;
        let looked = async {
            let head = head(connection.work(), &self.0).await?;
            let end = count.page(up_to.min(head.position));
            let count = page(connection.work(), &self.0, count, end).await?;
            Ok((head, count))
        };
        let looked = limited(looked).await;
        connection.done(looked)
    }
}

async fn head(executor: impl PgExecutor<'_>, room: &Room) -> Result<HeadRow, StoreError> {
    let head = room.schema().table("head");
    let sql = format!("select {HEAD} from {head} where id = 1");
    let query = sqlx::query(&sql).persistent(false);
    head_row(&query.fetch_one(executor).await?)
}

/// Counts the events after where the count is, up to a position.
pub(super) async fn page(
    executor: impl PgExecutor<'_>,
    room: &Room,
    mut count: Count,
    up_to: Position,
) -> Result<Count, StoreError> {
    let events = room.schema().table("events");
    let sql = format!(
        "select position, aggregate_type, event_type, event_version, payload::text from {events} \
         where position > $1 and position <= $2 order by position"
    );
    let rows = sqlx::query(&sql)
        .persistent(false)
        .bind(to_i64(count.position))
        .bind(to_i64(up_to))
        .fetch_all(executor)
        .await?;
    let decoder = Decoder::default();
    for row in rows {
        let (kind, name): (&str, &str) = (row.try_get(1)?, row.try_get(2)?);
        let (version, payload): (&str, &str) = (row.try_get(3)?, row.try_get(4)?);
        let position = from_i64(row.try_get(0)?)?;
        count.follow(&decoder, position, [kind, name, version, payload])?;
    }
    Ok(count)
}
