//! Which adapter stands behind which port: nothing outside of here names the `infrastructure`
//! crate. What differs between the engines is in `embedded` and `postgres`.
//!
//! Opening brings schemas up to date (or refuses older ones) and everything small into memory (which tenants exist, who
//! may come in). Starting finishes what a crash interrupted and sets the subscribers and the
//! timer going; stopping undoes that in the opposite order.

pub mod billing;
pub mod broker;
mod embedded;
mod postgres;

use std::sync::Arc;
use std::time::Duration;

use application::Application;
use application::catalogue::{CurrentCatalogue, follow_catalogue};
use application::doorbell::Doorbell;
use application::error::Error;
use application::keys::{ApiKey, KeyRing, Secret};
use application::migrations::run_migrations;
use application::moves::Mover;
use application::news::{LandlordNews, follow_news};
use application::ports::shards::ShardDatabases;
use application::ports::usage::{LedgerCounts, ProcessStates};
use application::ports::{Clock, Landlord, Subscriber, TenantStores, Unavailable};
use application::processes::{finish_half_made, run_timer};
use application::scope::Role;
use application::shards::Shards;
use application::subscribers::Subscribers;
use application::tenants::Directory;
use application::thresholds::ThresholdProcess;
use application::usage_audits::Auditor;
use application::usage_audits::nightly::{TimeOfDay, run_usage_audits};
use async_trait::async_trait;
use domain::event::Decoder;
use domain::ids::{KeyId, Slug, TenantId};
use domain::text::DisplayName;
use futures::future::BoxFuture;
use infrastructure::clock::{SystemClock, SystemRandom};
use infrastructure::database::Older;
use infrastructure::landlord::LandlordDatabase;
use infrastructure::projections::landlord::LandlordReadModel;
use infrastructure::rabbitmq::BrokerPublisher;
use infrastructure::rabbitmq::address::Address;
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Builder;

use crate::config::{Limits, Store};
use crate::{Silent, StoresAnswer};

/// The application with its adapters, open.
pub struct Service {
    /// The use cases.
    pub application: Arc<Application>,
    /// What moves tenants; none on the embedded store.
    pub mover: Option<Mover>,
    publisher: Option<Arc<BrokerPublisher>>,
    engine: Arc<dyn Engine>,
    doorbell: Doorbell,
    news: LandlordNews,
    sweep_interval: Duration,
    usage_audit_at: Option<TimeOfDay>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// One engine's adapters, open.
struct Adapters {
    directory: Arc<Directory>,
    shards: Arc<Shards>,
    shard_databases: Option<Arc<dyn ShardDatabases>>,
    mover: Option<Mover>,
    /// What other nodes change; never told on the embedded store.
    news: LandlordNews,
    landlord: Arc<LandlordDatabase>,
    overviews: Arc<LandlordReadModel>,
    stores: Arc<dyn TenantStores>,
    counts: Arc<dyn LedgerCounts>,
    process_states: Arc<dyn ProcessStates>,
    cards: Arc<dyn Subscriber>,
    engine: Arc<dyn Engine>,
}

/// What is behind the adapters.
#[async_trait]
trait Engine: Send + Sync {
    /// Cheaply asks which shards do not answer in time, and whether no tenant's store does.
    async fn silent(&self, patience: Duration) -> (Vec<Slug>, bool);
    /// Finishes what is queued and closes everything.
    async fn close(&self);
}

/// Where a landlord key comes from.
#[derive(Debug)]
pub enum LandlordKey {
    /// Drawn just now: shown once, only its hash is kept.
    Generated(Secret),
    /// The configuration sets it.
    Configured,
    /// Made at an earlier start.
    Known,
}

impl Service {
    /// Opens everything in `store`. Schemas that are older than this program are brought up to date
    /// if it is to `migrate`, and refused otherwise. Everything is published to `broker`, if there is
    /// one, once it is started.
    ///
    /// # Errors
    ///
    /// What cannot be had, and why.
    pub async fn open(
        store: &Store,
        limits: &Limits,
        migrate: bool,
        broker: Option<Address>,
    ) -> Result<Self, Unavailable> {
        let older = match migrate {
            true => Older::Migrate,
            false => Older::Refuse,
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let doorbell = Doorbell::default();
        let adapters = match store {
            Store::Sqlite(path) => embedded::open(path, limits, older, &clock, &doorbell).await?,
            Store::Postgres(database) => {
                postgres::open(database, limits, older, &clock, &doorbell).await?
            }
        };
        let overviews = adapters.overviews;
        let thresholds = Arc::new(ThresholdProcess::new(adapters.process_states));
        let mut subscribers: Vec<Arc<dyn Subscriber>> =
            vec![adapters.cards, Arc::clone(&overviews) as _, thresholds];
        let publisher = broker.map(|address| Arc::new(BrokerPublisher::new(address)));
        subscribers.extend(publisher.clone().map(|it| it as _));
        let stores = adapters.stores;
        let subscribers = Subscribers::new(
            subscribers,
            Arc::clone(&stores),
            &clock,
            doorbell.clone(),
            limits.sweep_interval,
        );
        let application = Application {
            clock,
            random: Arc::new(SystemRandom),
            stores,
            directory: adapters.directory,
            shards: adapters.shards,
            shard_databases: adapters.shard_databases,
            keys: KeyRing::new(adapters.landlord.keys().await?),
            auditor: Auditor::new(Arc::clone(&adapters.landlord) as _, adapters.counts),
            landlord: adapters.landlord,
            agenda: Arc::clone(&overviews) as _,
            overviews,
            catalogue: CurrentCatalogue::default(),
            decoder: Decoder::default(),
            subscribers: Arc::new(subscribers),
        };
        if migrate {
            application.stores.create(TenantId::LANDLORD).await?;
        }
        application.open_catalogue().await?;
        Ok(Self {
            application: Arc::new(application),
            mover: adapters.mover,
            publisher,
            engine: adapters.engine,
            doorbell,
            news: adapters.news,
            sweep_interval: limits.sweep_interval,
            usage_audit_at: limits.usage_audit_at.time(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Lets the configured key in; without one, draws one if there is none yet. It opens nothing
    /// before it is [kept](Self::keep).
    ///
    /// # Errors
    ///
    /// The landlord's database did not answer.
    pub async fn landlord_key(&self, configured: Option<Secret>) -> Result<LandlordKey, Error> {
        let application = &self.application;
        if let Some(secret) = configured {
            // Its id is made from it, so that it is the same after a restart: the landlord's
            // idempotency keys are in the name space of this id.
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&Sha256::digest(secret.hash())[..16]);
            let id = KeyId::new(Builder::from_custom_bytes(bytes).into_uuid());
            application
                .keys
                .put_configured(self.of_landlord(id, &secret)?);
            return Ok(LandlordKey::Configured);
        }
        let known = application.landlord.keys().await?;
        if known.iter().any(|key| key.role == Role::Landlord) {
            return Ok(LandlordKey::Known);
        }
        let secret = Secret::from_bytes(application.random.secret());
        Ok(LandlordKey::Generated(secret))
    }

    /// Keeps a landlord key that was drawn, and lets it in.
    ///
    /// # Errors
    ///
    /// The landlord's database did not answer.
    pub async fn keep(&self, secret: &Secret) -> Result<(), Error> {
        let application = &self.application;
        let key = self.of_landlord(KeyId::new(application.random.id()), secret)?;
        application.landlord.add_key(&key, None).await?;
        application.keys.put(key);
        Ok(())
    }

    fn of_landlord(&self, id: KeyId, secret: &Secret) -> Result<ApiKey, Error> {
        let name = DisplayName::try_from("landlord".to_owned());
        Ok(ApiKey {
            id,
            hash: secret.hash(),
            role: Role::Landlord,
            tenant: None,
            name: name.map_err(|error| Error::Internal(error.to_string()))?,
            created_at: self.application.clock.now(),
        })
    }

    /// Starts subscribers and timer, and what finishes tenants that were left half made. Waits for
    /// no store.
    pub fn start(&self) {
        if let Some(publisher) = &self.publisher {
            publisher.start();
        }
        // First the subscribers: a store rings once when it is opened, and they must hear it.
        let application = &self.application;
        application.subscribers.start(&application.directory);
        let of = || (Arc::clone(application), self.stop.clone());
        let (application, stop) = of();
        let interval = self.sweep_interval;
        self.tasks
            .spawn(finish_half_made(application, interval, stop));
        let (application, stop) = of();
        self.tasks.spawn(run_timer(application, stop));
        let (application, stop) = of();
        let at = self.usage_audit_at;
        self.tasks.spawn(run_usage_audits(application, at, stop));
        let (application, stop) = of();
        self.tasks
            .spawn(follow_news(application, self.news.clone(), stop));
        let (application, stop) = of();
        let rings = self.doorbell.listen_for(TenantId::LANDLORD);
        self.tasks.spawn(follow_catalogue(application, rings, stop));
        let (application, stop) = of();
        self.tasks
            .spawn(run_migrations(application, interval, stop));
        self.tasks.close();
    }

    /// Cheaply asks which of the landlord's database and the tenants' stores do not answer.
    pub fn stores_answer(&self) -> StoresAnswer {
        let landlord = Arc::clone(&self.application.landlord);
        let engine = Arc::clone(&self.engine);
        Box::new(move |patience| -> BoxFuture<'static, Silent> {
            let (landlord, engine) = (Arc::clone(&landlord), Arc::clone(&engine));
            Box::pin(async move {
                let landlord = timeout(patience, landlord.outcome("readyz"));
                let (landlord, (shards, all_tenants)) =
                    tokio::join!(landlord, engine.silent(patience));
                Silent {
                    landlord: !matches!(landlord, Ok(Ok(_))),
                    shards,
                    all_tenants,
                }
            })
        })
    }

    /// Stops the timer, then the subscribers, then closes the broker's connection and the stores.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(publisher) = &self.publisher {
            publisher.stop();
        }
        self.application.subscribers.stop().await;
        if let Some(publisher) = &self.publisher {
            publisher.close().await;
        }
        self.engine.close().await;
    }
}
