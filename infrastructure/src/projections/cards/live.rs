//! Keeping the live table of a file up to date: in an append's own text, or in a transaction of the
//! subscriber's (see [`companion`](super::companion)).
//!
//! A text is a hand-over to SQLite's thread, which costs more than what is in it (see
//! [`Exchange`](crate::database::Exchange)): taking the table along needs none of its own.

use std::sync::{Arc, LazyLock};

use application::cards::Card;
use application::ports::{HandlerError, Ledger, RecordedEvent, Unavailable};
use domain::ids::Position;
use sqlx::SqliteConnection;

use super::companion::{Companion, folded};
use super::rows::{self, CardQuery, ROWS_MAX};
use super::table::{self, MOVE_LIVE, Table};
use super::{failed, fold};
use crate::database::{BEGIN_REPLAYABLE, Database};
use crate::projections::{following, row};

/// How often events are tried on a checkpoint that moves meanwhile.
const ATTEMPTS_MAX: usize = 5;

/// The live table of a tenant's file, in use.
pub struct LiveCards {
    database: Arc<Database>,
    /// Where it is.
    pub companion: Companion,
}

/// What an append writes into the table: with its own statements, in its own transaction.
pub struct Along {
    from: Position,
    to: Position,
    cards: Vec<Card>,
}

impl LiveCards {
    /// The table in this file, if there is one; [`Self::look`] finds out.
    pub fn of(database: Arc<Database>) -> Self {
        Self {
            database,
            companion: Companion::default(),
        }
    }

    /// Looks where the table is.
    ///
    /// # Errors
    ///
    /// What SQLite says.
    pub async fn look(&self, connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        if let Some(position) = table::checkpoint(connection, Table::Live).await? {
            self.companion.moved(position);
        }
        Ok(())
    }

    /// Brings the table to the last of the events, and of those that were appended meanwhile, or
    /// of the first `ROWS_MAX` if there are more; answers the new checkpoint.
    pub async fn advance(
        &self,
        ledger: &dyn Ledger,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        let mut events = events[..events.len().min(ROWS_MAX)].to_vec();
        let mut checkpoint = match events.first() {
            Some(first) => first.stored.position.saturating_sub(1),
            None => return self.look_again().await,
        };
        for _ in 0..ATTEMPTS_MAX {
            match self.advance_from(checkpoint, ledger, &mut events).await? {
                Step::Reached(position) => {
                    self.companion.moved(position);
                    return Ok(position);
                }
                Step::IsAt(position) => checkpoint = position,
            }
        }
        Err(Unavailable::new("the checkpoint, which others are moving too").into())
    }

    async fn advance_from(
        &self,
        checkpoint: Position,
        ledger: &dyn Ledger,
        events: &mut Vec<Arc<RecordedEvent>>,
    ) -> Result<Step, HandlerError> {
        let mut exchange = self.database.exchange().await.map_err(failed)?;
        // Nothing is appended from here on: after this, the next append finds the table where it
        // begins.
        let room = ROWS_MAX - events.len();
        if let Some(last) = events.last().filter(|_| room > 0) {
            events.extend(ledger.read(last.stored.position, room).await?);
        }
        let events = following(events, checkpoint)?;
        let Some(last) = events.last() else {
            return Ok(Step::Reached(checkpoint));
        };
        let position = last.stored.position;
        let histories = fold::histories(events)?;
        let begun_before = fold::begun_before(&histories);
        let known = rows::load(exchange.connection(), Table::Live, &begun_before)
            .await
            .map_err(failed)?;
        let query = replacement(checkpoint, position, fold::fold(known, histories));
        let Err(error) = query.execute(exchange.connection()).await else {
            exchange.done();
            return Ok(Step::Reached(position));
        };
        exchange.rollback().await.map_err(failed)?;
        match self.look_again().await? {
            still if still == checkpoint => Err(failed(error)),
            moved => Ok(Step::IsAt(moved)),
        }
    }

    async fn look_again(&self) -> Result<Position, HandlerError> {
        let mut writer = self.database.writer().await.map_err(failed)?;
        table::reached(&mut writer, Table::Live).await
    }
}

enum Step {
    /// The table has the events.
    Reached(Position),
    /// The checkpoint was not where it was said to be, but here.
    IsAt(Position),
}

/// The texts that write no rows, one, 2, 4 …, each ending in `; ` unless it is empty.
static UPSERTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let upserts = rows::upserts(Table::Live);
    let upserts = upserts.into_iter().map(|upsert| upsert + "; ");
    std::iter::once(String::new()).chain(upserts).collect()
});

/// Which of [`UPSERTS`] takes so many rows.
const fn power(rows: usize) -> usize {
    match rows {
        0 => 0,
        rows => 1 + rows::power(rows),
    }
}

/// Moves the checkpoint, writes the rows, and commits.
fn replacement(from: Position, to: Position, cards: Vec<Card>) -> CardQuery<'static> {
    static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let text = |upsert: &String| format!("{BEGIN_REPLAYABLE}{MOVE_LIVE}; {upsert}commit");
        UPSERTS.iter().map(text).collect()
    });
    let query = sqlx::query(&TEXTS[power(cards.len())])
        .bind(row::column(from))
        .bind(row::column(to));
    cards.into_iter().fold(query, rows::bind)
}

impl Along {
    /// What these events make of the table, where `known` has the rows of all cards that were there
    /// before; see [`folded`].
    pub fn of(known: Vec<Card>, events: &[Arc<RecordedEvent>]) -> Option<Self> {
        Some(Self {
            from: events.first()?.stored.position - 1,
            to: events.last()?.stored.position,
            cards: folded(known, events)?,
        })
    }

    /// The next rows, while there are more than one text takes: written by a text of their own.
    pub fn split(&mut self) -> Option<CardQuery<'static>> {
        let upsert = &UPSERTS[power(ROWS_MAX)];
        (self.cards.len() > ROWS_MAX).then(|| {
            let first = self.cards.drain(..ROWS_MAX);
            first.fold(sqlx::query(upsert), rows::bind)
        })
    }

    /// The statements that move the checkpoint and write the rows that are left. They fail if the
    /// checkpoint is elsewhere.
    pub fn push_to(&self, text: &mut String) {
        text.push_str(MOVE_LIVE);
        text.push_str("; ");
        text.push_str(&UPSERTS[power(self.cards.len())]);
    }

    /// Binds the values of [`Self::push_to`].
    pub fn bind(self, query: CardQuery<'_>) -> CardQuery<'_> {
        let query = query
            .bind(row::column(self.from))
            .bind(row::column(self.to));
        let places = self.cards.len().next_power_of_two() - self.cards.len();
        let left_over = if self.cards.is_empty() { 0 } else { places };
        let query = self.cards.into_iter().fold(query, rows::bind);
        // What the text has after them must find its own values.
        (0..left_over).fold(query, |query, _| rows::bind_none(query))
    }
}
