//! What moving a tenant to another shard needs of the landlord's records and of the shards.

use async_trait::async_trait;
use domain::ids::{Position, Slug, TenantId};
use serde::Deserialize;
use uuid::Uuid;

use super::Unavailable;
use super::restore::{RestoreError, RestoringStore};
use crate::tenants::Tenant;

/// A move that is under way, as the landlord records it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Whose.
    pub tenant: TenantId,
    /// The shard that it is moved from.
    pub source: Slug,
    /// The shard that it is moved to.
    pub target: Slug,
    /// How far it is.
    pub stage: Stage,
    /// The process that is at it. Another one that takes over puts its own here, and from then on
    /// the one before it can neither switch nor end the move.
    pub mover: Uuid,
}

/// How far a move is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The tenant is at its old place.
    Copying,
    /// The tenant is at its new place; the old one is to be cleared away.
    Switched,
    /// The tenant stays at its old place; the new one is to be cleared away.
    Undoing,
}

impl Stage {
    /// As recorded.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Copying => "copying",
            Self::Switched => "switched",
            Self::Undoing => "undoing",
        }
    }
}

/// The revision of a head that is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frozen(pub i64);

/// What there is of a tenant's ledger at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Missing,
    /// A ledger that takes appends.
    InUse,
    /// A ledger that takes none.
    Frozen(Frozen),
}

/// The landlord's records of moves, each change on disk before it is answered.
#[async_trait]
pub trait MoveRecords: Send + Sync {
    /// The tenant's move under way.
    async fn find(&self, tenant: TenantId) -> Result<Option<Move>, Unavailable>;
    /// Records a move, or takes over the tenant's move under way; that one, as it is now.
    async fn claim(&self, wanted: &Move) -> Result<Move, Unavailable>;
    /// From now on the tenant is at its new place, for every node that hears of it. `false` if the
    /// move is not being copied by this mover any more; nothing is changed then.
    async fn switch(&self, claimed: &Move) -> Result<bool, Unavailable>;
    /// From now on nobody can switch. `false` if it was switched, or another mover took over.
    async fn undo(&self, claimed: &Move) -> Result<bool, Unavailable>;
    /// Whether this mover is still the one.
    async fn is_claimed(&self, claimed: &Move) -> Result<bool, Unavailable>;
    /// The move is over.
    async fn end(&self, claimed: &Move) -> Result<(), Unavailable>;
}

/// The places that a tenant's ledger can be at: for each method, the one that a record names.
///
/// A ledger that is frozen takes no appends, from any node, whatever that has in memory. Only a
/// frozen one is ever dropped.
#[async_trait]
pub trait Places: Send + Sync {
    /// Whether both records name the same ledger: two shards may be one database, and a database
    /// of the tenant's own is one for all shards of a server.
    async fn are_one(&self, one: &Tenant, other: &Tenant) -> Result<bool, Unavailable>;
    /// Freezes the ledger, because it is moved to a shard; after that it does not change. One that
    /// is frozen is frozen anew: nobody who saw it before can thaw it.
    async fn freeze(&self, here: &Tenant, to: &Slug) -> Result<Frozen, Unavailable>;
    /// Whether the ledger is there and frozen, and since when.
    async fn condition(&self, here: &Tenant) -> Result<Condition, Unavailable>;
    /// Lets the ledger take appends. `false` if it was frozen anew, or thawed, since it was seen;
    /// nothing is changed then.
    async fn thaw(&self, here: &Tenant, seen: Frozen) -> Result<bool, Unavailable>;
    /// Whether both ledgers are there and frozen, and are the same: head, counters, and the number
    /// of events and outcomes.
    async fn are_same(&self, one: &Tenant, other: &Tenant) -> Result<bool, Unavailable>;
    /// Begins to fill a place with a copy, which will be frozen.
    async fn fill(&self, there: &Tenant) -> Result<Box<dyn RestoringStore>, RestoreError>;
    /// Builds the read models of the tenant at a place; the position that they are at.
    async fn build_read_models(
        &self,
        there: &Tenant,
        progress: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<Position, Unavailable>;
    /// Carries the checkpoints of subscribers whose effect is in no database of ours, which cannot be
    /// built anew: without them everything would be published again.
    async fn carry_checkpoints(&self, here: &Tenant, there: &Tenant) -> Result<(), Unavailable>;
    /// Drops the ledger, if there is one, with the read models beside it.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] also if it is not frozen.
    async fn drop_frozen(&self, here: &Tenant) -> Result<(), Unavailable>;
}
