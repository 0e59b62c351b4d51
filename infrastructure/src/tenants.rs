//! Which store a tenant is in, and the ones that are open: one SQLite file a tenant.
//!
//! Open stores are kept up to a bound, the least recently used one goes first, and one that
//! anybody holds is never closed. Opening and closing a tenant's file exclude each other, so a
//! file never has two writing connections. Both run as tasks of their own: a caller that goes
//! away leaves nothing half open.
//!
//! A missing file is an error: an empty ledger in its place would look like a lost history.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use application::doorbell::Doorbell;
use application::ports::{Clock, Ledger, TenantStore, TenantStores, Unavailable};
use async_trait::async_trait;
use domain::ids::{Position, TenantId};
use metrics::{counter, gauge};
use tokio::sync::{Mutex as Gate, OwnedMutexGuard};
use tokio_util::task::TaskTracker;

use crate::database::{Database, unavailable};
use crate::ledger::sqlite::{MIGRATOR, SqliteLedger};
use crate::projections::cards::{CardsReadModel, TenantDatabases};

/// How many stores stay open unused, unless told otherwise. Each is a thread and 3 file
/// descriptors, and up to 4 of the former and 12 of the latter more while it is read.
pub const OPEN_MAX_DEFAULT: usize = 256;

const WHAT: &str = "the tenant's store";

/// The tenants' SQLite files. Cloning gives another handle to the same stores.
#[derive(Clone)]
pub struct EmbeddedStores {
    shared: Arc<Shared>,
}

struct Shared {
    directory: PathBuf,
    open_max: usize,
    waiting_max: usize,
    clock: Arc<dyn Clock>,
    doorbell: Doorbell,
    stores: Mutex<Stores>,
    /// What opens and closes files.
    tasks: TaskTracker,
}

#[derive(Default)]
struct Stores {
    open: HashMap<TenantId, OpenStore>,
    /// Whoever opens or closes a tenant's file holds its gate. There only while one is held or
    /// waited for.
    gates: HashMap<TenantId, Arc<Gate<()>>>,
    /// The tenants that were rung for when they were first opened.
    greeted: HashSet<TenantId>,
    /// Counts uses, to tell which was the last.
    uses: u64,
    closed: bool,
}

struct OpenStore {
    store: Arc<TenantStore>,
    ledger: Arc<SqliteLedger>,
    database: Arc<Database>,
    last_used: u64,
}

/// What to do if the tenant has no file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Refuse,
    Create,
}

impl EmbeddedStores {
    /// Stores in `directory`, which is there and owned by this process; at most `open_max` of
    /// them open, unless more are in use at once: the excess is closed at the next opening. At
    /// most `waiting_max` appends wait for each of them.
    pub fn new(
        directory: PathBuf,
        open_max: usize,
        waiting_max: usize,
        clock: Arc<dyn Clock>,
        doorbell: Doorbell,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                directory,
                open_max,
                waiting_max,
                clock,
                doorbell,
                stores: Mutex::default(),
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
        let closing = all.into_iter().map(|(tenant, store)| close(tenant, store));
        futures::future::join_all(closing).await;
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// How many stores are open.
    pub fn open_count(&self) -> usize {
        self.shared.lock().open.len()
    }

    async fn obtain(
        &self,
        tenant: TenantId,
        missing: Missing,
    ) -> Result<Arc<TenantStore>, Unavailable> {
        if let Some(store) = self.shared.lock().find(tenant) {
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
impl TenantStores for EmbeddedStores {
    async fn open(&self, tenant: TenantId) -> Result<Arc<TenantStore>, Unavailable> {
        self.obtain(tenant, Missing::Refuse).await
    }

    async fn create(&self, tenant: TenantId) -> Result<(), Unavailable> {
        self.obtain(tenant, Missing::Create).await.map(drop)
    }

    fn heads(&self) -> Vec<(TenantId, Position)> {
        let stores = self.shared.lock();
        let head = |store: &OpenStore| (store.store.tenant, store.ledger.head().position);
        stores.open.values().map(head).collect()
    }
}

#[async_trait]
impl TenantDatabases for EmbeddedStores {
    async fn database(&self, tenant: TenantId) -> Result<Arc<Database>, Unavailable> {
        let _held = self.obtain(tenant, Missing::Refuse).await?;
        let stores = self.shared.lock();
        let open = stores.open.get(&tenant).ok_or(Unavailable::new(WHAT))?;
        Ok(Arc::clone(&open.database))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Stores> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the tenant's file, unless somebody else does at the same time.
    async fn open(
        self: Arc<Self>,
        tenant: TenantId,
        missing: Missing,
    ) -> Result<Arc<TenantStore>, Unavailable> {
        let gate = self.lock().gate(tenant);
        let held = gate.lock_owned().await;
        let found = self.lock().find(tenant);
        let store = match found {
            Some(store) => Ok(store),
            None => self.open_file(tenant, missing).await,
        };
        drop(held);
        self.lock().forget_gate(tenant);
        self.evict().await;
        store
    }

    async fn open_file(
        &self,
        tenant: TenantId,
        missing: Missing,
    ) -> Result<Arc<TenantStore>, Unavailable> {
        let path = self.directory.join(format!("{tenant}.db"));
        let database = match missing {
            Missing::Refuse => Database::open_existing(&path, &MIGRATOR).await,
            Missing::Create => Database::open(&path, &MIGRATOR).await,
        }
        .map_err(unavailable(WHAT))?;
        let database = Arc::new(database);
        let assembled = self.assemble(tenant, &database).await;
        let opened = assembled.and_then(|(ledger, cards)| {
            let store = Arc::new(TenantStore {
                tenant,
                ledger: Arc::clone(&ledger) as Arc<dyn Ledger>,
                cards: Arc::new(cards),
            });
            self.keep(store, ledger, Arc::clone(&database))
        });
        match opened {
            Ok(store) => Ok(store),
            Err(error) => {
                // The next attempt must not find this one's connection still open.
                if let Err(error) = database.close().await {
                    tracing::warn!(%tenant, error = &error as &dyn std::error::Error, "closing a store that could not be opened");
                }
                Err(error)
            }
        }
    }

    async fn assemble(
        &self,
        tenant: TenantId,
        database: &Arc<Database>,
    ) -> Result<(Arc<SqliteLedger>, CardsReadModel), Unavailable> {
        let cards = CardsReadModel::open(Arc::clone(database))
            .await
            .map_err(unavailable(WHAT))?;
        let clock = Arc::clone(&self.clock);
        let doorbell = self.doorbell.clone();
        let ledger = SqliteLedger::open(
            tenant,
            Arc::clone(database),
            clock,
            doorbell,
            self.waiting_max,
        )
        .await?;
        Ok((Arc::new(ledger), cards))
    }

    /// Keeps a store that was just opened; rings for it the first time, so that its subscribers
    /// catch up. Later openings tell them nothing new: only this process writes the file.
    fn keep(
        &self,
        store: Arc<TenantStore>,
        ledger: Arc<SqliteLedger>,
        database: Arc<Database>,
    ) -> Result<Arc<TenantStore>, Unavailable> {
        let tenant = store.tenant;
        let position = ledger.head().position;
        let mut stores = self.lock();
        if stores.closed {
            return Err(Unavailable::new("the stores are closing"));
        }
        stores.uses += 1;
        let open = OpenStore {
            store: Arc::clone(&store),
            ledger,
            database,
            last_used: stores.uses,
        };
        stores.open.insert(tenant, open);
        let first = stores.greeted.insert(tenant);
        gauge!("tenant_stores_open").set(stores.open.len() as f64);
        drop(stores);
        counter!("tenant_stores_opened_total").increment(1);
        if first {
            self.doorbell.ring(tenant, position);
        }
        Ok(store)
    }

    /// Closes unused stores, the least recently used first, until no more are open than may be
    /// or all are in use.
    async fn evict(&self) {
        loop {
            let Some((tenant, store, held)) = self.lock().take_unused(self.open_max) else {
                return;
            };
            close(tenant, store).await;
            drop(held);
            self.lock().forget_gate(tenant);
        }
    }
}

impl Stores {
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
        }
    }

    /// Takes out a store to close, with its gate, if too many are open.
    fn take_unused(
        &mut self,
        open_max: usize,
    ) -> Option<(TenantId, OpenStore, OwnedMutexGuard<()>)> {
        if self.open.len() <= open_max {
            return None;
        }
        // New holders come only through this map, which is locked: unused stays unused.
        let unused = |open: &&OpenStore| Arc::strong_count(&open.store) == 1;
        let oldest = self
            .open
            .values()
            .filter(unused)
            .min_by_key(|it| it.last_used)?;
        let tenant = oldest.store.tenant;
        // Somebody at the gate is about to use it.
        let held = self.gate(tenant).try_lock_owned().ok()?;
        let open = self.open.remove(&tenant)?;
        gauge!("tenant_stores_open").set(self.open.len() as f64);
        Some((tenant, open, held))
    }
}

/// Finishes what is queued, then closes the file.
async fn close(tenant: TenantId, store: OpenStore) {
    store.ledger.close().await;
    if let Err(error) = store.database.close().await {
        tracing::error!(%tenant, error = &error as &dyn std::error::Error, "closing a store");
    }
}
