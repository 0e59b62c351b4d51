//! Building the cards anew beside the ones in use, while these are read and kept up to date.
//!
//! The new table has its own checkpoint and is filled a page of events a transaction; the next
//! page is read meanwhile. When it has caught up, one last transaction folds what is left and
//! swaps. The writing connection is free between the pages, so the ledger's writer waits for one
//! page at most.
//!
//! A building that was cut off leaves its table until the next one begins. Of two at the same
//! time, the later takes over and the earlier fails at its checkpoint.

use std::sync::Arc;

use application::ports::{HandlerError, Ledger, RecordedEvent, Unavailable};
use domain::ids::Position;

use super::table::{self, Table};
use super::{apply, failed, reached};
use crate::database::{Database, begin_replayable};

/// How many events are folded a transaction: what the ledger's writer may have to wait for.
const PAGE_EVENTS: usize = 1024;

/// Builds the cards anew and swaps; answers the checkpoint after it.
pub async fn rebuild(
    database: &Database,
    ledger: &dyn Ledger,
    progress: &(dyn Fn(Position) + Send + Sync),
) -> Result<Position, HandlerError> {
    start(database).await?;
    let mut position = 0;
    let mut page = ledger.read(position, PAGE_EVENTS).await?;
    while page.len() == PAGE_EVENTS {
        let last = position + PAGE_EVENTS as Position;
        let (filled, following) = futures::join!(
            fill(database, position, &page),
            ledger.read(last, PAGE_EVENTS)
        );
        position = filled?;
        page = following?;
        progress(position);
    }
    let position = finish(database, ledger, position, page).await?;
    progress(position);
    Ok(position)
}

async fn start(database: &Database) -> Result<(), HandlerError> {
    let mut writer = database.writer().await.map_err(failed)?;
    let mut transaction = begin_replayable(&mut writer).await.map_err(failed)?;
    table::create_next(&mut transaction).await.map_err(failed)?;
    transaction.commit().await.map_err(failed)
}

async fn fill(
    database: &Database,
    before: Position,
    events: &[Arc<RecordedEvent>],
) -> Result<Position, HandlerError> {
    let mut writer = database.writer().await.map_err(failed)?;
    let mut transaction = begin_replayable(&mut writer).await.map_err(failed)?;
    let position = apply(&mut transaction, Table::Next, before, events).await?;
    transaction.commit().await.map_err(failed)?;
    Ok(position)
}

/// Folds the last events and swaps the tables. The ledger's writer waits meanwhile, so the last
/// events are few, and no more come.
async fn finish(
    database: &Database,
    ledger: &dyn Ledger,
    before: Position,
    page: Vec<Arc<RecordedEvent>>,
) -> Result<Position, HandlerError> {
    let mut writer = database.writer().await.map_err(failed)?;
    let mut transaction = begin_replayable(&mut writer).await.map_err(failed)?;
    if reached(&mut transaction, Table::Next).await? != before {
        return Err(Unavailable::new("the new table, which another building took over").into());
    }
    let mut position = apply(&mut transaction, Table::Next, before, &page).await?;
    loop {
        let page = ledger.read(position, PAGE_EVENTS).await?;
        if page.is_empty() {
            break;
        }
        position = apply(&mut transaction, Table::Next, position, &page).await?;
    }
    let live = reached(&mut transaction, Table::Live).await?;
    if position < live {
        return Err(HandlerError::Failed(format!(
            "the ledger ends at {position}, the read model is at {live}"
        )));
    }
    table::swap(&mut transaction, position)
        .await
        .map_err(failed)?;
    transaction.commit().await.map_err(failed)?;
    Ok(position)
}
