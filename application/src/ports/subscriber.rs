//! What follows the ledgers.

use std::sync::Arc;

use async_trait::async_trait;
use domain::ids::Position;

use super::checkpoints::Turn;
use super::{RecordedEvent, TenantStore, Unavailable};

/// Something that follows every ledger: a name, a checkpoint, a handler. The loop that drives it
/// is in `subscribers.rs`.
#[async_trait]
pub trait Subscriber: Send + Sync {
    /// Its name, in the checkpoint and for people: `cards`.
    fn name(&self) -> &'static str;

    /// Whether requests wait for its effect. One that nobody waits for may be behind without this
    /// process being unfit for traffic, and is not built anew.
    fn is_read_model(&self) -> bool {
        true
    }

    /// Whether handling events is a wait for somebody else rather than a commit (its checkpoint is saved
    /// apart from it): then it is done for many tenants at a time, and no events gather for it.
    fn waits_elsewhere(&self) -> bool {
        false
    }

    /// What keeps it from its work with every tenant, for people.
    fn trouble(&self) -> Option<String> {
        None
    }

    /// Whether the tenant's events are to be handled on this node now; asked before each batch.
    /// They are on every node if handling them on several at once costs nothing.
    async fn turn(&self, _tenant: &TenantStore) -> Result<Turn, Unavailable> {
        Ok(Turn::Here)
    }

    /// The position up to which the tenant's events are handled.
    async fn checkpoint(&self, tenant: &TenantStore) -> Result<Position, Unavailable>;

    /// Handles events in order and moves the checkpoint, or notes it to be saved. Of a read model both
    /// or neither: events at or before the checkpoint are passed over, so handling the same ones
    /// twice (two nodes, a crash) has the effect of once. Answers the new checkpoint.
    ///
    /// # Errors
    ///
    /// [`HandlerError::Unavailable`] is tried again for as long as it takes;
    /// [`HandlerError::Failed`] a few times, and then the subscriber stops for this tenant.
    async fn handle(
        &self,
        tenant: &TenantStore,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError>;

    /// Builds the effect anew from the first event beside the one in use, then swaps them.
    /// Handling goes on meanwhile. Answers the checkpoint after the swap.
    ///
    /// `progress` is called with each position reached. Asked of read models only.
    async fn rebuild(
        &self,
        _tenant: &TenantStore,
        _progress: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<Position, HandlerError> {
        let name = self.name();
        Err(HandlerError::Failed(format!("{name} is no read model")))
    }
}

/// Why a subscriber did not handle events.
#[derive(Debug, thiserror::Error)]
pub enum HandlerError {
    /// A dependency did not answer; later it may.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// These events cannot be handled.
    #[error("{0}")]
    Failed(String),
}
