//! Features, and the switch that turns one off for everybody.

use std::sync::Arc;

use application::catalogue::FeatureState;
use application::scope::Command;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::catalogue::{Feature, FeatureKind, FeatureSlug, Kill, ModuleKey};
use domain::text::DisplayName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{price_level, require_landlord, versioned};
use crate::Api;
use crate::answer::{Commanded, Json, Page};
use crate::extract::body::{Why, reason};
use crate::extract::{Ask, Fields, InPath};
use crate::problem::Problem;
use crate::scope::Caller;

/// A feature.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Feature)]
pub struct FeatureBody {
    /// Its slug.
    pub slug: String,
    /// Its name, for people.
    pub name: String,
    /// On or absent, or a number.
    pub kind: FeatureKindBody,
    /// The lowest price level whose plans have it.
    pub price_level: u32,
    /// The module it belongs to, if any.
    pub module: Option<String>,
    /// Whether it may be sold on its own.
    pub add_on: bool,
    /// Whether it is out of sale; who has it keeps it.
    pub archived: bool,
    /// Since when, by whom and why it is off for everybody; null if it is not.
    pub kill_switch: Option<KillSwitchBody>,
}

/// What a feature is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = FeatureKind)]
#[serde(rename_all = "snake_case")]
pub enum FeatureKindBody {
    /// On or absent.
    Flag,
    /// A number, or unlimited.
    Limit,
}

/// Why a feature is off for everybody.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = KillSwitch)]
pub struct KillSwitchBody {
    /// Since when.
    pub since: DateTime<Utc>,
    /// The API key that asked.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
}

/// What a feature is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeatureDefinition {
    /// Its name, for people.
    #[schema(max_length = 100)]
    name: String,
    /// On or absent, or a number; never changes.
    kind: FeatureKindBody,
    /// The lowest price level whose plans have it: 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    price_level: u32,
    /// The module it belongs to, which is defined; none, if absent.
    module: Option<String>,
    /// Whether it may be sold on its own. Default: false.
    #[serde(default)]
    add_on: bool,
    /// Whether it is out of sale. Default: false.
    #[serde(default)]
    archived: bool,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
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
    let edition = api.application.catalogue.current();
    let slugs = edition.catalogue.features.keys();
    let state = |slug: &FeatureSlug| FeatureState::of(&edition.catalogue, slug.as_str());
    let items = slugs.filter_map(state).map(FeatureBody::from).collect();
    Ok(Json(Page::whole(items)))
}

/// Shows a feature.
#[utoipa::path(
    get, path = "/v1/landlord/features/{slug}", tag = "Landlord",
    params(("slug" = String, Path, description = "The feature's slug")),
    responses(
        (status = 200, description = "The feature", body = FeatureBody,
            headers(("ETag" = String, description = "The catalogue's version"))),
        (status = 304, description = "The client has this version already (`If-None-Match`)"),
    )
)]
pub async fn get_feature(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(slug): InPath<String>,
    request_headers: HeaderMap,
) -> Result<Response, Problem> {
    require_landlord(&scope)?;
    let edition = api.application.catalogue.current();
    let feature = FeatureState::of(&edition.catalogue, &slug);
    let body = FeatureBody::from(feature.ok_or_else(|| Problem::not_found("feature"))?);
    Ok(versioned(edition.revision, &request_headers, body))
}

/// Defines a feature, new or known. Its kind never changes; plans and subscriptions that have it
/// are not touched.
#[utoipa::path(
    put, path = "/v1/landlord/features/{slug}", tag = "Landlord",
    request_body = FeatureDefinition,
    params(("slug" = String, Path, description = "The feature's slug")),
    responses((status = 200, description = "The feature", body = FeatureBody))
)]
pub async fn define_feature(
    State(api): State<Arc<Api>>,
    InPath(slug): InPath<String>,
    ask: Ask<FeatureDefinition>,
) -> Result<Commanded<FeatureBody>, Problem> {
    let archived = ask.body.archived;
    let (command, feature) = ask.into_feature(slug)?;
    let done = api
        .application
        .define_feature(&command, feature, archived)
        .await;
    Ok(Commanded::ok(done?, FeatureBody::from))
}

/// Switches a feature off for everybody, whatever plan, add-on or override anybody has: its paths
/// answer 503 `feature_disabled`. A limit has no switch.
#[utoipa::path(
    put, path = "/v1/landlord/features/{slug}/kill-switch", tag = "Landlord", request_body = Why,
    params(("slug" = String, Path, description = "The feature's slug")),
    responses((status = 200, description = "The feature", body = FeatureBody))
)]
pub async fn kill_feature(
    State(api): State<Arc<Api>>,
    InPath(slug): InPath<String>,
    ask: Ask<Why>,
) -> Result<Commanded<FeatureBody>, Problem> {
    let slug = known_feature(&api, slug)?;
    let command = ask.because()?;
    let done = api.application.kill_feature(&command, &slug).await;
    Ok(Commanded::ok(done?, FeatureBody::from))
}

/// Takes the switch back: the feature is there again exactly as it was.
#[utoipa::path(
    delete, path = "/v1/landlord/features/{slug}/kill-switch", tag = "Landlord",
    request_body = Why,
    params(("slug" = String, Path, description = "The feature's slug")),
    responses((status = 200, description = "The feature", body = FeatureBody))
)]
pub async fn revive_feature(
    State(api): State<Arc<Api>>,
    InPath(slug): InPath<String>,
    ask: Ask<Why>,
) -> Result<Commanded<FeatureBody>, Problem> {
    let slug = known_feature(&api, slug)?;
    let command = ask.because()?;
    let done = api.application.revive_feature(&command, &slug).await;
    Ok(Commanded::ok(done?, FeatureBody::from))
}

fn known_feature(api: &Api, slug: String) -> Result<FeatureSlug, Problem> {
    let edition = api.application.catalogue.current();
    let known = edition.catalogue.feature(&slug);
    let known = known.map(|feature| feature.slug.clone());
    known.ok_or_else(|| Problem::not_found("feature"))
}

impl Ask<FeatureDefinition> {
    fn into_feature(self, slug: String) -> Result<(Command, Feature), Problem> {
        let Self { command, body } = self;
        let mut fields = Fields::default();
        let slug = fields.text::<FeatureSlug>("slug", slug);
        let name = fields.text::<DisplayName>("name", body.name);
        let module = fields.optional_text::<ModuleKey>("module", body.module);
        let price_level = price_level(&mut fields, body.price_level);
        let reason = reason(&mut fields, body.reason);
        let whole = || {
            let feature = Feature {
                slug: slug?,
                name: name?.into(),
                kind: body.kind.into(),
                price_level: price_level?,
                module: module?,
                add_on: body.add_on,
            };
            Some((feature, reason?))
        };
        let (feature, reason) = fields.finish(whole())?;
        Ok((Command { reason, ..command }, feature))
    }
}

impl From<FeatureState> for FeatureBody {
    fn from(state: FeatureState) -> Self {
        let feature = state.feature;
        Self {
            slug: feature.slug.into(),
            name: feature.name,
            kind: feature.kind.into(),
            price_level: feature.price_level,
            module: feature.module.map(Into::into),
            add_on: feature.add_on,
            archived: state.archived,
            kill_switch: state.killed.map(KillSwitchBody::from),
        }
    }
}

impl From<Kill> for KillSwitchBody {
    fn from(kill: Kill) -> Self {
        Self {
            since: kill.since,
            by: kill.by,
            reason: kill.reason,
        }
    }
}

impl From<FeatureKind> for FeatureKindBody {
    fn from(kind: FeatureKind) -> Self {
        match kind {
            FeatureKind::Flag => Self::Flag,
            FeatureKind::Limit => Self::Limit,
        }
    }
}

impl From<FeatureKindBody> for FeatureKind {
    fn from(kind: FeatureKindBody) -> Self {
        match kind {
            FeatureKindBody::Flag => Self::Flag,
            FeatureKindBody::Limit => Self::Limit,
        }
    }
}
