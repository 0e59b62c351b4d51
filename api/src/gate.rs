//! The gate of the paid modules: whether the caller's tenant may use a feature now.
//!
//! The check reads the ledger's head in memory; the refusal is a 402 that says what is missing
//! and where it is sold. A path whose module this version does not have yet answers 501, but
//! only to tenants that may use it, so that everybody else learns what to buy.

use application::scope::{Role, Scope};
use domain::catalogue::feature;

use crate::Api;
use crate::problem::{Code, Problem};

/// Passes if the caller's tenant may use the feature.
///
/// # Errors
///
/// `upgrade_required`, `feature_disabled`, or why the tenant is not served.
pub async fn pass(api: &Api, scope: &Scope, feature: &str) -> Result<(), Problem> {
    api.application.gate(scope, feature).await?;
    Ok(())
}

/// As [`pass`], for what only administrators may do.
///
/// # Errors
///
/// As [`pass`]; `forbidden` for other roles.
pub async fn pass_to_change(api: &Api, scope: &Scope, feature: &str) -> Result<(), Problem> {
    scope.require(&[Role::TenantAdmin])?;
    pass(api, scope, feature).await
}

/// Passes if the caller's tenant may export; CSV is also sold on its own.
///
/// # Errors
///
/// As [`pass`], of the feature that has every format.
pub async fn pass_to_export(api: &Api, scope: &Scope, csv: bool) -> Result<(), Problem> {
    let refusal = match pass(api, scope, feature::CARDS_EXPORT).await {
        Ok(()) => return Ok(()),
        Err(refusal) => refusal,
    };
    let csv_may_do = [Code::UpgradeRequired, Code::FeatureDisabled].contains(&refusal.code());
    match csv && csv_may_do {
        true if pass(api, scope, feature::EXPORT_CSV).await.is_ok() => Ok(()),
        _ => Err(refusal),
    }
}
