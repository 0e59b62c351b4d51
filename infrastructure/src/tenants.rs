//! Which store a tenant is in, and the ones that are open.
//!
//! Open stores are kept up to a bound, the least recently used one goes first, and one that
//! anybody holds is never closed. Opening and closing a tenant's store exclude each other, so it
//! never has two writers in this process. Both run as tasks of their own: a caller that goes away
//! leaves nothing half open.
//!
//! A missing store is an error: an empty ledger in its place would look like a lost history.

mod embedded;
mod schemas;

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use application::doorbell::{Doorbell, gather};
use application::ports::restore::{RestoreError, RestoringStore};
use application::ports::{TenantStore, TenantStores, Unavailable};
use application::tenants::Tenant;
use async_trait::async_trait;
use domain::ids::{Position, TenantId};
use metrics::{counter, gauge};
use tokio::sync::{Mutex as Gate, OwnedMutexGuard};
use tokio_util::task::TaskTracker;

pub use self::embedded::{EmbeddedStores, OPEN_MAX_DEFAULT};
pub use self::schemas::{SchemaStores, Schemas};

const WHAT: &str = "the tenant's store";

/// One engine's way to open and close a tenant's store.
pub trait Opener: Send + Sync + 'static {
    /// What is behind an open store.
    type Behind: Send + Sync + 'static;

    /// Opens the tenant's store.
    fn open(
        &self,
        tenant: TenantId,
        missing: Missing,
    ) -> impl Future<Output = Result<(TenantStore, Self::Behind), Unavailable>> + Send;

    /// Begins to make the tenant's store out of a history from elsewhere.
    fn restore(
        &self,
        tenant: &Tenant,
    ) -> impl Future<Output = Result<Box<dyn RestoringStore>, RestoreError>> + Send;

    /// Whether an open store is still the tenant's: it is not if the tenant is elsewhere by now.
    fn is_current(&self, _tenant: TenantId, _behind: &Self::Behind) -> bool {
        true
    }

    /// Finishes what is queued in a store, then closes it.
    fn close(&self, tenant: TenantId, behind: Self::Behind) -> impl Future<Output = ()> + Send;
}

/// What to do if the tenant has no store.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Say so.
    Refuse,
    /// Make an empty one.
    Create,
}

/// The tenants' stores. Cloning gives another handle to the same ones.
pub struct OpenStores<O: Opener> {
    shared: Arc<Shared<O>>,
}

struct Shared<O: Opener> {
    opener: O,
    open_max: usize,
    doorbell: Doorbell,
    stores: Mutex<Stores<O::Behind>>,
    /// What opens and closes stores.
    tasks: TaskTracker,
}

struct Stores<B> {
    open: HashMap<TenantId, OpenStore<B>>,
    /// Whoever opens or closes a tenant's store holds its gate. There only while one is held or
    /// waited for.
    gates: HashMap<TenantId, Arc<Gate<()>>>,
    /// The tenants that were rung for when they were opened, each with the position up to which.
    greeted: HashMap<TenantId, Position>,
    /// What was rung for tenants while their stores were being opened or closed. An entry goes with
    /// its gate.
    missed: HashMap<TenantId, Position>,
    /// Counts uses, to tell which was the last.
    uses: u64,
    closed: bool,
}

struct OpenStore<B> {
    store: Arc<TenantStore>,
    behind: B,
    last_used: u64,
}

impl<O: Opener> Clone for OpenStores<O> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<O: Opener> OpenStores<O> {
    /// At most `open_max` stores stay open, unless more are in use at once: the excess is closed
    /// at the next opening.
    fn with(opener: O, open_max: usize, doorbell: Doorbell) -> Self {
        let stores = Stores {
            open: HashMap::new(),
            gates: HashMap::new(),
            greeted: HashMap::new(),
            missed: HashMap::new(),
            uses: 0,
            closed: false,
        };
        Self {
            shared: Arc::new(Shared {
                opener,
                open_max,
                doorbell,
                stores: Mutex::new(stores),
                tasks: TaskTracker::new(),
            }),
        }
    }

    /// Finishes what the stores are writing and closes them all, also those in use: their
    /// holders get errors. Nothing can be opened afterwards.
    pub async fn close_all(&self) {
        let all: Vec<_> = {
            let mut stores = self.shared.lock();
            stores.closed = true;
            stores.open.drain().collect()
        };
        let opener = &self.shared.opener;
        let closing = all
            .into_iter()
            .map(|(tenant, open)| opener.close(tenant, open.behind));
        futures::future::join_all(closing).await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// How many stores are open.
    pub fn open_count(&self) -> usize {
        self.shared.lock().open.len()
    }

    /// What is behind a tenant's open store.
    async fn behind<T>(
        &self,
        tenant: TenantId,
        of: impl Fn(&O::Behind) -> T,
    ) -> Result<T, Unavailable> {
        let _held = self.obtain(tenant, Missing::Refuse).await?;
        let stores = self.shared.lock();
        let open = stores.open.get(&tenant).ok_or(Unavailable::new(WHAT))?;
        Ok(of(&open.behind))
    }

    async fn obtain(
        &self,
        tenant: TenantId,
        missing: Missing,
    ) -> Result<Arc<TenantStore>, Unavailable> {
        if let Some(store) = self.shared.find(tenant) {
            return Ok(store);
        }
        let shared = Arc::clone(&self.shared);
        let opening = shared
            .tasks
            .spawn(Arc::clone(&shared).open(tenant, missing));
        opening
            .await
            .map_err(|error| Unavailable::because(WHAT, error))?
    }
}

#[async_trait]
impl<O: Opener> TenantStores for OpenStores<O> {
    async fn open(&self, tenant: TenantId) -> Result<Arc<TenantStore>, Unavailable> {
        let store = self.obtain(tenant, Missing::Refuse).await?;
        // Another node may have begun the subscription since this was opened, and its ring may
        // still be on its way.
        if store.ledger.head().position == 0 {
            store.ledger.heard(1).await?;
        }
        Ok(store)
    }

    async fn create(&self, tenant: TenantId) -> Result<(), Unavailable> {
        self.obtain(tenant, Missing::Create).await.map(drop)
    }

    async fn restore(&self, tenant: &Tenant) -> Result<Box<dyn RestoringStore>, RestoreError> {
        self.shared.opener.restore(tenant).await
    }

    fn open_tenants(&self) -> Vec<TenantId> {
        self.shared.lock().open.keys().copied().collect()
    }
}

impl<O: Opener> Shared<O> {
    fn lock(&self) -> MutexGuard<'_, Stores<O::Behind>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The tenant's open store, if it still is that.
    fn find(&self, tenant: TenantId) -> Option<Arc<TenantStore>> {
        let mut stores = self.lock();
        let open = stores.open.get(&tenant)?;
        match self.opener.is_current(tenant, &open.behind) {
            true => stores.find(tenant),
            false => None,
        }
    }

    /// Closes a store that is not the tenant's any more, though somebody may hold it: its reads go
    /// on, its appends fail. Not waited for: it writes another ledger than its successor, which is
    /// greeted as if it were the first.
    fn close_outdated(self: &Arc<Self>, tenant: TenantId) {
        let mut stores = self.lock();
        let Some(open) = stores.open.remove(&tenant) else {
            return;
        };
        stores.greeted.remove(&tenant);
        drop(stores);
        let shared = Arc::clone(self);
        self.tasks
            .spawn(async move { shared.opener.close(tenant, open.behind).await });
    }

    /// Opens the tenant's store, unless somebody else does at the same time.
    async fn open(
        self: Arc<Self>,
        tenant: TenantId,
        missing: Missing,
    ) -> Result<Arc<TenantStore>, Unavailable> {
        let gate = self.lock().gate(tenant);
        let held = gate.lock_owned().await;
        let store = match self.find(tenant) {
            Some(store) => Ok(store),
            None => {
                self.close_outdated(tenant);
                self.open_anew(tenant, missing).await
            }
        };
        drop(held);
        self.lock().forget_gate(tenant);
        self.evict().await;
        store
    }

    async fn open_anew(
        &self,
        tenant: TenantId,
        missing: Missing,
    ) -> Result<Arc<TenantStore>, Unavailable> {
        let (store, behind) = self.opener.open(tenant, missing).await?;
        match self.keep(Arc::new(store), behind) {
            Ok(store) => Ok(store),
            Err(behind) => {
                // The next attempt must not find this one still open.
                self.opener.close(tenant, behind).await;
                Err(Unavailable::new("the stores are closing"))
            }
        }
    }

    /// Keeps a store that was just opened, unless all are closing; rings for it the first time, so
    /// that its subscribers catch up. Later openings tell them nothing new, unless another node has
    /// moved the ledger while it was closed here.
    fn keep(
        &self,
        store: Arc<TenantStore>,
        behind: O::Behind,
    ) -> Result<Arc<TenantStore>, O::Behind> {
        let (tenant, position) = (store.tenant, store.ledger.head().position);
        let mut stores = self.lock();
        if stores.closed {
            return Err(behind);
        }
        stores.uses += 1;
        let open = OpenStore {
            store: Arc::clone(&store),
            behind,
            last_used: stores.uses,
        };
        stores.open.insert(tenant, open);
        let greeted = stores.greeted.insert(tenant, position);
        let missed = stores.missed.remove(&tenant);
        gauge!("tenant_stores_open").set(stores.open.len() as f64);
        drop(stores);
        counter!("tenant_stores_opened_total").increment(1);
        match greeted {
            None => self.doorbell.ring(tenant, position),
            Some(known) if known < position => self.doorbell.ring_here(tenant, position),
            Some(_) => {}
        }
        // The head may have been read before that was rung.
        if let Some(position) = missed {
            self.doorbell.ring_here(tenant, position);
        }
        Ok(store)
    }

    /// Closes unused stores, the least recently used first, until no more are open than may be
    /// or all are in use.
    async fn evict(&self) {
        loop {
            let Some((tenant, open, held)) = self.lock().take_unused(self.open_max) else {
                return;
            };
            self.opener.close(tenant, open.behind).await;
            drop(held);
            self.lock().forget_gate(tenant);
        }
    }
}

impl<B> Stores<B> {
    fn find(&mut self, tenant: TenantId) -> Option<Arc<TenantStore>> {
        let open = self.open.get_mut(&tenant)?;
        self.uses += 1;
        open.last_used = self.uses;
        Some(Arc::clone(&open.store))
    }

    fn gate(&mut self, tenant: TenantId) -> Arc<Gate<()>> {
        Arc::clone(self.gates.entry(tenant).or_default())
    }

    fn forget_gate(&mut self, tenant: TenantId) {
        // New holders come only through this map, which is locked: a count of one stays one.
        if self
            .gates
            .get(&tenant)
            .is_some_and(|it| Arc::strong_count(it) == 1)
        {
            self.gates.remove(&tenant);
            self.missed.remove(&tenant);
        }
    }

    /// The tenant is rung for and has no open store: if one is being opened, it will hear of it.
    fn miss(&mut self, tenant: TenantId, position: Position) {
        if self.gates.contains_key(&tenant) {
            gather(&mut self.missed, tenant, position);
        }
    }

    /// Takes out a store to close, with its gate, if too many are open.
    fn take_unused(
        &mut self,
        open_max: usize,
    ) -> Option<(TenantId, OpenStore<B>, OwnedMutexGuard<()>)> {
        if self.open.len() <= open_max {
            return None;
        }
        // New holders come only through this map, which is locked: unused stays unused. But
        // somebody at the gate is about to use it.
        let unused = |open: &&OpenStore<B>| {
            Arc::strong_count(&open.store) == 1 && !self.gates.contains_key(&open.store.tenant)
        };
        let oldest = self
            .open
            .values()
            .filter(unused)
            .min_by_key(|it| it.last_used)?;
        let tenant = oldest.store.tenant;
        let held = self.gate(tenant).try_lock_owned().ok()?;
        let open = self.open.remove(&tenant)?;
        self.greeted
            .insert(tenant, open.store.ledger.head().position);
        gauge!("tenant_stores_open").set(self.open.len() as f64);
        Some((tenant, open, held))
    }
}
