//! The live table as its ledger's companion.
//!
//! The table is in the database of the ledger that it is folded from. So an append takes it along:
//! rows and checkpoint move in the append's own transaction, and whoever reads has nothing to wait
//! for. That takes a table that is where the append begins. One that is not (it was just made, or a
//! row could not be written) is left to its subscriber until that has caught up. What is wrong with
//! the table costs no append.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use application::cards::Card;
use application::ports::RecordedEvent;
use application::ports::checkpoints::Turn;
use domain::ids::{CardId, Position, TenantId};

use super::fold;
use crate::projections::row;

/// Where the table is, while nobody has looked or if there is none.
const NOWHERE: i64 = -1;

/// What a ledger's writer and the table's subscriber know of the table in this process.
pub struct Companion {
    /// Up to where it has the ledger: as of the last transaction of this process that moved it.
    reached: AtomicI64,
    /// Whether appends take it along.
    along: AtomicBool,
    /// How often it could not be written.
    left: AtomicU64,
}

impl Default for Companion {
    fn default() -> Self {
        Self {
            reached: AtomicI64::new(NOWHERE),
            along: AtomicBool::new(false),
            left: AtomicU64::new(0),
        }
    }
}

impl Companion {
    /// Up to where the table has the ledger, as far as anybody has looked.
    pub fn reached(&self) -> Option<Position> {
        Position::try_from(self.reached.load(Ordering::Acquire)).ok()
    }

    /// Whether appends take it along, those that begin where it is.
    pub fn goes_along(&self) -> bool {
        self.along.load(Ordering::Acquire)
    }

    /// The table has the ledger up to `position`, and can be written.
    pub fn moved(&self, position: Position) {
        self.reached
            .fetch_max(row::column(position), Ordering::AcqRel);
        self.along.store(true, Ordering::Release);
    }

    /// The table is not where it was thought to be: it is left to its subscriber.
    pub fn leave(&self) {
        self.along.store(false, Ordering::Release);
    }

    /// An append was given up for the table's sake: it is left to its subscriber.
    pub fn leave_because(&self, tenant: TenantId, error: &(dyn std::error::Error + 'static)) {
        self.leave();
        let times = self.left.fetch_add(1, Ordering::Relaxed) + 1;
        // Ever more rarely: it may be so for every append until somebody looks.
        if times.is_power_of_two() {
            tracing::warn!(%tenant, error, times, "an append does not take the cards along");
        }
    }

    /// What the table's subscriber has to do: nothing up to where appends have taken it.
    pub fn turn(&self) -> Turn {
        match self.reached().filter(|_| self.goes_along()) {
            Some(position) => Turn::HereFrom(position),
            None => Turn::Here,
        }
    }
}

/// What becomes of the table with these events, where `known` has the rows of all cards that were
/// there before. None if that cannot be said, which is for the subscriber to report.
pub fn folded(known: Vec<Card>, events: &[Arc<RecordedEvent>]) -> Option<Vec<Card>> {
    let fold = || {
        let histories = fold::histories(events).ok()?;
        let missing = |id: &CardId| known.iter().all(|card| card.id != *id);
        let all_known = !fold::begun_before(&histories).iter().any(missing);
        all_known.then(|| fold::fold(known, histories))
    };
    catch_unwind(AssertUnwindSafe(fold)).ok().flatten()
}

/// The same of events that only tell of new cards; none of others.
pub fn folded_anew(events: &[Arc<RecordedEvent>]) -> Option<Vec<Card>> {
    let fold = || {
        let histories = fold::histories(events).ok()?;
        fold::begun_before(&histories)
            .is_empty()
            .then(|| fold::fold(vec![], histories))
    };
    catch_unwind(AssertUnwindSafe(fold)).ok().flatten()
}
