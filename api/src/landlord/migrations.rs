//! Migrations: bringing subscriptions to the newest version of their plan. Each has a preview,
//! which changes nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use application::migrations::{MigrationPreview, TermsChange, VersionPreview};
use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::catalogue::{FeatureSlug, FeatureValue, MigrationFailure, PlanKey, PlanMigration};
use domain::ids::TenantId;
use serde::Serialize;
use utoipa::ToSchema;

use super::subscriptions::body::SubscriptionBody;
use crate::Api;
use crate::answer::{Commanded, Json, Page};
use crate::entitlements::FeatureValueBody;
use crate::extract::body::Why;
use crate::extract::{Ask, InPath};
use crate::problem::Problem;
use crate::scope::Caller;

/// What a migration changes of the terms.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TermsChange)]
pub struct TermsChangeBody {
    /// Features that the newest version has more, by slug.
    #[schema(value_type = BTreeMap<String, FeatureValueBody>)]
    pub gained: BTreeMap<String, FeatureValue>,
    /// Features that it lacks, by slug.
    #[schema(value_type = BTreeMap<String, FeatureValueBody>)]
    pub lost: BTreeMap<String, FeatureValue>,
    /// Features that it has another amount of, by slug.
    pub changed: BTreeMap<String, AmountChangeBody>,
}

/// From which amount to which.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AmountChange)]
pub struct AmountChangeBody {
    /// The amount now.
    #[schema(value_type = FeatureValueBody)]
    pub from: FeatureValue,
    /// The amount afterwards.
    #[schema(value_type = FeatureValueBody)]
    pub to: FeatureValue,
}

/// What migrating a tenant would do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MigrationPreview)]
pub struct MigrationPreviewBody {
    /// The version of the plan that the tenant has.
    pub from_version: u32,
    /// What changes of its terms; what was granted beside the plan stays.
    #[serde(flatten)]
    pub change: TermsChangeBody,
    /// The subscription as it would be.
    pub subscription: SubscriptionBody,
}

/// What migrating the tenants that have one version of a plan would do.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VersionPreview)]
pub struct VersionPreviewBody {
    /// The version that they have.
    pub version: u32,
    /// How many they are.
    pub tenants: u64,
    /// How many of them would have more cards in circulation than they may. None is deleted.
    pub over_limit: u64,
    /// What changes of their terms.
    #[serde(flatten)]
    pub change: TermsChangeBody,
}

/// How far the tenants on a plan are brought to its newest version.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PlanMigration)]
pub struct PlanMigrationBody {
    /// The newest version when it began.
    pub version: u32,
    /// `running`, `finished`, or `superseded`: it went no further because the plan got its next
    /// version.
    pub state: &'static str,
    /// The API key that asked.
    pub by: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When the last tenant was looked at, or the plan got its next version.
    pub finished_at: Option<DateTime<Utc>>,
    /// How many tenants were brought to the version.
    pub migrated: u64,
    /// How many had nothing to be changed.
    pub unchanged: u64,
    /// How many failed: ask for the migration again to try these once more.
    pub failed: u64,
    /// The first 100 of those, and why.
    pub errors: Vec<MigrationErrorBody>,
}

/// A tenant that was not migrated.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MigrationError)]
pub struct MigrationErrorBody {
    /// Whose subscription it is.
    #[schema(value_type = String, format = Uuid)]
    pub tenant: TenantId,
    /// Why.
    pub detail: String,
}

/// Brings a tenant to the newest version of its plan, now. One that is there already stays as it
/// is.
#[utoipa::path(
    post, path = "/v1/landlord/tenants/{id}/subscription/migrate", tag = "Landlord",
    request_body = Why, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "The subscription", body = SubscriptionBody))
)]
pub async fn migrate_tenant(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<Why>,
) -> Result<Commanded<SubscriptionBody>, Problem> {
    let command = ask.because()?;
    let done = api.application.migrate_subscription(&command, id).await;
    Ok(Commanded::ok(done?, SubscriptionBody::from))
}

/// Shows what migrating a tenant would do now.
#[utoipa::path(
    get, path = "/v1/landlord/tenants/{id}/subscription/migrate/preview", tag = "Landlord",
    params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "What it would do", body = MigrationPreviewBody))
)]
pub async fn preview_tenant(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(id): InPath<TenantId>,
) -> Result<Json<MigrationPreviewBody>, Problem> {
    let preview = api.application.preview_migration(&scope, id).await?;
    Ok(Json(preview.into()))
}

/// Begins to bring all tenants on a plan to its newest version, as a job that survives restarts.
/// While one is under way, the same again changes nothing.
#[utoipa::path(
    post, path = "/v1/landlord/plans/{key}/migrate", tag = "Landlord",
    request_body = Why, params(("key" = String, Path, description = "The plan's key")),
    responses((status = 202, description = "How far it is", body = PlanMigrationBody))
)]
pub async fn migrate_plan(
    State(api): State<Arc<Api>>,
    InPath(key): InPath<String>,
    ask: Ask<Why>,
) -> Result<Commanded<PlanMigrationBody>, Problem> {
    let key = plan(key)?;
    let command = ask.because()?;
    let done = api.application.migrate_plan(&command, &key).await?;
    let location = format!("/v1/landlord/plans/{key}/migrate");
    Ok(Commanded::accepted(done, PlanMigrationBody::from, location))
}

/// Shows how far the last migration of a plan's tenants is.
#[utoipa::path(
    get, path = "/v1/landlord/plans/{key}/migrate", tag = "Landlord",
    params(("key" = String, Path, description = "The plan's key")),
    responses((status = 200, description = "How far it is", body = PlanMigrationBody))
)]
pub async fn plan_migration(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(key): InPath<String>,
) -> Result<Json<PlanMigrationBody>, Problem> {
    super::catalogue::require_landlord(&scope)?;
    let edition = api.application.catalogue.current();
    let migration = edition.catalogue.migrations.get(key.as_str()).cloned();
    let migration = migration.ok_or_else(|| Problem::not_found("migration"))?;
    Ok(Json(migration.into()))
}

/// Shows what migrating all tenants on a plan would do now: by the version that they have, the
/// newest left out.
#[utoipa::path(
    get, path = "/v1/landlord/plans/{key}/migrate/preview", tag = "Landlord",
    params(("key" = String, Path, description = "The plan's key")),
    responses((status = 200, description = "What it would do", body = Page<VersionPreviewBody>))
)]
pub async fn preview_plan(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(key): InPath<String>,
) -> Result<Json<Page<VersionPreviewBody>>, Problem> {
    let key = plan(key)?;
    let versions = api.application.preview_plan_migration(&scope, &key).await?;
    let items = versions.into_iter().map(VersionPreviewBody::from);
    Ok(Json(Page::whole(items.collect())))
}

/// A key that cannot be one is that of no plan.
fn plan(key: String) -> Result<PlanKey, Problem> {
    PlanKey::try_from(key).map_err(|_| Problem::not_found("plan"))
}

impl From<TermsChange> for TermsChangeBody {
    fn from(change: TermsChange) -> Self {
        let by_text = |values: BTreeMap<FeatureSlug, FeatureValue>| {
            let values = values.into_iter();
            values.map(|(slug, value)| (slug.into(), value)).collect()
        };
        let changed = change.changed.into_iter();
        Self {
            gained: by_text(change.gained),
            lost: by_text(change.lost),
            changed: changed
                .map(|(slug, (from, to))| (slug.into(), AmountChangeBody { from, to }))
                .collect(),
        }
    }
}

impl From<MigrationPreview> for MigrationPreviewBody {
    fn from(preview: MigrationPreview) -> Self {
        Self {
            from_version: preview.from_version,
            change: preview.change.into(),
            subscription: preview.after.into(),
        }
    }
}

impl From<VersionPreview> for VersionPreviewBody {
    fn from(preview: VersionPreview) -> Self {
        Self {
            version: preview.version,
            tenants: preview.tenants,
            over_limit: preview.over_limit,
            change: preview.change.into(),
        }
    }
}

impl From<PlanMigration> for PlanMigrationBody {
    fn from(migration: PlanMigration) -> Self {
        let errors = migration.failures.into_iter();
        Self {
            version: migration.version,
            state: match migration.finished_at {
                None => "running",
                Some(_) if migration.superseded => "superseded",
                Some(_) => "finished",
            },
            by: migration.by,
            started_at: migration.started_at,
            finished_at: migration.finished_at,
            migrated: migration.migrated,
            unchanged: migration.unchanged,
            failed: migration.failed,
            errors: errors.map(MigrationErrorBody::from).collect(),
        }
    }
}

impl From<MigrationFailure> for MigrationErrorBody {
    fn from(failure: MigrationFailure) -> Self {
        Self {
            tenant: failure.tenant,
            detail: failure.detail,
        }
    }
}
