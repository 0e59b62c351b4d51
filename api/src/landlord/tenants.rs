//! Tenants as the landlord sees them.

use std::collections::BTreeMap;
use std::sync::Arc;

use application::scope::Command;
use application::subscriptions::SubscriptionState;
use application::tenants::{
    Isolation, NewTenant, Provisioned, Tenant, TenantFilter, TenantOverview,
};
use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::catalogue::{Catalogue, PlanKey};
use domain::ids::{Position, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Api;
use crate::answer::{Commanded, Json, Page};
use crate::cards::Fresh;
use crate::entitlements::{EntitlementBody, StandingBody, UsageBody, features};
use crate::extract::body::reason;
use crate::extract::{Ask, Fields, InPath, InQuery, cursor, page_items, text};
use crate::problem::Problem;
use crate::scope::{Caller, CallerSeed};

/// A tenant, as the landlord's read models know it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Tenant)]
pub struct TenantBody {
    /// The landlord's record.
    #[serde(flatten)]
    pub record: TenantRecordBody,
    /// The plan it is on.
    pub plan: String,
    /// The version of the plan's terms; null before the subscription began.
    pub plan_version: Option<u32>,
    /// The plan's price level; null before the subscription began.
    pub price_level: Option<u32>,
    /// Whether it is served.
    pub state: StandingBody,
    /// When a cancelled subscription ends.
    pub ends_at: Option<DateTime<Utc>>,
    /// Its cards.
    pub usage: UsageBody,
    /// The most cards in circulation; null is without limit.
    pub limit: Option<u64>,
    /// Every right, by the feature's slug.
    pub features: BTreeMap<String, EntitlementBody>,
    /// The ledger position up to which this is.
    pub position: Position,
}

/// A tenant, as recorded.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TenantRecord)]
pub struct TenantRecordBody {
    /// Its id: a UUID, version 7.
    #[schema(value_type = String, format = Uuid)]
    pub id: TenantId,
    /// Its name.
    pub name: String,
    /// Its short name, unique.
    pub slug: String,
    /// How its store is kept apart.
    pub isolation: IsolationBody,
    /// The shard that its store is in; null on the embedded store.
    pub shard: Option<String>,
    /// When it was recorded.
    pub created_at: DateTime<Utc>,
    /// Whether its store is there and its subscription has begun.
    pub ready: bool,
}

/// A new tenant and its first key.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProvisionedTenant {
    /// The landlord's record.
    #[serde(flatten)]
    pub record: TenantRecordBody,
    /// The plan it starts on.
    pub plan: String,
    /// A key of role `tenant_admin`: shown here and never again.
    pub api_key: String,
}

/// How a tenant's store is kept apart. On the embedded store every tenant has a file of its own.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = Isolation)]
#[serde(rename_all = "snake_case")]
pub enum IsolationBody {
    /// In a database with others, in a schema of its own.
    #[default]
    Shared,
    /// In a database of its own.
    Dedicated,
}

/// A tenant to provision.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewTenant)]
#[serde(deny_unknown_fields)]
pub struct NewTenantBody {
    /// Its name.
    #[schema(min_length = 1, max_length = 100, example = "Example Club")]
    name: String,
    /// Its short name, unique.
    #[schema(
        pattern = "^[a-z0-9][a-z0-9-]{1,38}[a-z0-9]$",
        example = "example-club"
    )]
    slug: String,
    /// The plan it starts on.
    #[schema(example = "free")]
    plan: String,
    /// How its store is kept apart. Default: `shared`.
    #[serde(default)]
    isolation: IsolationBody,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Which tenants are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct TenantQuery {
    /// Only tenants on this plan.
    plan: Option<String>,
    /// Only tenants whose name or slug has this in it, in any case.
    q: Option<String>,
    /// At most so many, 1 to 500. Default: 50.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists tenants, oldest first.
#[utoipa::path(
    get, path = "/v1/landlord/tenants", tag = "Landlord", params(TenantQuery),
    responses((status = 200, description = "A page of tenants", body = Page<TenantBody>))
)]
pub async fn list_tenants(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InQuery(query): InQuery<TenantQuery>,
) -> Result<Json<Page<TenantBody>>, Problem> {
    let list = ("tenants", &query.plan, &query.q);
    let after = match &query.cursor {
        Some(cursor) => Some(cursor::read::<TenantId>(&list, cursor)?),
        None => None,
    };
    let mut fields = Fields::default();
    let plan: Option<Option<PlanKey>> = fields.optional_text("plan", query.plan.clone());
    let filter = TenantFilter {
        plan: fields.finish_query(plan)?,
        q: text("q", query.q.clone())?,
        after,
        limit: page_items(query.limit)?,
    };
    let page = api.application.tenant_overviews(&scope, &filter).await?;
    let next_cursor = match page.next {
        Some(next) => Some(cursor::write(&list, &next)?),
        None => None,
    };
    let (now, edition) = (
        api.application.clock.now(),
        api.application.catalogue.current(),
    );
    let items = page.items.into_iter();
    let items = items.map(|one| TenantBody::of(one, &edition.catalogue, now));
    Ok(Json(Page {
        items: items.collect(),
        next_cursor,
    }))
}

/// Shows a tenant.
#[utoipa::path(
    get, path = "/v1/landlord/tenants/{id}", tag = "Landlord",
    params(("id" = String, Path, description = "The tenant's id"), Fresh),
    responses((status = 200, description = "The tenant", body = TenantBody))
)]
pub async fn get_tenant(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(id): InPath<TenantId>,
    InQuery(fresh): InQuery<Fresh>,
) -> Result<Json<TenantBody>, Problem> {
    let at_least = fresh.at_least.unwrap_or_default();
    let overview = api
        .application
        .tenant_overview(&scope, id, at_least)
        .await?;
    let now = api.application.clock.now();
    let edition = api.application.catalogue.current();
    Ok(Json(TenantBody::of(overview, &edition.catalogue, now)))
}

/// Makes a tenant, its store, its subscription and its first key.
#[utoipa::path(
    post, path = "/v1/landlord/tenants", tag = "Landlord", request_body = NewTenantBody,
    responses((status = 201, description = "The tenant; `api_key` is shown here and never again",
        body = ProvisionedTenant))
)]
pub async fn provision_tenant(
    State(api): State<Arc<Api>>,
    CallerSeed(seed): CallerSeed,
    ask: Ask<NewTenantBody>,
) -> Result<Commanded<ProvisionedTenant>, Problem> {
    let (command, new) = ask.into_new_tenant()?;
    let done = api
        .to_its_end(|application| async move {
            application.provision_tenant(&command, new, &seed).await
        })
        .await?;
    let location = format!("/v1/landlord/tenants/{}", done.value.tenant.id);
    Ok(Commanded::created(done, ProvisionedTenant::from, location))
}

impl Ask<NewTenantBody> {
    fn into_new_tenant(self) -> Result<(Command, NewTenant), Problem> {
        let body = self.body;
        let mut fields = Fields::default();
        let name = fields.text("name", body.name);
        let slug = fields.text("slug", body.slug);
        let plan = fields.text("plan", body.plan);
        let reason = reason(&mut fields, body.reason);
        let whole = || {
            let new = NewTenant {
                name: name?,
                slug: slug?,
                plan: plan?,
                isolation: body.isolation.into(),
            };
            let command = Command {
                reason: reason?,
                ..self.command
            };
            Some((command, new))
        };
        fields.finish(whole())
    }
}

impl TenantBody {
    fn of(overview: TenantOverview, catalogue: &Catalogue, now: DateTime<Utc>) -> Self {
        let (id, usage) = (overview.tenant.id, overview.usage);
        let rights = overview.subscription.entitlements(now);
        let killed = catalogue.killed_of(rights.keys());
        let state = SubscriptionState::of(id, &overview.subscription, &usage, catalogue, now);
        let limit = overview.subscription.card_limit(now);
        Self {
            plan: match &state {
                Some(state) => state.plan.to_string(),
                None => overview.tenant.first_plan.to_string(),
            },
            plan_version: state.as_ref().map(|state| state.plan_version),
            price_level: state.as_ref().map(|state| state.price_level),
            state: overview.subscription.standing(now).into(),
            ends_at: state.as_ref().and_then(|state| state.ends_at),
            usage: UsageBody::of(&usage, limit, overview.position),
            limit,
            features: features(rights, &killed),
            position: overview.position,
            record: overview.tenant.into(),
        }
    }
}

impl From<Tenant> for TenantRecordBody {
    fn from(tenant: Tenant) -> Self {
        Self {
            id: tenant.id,
            name: tenant.name.into(),
            slug: tenant.slug.into(),
            isolation: tenant.isolation.into(),
            shard: tenant.shard.map(Into::into),
            created_at: tenant.created_at,
            ready: tenant.ready,
        }
    }
}

impl From<Provisioned> for ProvisionedTenant {
    fn from(provisioned: Provisioned) -> Self {
        Self {
            plan: provisioned.tenant.first_plan.to_string(),
            record: provisioned.tenant.into(),
            api_key: provisioned.api_key.reveal().to_owned(),
        }
    }
}

impl From<Isolation> for IsolationBody {
    fn from(isolation: Isolation) -> Self {
        match isolation {
            Isolation::Shared => Self::Shared,
            Isolation::Dedicated => Self::Dedicated,
        }
    }
}

impl From<IsolationBody> for Isolation {
    fn from(isolation: IsolationBody) -> Self {
        match isolation {
            IsolationBody::Shared => Self::Shared,
            IsolationBody::Dedicated => Self::Dedicated,
        }
    }
}
