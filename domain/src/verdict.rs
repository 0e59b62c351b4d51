//! Whether a tenant may use a feature now, and if not, why: the one rule behind the gate and behind
//! every answer about a single right.

use chrono::{DateTime, Utc};

use crate::catalogue::{Catalogue, FeatureValue, Kill};
use crate::entitlements::Standing;
use crate::subscription::TenantSubscription;

/// Whether a feature may be used.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<'a> {
    /// It may, so much of it.
    Granted(FeatureValue),
    /// It is off for everybody, whatever the tenant has bought.
    Killed(&'a Kill),
    /// The tenant is not served.
    NotServed(Standing),
    /// It was granted beside the plan, until a time that is over.
    Expired,
    /// The tenant has not bought it.
    NotInPlan,
    /// There is no such feature.
    Unknown,
}

impl Verdict<'_> {
    /// The reason as clients see it.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Granted(_) => "granted",
            Self::Killed(_) => "killed",
            Self::NotServed(Standing::Suspended) => "suspended",
            Self::NotServed(Standing::Ended) => "cancelled",
            Self::NotServed(
                Standing::NotStarted | Standing::Good | Standing::Grace | Standing::Cancelled,
            ) => "not_started",
            Self::Expired => "expired",
            Self::NotInPlan => "not_in_plan",
            Self::Unknown => "unknown_feature",
        }
    }
}

/// Whether a tenant with this subscription may use `feature` at `now`.
///
/// What is off for everybody comes first: nothing that a tenant can buy would help. Allocates
/// nothing: this is the check on the request path.
pub fn verdict<'a>(
    catalogue: &'a Catalogue,
    subscription: &TenantSubscription,
    feature: &str,
    now: DateTime<Utc>,
) -> Verdict<'a> {
    if let Some(kill) = catalogue.killed(feature) {
        return Verdict::Killed(kill);
    }
    let Some(for_sale) = catalogue.feature(feature) else {
        return Verdict::Unknown;
    };
    let standing = subscription.standing(now);
    if standing.blocks(feature, for_sale.price_level) {
        return Verdict::NotServed(standing);
    }
    if let Some(value) = subscription.value(feature, now) {
        return Verdict::Granted(value);
    }
    let was_granted = subscription
        .terms()
        .is_some_and(|terms| terms.grants.contains_key(feature) || terms.lapsed.contains(feature));
    match was_granted {
        // Only a grant whose time is over gives no right.
        true => Verdict::Expired,
        false => Verdict::NotInPlan,
    }
}
