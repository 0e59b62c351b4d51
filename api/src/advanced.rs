//! The module `digital_card.advanced`: bulk jobs, exports, statistics, live updates.
//!
//! Its paths exist and are gated; what is behind the gate is not part of this version, which it
//! says (501 `module_not_available`) to tenants that may use it.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::State;
use domain::catalogue::feature;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::Api;
use crate::extract::{InPath, InQuery};
use crate::gate::{pass, pass_to_change, pass_to_export};
use crate::problem::{Code, Problem};
use crate::scope::Caller;

/// Nothing yet: these paths do not answer with success in this version.
type NotYet = Result<Infallible, Problem>;

/// How an export is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExportFormat {
    /// Comma-separated values.
    #[default]
    Csv,
    /// An Excel workbook.
    Xlsx,
    /// A PDF document.
    Pdf,
    /// One JSON object a line.
    Ndjson,
}

/// What to export. The list's filters come with the module.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// Default: `csv`.
    #[serde(default)]
    #[param(inline)]
    format: ExportFormat,
}

/// Starts a bulk job.
#[utoipa::path(
    post, path = "/v1/cards/bulk", tag = "Advanced",
    responses((status = 402, description = "Needs the feature `cards.bulk`"),
              (status = 501, description = "The module is not part of this version"))
)]
pub async fn start_bulk_job(State(api): State<Arc<Api>>, Caller(scope): Caller) -> NotYet {
    pass_to_change(&api, &scope, feature::CARDS_BULK).await?;
    not_yet("bulk operations")
}

/// Lists bulk jobs.
#[utoipa::path(
    get, path = "/v1/bulk-jobs", tag = "Advanced",
    responses((status = 402, description = "Needs the feature `cards.bulk`"),
              (status = 501, description = "The module is not part of this version"))
)]
pub async fn list_bulk_jobs(State(api): State<Arc<Api>>, Caller(scope): Caller) -> NotYet {
    pass(&api, &scope, feature::CARDS_BULK).await?;
    not_yet("bulk operations")
}

/// Shows a bulk job.
#[utoipa::path(
    get, path = "/v1/bulk-jobs/{id}", tag = "Advanced",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 402, description = "Needs the feature `cards.bulk`"),
              (status = 501, description = "The module is not part of this version"))
)]
pub async fn get_bulk_job(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(_id): InPath<Uuid>,
) -> NotYet {
    pass(&api, &scope, feature::CARDS_BULK).await?;
    not_yet("bulk operations")
}

/// Lists what failed in a bulk job, as CSV.
#[utoipa::path(
    get, path = "/v1/bulk-jobs/{id}/failures", tag = "Advanced",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 402, description = "Needs the feature `cards.bulk`"),
              (status = 501, description = "The module is not part of this version"))
)]
pub async fn bulk_job_failures(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(_id): InPath<Uuid>,
) -> NotYet {
    pass(&api, &scope, feature::CARDS_BULK).await?;
    not_yet("bulk operations")
}

/// Cancels a bulk job.
#[utoipa::path(
    put, path = "/v1/bulk-jobs/{id}/cancel", tag = "Advanced",
    params(("id" = String, Path, description = "The job's id")),
    responses((status = 402, description = "Needs the feature `cards.bulk`"),
              (status = 501, description = "The module is not part of this version"))
)]
pub async fn cancel_bulk_job(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(_id): InPath<Uuid>,
) -> NotYet {
    pass_to_change(&api, &scope, feature::CARDS_BULK).await?;
    not_yet("bulk operations")
}

/// Exports the cards that match.
#[utoipa::path(
    get, path = "/v1/cards/export", tag = "Advanced", params(ExportQuery),
    responses((status = 402, description = "Needs the feature `cards.export`, or `export_csv` for CSV"),
              (status = 501, description = "The module is not part of this version"))
)]
pub async fn export_cards(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InQuery(query): InQuery<ExportQuery>,
) -> NotYet {
    pass_to_export(&api, &scope, query.format == ExportFormat::Csv).await?;
    not_yet("exports")
}

/// Shows statistics.
#[utoipa::path(
    get, path = "/v1/cards/stats", tag = "Advanced",
    responses((status = 402, description = "Needs the feature `cards.stats`"),
              (status = 501, description = "The module is not part of this version"))
)]
pub async fn card_stats(State(api): State<Arc<Api>>, Caller(scope): Caller) -> NotYet {
    pass(&api, &scope, feature::CARDS_STATS).await?;
    not_yet("statistics")
}

/// Streams what happens, as it happens.
#[utoipa::path(
    get, path = "/v1/live", tag = "Advanced",
    responses((status = 402, description = "Needs the feature `cards.live`"),
              (status = 501, description = "The module is not part of this version"))
)]
pub async fn live(State(api): State<Arc<Api>>, Caller(scope): Caller) -> NotYet {
    pass(&api, &scope, feature::CARDS_LIVE).await?;
    not_yet("live updates")
}

fn not_yet(what: &str) -> NotYet {
    let detail = format!("this version of the service has no {what} yet");
    Err(Problem::new(Code::ModuleNotAvailable, detail))
}
