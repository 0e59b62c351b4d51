//! Why something that was asked for was not done. `api/src/problem.rs` maps each to a status
//! and a stable code, exhaustively.

use domain::card::CardRefusal;
use domain::catalogue::{CatalogueRefusal, FeatureSlug, Kill, PlanKey};
use domain::ids::{TenantId, Version};
use domain::subscription::SubscriptionRefusal;
use domain::usage::AdmissionRefusal;

use crate::ports::{AppendError, LandlordError, Unavailable};

/// Why a request was not done. Nothing was changed, except where [`Error::Unavailable`] leaves
/// that open.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The role may not do this.
    #[error("this key's role may not do this")]
    Forbidden,
    /// There is no such thing, or none that the asker may know of.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A rule of the product says no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The aggregate is not at the version that `If-Match` names.
    #[error("the version is {current}")]
    PreconditionFailed {
        /// The version it is at.
        current: Version,
    },
    /// Others kept changing the same aggregate.
    #[error("others are changing the same resource")]
    VersionConflict,
    /// The idempotency key was used for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// A request with the same idempotency key is being worked on.
    #[error("a request with the same idempotency key is being worked on")]
    InProgress,
    /// The tenant's ledger has more appends waiting than it may.
    #[error("the ledger has too many appends waiting")]
    Busy,
    /// The read model has not reached the asked position in time.
    #[error("the read model has not reached position {position} in time")]
    Behind {
        /// The position asked for.
        position: u64,
    },
    /// A dependency did not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// This node does not reach a shard that it was told to use.
    #[error("this node does not reach the shard's database")]
    ShardUnreachable(#[source] Unavailable),
    /// Something that the code holds impossible has happened.
    #[error("{0}")]
    Internal(String),
}

/// Which rule says no.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The card's life.
    #[error(transparent)]
    Card(#[from] CardRefusal),
    /// The subscription's life.
    #[error(transparent)]
    Subscription(#[from] SubscriptionRefusal),
    /// The rules of the catalogue.
    #[error(transparent)]
    Catalogue(#[from] CatalogueRefusal),
    /// The landlord has switched the feature off for everybody.
    #[error("{feature} is switched off since {since}{why}", since = kill.since, why = because(kill))]
    FeatureDisabled {
        /// The feature asked for.
        feature: String,
        /// Since when and why.
        kill: Kill,
    },
    /// The quota, or a tenant that is not served.
    #[error("{refusal}")]
    NotAdmitted {
        /// Whose.
        tenant: TenantId,
        /// Why.
        refusal: AdmissionRefusal,
    },
    /// The plan does not have the feature.
    #[error("{feature} needs price level {required_level}")]
    UpgradeRequired {
        /// Whose.
        tenant: TenantId,
        /// The feature asked for.
        feature: String,
        /// The lowest price level whose plans have it.
        required_level: u32,
        /// The price level now.
        current_level: u32,
    },
    /// A field's value is well-formed but cannot be.
    #[error("{field}: {detail}")]
    Invalid {
        /// Which field: `features.slug`.
        field: &'static str,
        /// A stable code for it: `unknown_feature`.
        code: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// Every shard is closed for new tenants.
    #[error("no shard is open for new tenants")]
    NoOpenShard,
    /// The shard's login may not make databases.
    #[error("the login of the shard {0} may not make databases: grant it CREATEDB")]
    NoDedicatedDatabase(String),
    /// The embedded store has no shards.
    #[error("the embedded store has no shards: every tenant has a file of its own")]
    NoShards,
    /// There are as many keys as there can be.
    #[error("{limit} keys are in force already: revoke one")]
    TooManyKeys {
        /// How many there can be.
        limit: usize,
    },
    /// Another shard has this name.
    #[error("there is another shard of this name")]
    ShardExists,
    /// Another tenant has this slug.
    #[error("the slug is taken")]
    SlugTaken,
    /// A usage audit is running.
    #[error("a usage audit is running")]
    AuditRunning,
}

fn because(kill: &Kill) -> String {
    let reason = kill.reason.as_ref();
    reason.map_or_else(String::new, |reason| format!(": {reason}"))
}

/// An error with its causes, on one line.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        // An error that passes another one through says the same.
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

impl Error {
    /// The append's own error, said of a tenant.
    pub fn of_append(tenant: TenantId, error: AppendError) -> Self {
        match error {
            AppendError::VersionConflict => Self::VersionConflict,
            AppendError::NotAdmitted(refusal) => Refusal::NotAdmitted { tenant, refusal }.into(),
            AppendError::KeyReused => Self::KeyReused,
            AppendError::Busy => Self::Busy,
            AppendError::Unavailable(source) => Self::Unavailable(source),
        }
    }

    /// There is no plan of this name.
    pub fn unknown_plan(plan: &PlanKey) -> Self {
        Refusal::Invalid {
            field: "plan",
            code: "unknown_plan",
            detail: format!("there is no plan {plan}"),
        }
        .into()
    }

    /// The plan is out of sale.
    pub fn archived_plan(plan: &PlanKey) -> Self {
        Refusal::Invalid {
            field: "plan",
            code: "plan_archived",
            detail: format!("the plan {plan} is not for sale any more"),
        }
        .into()
    }

    /// The feature is out of sale.
    pub fn archived_feature(slug: &FeatureSlug) -> Self {
        Refusal::Invalid {
            field: "slug",
            code: "feature_archived",
            detail: format!("the feature {slug} is not for sale any more"),
        }
        .into()
    }

    /// There is nothing of this name to sell.
    pub fn unknown_feature(slug: &FeatureSlug) -> Self {
        Refusal::Invalid {
            field: "slug",
            code: "unknown_feature",
            detail: format!("there is no feature {slug}"),
        }
        .into()
    }
}

impl From<CardRefusal> for Error {
    fn from(refusal: CardRefusal) -> Self {
        match refusal {
            CardRefusal::NotIssued => Self::NotFound("card"),
            other => Self::Refused(Refusal::Card(other)),
        }
    }
}

impl From<CatalogueRefusal> for Error {
    fn from(refusal: CatalogueRefusal) -> Self {
        Self::Refused(Refusal::Catalogue(refusal))
    }
}

impl From<SubscriptionRefusal> for Error {
    fn from(refusal: SubscriptionRefusal) -> Self {
        Self::Refused(Refusal::Subscription(refusal))
    }
}

impl From<LandlordError> for Error {
    fn from(error: LandlordError) -> Self {
        match error {
            LandlordError::SlugTaken => Self::Refused(Refusal::SlugTaken),
            LandlordError::ShardExists => Self::Refused(Refusal::ShardExists),
            LandlordError::KeyReused => Self::KeyReused,
            LandlordError::Unavailable(source) => Self::Unavailable(source),
        }
    }
}
