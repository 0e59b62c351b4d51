//! What the landlord may do to the catalogue, and what then happened.
//!
//! Each definition says the whole of what it defines: the same again changes nothing, so it may be
//! repeated.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;

use super::event::CatalogueEvent;
use super::migration::{MigratedPage, PlanMigration};
use super::{
    Catalogue, Feature, FeatureKind, FeatureSlug, FeatureValue, Kill, Module, ModuleKey, PlanKey,
    PlanTerms,
};

/// The most modules a catalogue has.
pub const MODULES_MAX: usize = 100;
/// The most features a catalogue has, archived ones included.
pub const FEATURES_MAX: usize = 500;
/// The most plans a catalogue has, archived ones included.
pub const PLANS_MAX: usize = 200;
/// What may be asked of the catalogue.
#[derive(Clone, Debug, PartialEq)]
pub enum CatalogueCommand {
    /// Describe a module, new or known.
    DefineModule {
        /// The module.
        module: Module,
        /// When.
        at: DateTime<Utc>,
    },
    /// Describe a feature, new or known.
    DefineFeature {
        /// The feature.
        feature: Feature,
        /// Whether it is out of sale.
        archived: bool,
        /// When.
        at: DateTime<Utc>,
    },
    /// Switch a feature off for everybody.
    KillFeature {
        /// Which.
        slug: FeatureSlug,
        /// Who asks.
        by: String,
        /// Why.
        reason: Option<String>,
        /// When.
        at: DateTime<Utc>,
    },
    /// End what [`Self::KillFeature`] did.
    ReviveFeature {
        /// Which.
        slug: FeatureSlug,
        /// When.
        at: DateTime<Utc>,
    },
    /// Describe a plan: the first version of a new one, the next of a known one.
    DefinePlan {
        /// What it grants.
        plan: PlanContent,
        /// Whether it is out of sale.
        archived: bool,
        /// When.
        at: DateTime<Utc>,
    },
    /// Begin to bring all tenants on a plan to its newest version.
    StartMigration {
        /// Which plan.
        key: PlanKey,
        /// Who asks.
        by: String,
        /// When.
        at: DateTime<Utc>,
    },
    /// Some more tenants were looked at; without effect if somebody has said so before.
    ProgressMigration {
        /// Which plan.
        key: PlanKey,
        /// The version that they were brought to.
        version: u32,
        /// What became of them.
        page: MigratedPage,
        /// When.
        at: DateTime<Utc>,
    },
    /// All tenants were looked at; without effect if somebody has said so before.
    FinishMigration {
        /// Which plan.
        key: PlanKey,
        /// The version that they were brought to.
        version: u32,
        /// When.
        at: DateTime<Utc>,
    },
}

/// A plan as it is defined; its version is counted here.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanContent {
    /// Its key.
    pub key: PlanKey,
    /// The price level.
    pub price_level: u32,
    /// Its place among the plans.
    pub rank: u32,
    /// What it grants.
    pub features: BTreeMap<FeatureSlug, FeatureValue>,
}

/// Why the catalogue did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CatalogueRefusal {
    /// There is no such feature.
    #[error("there is no feature {0}")]
    UnknownFeature(FeatureSlug),
    /// There is no such plan.
    #[error("there is no plan {0}")]
    UnknownPlan(PlanKey),
    /// A feature names a module that there is not.
    #[error("there is no module {0}")]
    UnknownModule(ModuleKey),
    /// What a feature is cannot change: who has it has a value of its kind.
    #[error("the kind of {0} cannot change")]
    KindIsFixed(FeatureSlug),
    /// A plan would grant a feature that is out of sale.
    #[error("the feature {0} is archived")]
    FeatureIsArchived(FeatureSlug),
    /// A plan would grant a value of another kind than the feature's.
    #[error("{0} takes another kind of value")]
    WrongValue(FeatureSlug),
    /// A plan would grant a feature of a higher price level than its own.
    #[error("{feature} has price level {price_level}")]
    PriceLevelTooLow {
        /// The feature.
        feature: FeatureSlug,
        /// Its price level.
        price_level: u32,
    },
    /// A feature cannot go out of sale while a plan that is for sale grants it.
    #[error("{feature} is in the plan {plan}, which is for sale")]
    FeatureInUse {
        /// The feature.
        feature: FeatureSlug,
        /// One of the plans.
        plan: PlanKey,
    },
    /// A limit has no switch: what it limits has.
    #[error("{0} is a limit, which cannot be switched off")]
    LimitHasNoSwitch(FeatureSlug),
    /// The catalogue is full.
    #[error("there can be no more than {max} {what}")]
    TooMany {
        /// Of what: `features`.
        what: &'static str,
        /// The most there can be.
        max: usize,
    },
}

impl Catalogue {
    /// What happens when `command` is given to this catalogue.
    ///
    /// # Errors
    ///
    /// A [`CatalogueRefusal`] if a rule does not allow the command; nothing happens then.
    pub fn decide(
        &self,
        command: CatalogueCommand,
    ) -> Result<Vec<CatalogueEvent>, CatalogueRefusal> {
        use CatalogueCommand as Command;
        use CatalogueEvent as Event;

        match command {
            Command::DefineModule { module, at } => self.define_module(module, at),
            Command::DefineFeature {
                feature,
                archived,
                at,
            } => self.define_feature(feature, archived, at),
            Command::KillFeature {
                slug,
                by,
                reason,
                at,
            } => match self.known_feature(&slug)?.kind {
                FeatureKind::Limit => Err(CatalogueRefusal::LimitHasNoSwitch(slug)),
                FeatureKind::Flag if self.kills.contains_key(&slug) => Ok(vec![]),
                FeatureKind::Flag => Ok(vec![Event::FeatureKilled {
                    slug,
                    by,
                    reason,
                    at,
                }]),
            },
            Command::ReviveFeature { slug, at } => {
                self.known_feature(&slug)?;
                Ok(match self.kills.contains_key(&slug) {
                    true => vec![Event::FeatureRevived { slug, at }],
                    false => vec![],
                })
            }
            Command::DefinePlan { plan, archived, at } => self.define_plan(plan, archived, at),
            Command::StartMigration { key, by, at } => {
                let plan = self.plan(key.as_str());
                let plan = plan.ok_or_else(|| CatalogueRefusal::UnknownPlan(key.clone()))?;
                let version = plan.version;
                Ok(match self.running(&key, version) {
                    Some(_) => vec![],
                    None => vec![Event::PlanMigrationStarted {
                        key,
                        version,
                        by,
                        at,
                    }],
                })
            }
            Command::ProgressMigration {
                key,
                version,
                page,
                at,
            } => Ok(match self.running(&key, version) {
                Some(running) if running.after < Some(page.after) => {
                    vec![Event::PlanMigrationProgressed {
                        key,
                        after: page.after,
                        migrated: page.migrated,
                        unchanged: page.unchanged,
                        failed: page.failed,
                        at,
                    }]
                }
                Some(_) | None => vec![],
            }),
            Command::FinishMigration { key, version, at } => {
                Ok(match self.running(&key, version) {
                    Some(_) => vec![Event::PlanMigrationFinished { key, at }],
                    None => vec![],
                })
            }
        }
    }

    fn define_module(
        &self,
        module: Module,
        at: DateTime<Utc>,
    ) -> Result<Vec<CatalogueEvent>, CatalogueRefusal> {
        match self.module(module.key.as_str()) {
            Some(known) if *known == module => return Ok(vec![]),
            Some(_) => {}
            None => room("modules", self.modules.len(), MODULES_MAX)?,
        }
        Ok(vec![CatalogueEvent::ModuleDefined { module, at }])
    }

    fn define_feature(
        &self,
        feature: Feature,
        archived: bool,
        at: DateTime<Utc>,
    ) -> Result<Vec<CatalogueEvent>, CatalogueRefusal> {
        use CatalogueEvent as Event;

        let slug = feature.slug.clone();
        let known = self.feature(slug.as_str());
        if known.is_some_and(|known| known.kind != feature.kind) {
            return Err(CatalogueRefusal::KindIsFixed(slug));
        }
        if let Some(module) = &feature.module
            && self.module(module.as_str()).is_none()
        {
            return Err(CatalogueRefusal::UnknownModule(module.clone()));
        }
        if archived && let Some(plan) = self.plans_for_sale().find(|it| it.has(&slug)) {
            let plan = plan.key.clone();
            return Err(CatalogueRefusal::FeatureInUse {
                feature: slug,
                plan,
            });
        }
        let mut events = Vec::new();
        match known {
            Some(known) if *known == feature => {}
            Some(_) => events.push(Event::FeatureRevised { feature, at }),
            None => {
                room("features", self.features.len(), FEATURES_MAX)?;
                events.push(Event::FeatureDefined { feature, at });
            }
        }
        match (self.archived_features.contains(&slug), archived) {
            (false, true) => events.push(Event::FeatureArchived { slug, at }),
            (true, false) => events.push(Event::FeatureRestored { slug, at }),
            (false, false) | (true, true) => {}
        }
        Ok(events)
    }

    fn define_plan(
        &self,
        content: PlanContent,
        archived: bool,
        at: DateTime<Utc>,
    ) -> Result<Vec<CatalogueEvent>, CatalogueRefusal> {
        use CatalogueEvent as Event;

        let known = self.plan(content.key.as_str());
        let plan = PlanTerms {
            version: known.map_or(1, |known| known.version),
            key: content.key,
            price_level: content.price_level,
            rank: content.rank,
            features: content.features,
        };
        let key = plan.key.clone();
        let was_archived = self.archived_plans.contains(&key);
        let same = known == Some(&plan);
        if !same || (was_archived && !archived) {
            self.check_features(&plan)?;
        }
        let mut events = Vec::new();
        match known {
            Some(_) if same => {}
            Some(known) => events.push(Event::PlanRevised {
                plan: PlanTerms {
                    version: known.version + 1,
                    ..plan
                },
                at,
            }),
            None => {
                room("plans", self.plans.len(), PLANS_MAX)?;
                events.push(Event::PlanDefined { plan, at });
            }
        }
        match (was_archived, archived) {
            (false, true) => events.push(Event::PlanArchived { key, at }),
            (true, false) => events.push(Event::PlanRestored { key, at }),
            (false, false) | (true, true) => {}
        }
        Ok(events)
    }

    /// Whether a version of a plan may be sold as it is.
    fn check_features(&self, plan: &PlanTerms) -> Result<(), CatalogueRefusal> {
        for (slug, value) in &plan.features {
            let feature = self.known_feature(slug)?;
            if self.archived_features.contains(slug) {
                return Err(CatalogueRefusal::FeatureIsArchived(slug.clone()));
            }
            if !feature.accepts(*value) {
                return Err(CatalogueRefusal::WrongValue(slug.clone()));
            }
            if feature.price_level > plan.price_level {
                return Err(CatalogueRefusal::PriceLevelTooLow {
                    feature: slug.clone(),
                    price_level: feature.price_level,
                });
            }
        }
        Ok(())
    }

    fn known_feature(&self, slug: &FeatureSlug) -> Result<&Feature, CatalogueRefusal> {
        let known = self.feature(slug.as_str());
        known.ok_or_else(|| CatalogueRefusal::UnknownFeature(slug.clone()))
    }

    /// The migration of a plan to this version, unless it is over.
    fn running(&self, key: &PlanKey, version: u32) -> Option<&PlanMigration> {
        let migration = self.migrations.get(key)?;
        (migration.version == version && migration.finished_at.is_none()).then_some(migration)
    }

    /// Applies what happened.
    pub fn evolve(&mut self, event: CatalogueEvent) {
        use CatalogueEvent as Event;

        match event {
            Event::ModuleDefined { module, .. } => {
                self.modules.retain(|known| known.key != module.key);
                self.modules.push(module);
                self.modules
                    .sort_by(|a, b| (a.price_level, &a.key).cmp(&(b.price_level, &b.key)));
            }
            Event::FeatureDefined { feature, .. } | Event::FeatureRevised { feature, .. } => {
                self.features.insert(feature.slug.clone(), feature);
            }
            Event::FeatureArchived { slug, .. } => {
                self.archived_features.insert(slug);
            }
            Event::FeatureRestored { slug, .. } => {
                self.archived_features.remove(&slug);
            }
            Event::FeatureKilled {
                slug,
                by,
                reason,
                at,
            } => {
                let since = at;
                self.kills.insert(slug, Kill { since, by, reason });
            }
            Event::FeatureRevived { slug, .. } => {
                self.kills.remove(&slug);
            }
            Event::PlanDefined { plan, .. } => {
                self.plans.insert(plan.key.clone(), plan);
            }
            Event::PlanRevised { plan, at } => {
                if let Some(migration) = self.migrations.get_mut(&plan.key) {
                    migration.supersede(at);
                }
                self.plans.insert(plan.key.clone(), plan);
            }
            Event::PlanArchived { key, .. } => {
                self.archived_plans.insert(key);
            }
            Event::PlanRestored { key, .. } => {
                self.archived_plans.remove(&key);
            }
            Event::PlanMigrationStarted {
                key,
                version,
                by,
                at,
            } => {
                self.migrations
                    .insert(key, PlanMigration::begun(version, by, at));
            }
            Event::PlanMigrationProgressed {
                key,
                after,
                migrated,
                unchanged,
                failed,
                at,
            } => {
                if let Some(migration) = self.migrations.get_mut(&key) {
                    let page = MigratedPage {
                        after,
                        migrated,
                        unchanged,
                        failed,
                    };
                    migration.progress(page, at);
                }
            }
            Event::PlanMigrationFinished { key, at } => {
                if let Some(migration) = self.migrations.get_mut(&key) {
                    migration.finished_at = Some(at);
                }
            }
        }
    }
}

fn room(what: &'static str, there: usize, max: usize) -> Result<(), CatalogueRefusal> {
    match there < max {
        true => Ok(()),
        false => Err(CatalogueRefusal::TooMany { what, max }),
    }
}

impl Aggregate for Catalogue {
    const TYPE: &'static str = "Catalogue";
    type Command = CatalogueCommand;
    type Event = CatalogueEvent;
    type Error = CatalogueRefusal;
    type Services = ();

    /// [`Catalogue::decide`] behind the framework's signature, written against a clone for the
    /// reason given at [`crate::subscription::TenantSubscription`].
    async fn handle(
        &mut self,
        command: CatalogueCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), CatalogueRefusal> {
        let mut scratch = self.clone();
        for event in self.decide(command)? {
            sink.write(event, &mut scratch).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: CatalogueEvent) {
        self.evolve(event);
    }
}
