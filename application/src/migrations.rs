//! Migrations: bringing subscriptions to the newest version of their plan, one or all of a plan's.
//!
//! All of a plan's are a job that any node goes on with where it stood, page by page in the order
//! of tenants' ids: how far it is, is in the catalogue. A tenant that is at the newest version is
//! left alone, so nothing happens twice, whoever works on it.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::catalogue::{
    Catalogue, CatalogueCommand, FeatureSlug, FeatureValue, MigratedPage, MigrationFailure,
    PlanKey, PlanMigration, PlanTerms,
};
use domain::ids::TenantId;
use domain::subscription::{SubscriptionCommand, SubscriptionRefusal, TenantSubscription};
use domain::usage::Usage;
use futures::stream::{self, StreamExt};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::Application;
use crate::commands::Done;
use crate::error::{Error, Refusal, causes};
use crate::ports::Unavailable;
use crate::scope::{Command, Role, Scope};
use crate::subscriptions::SubscriptionState;
use crate::tenants::{TenantFilter, TenantOverview};

const READ: &[Role] = &[Role::Landlord];

/// How many tenants are looked at between two notes of how far it is.
const PAGE_TENANTS: usize = 100;
/// How many tenants are read at a time for a preview.
const PREVIEW_TENANTS: usize = 500;
/// How many tenants are migrated at a time.
const TENANTS_AT_A_TIME: usize = 8;
/// How long one may take before it counts as failed.
const TENANT_MAX: Duration = Duration::from_secs(30);
/// How much of a failure is told, in characters.
const DETAIL_MAX: usize = 200;

/// The plans whose tenants this node was asked to migrate and has not looked at yet.
#[derive(Default)]
pub(crate) struct Asked {
    plans: Mutex<HashSet<PlanKey>>,
    wake: Notify,
}

impl Asked {
    fn add(&self, plan: PlanKey) {
        self.lock().insert(plan);
        self.wake.notify_one();
    }

    fn take(&self) -> HashSet<PlanKey> {
        std::mem::take(&mut self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<PlanKey>> {
        self.plans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a migration would change of a plan's terms.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TermsChange {
    /// Features that the newer version has more.
    pub gained: BTreeMap<FeatureSlug, FeatureValue>,
    /// Features that it lacks.
    pub lost: BTreeMap<FeatureSlug, FeatureValue>,
    /// Features that it has another amount of: from which to which.
    pub changed: BTreeMap<FeatureSlug, (FeatureValue, FeatureValue)>,
}

impl TermsChange {
    /// What differs between two versions.
    pub fn between(from: &PlanTerms, to: &PlanTerms) -> Self {
        let mut change = Self::default();
        for (slug, value) in &to.features {
            match from.features.get(slug) {
                None => drop(change.gained.insert(slug.clone(), *value)),
                Some(before) if before != value => {
                    change.changed.insert(slug.clone(), (*before, *value));
                }
                Some(_) => {}
            }
        }
        let lost = from.features.iter();
        let lost = lost.filter(|(slug, _)| !to.features.contains_key(*slug));
        change.lost = lost.map(|(slug, value)| (slug.clone(), *value)).collect();
        change
    }
}

/// What migrating one tenant would do.
#[derive(Clone, Debug, PartialEq)]
pub struct MigrationPreview {
    /// The version of the plan that the tenant has.
    pub from_version: u32,
    /// What changes of its terms.
    pub change: TermsChange,
    /// The subscription afterwards.
    pub after: SubscriptionState,
}

/// What migrating the tenants that have one version of a plan would do.
#[derive(Clone, Debug, PartialEq)]
pub struct VersionPreview {
    /// The version that they have.
    pub version: u32,
    /// How many they are.
    pub tenants: u64,
    /// How many of them would have more cards in circulation than they may.
    pub over_limit: u64,
    /// What changes of their terms.
    pub change: TermsChange,
}

/// Goes on with migrations: at once with those that this node was asked for, and every `interval`
/// with those that have stood still for as long, until stopped.
pub async fn run_migrations(
    application: Arc<Application>,
    interval: Duration,
    stop: CancellationToken,
) {
    let run = async {
        loop {
            let asked = &application.catalogue.asked;
            tokio::select! {
                () = asked.wake.notified() => {}
                () = sleep(interval) => {}
            }
            let standing = application.standing_still(interval);
            for plan in asked.take().into_iter().chain(standing) {
                if let Err(error) = application.migrate_all_of(&plan).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(plan = plan.as_str(), error, "a migration goes on later");
                }
            }
        }
    };
    stop.run_until_cancelled(run).await;
}

impl Application {
    /// Brings a tenant to the newest version of its plan.
    pub async fn migrate_subscription(
        &self,
        command: &Command,
        tenant: TenantId,
    ) -> Result<Done<SubscriptionState>, Error> {
        command.scope.require(READ)?;
        let store = self.known_store(tenant).await?;
        // The plan that it is brought to must be the one that it still has when that is decided.
        self.bring_up_to_date(&store).await?;
        let head = store.ledger.head();
        let to = self.newest_of(&head.subscription)?;
        let version = head.subscription_version;
        let unconditional = command.if_match.is_none();
        let command = Command {
            if_match: command.if_match.or(Some(version)),
            ..command.clone()
        };
        match self
            .change_subscription(&command, tenant, |at| SubscriptionCommand::MigratePlan {
                to: to.clone(),
                at,
            })
            .await
        {
            Err(Error::PreconditionFailed { .. }) if unconditional => Err(Error::VersionConflict),
            done => done,
        }
    }

    /// What [`Self::migrate_subscription`] would do now.
    pub async fn preview_migration(
        &self,
        scope: &Scope,
        tenant: TenantId,
    ) -> Result<MigrationPreview, Error> {
        scope.require(READ)?;
        let store = self.known_store(tenant).await?;
        let head = store.ledger.head();
        self.preview(tenant, &head.subscription, &head.usage)
    }

    fn preview(
        &self,
        tenant: TenantId,
        subscription: &TenantSubscription,
        usage: &Usage,
    ) -> Result<MigrationPreview, Error> {
        let now = self.clock.now();
        let to = self.newest_of(subscription)?;
        let from = subscription.terms().map_or(&to, |terms| &terms.plan);
        let (from_version, change) = (from.version, TermsChange::between(from, &to));
        let mut after = subscription.clone();
        for event in after.decide(SubscriptionCommand::MigratePlan { to, at: now })? {
            after.evolve(event);
        }
        let after = self.subscription_state(tenant, &after, usage, now);
        Ok(MigrationPreview {
            from_version,
            change,
            after: after.ok_or(Error::NotFound("subscription"))?,
        })
    }

    fn newest_of(&self, subscription: &TenantSubscription) -> Result<PlanTerms, Error> {
        let terms = subscription.terms();
        let key = &terms.ok_or(Error::NotFound("subscription"))?.plan.key;
        let edition = self.catalogue.current();
        let newest = edition.catalogue.plan(key.as_str()).cloned();
        newest.ok_or_else(|| Error::unknown_plan(key))
    }

    /// Begins to bring all tenants on a plan to its newest version. One that is under way is left
    /// to go on.
    pub async fn migrate_plan(
        &self,
        command: &Command,
        plan: &PlanKey,
    ) -> Result<Done<PlanMigration>, Error> {
        let start = |at| CatalogueCommand::StartMigration {
            key: plan.clone(),
            by: command.scope.key.to_string(),
            at,
        };
        let of = |catalogue: &Catalogue| catalogue.migrations.get(plan).cloned();
        let done = self.change_catalogue(command, start, of).await?;
        self.catalogue.asked.add(plan.clone());
        Ok(done)
    }

    /// What [`Self::migrate_plan`] would do now, as the landlord's read model sees the tenants: by
    /// the version that they have, the newest left out.
    pub async fn preview_plan_migration(
        &self,
        scope: &Scope,
        plan: &PlanKey,
    ) -> Result<Vec<VersionPreview>, Error> {
        scope.require(READ)?;
        if self
            .catalogue
            .current()
            .catalogue
            .plan(plan.as_str())
            .is_none()
        {
            return Err(Error::NotFound("plan"));
        }
        let mut versions = BTreeMap::<u32, VersionPreview>::new();
        let mut after = None;
        loop {
            let page = self.on_plan(plan, after, PREVIEW_TENANTS).await?;
            for it in &page {
                // One that is over has no say in this.
                let Ok(preview) = self.preview(it.tenant.id, &it.subscription, &it.usage) else {
                    continue;
                };
                if preview.from_version == preview.after.plan_version {
                    continue;
                }
                let version = versions.entry(preview.from_version).or_insert_with(|| {
                    let version = preview.from_version;
                    VersionPreview {
                        version,
                        tenants: 0,
                        over_limit: 0,
                        change: preview.change.clone(),
                    }
                });
                version.tenants += 1;
                version.over_limit += u64::from(preview.after.over_limit_by > 0);
            }
            match page.last() {
                Some(last) if page.len() == PREVIEW_TENANTS => after = Some(last.tenant.id),
                _ => return Ok(versions.into_values().collect()),
            }
        }
    }

    async fn on_plan(
        &self,
        plan: &PlanKey,
        after: Option<TenantId>,
        limit: usize,
    ) -> Result<Vec<TenantOverview>, Unavailable> {
        let filter = TenantFilter {
            plan: Some(plan.clone()),
            q: None,
            after,
            limit,
        };
        Ok(self.overviews.list(&filter).await?.items)
    }

    /// The migrations that nobody has worked on for this long.
    fn standing_still(&self, interval: Duration) -> Vec<PlanKey> {
        let now = self.clock.now();
        let edition = self.catalogue.current();
        let stands = |migration: &PlanMigration| {
            let idle = (now - migration.progressed_at).to_std().unwrap_or_default();
            migration.finished_at.is_none() && idle >= interval
        };
        let all = edition.catalogue.migrations.iter();
        let standing = all.filter(|(_, migration)| stands(migration));
        standing.map(|(plan, _)| plan.clone()).collect()
    }

    /// Goes on with the migration of a plan's tenants, to its end.
    async fn migrate_all_of(&self, plan: &PlanKey) -> Result<(), Error> {
        loop {
            let edition = Arc::clone(&self.catalogue.current());
            let Some(migration) = edition.catalogue.migrations.get(plan) else {
                return Ok(());
            };
            if migration.finished_at.is_some() {
                return Ok(());
            }
            // As long as it runs, its version is the newest.
            let to = edition.catalogue.plan(plan.as_str());
            let Some(to) = to.filter(|to| to.version == migration.version) else {
                return Err(Error::Internal(format!(
                    "a migration to version {} of {plan}, which is no longer known",
                    migration.version
                )));
            };
            let page = self.on_plan(plan, migration.after, PAGE_TENANTS).await?;
            if let Some(last) = page.last() {
                let page = self
                    .migrate_page(migration, to, &page, last.tenant.id)
                    .await?;
                let progress = |at| CatalogueCommand::ProgressMigration {
                    key: plan.clone(),
                    version: migration.version,
                    page: page.clone(),
                    at,
                };
                self.record_in_catalogue("plan-migration", progress).await?;
            }
            if page.len() < PAGE_TENANTS {
                let finish = |at| CatalogueCommand::FinishMigration {
                    key: plan.clone(),
                    version: migration.version,
                    at,
                };
                return self.record_in_catalogue("plan-migration", finish).await;
            }
        }
    }

    async fn migrate_page(
        &self,
        migration: &PlanMigration,
        to: &PlanTerms,
        tenants: &[TenantOverview],
        after: TenantId,
    ) -> Result<MigratedPage, Error> {
        let command = self.command_of(migration)?;
        let migrate = |tenant: TenantId| {
            let command = &command;
            async move { (tenant, self.migrate_one(command, tenant, to).await) }
        };
        let ids = tenants.iter().map(|it| it.tenant.id).collect::<Vec<_>>();
        let done = stream::iter(ids).map(migrate);
        let done = done.buffered(TENANTS_AT_A_TIME).collect::<Vec<_>>().await;
        let mut page = MigratedPage {
            after,
            migrated: 0,
            unchanged: 0,
            failed: vec![],
        };
        for (tenant, migrated) in done {
            match migrated {
                Ok(true) => page.migrated += 1,
                Ok(false) => page.unchanged += 1,
                Err(error) => page.failed.push(MigrationFailure {
                    tenant,
                    detail: causes(&error).chars().take(DETAIL_MAX).collect(),
                }),
            }
        }
        Ok(page)
    }

    /// Whether there was anything to change.
    async fn migrate_one(
        &self,
        command: &Command,
        tenant: TenantId,
        to: &PlanTerms,
    ) -> Result<bool, Error> {
        let migrate = async {
            let store = self.known_store(tenant).await?;
            let before = store.ledger.head().subscription_version;
            let migrate = |at| SubscriptionCommand::MigratePlan { to: to.clone(), at };
            match self.change_subscription(command, tenant, migrate).await {
                // It ends, or has ended, on the terms that it has.
                Err(Error::Refused(Refusal::Subscription(SubscriptionRefusal::Cancelled))) => {
                    Ok(false)
                }
                done => Ok(done?.version != before),
            }
        };
        let late = |late| Unavailable::because("the tenant's store", late).into();
        timeout(TENANT_MAX, migrate).await.map_err(late).flatten()
    }

    /// In the name of who asked for it.
    fn command_of(&self, migration: &PlanMigration) -> Result<Command, Error> {
        let broken = |_| Error::Internal("a migration that no key has asked for".to_owned());
        let cause = self.random.id().to_string();
        Ok(Command {
            scope: Scope {
                key: migration.by.parse().map_err(broken)?,
                role: Role::Landlord,
                tenant: None,
                request_id: cause.clone(),
                correlation_id: cause,
            },
            reason: None,
            idempotency: None,
            if_match: None,
        })
    }
}
