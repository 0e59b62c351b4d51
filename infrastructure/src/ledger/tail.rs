//! The newest events of a ledger, in memory: subscribers that keep up never read the database.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use application::ports::RecordedEvent;
use domain::ids::Position;

/// How many events are kept, at most.
const EVENTS_MAX: usize = 1_024;
/// How many bytes of text are kept, at most, unless a single event is larger.
const BYTES_MAX: usize = 1024 * 1024;

/// The newest events, without gaps.
#[derive(Default)]
pub(super) struct Tail {
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    events: VecDeque<Arc<RecordedEvent>>,
    bytes: usize,
}

impl Tail {
    /// Adds committed events, in order, and lets go of the oldest.
    pub(super) fn push(&self, events: Vec<Arc<RecordedEvent>>) {
        let Some(first) = events.first() else { return };
        let mut ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let last = ring.events.back().map(|event| event.stored.position);
        if last.is_some_and(|last| last + 1 != first.stored.position) {
            // Others have written between: what is older than the gap must come from the store.
            *ring = Ring::default();
        }
        for event in events {
            ring.bytes += bytes(&event);
            ring.events.push_back(event);
        }
        while ring.events.len() > EVENTS_MAX || (ring.bytes > BYTES_MAX && ring.events.len() > 1) {
            if let Some(oldest) = ring.events.pop_front() {
                ring.bytes -= bytes(&oldest);
            }
        }
    }

    /// Up to `limit` events after `after`; `None` if the first of them is not kept here.
    pub(super) fn read(&self, after: Position, limit: usize) -> Option<Vec<Arc<RecordedEvent>>> {
        let ring = self.ring.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = ring.events.front()?.stored.position;
        let skip = usize::try_from((after + 1).checked_sub(oldest)?).ok()?;
        if skip >= ring.events.len() {
            return None;
        }
        Some(ring.events.iter().skip(skip).take(limit).cloned().collect())
    }
}

fn bytes(event: &RecordedEvent) -> usize {
    event.stored.payload.len() + event.stored.metadata.len()
}
