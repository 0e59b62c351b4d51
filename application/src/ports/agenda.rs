//! What comes next because time passes.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{Position, TenantId};

use super::Unavailable;

/// When which tenant next needs attention because time has passed.
///
/// Kept by the landlord's subscriber as a hint that is never too late: the tenant's own read
/// model says what is really due.
#[async_trait]
pub trait Agenda: Send + Sync {
    /// The tenant whose moment comes first, of all but these few.
    async fn next(
        &self,
        except: &[TenantId],
    ) -> Result<Option<(TenantId, DateTime<Utc>)>, Unavailable>;
    /// Replaces a tenant's moment by the one found in its read model at `as_of`, unless events
    /// after that position have been noted meanwhile (then it stays, and is looked at again).
    async fn replace(
        &self,
        tenant: TenantId,
        as_of: Position,
        next: Option<DateTime<Utc>>,
    ) -> Result<(), Unavailable>;
    /// Returns when an earlier moment may have come in.
    async fn changed(&self);
}
