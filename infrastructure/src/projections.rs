//! Read models: each with its table, its fold, its queries and its registration.

use std::sync::Arc;

use application::ports::{HandlerError, RecordedEvent};
use domain::ids::Position;

pub mod cards;
pub mod landlord;

pub(crate) mod row;
pub(crate) mod search;

/// The events after a checkpoint, which must follow on it without a gap.
pub(crate) fn following(
    events: &[Arc<RecordedEvent>],
    checkpoint: Position,
) -> Result<&[Arc<RecordedEvent>], HandlerError> {
    let handled = events.partition_point(|event| event.stored.position <= checkpoint);
    let rest = &events[handled..];
    for (event, expected) in rest.iter().zip(checkpoint + 1..) {
        let position = event.stored.position;
        if position != expected {
            return Err(HandlerError::Failed(format!(
                "event {expected} is missing, {position} came instead"
            )));
        }
    }
    Ok(rest)
}
