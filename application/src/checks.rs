//! Checks: whether a tenant may use a feature, and if not, why; one, or many in one call.
//!
//! Read from ledgers' heads in memory. What cannot be established is said to be unavailable, never
//! answered with a no.

use std::time::Duration;

use domain::catalogue::Kill;
use domain::entitlements::Entitlement;
use domain::ids::{Position, TenantId};
use domain::subscription::TenantSubscription;
use domain::verdict::{Verdict, verdict};
use futures::stream::{self, StreamExt};
use tokio::time::{Instant, timeout_at};

use crate::Application;
use crate::error::Error;
use crate::ports::Unavailable;
use crate::scope::{Role, Scope};

const READ: &[Role] = &[Role::Landlord];

/// How many tenants, and how many features, are checked in one call at most.
pub const CHECKS_MAX: usize = 100;
/// How many stores that are not open are opened at a time.
const OPENED_AT_A_TIME: usize = 16;
/// How long all of them may take together.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whether a tenant may use a feature now.
#[derive(Clone, Debug, PartialEq)]
pub struct Check {
    /// Whether it may.
    pub granted: bool,
    /// Why, or why not: `not_in_plan`.
    pub reason: &'static str,
    /// The right, if there is one.
    pub entitlement: Option<Entitlement>,
    /// Why the feature is off for everybody, if it is.
    pub kill: Option<Kill>,
}

/// The checks of one tenant, in the order of the features.
pub type TenantChecks = Result<Vec<Check>, NotChecked>;

/// Why a tenant was not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotChecked {
    /// There is no such tenant.
    UnknownTenant,
    /// Its store did not answer in time.
    Unavailable,
}

impl Application {
    /// Whether the asker's tenant may use a feature, at position `at_least` or after it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no such feature.
    pub async fn check(
        &self,
        scope: &Scope,
        feature: &str,
        at_least: Position,
    ) -> Result<Check, Error> {
        let head = self.head(scope, at_least).await?;
        match self.check_one(&head.subscription, feature) {
            Check { reason, .. } if reason == Verdict::Unknown.reason() => {
                Err(Error::NotFound("feature"))
            }
            check => Ok(check),
        }
    }

    /// Whether each of these tenants may use each of these features, in their order. A tenant that
    /// cannot be checked says so by itself.
    pub async fn checks(
        &self,
        scope: &Scope,
        tenants: &[String],
        features: &[String],
    ) -> Result<Vec<TenantChecks>, Error> {
        scope.require(READ)?;
        let deadline = Instant::now() + PATIENCE;
        let of_tenant = |tenant: String| async move {
            let id: TenantId = tenant.parse().map_err(|_| NotChecked::UnknownTenant)?;
            let late = |late| Error::from(Unavailable::because("the tenant's store", late));
            let opened = timeout_at(deadline, self.known_store(id)).await;
            let store = opened.map_err(late).flatten().map_err(NotChecked::from)?;
            let head = store.ledger.head();
            let check = |feature: &String| self.check_one(&head.subscription, feature);
            Ok(features.iter().map(check).collect())
        };
        let all = stream::iter(tenants.to_vec()).map(of_tenant);
        Ok(all.buffered(OPENED_AT_A_TIME).collect().await)
    }

    fn check_one(&self, subscription: &TenantSubscription, feature: &str) -> Check {
        let (edition, now) = (self.catalogue.current(), self.clock.now());
        let verdict = verdict(&edition.catalogue, subscription, feature, now);
        let (entitlement, kill) = match verdict {
            Verdict::Granted(_) => (subscription.entitlement(feature, now), None),
            Verdict::Killed(kill) => (None, Some(kill.clone())),
            Verdict::NotServed(_) | Verdict::Expired | Verdict::NotInPlan | Verdict::Unknown => {
                (None, None)
            }
        };
        Check {
            granted: matches!(verdict, Verdict::Granted(_)),
            reason: verdict.reason(),
            entitlement,
            kill,
        }
    }
}

impl From<Error> for NotChecked {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound(_) => Self::UnknownTenant,
            error => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "a tenant cannot be checked");
                Self::Unavailable
            }
        }
    }
}
