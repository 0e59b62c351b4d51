//! Keeping the live table up to date, in as few hand-overs to SQLite's thread as can be (see
//! [`Exchange`](crate::database::Exchange)): one for events that only issue cards; for others a second one before it, to
//! look up cards that were there already.
//!
//! The writing text does not ask where the checkpoint is, it says where it must be, and fails if
//! it is elsewhere. That is rare (the same events handed over twice), and paid for only then.

use std::sync::{Arc, LazyLock};

use application::cards::Card;
use application::ports::{HandlerError, RecordedEvent, Unavailable};
use domain::ids::Position;

use super::rows::{self, CardQuery, ROWS_MAX};
use super::table::{self, MOVE_LIVE, Table};
use super::{failed, fold};
use crate::database::{BEGIN_REPLAYABLE, Database};
use crate::projections::{following, row};

/// How often events are tried on a checkpoint that moves meanwhile.
const ATTEMPTS_MAX: usize = 5;

/// Brings the table to the last of the events, or of the first [`ROWS_MAX`] if there are more;
/// answers the new checkpoint.
pub async fn advance(
    database: &Database,
    events: &[Arc<RecordedEvent>],
) -> Result<Position, HandlerError> {
    let events = &events[..events.len().min(ROWS_MAX)];
    let mut checkpoint = match events.first() {
        Some(first) => first.stored.position.saturating_sub(1),
        None => return reached(database).await,
    };
    for _ in 0..ATTEMPTS_MAX {
        match advance_from(database, checkpoint, events).await? {
            Step::Reached(position) => return Ok(position),
            Step::IsAt(position) => checkpoint = position,
        }
    }
    Err(Unavailable::new("the checkpoint, which others are moving too").into())
}

enum Step {
    /// The table has the events.
    Reached(Position),
    /// The checkpoint was not where it was said to be, but here.
    IsAt(Position),
}

async fn advance_from(
    database: &Database,
    checkpoint: Position,
    events: &[Arc<RecordedEvent>],
) -> Result<Step, HandlerError> {
    let events = following(events, checkpoint)?;
    let Some(last) = events.last() else {
        return Ok(Step::Reached(checkpoint));
    };
    let position = last.stored.position;
    let histories = fold::histories(events)?;
    let begun_before = fold::begun_before(&histories);
    let (mut exchange, query) = if begun_before.is_empty() {
        // All work is done before the connection is taken, which the ledger's writer waits for.
        let query = replacement(checkpoint, position, fold::fold(vec![], histories));
        (database.exchange().await.map_err(failed)?, query)
    } else {
        let mut exchange = database.exchange().await.map_err(failed)?;
        let known = rows::load(exchange.connection(), Table::Live, &begun_before)
            .await
            .map_err(failed)?;
        let query = replacement(checkpoint, position, fold::fold(known, histories));
        (exchange, query)
    };
    let Err(error) = query.execute(exchange.connection()).await else {
        exchange.done();
        return Ok(Step::Reached(position));
    };
    exchange.rollback().await.map_err(failed)?;
    match reached(database).await? {
        still if still == checkpoint => Err(failed(error)),
        moved => Ok(Step::IsAt(moved)),
    }
}

/// Moves the checkpoint, writes the rows, and commits.
fn replacement(from: Position, to: Position, cards: Vec<Card>) -> CardQuery<'static> {
    /// The texts for no rows, one, 2, 4 …
    static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let upserts = rows::upserts(Table::Live);
        let upserts = upserts.into_iter().map(|upsert| upsert + "; ");
        std::iter::once(String::new())
            .chain(upserts)
            .map(|upsert| format!("{BEGIN_REPLAYABLE}{MOVE_LIVE}; {upsert}commit"))
            .collect()
    });
    let text = match cards.len() {
        0 => &TEXTS[0],
        count => &TEXTS[1 + rows::power(count)],
    };
    let query = sqlx::query(text)
        .bind(row::column(from))
        .bind(row::column(to));
    cards.into_iter().fold(query, rows::bind)
}

async fn reached(database: &Database) -> Result<Position, HandlerError> {
    let mut writer = database.writer().await.map_err(failed)?;
    table::reached(&mut writer, Table::Live).await
}
