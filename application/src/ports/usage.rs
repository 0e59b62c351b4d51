//! What watches over usage: recounts of ledgers, the reports of audits, what processes remember.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{Position, TenantId};
use domain::usage::Usage;
use uuid::Uuid;

use super::{AppendError, Appended, IdempotencyRecord, LandlordError, Recorded, Unavailable};
use crate::usage_audits::{AuditState, Night, UsageAudit};

/// Counts the cards of ledgers again, from their first events.
#[async_trait]
pub trait LedgerCounts: Send + Sync {
    /// Counts a tenant's cards up to the end of its ledger, and on the way up to `also_at`. Reads a
    /// bounded number of events at a time, keeps no store open that was not, and locks nothing
    /// meanwhile.
    async fn recount(&self, tenant: TenantId, also_at: Position) -> Result<Recount, Unavailable>;

    /// Puts a recount in place of the ledger's counters and records that, in one transaction. What
    /// was appended since the recount is counted on under the head's lock.
    ///
    /// # Errors
    ///
    /// As [`Ledger::append`](super::Ledger::append).
    async fn reconcile(
        &self,
        tenant: TenantId,
        reconciliation: Reconciliation,
    ) -> Result<Appended, AppendError>;
}

/// A tenant's cards, counted again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recount {
    /// The ledger's position, which is also how many events it has.
    pub position: Position,
    /// What the events say at that position.
    pub counted: Usage,
    /// What the ledger's counters say at that position.
    pub head: Usage,
    /// What the events say at the other position asked for; none if the ledger ends before it.
    pub also: Option<Usage>,
}

/// How counters are put right.
#[derive(Clone, Debug)]
pub struct Reconciliation {
    /// What to begin with: up to where the events were counted.
    pub position: Position,
    /// What they say there.
    pub counted: Usage,
    /// Who, why and on whose request: JSON, the exact text to store with the event.
    pub metadata: String,
    /// What to answer if the same request comes again.
    pub idempotency: Option<IdempotencyRecord>,
}

/// The landlord's records of audits.
#[async_trait]
pub trait UsageAuditRecords: Send + Sync {
    /// Records an audit that begins, and the outcome to answer again. Those that were abandoned
    /// (not heard of since `abandoned`) are recorded as interrupted first; reports beyond the
    /// newest [`REPORTS_MAX`](crate::usage_audits::REPORTS_MAX) are let go.
    async fn begin(
        &self,
        audit: &UsageAudit,
        night: Option<&Night>,
        abandoned: DateTime<Utc>,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Begun, LandlordError>;
    /// Records how far an audit is, or how it has ended.
    async fn report(&self, audit: &UsageAudit) -> Result<(), Unavailable>;
    /// One audit.
    async fn find(&self, id: Uuid) -> Result<Option<UsageAudit>, Unavailable>;
    /// Up to `limit` audits, the newest first; those before one.
    async fn list(
        &self,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<UsageAudit>, Unavailable>;
}

/// What became of an audit that was to begin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Begun {
    /// It is recorded, or was for the same request.
    Recorded(Recorded),
    /// Another one is running.
    Busy,
    /// Some node has begun the one of this night, which is running or has finished.
    Taken(AuditState),
}

/// What processes remember of a tenant, in the tenant's own store.
#[async_trait]
pub trait ProcessStates: Send + Sync {
    /// What a process has remembered.
    async fn load(&self, tenant: TenantId, process: &str) -> Result<Remembered, Unavailable>;
    /// Remembers it, in place of what was remembered before. A loss of power may take it back.
    async fn store(
        &self,
        tenant: TenantId,
        process: &str,
        remembered: &Remembered,
    ) -> Result<(), Unavailable>;
}

/// A process's state and the position that it is of: both or neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// Up to where it has followed the ledger.
    pub position: Position,
    /// Its state, as the process writes it; empty if it is only known up to where it has to be
    /// followed again.
    pub state: String,
}
