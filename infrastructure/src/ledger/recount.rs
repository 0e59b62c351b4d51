//! Counting a ledger's cards again, from its first event.
//!
//! Events never change and positions have no gaps, so no transaction is held: the head is read
//! once, with its counters, and then a page of events after the other up to its position. Only a
//! page is in memory, and no aggregate is folded.

use std::future::Future;

use application::ports::usage::Recount;
use domain::event::{AggregateKind, Decoder, Event};
use domain::ids::Position;
use domain::usage::Usage;

use super::{HeadRow, StoreError};

/// How many events are read at a time.
const PAGE_EVENTS: u64 = 4_096;

/// One database's way to look at a ledger for a moment.
pub(crate) trait Source: Send {
    /// The head; and the count, after the page of events that follows on it, but not beyond
    /// `up_to` or that head.
    fn look(
        &mut self,
        count: Count,
        up_to: Position,
    ) -> impl Future<Output = Result<(HeadRow, Count), StoreError>> + Send;
}

/// One database's way to count on within a transaction.
pub(super) trait Pages: Send {
    /// Counts the events after where the count is, up to a position.
    fn count(
        &mut self,
        count: Count,
        up_to: Position,
    ) -> impl Future<Output = Result<Count, StoreError>> + Send;
}

/// The cards as the events up to a position say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(super) position: Position,
    pub(super) usage: Usage,
}

impl Count {
    /// Counts the next event: its position, aggregate type, name, version and payload.
    pub(super) fn follow(
        &mut self,
        decoder: &Decoder,
        position: Position,
        [kind, name, version, payload]: [&str; 4],
    ) -> Result<(), StoreError> {
        self.position += 1;
        if position != self.position {
            return Err(StoreError::Missing(self.position));
        }
        if kind == AggregateKind::Card.as_str()
            && let Event::Card(event) = decoder.decode_text(kind, name, version, payload)?
        {
            self.usage.apply(&event);
        }
        Ok(())
    }

    /// Where the page that begins here ends, at the latest.
    pub(super) fn page(&self, up_to: Position) -> Position {
        up_to.min(self.position + PAGE_EVENTS)
    }
}

/// Counts on from a position to another.
pub(super) async fn count_on(
    pages: &mut impl Pages,
    mut count: Count,
    up_to: Position,
) -> Result<Count, StoreError> {
    if count.position > up_to {
        return Err(StoreError::Missing(up_to + 1));
    }
    while count.position < up_to {
        let page = count.page(up_to);
        count = pages.count(count, page).await?;
        if count.position < page {
            return Err(StoreError::Missing(count.position + 1));
        }
    }
    Ok(count)
}

/// Counts up to the end of the ledger, and on the way up to `also_at`.
pub(crate) async fn recount(
    source: &mut impl Source,
    also_at: Position,
) -> Result<Recount, StoreError> {
    // The first look says where the end is; what is appended later is another's to count.
    let (head, mut count) = source.look(Count::default(), also_at).await?;
    let mut also = None;
    for (stop, is_also) in [(also_at, true), (head.position, false)] {
        let stop = stop.min(head.position);
        while count.position < stop {
            let end = count.page(stop);
            count = source.look(count, end).await?.1;
            if count.position < end {
                return Err(StoreError::Missing(count.position + 1));
            }
        }
        if is_also && also_at <= head.position {
            also = Some(count.usage);
        }
    }
    Ok(Recount {
        position: head.position,
        counted: count.usage,
        head: head.usage,
        also,
    })
}
