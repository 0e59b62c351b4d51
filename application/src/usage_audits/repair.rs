//! Putting right what an audit has found to have drifted.

use domain::event::Event;
use domain::ids::{Position, TenantId};
use domain::usage::{Usage, UsageEvent};
use futures::stream::{self, StreamExt};
use uuid::Uuid;

use super::{AuditState, LANDLORD};
use crate::Application;
use crate::error::{Error, Refusal};
use crate::ports::usage::Reconciliation;
use crate::ports::{Appended, IdempotencyRecord};
use crate::scope::Command;
use crate::subscribers;

/// How many tenants are repaired at a time.
const AT_A_TIME: usize = 4;

/// What became of the repair of one tenant.
#[derive(Debug)]
pub struct Repair {
    /// Whose counters.
    pub tenant: TenantId,
    /// What they said and say, or why they were not repaired.
    pub outcome: Result<Repaired, Error>,
}

/// Counters that were put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repaired {
    /// What they said.
    pub before: Usage,
    /// What the events say.
    pub after: Usage,
    /// Where the ledger records it.
    pub position: Position,
}

impl Application {
    /// Repairs the tenants whom an audit lists as drifted, or one of them: counts the ledger again,
    /// puts that in place of its counters and records it there, in one transaction, and has the
    /// landlord's read model of the tenant built anew.
    ///
    /// # Errors
    ///
    /// [`Refusal::AuditRunning`] if the audit is not over; [`Error::NotFound`] if it is unknown, or
    /// does not list the tenant.
    pub async fn repair_usage(
        &self,
        command: &Command,
        audit: Uuid,
        tenant: Option<TenantId>,
    ) -> Result<Vec<Repair>, Error> {
        command.scope.require(LANDLORD)?;
        let audit = self.usage_audit(&command.scope, audit).await?;
        if audit.state == AuditState::Running {
            return Err(Refusal::AuditRunning.into());
        }
        let listed = audit.drifted.iter().map(|drift| drift.tenant);
        let wanted: Vec<_> = listed
            .filter(|id| tenant.is_none_or(|wanted| wanted == *id))
            .collect();
        if tenant.is_some() && wanted.is_empty() {
            return Err(Error::NotFound("drift"));
        }
        let repairs = stream::iter(wanted).map(|tenant| async move {
            let outcome = self.repair_tenant(command, tenant).await;
            Repair { tenant, outcome }
        });
        Ok(repairs.buffered(AT_A_TIME).collect().await)
    }

    async fn repair_tenant(&self, command: &Command, tenant: TenantId) -> Result<Repaired, Error> {
        let store = self.known_store(tenant).await?;
        let recount = self.auditor.counts.recount(tenant, 0).await?;
        let key = command.idempotency_key();
        let reconciliation = Reconciliation {
            position: recount.position,
            counted: recount.counted,
            metadata: serde_json::to_string(&command.metadata())
                .map_err(|error| Error::Internal(error.to_string()))?,
            idempotency: key.zip(command.idempotency.as_ref()).map(|(key, it)| {
                IdempotencyRecord {
                    key,
                    fingerprint: it.fingerprint,
                    // The answer is in the event.
                    outcome: "null".to_owned(),
                }
            }),
        };
        let appended = self.auditor.counts.reconcile(tenant, reconciliation).await;
        let position = match appended.map_err(|error| Error::of_append(tenant, error))? {
            Appended::Committed(position) => position,
            Appended::Replayed(outcome) => outcome.position,
        };
        let recorded = store.ledger.read(position.saturating_sub(1), 1).await?;
        let Some(Event::Usage(UsageEvent::UsageReconciled { before, after, .. })) =
            recorded.first().map(|recorded| recorded.event.clone())
        else {
            return Err(Error::Internal(format!("no repair at {position}")));
        };
        self.subscribers
            .rebuild(subscribers::LANDLORD, tenant, &|_| {})
            .await?;
        tracing::info!(%tenant, position, ?before, ?after, "usage was repaired");
        Ok(Repaired {
            before,
            after,
            position,
        })
    }
}
