//! Plans: their newest versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use application::catalogue::PlanState;
use application::scope::Command;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use domain::catalogue::{
    FEATURES_MAX, FeatureSlug, FeatureValue, InvalidKey, PlanContent, PlanKey, PlanTerms,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{price_level, require_landlord, versioned};
use crate::Api;
use crate::answer::{Commanded, Json, Page};
use crate::entitlements::FeatureValueBody;
use crate::extract::body::reason;
use crate::extract::fields::FieldRefusal;
use crate::extract::{Ask, Fields, InPath};
use crate::problem::Problem;
use crate::scope::Caller;

/// The highest rank.
const RANK_MAX: u32 = 10_000;

/// A plan: the newest version of its terms.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Plan)]
pub struct PlanBody {
    /// Its key.
    pub key: String,
    /// 1 for the first version.
    pub version: u32,
    /// The price level.
    pub price_level: u32,
    /// Its place among the plans: changing to a higher rank is an upgrade.
    pub rank: u32,
    /// What it grants, by the feature's slug.
    #[schema(value_type = BTreeMap<String, FeatureValueBody>)]
    pub features: BTreeMap<String, FeatureValue>,
    /// Whether it is out of sale; who is on it stays on it.
    pub archived: bool,
}

/// What a plan is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanDefinition {
    /// The price level: 1 to 100, no lower than that of any of its features.
    #[schema(minimum = 1, maximum = 100)]
    price_level: u32,
    /// Its place among the plans, 0 to 10,000: changing to a higher rank is an upgrade.
    #[schema(maximum = 10_000)]
    rank: u32,
    /// What it grants, by the feature's slug.
    #[schema(value_type = BTreeMap<String, FeatureValueBody>)]
    features: BTreeMap<String, FeatureValue>,
    /// Whether it is out of sale. Default: false.
    #[serde(default)]
    archived: bool,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Lists the plans, by rank.
#[utoipa::path(
    get, path = "/v1/landlord/plans", tag = "Landlord",
    responses((status = 200, description = "Every plan", body = Page<PlanBody>))
)]
pub async fn list_plans(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
) -> Result<Json<Page<PlanBody>>, Problem> {
    require_landlord(&scope)?;
    let edition = api.application.catalogue.current();
    let mut plans: Vec<_> = edition.catalogue.plans.values().collect();
    plans.sort_by_key(|plan| plan.rank);
    let state = |plan: &PlanTerms| PlanState::of(&edition.catalogue, plan.key.as_str());
    let items = plans.into_iter().filter_map(state).map(PlanBody::from);
    Ok(Json(Page::whole(items.collect())))
}

/// Shows a plan.
#[utoipa::path(
    get, path = "/v1/landlord/plans/{key}", tag = "Landlord",
    params(("key" = String, Path, description = "The plan's key")),
    responses(
        (status = 200, description = "The plan", body = PlanBody,
            headers(("ETag" = String, description = "The catalogue's version"))),
        (status = 304, description = "The client has this version already (`If-None-Match`)"),
    )
)]
pub async fn get_plan(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(key): InPath<String>,
    request_headers: HeaderMap,
) -> Result<Response, Problem> {
    require_landlord(&scope)?;
    let edition = api.application.catalogue.current();
    let plan = PlanState::of(&edition.catalogue, &key);
    let body = PlanBody::from(plan.ok_or_else(|| Problem::not_found("plan"))?);
    Ok(versioned(edition.revision, &request_headers, body))
}

/// Defines a plan: the first version of a new one, the next of a known one. New subscriptions take
/// the newest version; existing ones keep theirs until migrated.
#[utoipa::path(
    put, path = "/v1/landlord/plans/{key}", tag = "Landlord", request_body = PlanDefinition,
    params(("key" = String, Path, description = "The plan's key")),
    responses((status = 200, description = "The plan", body = PlanBody))
)]
pub async fn define_plan(
    State(api): State<Arc<Api>>,
    InPath(key): InPath<String>,
    ask: Ask<PlanDefinition>,
) -> Result<Commanded<PlanBody>, Problem> {
    let archived = ask.body.archived;
    let (command, plan) = ask.into_plan(key)?;
    let done = api.application.define_plan(&command, plan, archived).await;
    Ok(Commanded::ok(done?, PlanBody::from))
}

impl Ask<PlanDefinition> {
    fn into_plan(self, key: String) -> Result<(Command, PlanContent), Problem> {
        let Self { command, body } = self;
        let mut fields = Fields::default();
        let key = fields.text::<PlanKey>("key", key);
        let price_level = price_level(&mut fields, body.price_level);
        let rank = (body.rank <= RANK_MAX).then_some(body.rank);
        if rank.is_none() {
            let detail = format!("must be at most {RANK_MAX}");
            fields.note("rank", "out_of_range", detail);
        }
        let features = granted(&mut fields, body.features);
        let reason = reason(&mut fields, body.reason);
        let whole = || {
            let plan = PlanContent {
                key: key?,
                price_level: price_level?,
                rank: rank?,
                features: features?,
            };
            Some((plan, reason?))
        };
        let (plan, reason) = fields.finish(whole())?;
        Ok((Command { reason, ..command }, plan))
    }
}

/// Parses what a plan grants.
fn granted(
    fields: &mut Fields,
    features: BTreeMap<String, FeatureValue>,
) -> Option<BTreeMap<FeatureSlug, FeatureValue>> {
    if features.len() > FEATURES_MAX {
        let detail = format!("must be at most {FEATURES_MAX}");
        fields.note("features", "too_many", detail);
        return None;
    }
    let parsed = features
        .into_iter()
        .map(|(slug, value)| Ok::<_, InvalidKey>((FeatureSlug::try_from(slug)?, value)));
    match parsed.collect() {
        Ok(features) => Some(features),
        Err(refusal) => {
            fields.note("features", refusal.code(), refusal.to_string());
            None
        }
    }
}

impl From<PlanState> for PlanBody {
    fn from(PlanState { terms, archived }: PlanState) -> Self {
        let features = terms.features.into_iter();
        Self {
            key: terms.key.into(),
            version: terms.version,
            price_level: terms.price_level,
            rank: terms.rank,
            features: features.map(|(slug, value)| (slug.into(), value)).collect(),
            archived,
        }
    }
}
