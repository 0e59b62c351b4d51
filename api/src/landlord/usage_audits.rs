//! Usage audits: recounts of every ledger, asked for; their reports; and putting right what they
//! have found.

use std::sync::Arc;

use application::error::causes;
use application::scope::Command;
use application::usage_audits::repair::Repair;
use application::usage_audits::{AuditState, Drift, Failure, UsageAudit};
use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::ids::{Position, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::Api;
use crate::answer::{Commanded, Json, Page};
use crate::entitlements::CountsBody;
use crate::extract::body::reason;
use crate::extract::{Ask, Fields, InPath, InQuery, cursor, page_items};
use crate::keys::PageQuery;
use crate::landlord::subscribers::OfTenant;
use crate::problem::Problem;
use crate::scope::Caller;

/// What an audit has found so far.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageAudit)]
pub struct UsageAuditBody {
    /// Its id: a UUID, version 7.
    pub id: Uuid,
    /// Whether it goes on.
    pub state: AuditStateBody,
    /// The one tenant whom it is about; null if it is about all.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub tenant: Option<TenantId>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it was last heard of; if it is over, when it ended.
    pub heard_at: DateTime<Utc>,
    /// How many tenants there were when it began.
    pub tenants: u64,
    /// How many of them were looked at.
    pub tenants_done: u64,
    /// How many events were counted.
    pub events: u64,
    /// How many tenants have drifted: not everything says the same of their cards.
    pub drifted_total: u64,
    /// The first 100 of them.
    pub drifted: Vec<DriftBody>,
    /// How many tenants could not be counted.
    pub failed_total: u64,
    /// The first 100 of them.
    pub failed: Vec<FailureBody>,
}

/// Whether an audit goes on.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = UsageAuditState)]
#[serde(rename_all = "snake_case")]
pub enum AuditStateBody {
    /// It goes on.
    Running,
    /// Every tenant was looked at.
    Finished,
    /// Its process ended before that, or could not go on.
    Interrupted,
}

/// A tenant of whom not everything says the same.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageDrift)]
pub struct DriftBody {
    /// The tenant.
    #[schema(value_type = String, format = Uuid)]
    pub tenant: TenantId,
    /// What its ledger's own counters say, on which the quota rests.
    pub head: CountedBody,
    /// What the landlord's read model says.
    pub read_model: CountedBody,
}

/// What somebody says, beside what the events say.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = CountedUsage)]
pub struct CountedBody {
    /// The ledger position that both are of.
    pub position: Position,
    /// What the events say; null if the ledger ends before that position.
    pub expected: Option<CountsBody>,
    /// What was found.
    pub found: CountsBody,
}

/// A tenant who could not be counted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageAuditFailure)]
pub struct FailureBody {
    /// The tenant.
    #[schema(value_type = String, format = Uuid)]
    pub tenant: TenantId,
    /// Why.
    pub reason: String,
}

/// Which drifts to repair.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = UsageRepairs)]
#[serde(deny_unknown_fields)]
pub struct RepairsBody {
    /// Of this tenant; of all that the report lists, if absent.
    #[schema(value_type = Option<String>, format = Uuid)]
    tenant: Option<TenantId>,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// What became of the repair of one tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageRepair)]
pub struct RepairBody {
    /// The tenant.
    #[schema(value_type = String, format = Uuid)]
    pub tenant: TenantId,
    /// What the ledger's counters said; null if they were not repaired.
    pub before: Option<CountsBody>,
    /// What they say now.
    pub after: Option<CountsBody>,
    /// Where the ledger records it.
    pub position: Option<Position>,
    /// Why they were not repaired; then the same may be asked again.
    pub error: Option<String>,
}

/// Lists the reports of usage audits, the newest first; the newest 100 are kept.
#[utoipa::path(
    get, path = "/v1/landlord/usage-audits", tag = "Landlord", params(PageQuery),
    responses((status = 200, description = "A page of reports", body = Page<UsageAuditBody>))
)]
pub async fn list_usage_audits(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Json<Page<UsageAuditBody>>, Problem> {
    let limit = page_items(query.limit)?;
    let before = match &query.cursor {
        Some(cursor) => Some(cursor::read::<Uuid>(&"usage audits", cursor)?),
        None => None,
    };
    let application = &api.application;
    let mut audits = application.usage_audits(&scope, before, limit + 1).await?;
    let more = audits.len() > limit;
    audits.truncate(limit);
    let next_cursor = match audits.last().filter(|_| more) {
        Some(last) => Some(cursor::write(&"usage audits", &last.id)?),
        None => None,
    };
    let items = audits.into_iter().map(UsageAuditBody::from).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// Begins to count every ledger again, or one tenant's, in the background, and to compare that with
/// its own counters and with the landlord's read model. Nothing is changed by it.
#[utoipa::path(
    post, path = "/v1/landlord/usage-audits", tag = "Landlord", request_body = OfTenant,
    responses((status = 202, description = "It has begun; its report says how far it is",
        body = UsageAuditBody))
)]
pub async fn start_usage_audit(
    State(api): State<Arc<Api>>,
    ask: Ask<OfTenant>,
) -> Result<Commanded<UsageAuditBody>, Problem> {
    let Ask { command, body } = ask;
    let done = api
        .to_its_end(|application| async move {
            application.start_usage_audit(&command, body.tenant).await
        })
        .await?;
    let location = format!("/v1/landlord/usage-audits/{}", done.value.id);
    Ok(Commanded::accepted(done, UsageAuditBody::from, location).outside_ledgers())
}

/// Shows the report of a usage audit; of one that goes on, how far it is.
#[utoipa::path(
    get, path = "/v1/landlord/usage-audits/{id}", tag = "Landlord",
    params(("id" = String, Path, description = "The audit's id")),
    responses((status = 200, description = "The report", body = UsageAuditBody))
)]
pub async fn get_usage_audit(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(id): InPath<Uuid>,
) -> Result<Json<UsageAuditBody>, Problem> {
    let audit = api.application.usage_audit(&scope, id).await?;
    Ok(Json(audit.into()))
}

/// Repairs what a usage audit has found: counts again, puts that in place of the ledger's counters
/// with an event that says so, in one transaction, and builds the landlord's read model of the
/// tenant anew.
#[utoipa::path(
    put, path = "/v1/landlord/usage-audits/{id}/repair", tag = "Landlord",
    request_body = RepairsBody, params(("id" = String, Path, description = "The audit's id")),
    responses((status = 200, description = "What became of each", body = Page<RepairBody>))
)]
pub async fn repair_usage(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<Uuid>,
    ask: Ask<RepairsBody>,
) -> Result<Json<Page<RepairBody>>, Problem> {
    let (command, tenant) = ask.into_repairs()?;
    let repairs = api
        .to_its_end(
            |application| async move { application.repair_usage(&command, id, tenant).await },
        )
        .await?;
    // Who names a tenant hears of its failure as of any other.
    let mut items = Vec::with_capacity(repairs.len());
    for repair in repairs {
        match repair.outcome {
            Err(error) if tenant.is_some() => return Err(error.into()),
            _ => items.push(repair.into()),
        }
    }
    Ok(Json(Page::whole(items)))
}

impl Ask<RepairsBody> {
    fn into_repairs(self) -> Result<(Command, Option<TenantId>), Problem> {
        let mut fields = Fields::default();
        let reason = reason(&mut fields, self.body.reason);
        let command = Command {
            reason: fields.finish(reason)?,
            ..self.command
        };
        Ok((command, self.body.tenant))
    }
}

impl From<UsageAudit> for UsageAuditBody {
    fn from(audit: UsageAudit) -> Self {
        Self {
            id: audit.id,
            state: audit.state.into(),
            tenant: audit.tenant,
            started_at: audit.started_at,
            heard_at: audit.heard_at,
            tenants: audit.tenants,
            tenants_done: audit.tenants_done,
            events: audit.events,
            drifted_total: audit.drifted_total,
            drifted: audit.drifted.into_iter().map(Into::into).collect(),
            failed_total: audit.failed_total,
            failed: audit.failed.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<AuditState> for AuditStateBody {
    fn from(state: AuditState) -> Self {
        match state {
            AuditState::Running => Self::Running,
            AuditState::Finished => Self::Finished,
            AuditState::Interrupted => Self::Interrupted,
        }
    }
}

impl From<Drift> for DriftBody {
    fn from(drift: Drift) -> Self {
        Self {
            tenant: drift.tenant,
            head: CountedBody {
                position: drift.position,
                expected: Some(CountsBody::of(&drift.expected)),
                found: CountsBody::of(&drift.head),
            },
            read_model: CountedBody {
                position: drift.read_model_position,
                expected: drift.read_model_expected.as_ref().map(CountsBody::of),
                found: CountsBody::of(&drift.read_model),
            },
        }
    }
}

impl From<Failure> for FailureBody {
    fn from(failure: Failure) -> Self {
        Self {
            tenant: failure.tenant,
            reason: failure.reason,
        }
    }
}

impl From<Repair> for RepairBody {
    fn from(repair: Repair) -> Self {
        let (repaired, error) = match repair.outcome {
            Ok(repaired) => (Some(repaired), None),
            Err(error) => (None, Some(causes(&error))),
        };
        Self {
            tenant: repair.tenant,
            before: repaired.map(|it| CountsBody::of(&it.before)),
            after: repaired.map(|it| CountsBody::of(&it.after)),
            position: repaired.map(|it| it.position),
            error,
        }
    }
}
