//! What happens to the catalogue: the events, their stored names and the versions of their shapes.
//!
//! They are in the landlord's own ledger. Tenants' ledgers never refer to them: what a tenant was
//! sold is copied into the events of its subscription.

use chrono::{DateTime, Utc};
use cqrs_es::DomainEvent;
use serde::{Deserialize, Serialize};

use super::{Feature, FeatureSlug, Module, PlanKey, PlanTerms};
use crate::ids::TenantId;

/// What happened to the catalogue.
// The doc comments of this enum and of `MigrationFailure` become the catalogue's part of EVENTS.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CatalogueEvent {
    /// A module was defined, or described anew.
    ModuleDefined {
        /// The module.
        module: Module,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A feature was defined.
    FeatureDefined {
        /// The feature.
        feature: Feature,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A feature was described anew; its kind stays.
    FeatureRevised {
        /// The feature as it is from now on.
        feature: Feature,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A feature went out of sale; who has it keeps it.
    FeatureArchived {
        /// Which.
        slug: FeatureSlug,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// An archived feature came back into sale.
    FeatureRestored {
        /// Which.
        slug: FeatureSlug,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A feature was switched off for everybody, whatever anybody has bought.
    FeatureKilled {
        /// Which.
        slug: FeatureSlug,
        /// The API key that asked.
        by: String,
        /// Why, as the asker said: may hold personal data.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A feature that was switched off is there again, exactly as it was.
    FeatureRevived {
        /// Which.
        slug: FeatureSlug,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The first version of a plan was defined.
    PlanDefined {
        /// Its terms.
        plan: PlanTerms,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A plan got its next version; existing subscriptions keep theirs until migrated. A migration
    /// to the version before goes no further.
    PlanRevised {
        /// The new version's terms.
        plan: PlanTerms,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// A plan went out of sale; who is on it stays on it.
    PlanArchived {
        /// Which.
        key: PlanKey,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// An archived plan came back into sale.
    PlanRestored {
        /// Which.
        key: PlanKey,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// The tenants on a plan begin to be brought to its newest version.
    PlanMigrationStarted {
        /// Which plan.
        key: PlanKey,
        /// The version that they are brought to.
        version: u32,
        /// The API key that asked.
        by: String,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// Some more of the tenants on a plan were looked at, in the order of their ids.
    PlanMigrationProgressed {
        /// Which plan.
        key: PlanKey,
        /// The last tenant that was looked at.
        after: TenantId,
        /// How many of these tenants were brought to the version.
        migrated: u64,
        /// How many of these tenants had nothing to be changed.
        unchanged: u64,
        /// Those of these tenants that failed, and why.
        failed: Vec<MigrationFailure>,
        /// When it happened.
        at: DateTime<Utc>,
    },
    /// All tenants on a plan were looked at.
    PlanMigrationFinished {
        /// Which plan.
        key: PlanKey,
        /// When it happened.
        at: DateTime<Utc>,
    },
}

/// A tenant that was not brought to a plan's newest version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrationFailure {
    /// Whose subscription it is.
    pub tenant: TenantId,
    /// Why, for people.
    pub detail: String,
}

impl CatalogueEvent {
    /// The event's name, as stored.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ModuleDefined { .. } => "ModuleDefined",
            Self::FeatureDefined { .. } => "FeatureDefined",
            Self::FeatureRevised { .. } => "FeatureRevised",
            Self::FeatureArchived { .. } => "FeatureArchived",
            Self::FeatureRestored { .. } => "FeatureRestored",
            Self::FeatureKilled { .. } => "FeatureKilled",
            Self::FeatureRevived { .. } => "FeatureRevived",
            Self::PlanDefined { .. } => "PlanDefined",
            Self::PlanRevised { .. } => "PlanRevised",
            Self::PlanArchived { .. } => "PlanArchived",
            Self::PlanRestored { .. } => "PlanRestored",
            Self::PlanMigrationStarted { .. } => "PlanMigrationStarted",
            Self::PlanMigrationProgressed { .. } => "PlanMigrationProgressed",
            Self::PlanMigrationFinished { .. } => "PlanMigrationFinished",
        }
    }

    /// The version of the event's shape: the newest, the only one this code writes.
    pub const fn version(&self) -> &'static str {
        match self {
            Self::ModuleDefined { .. }
            | Self::FeatureDefined { .. }
            | Self::FeatureRevised { .. }
            | Self::FeatureArchived { .. }
            | Self::FeatureRestored { .. }
            | Self::FeatureKilled { .. }
            | Self::FeatureRevived { .. }
            | Self::PlanDefined { .. }
            | Self::PlanRevised { .. }
            | Self::PlanArchived { .. }
            | Self::PlanRestored { .. }
            | Self::PlanMigrationStarted { .. }
            | Self::PlanMigrationProgressed { .. }
            | Self::PlanMigrationFinished { .. } => "1.0.0",
        }
    }

    /// Whether it only tells how far a migration is: nothing of what is for sale changes.
    pub const fn is_progress(&self) -> bool {
        matches!(
            self,
            Self::PlanMigrationProgressed { .. } | Self::PlanMigrationFinished { .. }
        )
    }

    /// When it happened.
    pub const fn at(&self) -> DateTime<Utc> {
        match self {
            Self::ModuleDefined { at, .. }
            | Self::FeatureDefined { at, .. }
            | Self::FeatureRevised { at, .. }
            | Self::FeatureArchived { at, .. }
            | Self::FeatureRestored { at, .. }
            | Self::FeatureKilled { at, .. }
            | Self::FeatureRevived { at, .. }
            | Self::PlanDefined { at, .. }
            | Self::PlanRevised { at, .. }
            | Self::PlanArchived { at, .. }
            | Self::PlanRestored { at, .. }
            | Self::PlanMigrationStarted { at, .. }
            | Self::PlanMigrationProgressed { at, .. }
            | Self::PlanMigrationFinished { at, .. } => *at,
        }
    }
}

impl DomainEvent for CatalogueEvent {
    fn event_type(&self) -> String {
        self.name().to_owned()
    }

    fn event_version(&self) -> String {
        self.version().to_owned()
    }
}
