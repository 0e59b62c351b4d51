//! One PostgreSQL schema a tenant, in the tenant's shard. Other nodes use the same ones.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use application::doorbell::Doorbell;
use application::news::{LandlordNews, News};
use application::ports::restore::{RestoreError, RestoringStore};
use application::ports::usage::{LedgerCounts, Reconciliation, Recount};
use application::ports::{AppendError, Appended, Clock, Ledger, TenantStore, Unavailable};
use application::tenants::Tenant;
use async_trait::async_trait;
use domain::ids::{Position, Slug, TenantId};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Missing, OpenStores, Opener, WHAT};
use crate::checkpoints::SchemaCheckpoints;
use crate::database::{Older, unavailable};
use crate::ledger::postgres::{self, PostgresLedger};
use crate::ledger::recount::recount;
use crate::projections::cards::companion::Companion;
use crate::projections::cards::postgres::{PostgresCards, TenantShards};
use crate::shard::Shard;
use crate::shard::schema::{Schema, is_missing};
use crate::shards::{ConnectedShards, Place};

/// How many heads of a shard are looked at at a time after other nodes have moved them.
const LOOKS_AT_A_TIME: usize = 16;

/// The first pause before a head is looked at again that could not be read; it doubles up to
/// [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often a head is looked at, some minute in all: then it is left to the sweep.
const LOOKS_MAX: usize = 30;

/// The tenants' schemas.
pub type SchemaStores = OpenStores<Schemas>;

/// Schemas in shards.
pub struct Schemas {
    shards: Arc<ConnectedShards>,
    news: LandlordNews,
    waiting_max: usize,
    older: Older,
    clock: Arc<dyn Clock>,
    doorbell: Doorbell,
    looks: Mutex<HashMap<Option<Slug>, Arc<Semaphore>>>,
}

impl SchemaStores {
    /// Stores in `shards`; at most `open_max` of them open, unless more are in use at once: the
    /// excess is closed at the next opening. At most `waiting_max` appends wait for each of them.
    /// A schema that is older than this program is treated as `older` says.
    pub fn new(
        shards: Arc<ConnectedShards>,
        news: LandlordNews,
        open_max: usize,
        waiting_max: usize,
        older: Older,
        clock: Arc<dyn Clock>,
        doorbell: Doorbell,
    ) -> Self {
        let schemas = Schemas {
            shards,
            news,
            waiting_max,
            older,
            clock,
            doorbell: doorbell.clone(),
            looks: Mutex::default(),
        };
        Self::with(schemas, open_max, doorbell)
    }

    /// Brings the heads of open stores up to date whenever another node has moved them, until it
    /// is told to stop. Each is looked at by itself, so that a shard that does not answer holds up
    /// no other.
    pub async fn follow_other_nodes(self, stop: CancellationToken) {
        let mailbox = self.shared.doorbell.listen();
        // What was rung for each tenant while its head is being looked at.
        let mut rung_meanwhile: HashMap<TenantId, Option<Position>> = HashMap::new();
        let mut looks = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                rung = mailbox.next() => for (tenant, position) in rung {
                    match rung_meanwhile.entry(tenant) {
                        Entry::Occupied(mut looking) => {
                            let newest = looking.get_mut();
                            *newest = (*newest).max(Some(position));
                        }
                        Entry::Vacant(idle) => {
                            idle.insert(None);
                            looks.push(self.look(tenant, position));
                        }
                    }
                },
                Some(tenant) = looks.next() => {
                    if let Some(Some(position)) = rung_meanwhile.remove(&tenant) {
                        rung_meanwhile.insert(tenant, None);
                        looks.push(self.look(tenant, position));
                    }
                }
            }
        }
    }

    /// Looks until the head could be read: what was rung for is not rung again. Answers the tenant,
    /// for whoever looks at many.
    async fn look(&self, tenant: TenantId, position: Position) -> TenantId {
        let mut pause = PAUSE_MIN;
        for _ in 0..LOOKS_MAX {
            match self.look_once(tenant, position).await {
                Ok(()) => break,
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%tenant, error, "cannot look where another node has moved the head");
                }
            }
            sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
        tenant
    }

    async fn look_once(&self, tenant: TenantId, position: Position) -> Result<(), Unavailable> {
        let (ledger, looks) = {
            let mut stores = self.shared.lock();
            let Some(open) = stores.open.get(&tenant) else {
                stores.miss(tenant, position);
                return Ok(());
            };
            // The next to use one that is elsewhere by now opens it there.
            if !self.shared.opener.is_current(tenant, &open.behind) {
                stores.miss(tenant, position);
                return Ok(());
            }
            let OpenSchema { ledger, looks, .. } = &open.behind;
            (Arc::clone(ledger), Arc::clone(looks))
        };
        // Never closed; without a place it would only be slower.
        let _place = looks.acquire().await.ok();
        ledger.heard(position).await
    }
}

#[async_trait]
impl LedgerCounts for SchemaStores {
    async fn recount(&self, tenant: TenantId, also_at: Position) -> Result<Recount, Unavailable> {
        let place = self.shared.opener.shards.of(tenant).await?;
        let mut schema = postgres::recount::Schema(place.shard.room(tenant));
        let counted = recount(&mut schema, also_at).await;
        counted.map_err(|error| Unavailable::because(WHAT, error))
    }

    async fn reconcile(
        &self,
        tenant: TenantId,
        wanted: Reconciliation,
    ) -> Result<Appended, AppendError> {
        let ledger = self.behind(tenant, |open| Arc::clone(&open.ledger)).await?;
        ledger.reconcile(wanted).await
    }
}

/// A tenant's schema, open.
pub struct OpenSchema {
    ledger: Arc<PostgresLedger>,
    /// The shard that it is in.
    shard: Option<Slug>,
    /// The places for looks at heads in that shard.
    looks: Arc<Semaphore>,
    /// Held, so that connections to a database of the tenant's own are there.
    _place: Arc<Place>,
}

#[async_trait]
impl TenantShards for SchemaStores {
    async fn shard(&self, tenant: TenantId) -> Result<Shard, Unavailable> {
        let place = self.shared.opener.shards.of(tenant).await?;
        Ok(place.shard.clone())
    }

    async fn cards(&self, tenant: TenantId) -> Result<Arc<Companion>, Unavailable> {
        self.behind(tenant, |open| open.ledger.cards()).await
    }
}

impl Opener for Schemas {
    type Behind = OpenSchema;

    async fn open(
        &self,
        tenant: TenantId,
        missing: Missing,
    ) -> Result<(TenantStore, OpenSchema), Unavailable> {
        let home = self.shards.home(tenant)?;
        let place = self.shards.at_home(tenant, &home).await?;
        let schema = Schema::of(tenant);
        let ready = match missing {
            Missing::Create => make(&schema, &place).await,
            Missing::Refuse => {
                let room = place.shard.room(tenant);
                Schema::bring_up_to_date(&place.options, &room, self.older).await
            }
        };
        if let Err(error) = &ready
            && is_missing(error)
        {
            self.look_where(tenant);
        }
        ready.map_err(unavailable(WHAT))?;
        let cards = PostgresCards::open(tenant, &place.shard).await;
        let cards = cards.map_err(unavailable(WHAT))?;
        let ledger = PostgresLedger::open(
            tenant,
            &place.shard,
            Arc::clone(&self.clock),
            self.doorbell.clone(),
            self.waiting_max,
        );
        let ledger = Arc::new(ledger.await?);
        let (room, clock) = (place.shard.room(tenant), Arc::clone(&self.clock));
        let store = TenantStore {
            tenant,
            ledger: Arc::clone(&ledger) as _,
            cards: Arc::new(cards),
            checkpoints: Arc::new(SchemaCheckpoints::new(room, self.shards.node(), clock)),
        };
        let open = OpenSchema {
            ledger,
            looks: self.looks_at(home.shard.clone()),
            shard: home.shard,
            _place: place,
        };
        Ok((store, open))
    }

    fn is_current(&self, tenant: TenantId, open: &OpenSchema) -> bool {
        if open.ledger.was_not_there() {
            self.look_where(tenant);
        }
        let home = self.shards.home(tenant);
        home.is_ok_and(|home| home.shard == open.shard)
    }

    async fn restore(&self, tenant: &Tenant) -> Result<Box<dyn RestoringStore>, RestoreError> {
        let place = self.shards.of_record(tenant).await?;
        let made = place.make_database(&Schema::of(tenant.id)).await;
        made.map_err(unavailable(WHAT))?;
        postgres::restore(tenant.id, &place.options).await
    }

    async fn close(&self, _tenant: TenantId, schema: OpenSchema) {
        schema.ledger.close().await;
    }
}

impl Schemas {
    /// The places for looks at heads in a shard.
    fn looks_at(&self, shard: Option<Slug>) -> Arc<Semaphore> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let places = || Arc::new(Semaphore::new(LOOKS_AT_A_TIME));
        Arc::clone(looks.entry(shard).or_insert_with(places))
    }

    /// The tenant may be in another shard than this node knows.
    fn look_where(&self, tenant: TenantId) {
        self.news.tell(News::Tenant(tenant));
    }
}

async fn make(schema: &Schema, place: &Place) -> Result<(), sqlx::Error> {
    place.make_database(schema).await?;
    schema.migrate(&place.options).await
}
