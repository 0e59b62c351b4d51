//! How a history from elsewhere becomes a tenant's store: exactly as it was, or not at all.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::chain::Hash;
use domain::event::UndecodableEvent;
use domain::ids::Position;

use super::{StoredEvent, Unavailable};

/// What was answered under an idempotency key, as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredOutcome {
    /// The client's key, with the name space of who asked.
    pub key: String,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
    /// What was answered, or which card as of which version: JSON.
    pub outcome: String,
    /// The ledger's position after it; 0 for the landlord's answers, which are in no ledger.
    pub position: Position,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
}

/// Some of the outcomes of a store, in an order of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutcomePage {
    /// The outcomes.
    pub items: Vec<StoredOutcome>,
    /// Where the next page begins, in the store's own words; `None` on the last.
    pub next: Option<String>,
}

/// Where a ledger ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerEnd {
    /// The position of the last event.
    pub position: Position,
    /// The hash of the last event.
    pub hash: Hash,
    /// How many serials for card numbers were ever reserved, handed out or not.
    pub card_serials_reserved: u64,
}

/// A tenant's store being filled. Nobody can open it until it is finished; one that is dropped
/// before, also by a crash, is cleared away when the tenant's store is next restored.
#[async_trait]
pub trait RestoringStore: Send {
    /// Adds the next events, as they were stored.
    ///
    /// # Errors
    ///
    /// [`RestoreError::Unsound`] if they do not follow on those before; the store is of no use
    /// any more, also after [`RestoreError::Unavailable`].
    async fn add_events(&mut self, events: &[StoredEvent]) -> Result<(), RestoreError>;

    /// Adds outcomes, after the events.
    ///
    /// # Errors
    ///
    /// As [`Self::add_events`].
    async fn add_outcomes(&mut self, outcomes: &[StoredOutcome]) -> Result<(), RestoreError>;

    /// Makes it the tenant's store, if it ends where it must. What was counted is counted anew.
    /// A store that is there already with all of this history, because an earlier attempt came as
    /// far as this, is left as it is.
    ///
    /// # Errors
    ///
    /// [`RestoreError`]; nothing of it is left then, except where
    /// [`RestoreError::Unavailable`] leaves that open.
    async fn finish(self: Box<Self>, end: &LedgerEnd) -> Result<(), RestoreError>;

    /// Clears it away, as far as that can be done now.
    async fn discard(self: Box<Self>);
}

/// Why a store was not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// What came is not the history of a tenant.
    #[error(transparent)]
    Unsound(#[from] Unsound),
    /// The tenant has a store with another history; it was left as it is.
    #[error("the tenant has a store already, with another history")]
    Exists,
    /// Somebody else restores the same tenant's store.
    #[error("the tenant's store is being restored by another process")]
    InProgress,
    /// The store did not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// What is wrong with a history.
#[derive(Debug, thiserror::Error)]
pub enum Unsound {
    /// An event is missing, doubled or out of order.
    #[error("position {found} where {expected} must be")]
    Gap {
        /// The position that must be here.
        expected: Position,
        /// The position that is.
        found: Position,
    },
    /// An event, or one before it, was changed.
    #[error("the hash of position {0} does not cover what is here")]
    Changed(Position),
    /// An event cannot be read.
    #[error("position {position} cannot be read")]
    Undecodable {
        /// The event's.
        position: Position,
        /// Why.
        source: UndecodableEvent,
    },
    /// A subscription's event that is not this tenant's.
    #[error("position {0} is of another tenant's subscription")]
    AnotherTenant(Position),
    /// The subscription never starts.
    #[error("it has no event of the tenant's subscription")]
    NoSubscription,
    /// An aggregate's events are not numbered 1, 2, 3 … in the order of the ledger.
    #[error("the events of an aggregate are not numbered in the order of their positions")]
    Misnumbered,
    /// It is longer or shorter than it says.
    #[error("it ends at position {found}, not at {expected}")]
    Ends {
        /// Where it says that it ends.
        expected: Position,
        /// Where it does.
        found: Position,
    },
    /// It ends with another event than it says.
    #[error("its last hash is not the one that it says")]
    EndsOtherwise,
    /// An outcome of later events than there are.
    #[error("an outcome is of position {0}, which is after the end")]
    OutcomeAfterEnd(Position),
    /// An idempotency key has two outcomes.
    #[error("an idempotency key has two outcomes")]
    OutcomeTwice,
    /// A card number could be handed out twice.
    #[error("fewer card numbers are reserved than cards were issued")]
    SerialsReserved,
}
