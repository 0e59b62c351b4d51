//! Keeping the live table up to date: one statement for events that only issue cards; for others
//! a second one before it, to look up cards that were there already.
//!
//! What is looked up belongs to one checkpoint, and it is written only if the checkpoint is still
//! there and the table is still the same. So what is written follows from what was there, although
//! nothing is locked in between.

use std::sync::Arc;

use application::ports::{HandlerError, RecordedEvent, Unavailable};
use domain::ids::Position;
use sqlx::PgConnection;

use super::super::table::Table;
use super::super::{failed, fold};
use super::{rows, table};
use crate::projections::following;
use crate::shard::schema::Schema;

/// How often events are tried on a checkpoint that moves meanwhile.
const ATTEMPTS_MAX: usize = 5;

/// How many events are handled at once.
const EVENTS_MAX: usize = 1024;

/// Brings the table to the last of the events, or of the first [`EVENTS_MAX`] if there are more;
/// answers the new checkpoint.
pub async fn advance(
    connection: &mut PgConnection,
    schema: &Schema,
    events: &[Arc<RecordedEvent>],
) -> Result<Position, HandlerError> {
    let events = &events[..events.len().min(EVENTS_MAX)];
    let mut checkpoint = match events.first() {
        Some(first) => first.stored.position.saturating_sub(1),
        None => return table::reached(&mut *connection, schema, Table::Live).await,
    };
    for _ in 0..ATTEMPTS_MAX {
        let events = following(events, checkpoint)?;
        let Some(last) = events.last() else {
            return Ok(checkpoint);
        };
        let position = last.stored.position;
        match advance_from(connection, schema, checkpoint, position, events).await? {
            true => return Ok(position),
            false => checkpoint = table::reached(&mut *connection, schema, Table::Live).await?,
        }
    }
    Err(Unavailable::new("the checkpoint, which others are moving too").into())
}

/// Handles the events from a checkpoint on; whether that is where the table was.
async fn advance_from(
    connection: &mut PgConnection,
    schema: &Schema,
    from: Position,
    to: Position,
    events: &[Arc<RecordedEvent>],
) -> Result<bool, HandlerError> {
    let histories = fold::histories(events)?;
    let begun_before = fold::begun_before(&histories);
    let (known, swaps) = match begun_before.is_empty() {
        true => (vec![], None),
        false => {
            let known = rows::load(&mut *connection, schema, Table::Live, &begun_before).await?;
            if known.checkpoint != from {
                return Ok(false);
            }
            (known.cards, Some(known.swaps))
        }
    };
    let cards = fold::fold(known, histories);
    rows::store(connection, schema, Table::Live, (from, to), swaps, &cards)
        .await
        .map_err(failed)
}
