//! How far subscribers are whose effect is in no database of ours, and on which node they work.

use std::time::Duration;

use async_trait::async_trait;
use domain::ids::Position;

use super::Unavailable;

/// Checkpoints in a tenant's store, for subscribers whose effect cannot be committed with them: it
/// comes first, the checkpoint after it, so an effect may happen twice but none is missed.
#[async_trait]
pub trait Checkpoints: Send + Sync {
    /// The position up to which the subscriber has handled the tenant's events.
    async fn position(&self, subscriber: &'static str) -> Result<Position, Unavailable>;

    /// Takes or keeps the subscriber's turn with this tenant, unless another node has it. It lapses
    /// when it is not kept for a while. It saves work: that two nodes never both believe to have
    /// it is not promised.
    async fn turn(&self, subscriber: &'static str) -> Result<Turn, Unavailable>;

    /// The subscriber has handled everything up to `position`. Never goes back.
    async fn advance(
        &self,
        subscriber: &'static str,
        position: Position,
    ) -> Result<(), Unavailable>;
}

/// On which node a tenant's events are to be handled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// On this one, as before.
    Here,
    /// On this one from now on, from this checkpoint.
    HereFrom(Position),
    /// On another one.
    Elsewhere {
        /// How far that one is.
        checkpoint: Position,
        /// When its turn lapses, unless it is kept.
        lapses_in: Duration,
    },
}
