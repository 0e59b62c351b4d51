//! Building the cards anew beside the ones in use, while these are read and kept up to date.
//!
//! The new table has its own checkpoint and is filled a page of events a transaction; the next
//! page is read meanwhile. Then its indexes are made, and when it has caught up, one last
//! transaction folds what is left and swaps. In a file the writing connection is free between
//! these, so the ledger's writer waits for one page or one index at a time.
//!
//! A building that was cut off leaves its table until the next one begins. Of two at the same
//! time, the later takes over and the earlier fails at its next step.

use std::sync::Arc;
use std::time::Duration;

use application::ports::{HandlerError, Ledger, RecordedEvent, Unavailable};
use domain::ids::Position;
use sqlx::{Sqlite, Transaction};

use super::table::{self, INDEXES, Table};
use super::{failed, fold, rows};
use crate::database::{Database, begin_replayable};
use crate::projections::following;

/// How many events are folded a transaction: what the ledger's writer may have to wait for.
pub const PAGE_EVENTS: usize = 1024;

/// How often it is looked for an append that is committed and not shown yet, and how long apart.
const LOOKS_MAX: usize = 100;
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// A new table beside the one in use.
pub trait Building: Send {
    /// Brings it from its checkpoint to the last of the events; answers the new checkpoint.
    fn fill(
        &mut self,
        before: Position,
        events: &[Arc<RecordedEvent>],
    ) -> impl Future<Output = Result<Position, HandlerError>> + Send;

    /// Makes its indexes, once it is full.
    fn index(&mut self) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// Folds the last events, which begin with `page`, and swaps the tables; answers the
    /// checkpoint after it.
    fn finish(
        self,
        ledger: &dyn Ledger,
        before: Position,
        page: &[Arc<RecordedEvent>],
    ) -> impl Future<Output = Result<Position, HandlerError>> + Send;
}

/// Builds the cards anew and swaps; answers the checkpoint after it.
pub async fn rebuild(
    mut building: impl Building,
    ledger: &dyn Ledger,
    progress: &(dyn Fn(Position) + Send + Sync),
) -> Result<Position, HandlerError> {
    let (position, _) = fill_up(&mut building, ledger, 0, progress).await?;
    building.index().await?;
    // Making the indexes took its time, and more has happened.
    let (position, rest) = fill_up(&mut building, ledger, position, progress).await?;
    let position = building.finish(ledger, position, &rest).await?;
    progress(position);
    Ok(position)
}

/// Fills the new table until less than a page is left; answers how far it is, and what is left.
async fn fill_up(
    building: &mut impl Building,
    ledger: &dyn Ledger,
    mut position: Position,
    progress: &(dyn Fn(Position) + Send + Sync),
) -> Result<(Position, Vec<Arc<RecordedEvent>>), HandlerError> {
    let mut page = ledger.read(position, PAGE_EVENTS).await?;
    while page.len() == PAGE_EVENTS {
        let last = position + PAGE_EVENTS as Position;
        let (filled, following) = futures::join!(
            building.fill(position, &page),
            ledger.read(last, PAGE_EVENTS)
        );
        position = filled?;
        page = following?;
        progress(position);
    }
    Ok((position, page))
}

/// A new table in a tenant's file.
pub struct InFile<'a> {
    database: &'a Database,
    generation: i64,
}

impl<'a> InFile<'a> {
    /// Begins with an empty one.
    pub async fn start(database: &'a Database) -> Result<Self, HandlerError> {
        let mut writer = database.writer().await.map_err(failed)?;
        let mut transaction = begin_replayable(&mut writer).await.map_err(failed)?;
        let generation = table::create_next(&mut transaction).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        drop(writer);
        Ok(Self {
            database,
            generation,
        })
    }
}

impl Building for InFile<'_> {
    async fn fill(
        &mut self,
        before: Position,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        let mut writer = self.database.writer().await.map_err(failed)?;
        let mut transaction = begin_replayable(&mut writer).await.map_err(failed)?;
        still_ours(&mut transaction, self.generation).await?;
        let position = apply(&mut transaction, before, events).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(position)
    }

    /// Each in a transaction of its own. Sorting once is several times cheaper than keeping an
    /// index up to date with every page; the ledger's writer may have to wait for one index.
    async fn index(&mut self) -> Result<(), HandlerError> {
        for index in INDEXES {
            let mut writer = self.database.writer().await.map_err(failed)?;
            let mut transaction = begin_replayable(&mut writer).await.map_err(failed)?;
            still_ours(&mut transaction, self.generation).await?;
            table::create_index(&mut transaction, Table::Next, index, self.generation)
                .await
                .map_err(failed)?;
            transaction.commit().await.map_err(failed)?;
        }
        Ok(())
    }

    /// The ledger's writer waits meanwhile, so the last events are few, and no more come.
    async fn finish(
        self,
        ledger: &dyn Ledger,
        before: Position,
        page: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        let mut writer = self.database.writer().await.map_err(failed)?;
        let mut transaction = begin_replayable(&mut writer).await.map_err(failed)?;
        still_ours(&mut transaction, self.generation).await?;
        let mut position = apply(&mut transaction, before, page).await?;
        let live = table::reached(&mut transaction, Table::Live).await?;
        let mut looks = 0;
        loop {
            let page = ledger.read(position, PAGE_EVENTS).await?;
            if page.is_empty() && (position >= live || looks == LOOKS_MAX) {
                break;
            }
            // The last append has taken the live table along, and is about to be shown.
            if page.is_empty() {
                looks += 1;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            position = apply(&mut transaction, position, &page).await?;
        }
        not_before(position, live)?;
        table::swap(&mut transaction, position)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(position)
    }
}

/// Brings the new table from its checkpoint to the last of the events; answers the new checkpoint.
async fn apply(
    transaction: &mut Transaction<'_, Sqlite>,
    before: Position,
    events: &[Arc<RecordedEvent>],
) -> Result<Position, HandlerError> {
    let events = following(events, before)?;
    let Some(last) = events.last() else {
        return Ok(before);
    };
    let position = last.stored.position;
    let histories = fold::histories(events)?;
    let known = rows::load(transaction, Table::Next, &fold::begun_before(&histories))
        .await
        .map_err(failed)?;
    rows::store_next(transaction, fold::fold(known, histories))
        .await
        .map_err(failed)?;
    table::advance_next(transaction, before, position).await?;
    Ok(position)
}

/// Refuses to go on in a table that a later building has begun anew.
async fn still_ours(
    transaction: &mut Transaction<'_, Sqlite>,
    generation: i64,
) -> Result<(), HandlerError> {
    latest_is(
        table::generation(transaction).await.map_err(failed)?,
        generation,
    )
}

/// Refuses to go on in a building that is not the latest.
pub fn latest_is(latest: i64, generation: i64) -> Result<(), HandlerError> {
    match latest == generation {
        true => Ok(()),
        false => Err(Unavailable::new("the new table, which a later building took over").into()),
    }
}

/// Refuses to put a table in the place of one that is further on.
pub fn not_before(position: Position, live: Position) -> Result<(), HandlerError> {
    match position >= live {
        true => Ok(()),
        false => Err(HandlerError::Failed(format!(
            "the ledger ends at {position}, the read model is at {live}"
        ))),
    }
}
