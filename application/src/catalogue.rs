//! What is for sale: the catalogue in memory, kept current, and what the landlord does to it.
//!
//! It is folded from the landlord's own ledger, which rings like a tenant's: a switch that one node
//! sets is in force on the others as soon as they hear it. Nobody's request asks the landlord's
//! database; while that does not answer, what was last read goes on to serve.

mod transfer;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use chrono::{DateTime, Utc};
use domain::catalogue::{
    Catalogue, CatalogueCommand, CatalogueEvent, Feature, FeatureSlug, Kill, Module, PlanContent,
    PlanKey, PlanTerms,
};
use domain::event::{AggregateKind, Event};
use domain::ids::{Position, TenantId, Version};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

pub use self::transfer::Transferred;
use crate::Application;
use crate::commands::{Decided, Done};
use crate::doorbell::Mailbox;
use crate::error::Error;
use crate::migrations::Asked;
use crate::ports::{Append, AppendError, RecordedEvent, StreamAppend, Unavailable};
use crate::scope::{Command, Role};

const CHANGE: &[Role] = &[Role::Landlord];

/// How many events are read at a time.
const PAGE_EVENTS: usize = 512;
/// How often writing is tried anew because somebody else was faster.
const ATTEMPTS_MAX: usize = 5;
/// The first pause after the ledger could not be read; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The catalogue as this node knows it.
#[derive(Default)]
pub struct CurrentCatalogue {
    edition: ArcSwap<Edition>,
    /// Held while the ledger is read, so that an older edition never takes a newer one's place.
    reading: Mutex<()>,
    /// The migrations that this node was asked for.
    pub(crate) asked: Asked,
}

/// The catalogue after so many changes.
#[derive(Clone, Debug, Default)]
pub struct Edition {
    /// What is for sale.
    pub catalogue: Catalogue,
    /// How many events it has.
    version: Version,
    /// The version that clients see: how many of those tell more than how far a migration is.
    pub revision: Version,
    /// The position in the landlord's ledger up to which this is.
    position: Position,
}

impl CurrentCatalogue {
    /// The newest edition. In memory: no I/O, no lock held.
    pub fn current(&self) -> Guard<Arc<Edition>> {
        self.edition.load()
    }
}

impl From<Catalogue> for CurrentCatalogue {
    /// A catalogue that is in no ledger.
    fn from(catalogue: Catalogue) -> Self {
        let edition = Edition {
            catalogue,
            ..Edition::default()
        };
        Self {
            edition: ArcSwap::from_pointee(edition),
            ..Self::default()
        }
    }
}

impl Edition {
    fn fold(&mut self, recorded: &RecordedEvent) -> Result<(), Unavailable> {
        let position = recorded.stored.position;
        if position != self.position + 1 {
            let gap = format!("position {position} follows {}", self.position);
            return Err(Unavailable::because("the landlord's ledger", gap));
        }
        self.position = position;
        if let Event::Catalogue(event) = &recorded.event {
            self.catalogue.evolve(event.clone());
            self.version += 1;
            self.revision += Version::from(!event.is_progress());
        }
        Ok(())
    }
}

/// A feature as the landlord sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeatureState {
    /// The feature.
    pub feature: Feature,
    /// Whether it is out of sale.
    pub archived: bool,
    /// Why it is off for everybody, if it is.
    pub killed: Option<Kill>,
}

/// A plan as the landlord sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanState {
    /// Its newest terms.
    pub terms: PlanTerms,
    /// Whether it is out of sale.
    pub archived: bool,
}

impl FeatureState {
    /// The feature with this slug, if there is one.
    pub fn of(catalogue: &Catalogue, slug: &str) -> Option<Self> {
        let feature = catalogue.feature(slug)?.clone();
        Some(Self {
            archived: catalogue.archived_features.contains(slug),
            killed: catalogue.killed(slug).cloned(),
            feature,
        })
    }
}

impl PlanState {
    /// The plan with this key, if there is one.
    pub fn of(catalogue: &Catalogue, key: &str) -> Option<Self> {
        Some(Self {
            terms: catalogue.plan(key)?.clone(),
            archived: catalogue.archived_plans.contains(key),
        })
    }
}

/// Reads the landlord's ledger now and whenever it was rung for, until stopped.
pub async fn follow_catalogue(
    application: Arc<Application>,
    mailbox: Mailbox,
    stop: CancellationToken,
) {
    let follow = async {
        // Held, so that its store stays open: the sweep looks at those that are.
        let mut _open = None;
        loop {
            let mut pause = PAUSE_MIN;
            while let Err(error) = application.read_catalogue().await {
                warn_of(&error, "the catalogue is read again");
                sleep(pause).await;
                pause = PAUSE_MAX.min(pause * 2);
            }
            _open = application.stores.open(TenantId::LANDLORD).await.ok();
            mailbox.next().await;
        }
    };
    stop.run_until_cancelled(follow).await;
}

impl Application {
    /// Reads the catalogue for the first time, after writing what of the standard is not in it.
    /// Two nodes may do so at once.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if the landlord's ledger, which must be there, cannot be read or written.
    pub async fn open_catalogue(&self) -> Result<(), Unavailable> {
        let what = "the landlord's ledger";
        let store = self.stores.open(TenantId::LANDLORD).await?;
        let metadata = serde_json::to_string(&self.metadata_of("catalogue"));
        let metadata = metadata.map_err(|error| Unavailable::because(what, error))?;
        for _ in 0..ATTEMPTS_MAX {
            self.read_catalogue().await?;
            let edition = Arc::clone(&self.catalogue.current());
            let lacks = edition.catalogue.lacks_of_standard(self.clock.now());
            if lacks.is_empty() {
                return Ok(());
            }
            let append = catalogue_append(edition.version, lacks, metadata.clone());
            match store.ledger.append(append).await {
                Ok(_) => {}
                // Another node was faster: its events are not in this one's memory yet.
                Err(AppendError::VersionConflict) => store.ledger.heard(0).await?,
                Err(error) => return Err(Unavailable::because(what, error)),
            }
        }
        Err(Unavailable::because(what, "others keep writing to it"))
    }

    /// Brings the catalogue in memory up to date with the landlord's ledger.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if that cannot be read; the catalogue stays as it was.
    pub async fn read_catalogue(&self) -> Result<(), Unavailable> {
        let _one_at_a_time = self.catalogue.reading.lock().await;
        let store = self.stores.open(TenantId::LANDLORD).await?;
        let mut edition = Edition::clone(&self.catalogue.current());
        let known = edition.position;
        loop {
            let events = store.ledger.read(edition.position, PAGE_EVENTS).await?;
            for event in &events {
                edition.fold(event)?;
            }
            if events.is_empty() {
                break;
            }
        }
        if edition.position > known {
            self.catalogue.edition.store(Arc::new(edition));
        }
        Ok(())
    }

    /// Describes a module, new or known.
    pub async fn define_module(
        &self,
        command: &Command,
        module: Module,
    ) -> Result<Done<Module>, Error> {
        let key = module.key.clone();
        let define = |at| CatalogueCommand::DefineModule {
            module: module.clone(),
            at,
        };
        let of = |catalogue: &Catalogue| catalogue.module(key.as_str()).cloned();
        self.change_catalogue(command, define, of).await
    }

    /// Describes a feature, new or known, and whether it is out of sale.
    pub async fn define_feature(
        &self,
        command: &Command,
        feature: Feature,
        archived: bool,
    ) -> Result<Done<FeatureState>, Error> {
        let slug = feature.slug.clone();
        let define = |at| CatalogueCommand::DefineFeature {
            feature: feature.clone(),
            archived,
            at,
        };
        let of = |catalogue: &Catalogue| FeatureState::of(catalogue, slug.as_str());
        self.change_catalogue(command, define, of).await
    }

    /// Switches a feature off for everybody, whatever anybody has bought.
    pub async fn kill_feature(
        &self,
        command: &Command,
        slug: &FeatureSlug,
    ) -> Result<Done<FeatureState>, Error> {
        let reason = command.reason.as_ref();
        let kill = |at| CatalogueCommand::KillFeature {
            slug: slug.clone(),
            by: command.scope.key.to_string(),
            reason: reason.map(|reason| reason.as_str().to_owned()),
            at,
        };
        let of = |catalogue: &Catalogue| FeatureState::of(catalogue, slug.as_str());
        self.change_catalogue(command, kill, of).await
    }

    /// Ends what [`Self::kill_feature`] did: the feature is there again exactly as it was.
    pub async fn revive_feature(
        &self,
        command: &Command,
        slug: &FeatureSlug,
    ) -> Result<Done<FeatureState>, Error> {
        let revive = |at| CatalogueCommand::ReviveFeature {
            slug: slug.clone(),
            at,
        };
        let of = |catalogue: &Catalogue| FeatureState::of(catalogue, slug.as_str());
        self.change_catalogue(command, revive, of).await
    }

    /// Describes a plan, and whether it is out of sale: the first version of a new one, the next
    /// of a known one.
    pub async fn define_plan(
        &self,
        command: &Command,
        plan: PlanContent,
        archived: bool,
    ) -> Result<Done<PlanState>, Error> {
        let key = plan.key.clone();
        let define = |at| CatalogueCommand::DefinePlan {
            plan: plan.clone(),
            archived,
            at,
        };
        let of = |catalogue: &Catalogue| PlanState::of(catalogue, key.as_str());
        self.change_catalogue(command, define, of).await
    }

    /// Decides a change and appends it to the landlord's ledger; it is in force on this node when
    /// it is answered.
    pub(crate) async fn change_catalogue<T>(
        &self,
        command: &Command,
        change: impl Fn(DateTime<Utc>) -> CatalogueCommand + Sync,
        of: impl Fn(&Catalogue) -> Option<T> + Sync,
    ) -> Result<Done<T>, Error>
    where
        T: Serialize + for<'de> Deserialize<'de>,
    {
        command.scope.require(CHANGE)?;
        let store = self.stores.open(TenantId::LANDLORD).await?;
        let done = self
            .commit(&store, command, || async {
                let staged = self
                    .stage::<Catalogue>(
                        &store,
                        Catalogue::ID,
                        false,
                        change(self.clock.now()),
                        command.metadata(),
                        command.if_match,
                    )
                    .await?;
                let value = of(&staged.aggregate);
                Ok(Decided {
                    value: value
                        .ok_or_else(|| Error::Internal("a change of nothing".to_owned()))?,
                    version: staged.version,
                    streams: vec![staged.stream],
                })
            })
            .await?;
        // It is done; whoever follows the ledger reads it again if this fails.
        if let Err(error) = self.read_catalogue().await {
            warn_of(&error, "a change of the catalogue was not read at once");
        }
        Ok(done)
    }

    /// As [`Self::change_catalogue`], of a process of our own.
    pub(crate) async fn record_in_catalogue(
        &self,
        process: &str,
        change: impl Fn(DateTime<Utc>) -> CatalogueCommand,
    ) -> Result<(), Error> {
        let store = self.stores.open(TenantId::LANDLORD).await?;
        let metadata = self.metadata_of(process);
        for _ in 0..ATTEMPTS_MAX {
            let command = change(self.clock.now());
            let staged = self
                .stage::<Catalogue>(
                    &store,
                    Catalogue::ID,
                    false,
                    command,
                    metadata.clone(),
                    None,
                )
                .await?;
            if staged.stream.events.is_empty() {
                return Ok(self.read_catalogue().await?);
            }
            let append = Append {
                streams: vec![staged.stream],
                idempotency: None,
            };
            match store.ledger.append(append).await {
                Ok(_) => return Ok(self.read_catalogue().await?),
                Err(AppendError::VersionConflict) => {}
                Err(error) => return Err(Error::of_append(store.tenant, error)),
            }
        }
        Err(Error::VersionConflict)
    }

    /// The newest terms of a plan that may be taken.
    ///
    /// # Errors
    ///
    /// A refusal if there is no such plan, or it is out of sale.
    pub(crate) fn plan_for_sale(&self, key: &PlanKey) -> Result<PlanTerms, Error> {
        let edition = self.catalogue.current();
        match PlanState::of(&edition.catalogue, key.as_str()) {
            None => Err(Error::unknown_plan(key)),
            Some(plan) if plan.archived => Err(Error::archived_plan(key)),
            Some(plan) => Ok(plan.terms),
        }
    }

    /// A feature that may be sold beside a plan.
    ///
    /// # Errors
    ///
    /// A refusal if there is no such feature, or it is out of sale.
    pub(crate) fn feature_for_sale(&self, slug: &FeatureSlug) -> Result<Feature, Error> {
        let edition = self.catalogue.current();
        match FeatureState::of(&edition.catalogue, slug.as_str()) {
            None => Err(Error::unknown_feature(slug)),
            Some(state) if state.archived => Err(Error::archived_feature(slug)),
            Some(state) => Ok(state.feature),
        }
    }
}

fn warn_of(error: &Unavailable, what: &'static str) {
    tracing::warn!(error = error as &dyn std::error::Error, "{what}");
}

fn catalogue_append(expected: Version, events: Vec<CatalogueEvent>, metadata: String) -> Append {
    Append {
        streams: vec![StreamAppend {
            kind: AggregateKind::Catalogue,
            id: Catalogue::ID.to_owned(),
            expected,
            events: events.into_iter().map(Event::Catalogue).collect(),
            metadata,
        }],
        idempotency: None,
    }
}
