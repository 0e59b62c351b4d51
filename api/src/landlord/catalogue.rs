//! What is for sale. Read-only in this version.

use std::collections::BTreeMap;
use std::sync::Arc;

use application::scope::{Role, Scope};
use axum::extract::State;
use domain::catalogue::{Feature, FeatureKind, FeatureValue, PlanTerms};
use serde::Serialize;
use utoipa::ToSchema;

use crate::Api;
use crate::answer::{Json, Page};
use crate::entitlements::FeatureValueBody;
use crate::extract::InPath;
use crate::problem::Problem;
use crate::scope::Caller;

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
}

/// A feature.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Feature)]
pub struct FeatureBody {
    /// Its slug.
    pub slug: String,
    /// Its name, for people.
    pub name: String,
    /// `flag` (on or absent) or `limit` (a number, or unlimited).
    pub kind: &'static str,
    /// The lowest price level whose plans have it.
    pub price_level: u32,
    /// The module it belongs to, if any.
    pub module: Option<String>,
    /// Whether it may be sold on its own.
    pub add_on: bool,
}

/// Lists the plans.
#[utoipa::path(
    get, path = "/v1/landlord/plans", tag = "Landlord",
    responses((status = 200, description = "Every plan", body = Page<PlanBody>))
)]
pub async fn list_plans(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
) -> Result<Json<Page<PlanBody>>, Problem> {
    require_landlord(&scope)?;
    let mut plans: Vec<_> = api.application.catalogue.plans.values().collect();
    plans.sort_by_key(|plan| plan.rank);
    let items = plans.into_iter().map(PlanBody::of).collect();
    Ok(Json(Page::whole(items)))
}

/// Shows a plan.
#[utoipa::path(
    get, path = "/v1/landlord/plans/{key}", tag = "Landlord",
    params(("key" = String, Path, description = "The plan's key")),
    responses((status = 200, description = "The plan", body = PlanBody))
)]
pub async fn get_plan(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(key): InPath<String>,
) -> Result<Json<PlanBody>, Problem> {
    require_landlord(&scope)?;
    match api.application.catalogue.plan(&key) {
        Some(plan) => Ok(Json(PlanBody::of(plan))),
        None => Err(Problem::not_found("plan")),
    }
}

/// Lists the features.
#[utoipa::path(
    get, path = "/v1/landlord/features", tag = "Landlord",
    responses((status = 200, description = "Every feature", body = Page<FeatureBody>))
)]
pub async fn list_features(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
) -> Result<Json<Page<FeatureBody>>, Problem> {
    require_landlord(&scope)?;
    let features = api.application.catalogue.features.values();
    let items = features.map(FeatureBody::of).collect();
    Ok(Json(Page::whole(items)))
}

/// Shows a feature.
#[utoipa::path(
    get, path = "/v1/landlord/features/{slug}", tag = "Landlord",
    params(("slug" = String, Path, description = "The feature's slug")),
    responses((status = 200, description = "The feature", body = FeatureBody))
)]
pub async fn get_feature(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(slug): InPath<String>,
) -> Result<Json<FeatureBody>, Problem> {
    require_landlord(&scope)?;
    match api.application.catalogue.feature(&slug) {
        Some(feature) => Ok(Json(FeatureBody::of(feature))),
        None => Err(Problem::not_found("feature")),
    }
}

fn require_landlord(scope: &Scope) -> Result<(), Problem> {
    Ok(scope.require(&[Role::Landlord])?)
}

impl PlanBody {
    fn of(plan: &PlanTerms) -> Self {
        Self {
            key: plan.key.to_string(),
            version: plan.version,
            price_level: plan.price_level,
            rank: plan.rank,
            features: plan
                .features
                .iter()
                .map(|(slug, value)| (slug.to_string(), *value))
                .collect(),
        }
    }
}

impl FeatureBody {
    fn of(feature: &Feature) -> Self {
        Self {
            slug: feature.slug.to_string(),
            name: feature.name.clone(),
            kind: match feature.kind {
                FeatureKind::Flag => "flag",
                FeatureKind::Limit => "limit",
            },
            price_level: feature.price_level,
            module: feature.module.clone(),
            add_on: feature.add_on,
        }
    }
}
