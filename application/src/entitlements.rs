//! What a tenant may do and how much of it is used: the gate that every paid path goes through,
//! and the pages that show a tenant what it has.
//!
//! All of it is read from the ledger's head in memory and evaluated against the clock: no I/O,
//! no cache to go stale, and never an answer from the landlord's database.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::catalogue::{FeatureSlug, Kill, Module, PlanKey};
use domain::entitlements::{Entitlement, Standing};
use domain::ids::{Position, TenantId, Version};
use domain::usage::{AdmissionRefusal, Usage};
use domain::verdict::{Verdict, verdict};

use crate::Application;
use crate::error::{Error, Refusal};
use crate::ports::{Head, TenantStore};
use crate::scope::{Role, Scope};

const READ: &[Role] = &[Role::TenantAdmin, Role::TenantViewer];

/// What a tenant has.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantEntitlements {
    /// Whose.
    pub tenant: TenantId,
    /// The plan.
    pub plan: PlanKey,
    /// The price level.
    pub price_level: u32,
    /// Whether the tenant is served.
    pub standing: Standing,
    /// Every right.
    pub features: BTreeMap<FeatureSlug, Entitlement>,
    /// Those of them that are off for everybody.
    pub killed: BTreeMap<FeatureSlug, Kill>,
    /// The ledger position up to which this is.
    pub as_of: Position,
    /// The version of the subscription.
    pub version: Version,
}

/// Whether a tenant has a module.
#[derive(Clone, Debug, PartialEq)]
pub struct ModuleState {
    /// The module.
    pub module: Module,
    /// Whether all of it may be used.
    pub installed: bool,
    /// Features of it that the tenant may use.
    pub features: Vec<FeatureSlug>,
    /// Why it is locked.
    pub locked: Option<Lock>,
}

/// Why a module is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lock {
    /// A plan of this price level unlocks it.
    PriceLevel(u32),
    /// Some of it is off for everybody.
    Killed,
    /// The tenant is not served.
    Standing(Standing),
}

/// How many cards a tenant has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantUsage {
    /// By status.
    pub usage: Usage,
    /// The most in circulation; none is without limit.
    pub limit: Option<u64>,
    /// The ledger position up to which this is.
    pub as_of: Position,
}

impl Application {
    /// What the asker's tenant has, at position `at_least` or after it.
    pub async fn entitlements(
        &self,
        scope: &Scope,
        at_least: Position,
    ) -> Result<TenantEntitlements, Error> {
        let head = self.head(scope, at_least).await?;
        let now = self.clock.now();
        let terms = head
            .subscription
            .terms()
            .ok_or(Error::NotFound("subscription"))?;
        let features = head.subscription.entitlements(now);
        let edition = self.catalogue.current();
        Ok(TenantEntitlements {
            tenant: scope.own_tenant()?,
            plan: terms.plan_at(now).key.clone(),
            price_level: head.subscription.price_level(now),
            standing: head.subscription.standing(now),
            killed: edition.catalogue.killed_of(features.keys()),
            features,
            as_of: head.position,
            version: head.subscription_version,
        })
    }

    /// Which modules the asker's tenant has, and what would unlock the others, at position
    /// `at_least` or after it.
    pub async fn modules(
        &self,
        scope: &Scope,
        at_least: Position,
    ) -> Result<Vec<ModuleState>, Error> {
        let head = self.head(scope, at_least).await?;
        let now = self.clock.now();
        let standing = head.subscription.standing(now);
        let edition = Arc::clone(&self.catalogue.current());
        let catalogue = &edition.catalogue;
        let module_state = |module: &Module| {
            let (mut features, mut missing, mut killed) = (Vec::new(), false, false);
            for feature in catalogue.features.values() {
                let slug = &feature.slug;
                if feature.module.as_ref() != Some(&module.key) {
                    continue;
                }
                match head.subscription.value(slug.as_str(), now) {
                    Some(_) if catalogue.killed(slug.as_str()).is_some() => killed = true,
                    Some(_) => features.push(slug.clone()),
                    // Who lacks what is not for sale any more lacks nothing.
                    None if catalogue.archived_features.contains(slug) => {}
                    None => missing = true,
                }
            }
            // A module without features is one that nobody has yet.
            let missing = missing || (features.is_empty() && !killed);
            let locked = match (missing, killed) {
                (true, _) => Some(Lock::PriceLevel(module.price_level)),
                (false, true) => Some(Lock::Killed),
                (false, false) if standing.blocks_level(module.price_level) => {
                    Some(Lock::Standing(standing))
                }
                (false, false) => None,
            };
            ModuleState {
                module: module.clone(),
                installed: locked.is_none(),
                features,
                locked,
            }
        };
        Ok(catalogue.modules.iter().map(module_state).collect())
    }

    /// How many cards the asker's tenant has, at position `at_least` or after it.
    pub async fn usage(&self, scope: &Scope, at_least: Position) -> Result<TenantUsage, Error> {
        let head = self.head(scope, at_least).await?;
        Ok(TenantUsage {
            usage: head.usage,
            limit: head.subscription.card_limit(self.clock.now()),
            as_of: head.position,
        })
    }

    /// Refuses the asker's tenant unless it may use `feature` now; answers its store.
    pub async fn gate(&self, scope: &Scope, feature: &str) -> Result<Arc<TenantStore>, Error> {
        let store = self.tenant_store(scope, READ).await?;
        self.require_feature(&store, feature, self.clock.now())?;
        Ok(store)
    }

    /// Refuses unless the tenant may use `feature` at `now`.
    pub(crate) fn require_feature(
        &self,
        store: &TenantStore,
        feature: &str,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let tenant = store.tenant;
        let head = store.ledger.head();
        let edition = self.catalogue.current();
        let refusal = match verdict(&edition.catalogue, &head.subscription, feature, now) {
            Verdict::Granted(_) => return Ok(()),
            Verdict::Killed(kill) => Refusal::FeatureDisabled {
                feature: feature.to_owned(),
                kill: kill.clone(),
            },
            Verdict::NotServed(standing) => Refusal::NotAdmitted {
                tenant,
                refusal: AdmissionRefusal::NotServed(standing),
            },
            Verdict::Expired | Verdict::NotInPlan | Verdict::Unknown => {
                let for_sale = edition.catalogue.feature(feature).ok_or_else(|| {
                    Error::Internal(format!("the catalogue has no feature {feature}"))
                })?;
                Refusal::UpgradeRequired {
                    tenant,
                    feature: feature.to_owned(),
                    required_level: for_sale.price_level,
                    current_level: head.subscription.price_level(now),
                }
            }
        };
        Err(refusal.into())
    }

    /// The head of the asker's tenant, at position `at_least` or after it.
    pub(crate) async fn head(&self, scope: &Scope, at_least: Position) -> Result<Arc<Head>, Error> {
        let store = self.tenant_store(scope, READ).await?;
        Self::head_at(&store, at_least).await
    }

    /// A position that nobody has told this node of is either in the store or nowhere.
    pub(crate) async fn head_at(
        store: &TenantStore,
        at_least: Position,
    ) -> Result<Arc<Head>, Error> {
        if store.ledger.head().position < at_least {
            store.ledger.heard(at_least).await?;
        }
        let head = store.ledger.head();
        match head.position < at_least {
            true => Err(Error::Behind { position: at_least }),
            false => Ok(head),
        }
    }
}
