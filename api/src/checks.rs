//! Checks: whether a tenant may use a feature now, and if not, why; one, or many in one call.
//!
//! Each answer has an `ETag` made from its content, so whoever asks again and again hears 304 for
//! as long as nothing has changed.

use std::sync::Arc;

use application::checks::{CHECKS_MAX, Check, NotChecked, TenantChecks};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use crate::Api;
use crate::answer::Page;
use crate::cards::Fresh;
use crate::entitlements::EntitlementBody;
use crate::extract::{Ask, Fields, InPath, InQuery, headers};
use crate::problem::Problem;
use crate::scope::Caller;

/// Whether a feature may be used.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Check)]
pub struct CheckBody {
    /// Its slug.
    pub feature: String,
    /// Whether it may be used now.
    pub granted: bool,
    /// Why, or why not: `granted`, `not_in_plan`, `expired`, `suspended`, `cancelled`,
    /// `not_started`, `killed`, or `unknown_feature`.
    pub reason: &'static str,
    /// How much of it and where it comes from; null if there is nothing to show.
    pub entitlement: Option<EntitlementBody>,
}

/// Which features of which tenants are asked for.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChecksQuery {
    /// The tenants' ids, 1 to 100.
    #[schema(min_items = 1, max_items = 100)]
    tenants: Vec<String>,
    /// The features' slugs, 1 to 100.
    #[schema(min_items = 1, max_items = 100)]
    features: Vec<String>,
}

/// The checks of one tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TenantChecks)]
pub struct TenantChecksBody {
    /// The tenant's id, as asked.
    pub tenant: String,
    /// Why it was not checked: `unknown_tenant`, or `unavailable` (ask again later); null if it was.
    pub error: Option<&'static str>,
    /// A check of each feature, in the order asked; none if it was not checked.
    pub features: Vec<CheckBody>,
}

/// Says whether the tenant may use a feature now, and if not, why.
#[utoipa::path(
    get, path = "/v1/entitlements/{slug}", tag = "Tenant",
    params(("slug" = String, Path, description = "The feature's slug"), Fresh),
    responses(
        (status = 200, description = "Whether it may", body = CheckBody,
            headers(("ETag" = String, description = "Changes with the answer"))),
        (status = 304, description = "The client has this answer already (`If-None-Match`)"),
    )
)]
pub async fn check_feature(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(feature): InPath<String>,
    InQuery(fresh): InQuery<Fresh>,
    request_headers: HeaderMap,
) -> Result<Response, Problem> {
    let at_least = fresh.at_least.unwrap_or_default();
    let check = api.application.check(&scope, &feature, at_least).await?;
    tagged(&request_headers, &CheckBody::of(feature, check))
}

/// Says for up to 100 tenants whether each may use each of up to 100 features. Reads nothing that
/// is not in memory, unless a tenant's store has to be opened first. Answers 304 to
/// `If-None-Match`, although it is a POST.
#[utoipa::path(
    post, path = "/v1/landlord/entitlements/query", tag = "Landlord", request_body = ChecksQuery,
    responses(
        (status = 200, description = "The checks, in the order of the tenants",
            body = Page<TenantChecksBody>,
            headers(("ETag" = String, description = "Changes with the answer"))),
        (status = 304, description = "The client has this answer already (`If-None-Match`)"),
    )
)]
pub async fn query_entitlements(
    State(api): State<Arc<Api>>,
    request_headers: HeaderMap,
    ask: Ask<ChecksQuery>,
) -> Result<Response, Problem> {
    let mut fields = Fields::default();
    for (field, asked) in [
        ("tenants", &ask.body.tenants),
        ("features", &ask.body.features),
    ] {
        if !(1..=CHECKS_MAX).contains(&asked.len()) {
            fields.note(field, "out_of_range", format!("must be 1 to {CHECKS_MAX}"));
        }
    }
    fields.finish(Some(()))?;
    let scope = ask.scope().clone();
    let ChecksQuery { tenants, features } = ask.body;
    let checks = api.application.checks(&scope, &tenants, &features).await?;
    let items = tenants.into_iter().zip(checks);
    let items = items.map(|(tenant, checks)| TenantChecksBody::of(tenant, &features, checks));
    tagged(&request_headers, &Page::whole(items.collect()))
}

/// The answer with a tag made from it; without its content, if the client has that.
fn tagged(request_headers: &HeaderMap, body: &impl Serialize) -> Result<Response, Problem> {
    let text = serde_json::to_vec(body).map_err(Problem::internal)?;
    let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&text)[..16]));
    let has_already = headers::has_tag(request_headers, &tag);
    let tag = [(ETAG, HeaderValue::try_from(tag).map_err(Problem::internal)?)];
    if has_already {
        return Ok((StatusCode::NOT_MODIFIED, tag).into_response());
    }
    let json = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
    Ok((tag, json, Body::from(text)).into_response())
}

impl CheckBody {
    fn of(feature: String, check: Check) -> Self {
        let right = check.entitlement.map(EntitlementBody::from);
        Self {
            feature,
            granted: check.granted,
            reason: check.reason,
            entitlement: right.or_else(|| check.kill.map(EntitlementBody::from)),
        }
    }
}

impl TenantChecksBody {
    fn of(tenant: String, features: &[String], checks: TenantChecks) -> Self {
        let (error, checks) = match checks {
            Ok(checks) => (None, checks),
            Err(NotChecked::UnknownTenant) => (Some("unknown_tenant"), vec![]),
            Err(NotChecked::Unavailable) => (Some("unavailable"), vec![]),
        };
        let features = features.iter().cloned().zip(checks);
        Self {
            tenant,
            error,
            features: features
                .map(|(feature, check)| CheckBody::of(feature, check))
                .collect(),
        }
    }
}
