//! What a tenant has: its plan and rights, its modules, its usage. Never locked.

use std::collections::BTreeMap;
use std::sync::Arc;

use application::entitlements::{Lock, ModuleState, TenantEntitlements, TenantUsage};
use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::card::Status;
use domain::catalogue::{Catalogue, FeatureSlug, FeatureValue, Kill};
use domain::entitlements::{Blocked, Entitlement, Source, Standing};
use domain::ids::{Position, TenantId};
use domain::usage::Usage;
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::answer::{Json, Page};
use crate::cards::Fresh;
use crate::extract::InQuery;
use crate::problem::Problem;
use crate::scope::Caller;

/// What a tenant has.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Entitlements)]
pub struct EntitlementsBody {
    /// Whose.
    #[schema(value_type = String, format = Uuid)]
    pub tenant: TenantId,
    /// The plan.
    #[schema(example = "free")]
    pub plan: String,
    /// The plan's price level, or that of a trial if it is higher.
    pub price_level: u32,
    /// How the tenant stands.
    pub state: StandingBody,
    /// What that keeps from the tenant.
    pub blocked: BlockedBody,
    /// Every right, by the feature's slug.
    pub features: BTreeMap<String, EntitlementBody>,
    /// The ledger position up to which this is.
    pub as_of: Position,
}

/// One right.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Entitlement)]
pub struct EntitlementBody {
    /// How much: `true`, a whole number, or `"unlimited"`; `false` if it is switched off.
    pub value: FeatureValueBody,
    /// Where it comes from.
    pub source: SourceBody,
    /// Since when that is where it comes from.
    pub since: Option<DateTime<Utc>>,
    /// When it ends by itself or becomes another: with the trial, the grant, the subscription, or
    /// at a scheduled plan change.
    pub expires_at: Option<DateTime<Utc>>,
    /// The API key, or the process, that gave it.
    pub by: Option<String>,
    /// Why, as that one said.
    pub why: Option<String>,
}

/// What a tenant's standing keeps from it. Reading, ending, verifying and exporting its own cards
/// is never blocked.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = Blocked)]
pub struct BlockedBody {
    /// Going over to a higher plan, or trying one. To a lower one it may go as long as the
    /// subscription is not cancelled.
    pub plan_changes: bool,
    /// Bringing cards into circulation, or back into use.
    pub issuing: bool,
    /// The features of price level 2.
    pub level_2: bool,
}

/// How much of a feature: `true`, a whole number, or `"unlimited"`; `false` if it may not be used.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = FeatureValue)]
#[serde(untagged)]
pub enum FeatureValueBody {
    /// Whether it may be used.
    On(bool),
    /// It may be used up to this amount.
    Limit(u64),
    /// `unlimited`: it may be used without a limit.
    Unlimited(String),
}

/// Where a right comes from.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = EntitlementSource)]
#[serde(rename_all = "snake_case")]
pub enum SourceBody {
    /// The plan.
    Plan,
    /// A trial of a plan.
    Trial,
    /// Sold or gifted on top of the plan.
    AddOn,
    /// Put in the plan's place by the landlord.
    Override,
    /// Switched off for everybody, whatever was bought.
    KillSwitch,
}

/// How a tenant stands.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = SubscriptionState)]
#[serde(rename_all = "snake_case")]
pub enum StandingBody {
    /// Everything bought is served.
    Active,
    /// A payment failed; everything bought is served for some days.
    Grace,
    /// Nothing new is served until reinstated; reading and ending cards stays possible.
    Suspended,
    /// Cancelled; everything bought is served until `ends_at`.
    Cancelled,
    /// The subscription is over; reading and ending cards stays possible.
    Ended,
    /// The subscription has not begun.
    NotStarted,
}

/// A module, and whether the tenant has it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Module)]
pub struct ModuleBody {
    /// Its key.
    #[schema(example = "digital_card.advanced")]
    pub key: String,
    /// Its name, for people.
    pub name: String,
    /// The lowest price level whose plans install it.
    pub price_level: u32,
    /// Whether all of it may be used.
    pub installed: bool,
    /// Features of it that may be used; some may be, although the module is locked.
    pub features: Vec<String>,
    /// Why it is locked and what unlocks it; null if it is installed.
    pub locked: Option<LockBody>,
}

/// Why a module is locked, and what unlocks it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModuleLock)]
pub struct LockBody {
    /// The code that its paths answer with.
    #[schema(example = "upgrade_required")]
    pub reason: &'static str,
    /// The lowest price level that unlocks it.
    pub required_level: Option<u32>,
    /// The plans that unlock it.
    pub plans: Vec<String>,
    /// Where to go.
    pub upgrade_url: String,
}

/// How many cards a tenant has.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
pub struct UsageBody {
    /// The cards that take a place of the quota: issued, active and suspended ones.
    pub in_circulation: u64,
    /// The cards of each status.
    pub by_status: CountsBody,
    /// Every card ever issued.
    pub issued_total: u64,
    /// The most cards in circulation; null is without limit.
    pub limit: Option<u64>,
    /// How much of the limit is used, in percent; above 100 after a downgrade, null without
    /// limit.
    pub percent: Option<f64>,
    /// How many cards are in circulation beyond the limit. None is deleted; none can be issued
    /// before this is 0 and a place is free.
    pub over_limit_by: u64,
    /// The ledger position up to which this is.
    pub as_of: Position,
}

/// The cards of each status.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[schema(as = CardCounts)]
pub struct CountsBody {
    issued: u64,
    active: u64,
    suspended: u64,
    revoked: u64,
    expired: u64,
    replaced: u64,
}

/// Shows the plan and every right of the tenant.
#[utoipa::path(
    get, path = "/v1/entitlements", tag = "Tenant", params(Fresh),
    responses((status = 200, description = "What the tenant has", body = EntitlementsBody))
)]
pub async fn get_entitlements(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InQuery(fresh): InQuery<Fresh>,
) -> Result<Json<EntitlementsBody>, Problem> {
    let at_least = fresh.at_least.unwrap_or_default();
    let entitlements = api.application.entitlements(&scope, at_least).await?;
    Ok(Json(entitlements.into()))
}

/// Lists the modules: installed, or locked and what unlocks them.
#[utoipa::path(
    get, path = "/v1/modules", tag = "Tenant", params(Fresh),
    responses((status = 200, description = "Every module", body = Page<ModuleBody>))
)]
pub async fn list_modules(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InQuery(fresh): InQuery<Fresh>,
) -> Result<Json<Page<ModuleBody>>, Problem> {
    let at_least = fresh.at_least.unwrap_or_default();
    let modules = api.application.modules(&scope, at_least).await?;
    let items = modules
        .into_iter()
        .map(|module| ModuleBody::of(module, &api));
    Ok(Json(Page::whole(items.collect())))
}

/// Shows how many cards the tenant has, against its limit.
#[utoipa::path(
    get, path = "/v1/usage", tag = "Tenant", params(Fresh),
    responses((status = 200, description = "The tenant's usage", body = UsageBody))
)]
pub async fn get_usage(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InQuery(fresh): InQuery<Fresh>,
) -> Result<Json<UsageBody>, Problem> {
    let at_least = fresh.at_least.unwrap_or_default();
    let usage = api.application.usage(&scope, at_least).await?;
    Ok(Json(usage.into()))
}

impl From<TenantEntitlements> for EntitlementsBody {
    fn from(entitlements: TenantEntitlements) -> Self {
        Self {
            tenant: entitlements.tenant,
            plan: entitlements.plan.into(),
            price_level: entitlements.price_level,
            state: entitlements.standing.into(),
            blocked: entitlements.standing.blocked().into(),
            features: features(entitlements.features, &entitlements.killed),
            as_of: entitlements.as_of,
        }
    }
}

/// Rights by slug, as far as they are not switched off.
pub fn features(
    entitlements: BTreeMap<FeatureSlug, Entitlement>,
    killed: &BTreeMap<FeatureSlug, Kill>,
) -> BTreeMap<String, EntitlementBody> {
    let body = |(slug, entitlement)| {
        let body = EntitlementBody::of(&slug, entitlement, killed);
        (slug.into(), body)
    };
    entitlements.into_iter().map(body).collect()
}

impl EntitlementBody {
    /// A right, unless it is switched off.
    pub fn of(
        slug: &FeatureSlug,
        entitlement: Entitlement,
        killed: &BTreeMap<FeatureSlug, Kill>,
    ) -> Self {
        match killed.get(slug) {
            Some(kill) => kill.clone().into(),
            None => entitlement.into(),
        }
    }
}

impl From<Kill> for EntitlementBody {
    fn from(kill: Kill) -> Self {
        Self {
            value: FeatureValueBody::On(false),
            source: SourceBody::KillSwitch,
            expires_at: None,
            since: Some(kill.since),
            by: Some(kill.by),
            why: kill.reason,
        }
    }
}

impl From<FeatureValue> for FeatureValueBody {
    fn from(value: FeatureValue) -> Self {
        match value {
            FeatureValue::On => Self::On(true),
            FeatureValue::Limit(limit) => Self::Limit(limit),
            FeatureValue::Unlimited => Self::Unlimited("unlimited".to_owned()),
        }
    }
}

impl From<Entitlement> for EntitlementBody {
    fn from(entitlement: Entitlement) -> Self {
        Self {
            value: entitlement.value.into(),
            source: match entitlement.source {
                Source::Plan => SourceBody::Plan,
                Source::Trial => SourceBody::Trial,
                Source::AddOn => SourceBody::AddOn,
                Source::Override => SourceBody::Override,
            },
            since: entitlement.since,
            expires_at: entitlement.expires_at,
            by: entitlement.attribution.by,
            why: entitlement.attribution.why.map(Into::into),
        }
    }
}

impl From<Blocked> for BlockedBody {
    fn from(blocked: Blocked) -> Self {
        Self {
            plan_changes: blocked.plan_changes,
            issuing: blocked.issuing,
            level_2: blocked.level_2,
        }
    }
}

impl From<Standing> for StandingBody {
    fn from(standing: Standing) -> Self {
        match standing {
            Standing::Good => Self::Active,
            Standing::Grace => Self::Grace,
            Standing::Suspended => Self::Suspended,
            Standing::Cancelled => Self::Cancelled,
            Standing::Ended => Self::Ended,
            Standing::NotStarted => Self::NotStarted,
        }
    }
}

impl ModuleBody {
    fn of(state: ModuleState, api: &Api) -> Self {
        let edition = api.application.catalogue.current();
        let locked = state
            .locked
            .map(|lock| LockBody::of(lock, &edition.catalogue, &api.upgrade_url));
        Self {
            key: state.module.key.into(),
            name: state.module.name,
            price_level: state.module.price_level,
            installed: state.installed,
            features: state.features.into_iter().map(Into::into).collect(),
            locked,
        }
    }
}

impl LockBody {
    fn of(lock: Lock, catalogue: &Catalogue, upgrade_url: &str) -> Self {
        let (reason, required_level) = match lock {
            Lock::PriceLevel(level) => ("upgrade_required", Some(level)),
            Lock::Killed => ("feature_disabled", None),
            Lock::Standing(Standing::Suspended) => ("subscription_suspended", None),
            Lock::Standing(Standing::Ended) => ("subscription_cancelled", None),
            Lock::Standing(
                Standing::NotStarted | Standing::Good | Standing::Grace | Standing::Cancelled,
            ) => ("unavailable", None),
        };
        let unlocks = |level: u32| required_level.is_some_and(|required| level >= required);
        Self {
            reason,
            required_level,
            plans: catalogue
                .plans_for_sale()
                .filter(|plan| unlocks(plan.price_level))
                .map(|plan| plan.key.to_string())
                .collect(),
            upgrade_url: upgrade_url.to_owned(),
        }
    }
}

impl From<TenantUsage> for UsageBody {
    fn from(usage: TenantUsage) -> Self {
        Self::of(&usage.usage, usage.limit, usage.as_of)
    }
}

impl CountsBody {
    /// The counts of a usage.
    pub fn of(usage: &Usage) -> Self {
        Self {
            issued: usage.of(Status::Issued),
            active: usage.of(Status::Active),
            suspended: usage.of(Status::Suspended),
            revoked: usage.of(Status::Revoked),
            expired: usage.of(Status::Expired),
            replaced: usage.of(Status::Replaced),
        }
    }
}

impl UsageBody {
    /// `usage` against `limit`.
    pub fn of(usage: &Usage, limit: Option<u64>, as_of: Position) -> Self {
        let in_circulation = usage.in_circulation();
        Self {
            in_circulation,
            by_status: CountsBody::of(usage),
            issued_total: usage.issued_total(),
            limit,
            percent: limit.map(|limit| percent(in_circulation, limit)),
            over_limit_by: limit.map_or(0, |limit| in_circulation.saturating_sub(limit)),
            as_of,
        }
    }
}

/// To one decimal; a limit of 0 is used up whole.
fn percent(used: u64, limit: u64) -> f64 {
    match limit {
        0 => 100.0,
        limit => (used as f64 * 1_000.0 / limit as f64).round() / 10.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_tells_how_far_over_its_limit_a_tenant_is() {
        let usage = Usage {
            active: 600,
            revoked: 3,
            ..Usage::default()
        };
        let body = UsageBody::of(&usage, Some(500), 9);
        assert_eq!(body.over_limit_by, 100);
        assert_eq!(body.percent, Some(120.0));
        assert_eq!(body.issued_total, 603);
        let unlimited = UsageBody::of(&usage, None, 9);
        assert_eq!((unlimited.percent, unlimited.over_limit_by), (None, 0));
    }
}
