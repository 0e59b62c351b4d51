//! Everything after a commit: the one loop that drives every subscriber along every ledger.
//!
//! A subscriber is a name, a checkpoint and a handler (see [`Subscriber`]). For each subscriber
//! one task listens to the [`Doorbell`]; for each tenant that was rung for, one short-lived task
//! reads the ledger from the checkpoint on and hands over the events until none is left. Idle
//! tenants have no task, and nothing polls: the one timer here is a slow safety sweep, whose finds
//! are counted and should stay 0.

mod follower;
mod sweep;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use domain::ids::{Position, TenantId};
use futures::stream::{self, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::follower::Follower;
pub use self::follower::{FollowerState, Progress};
use self::sweep::Sweep;
use crate::doorbell::Doorbell;
use crate::error::Error;
use crate::ports::{Clock, HandlerError, Subscriber, TenantStore, TenantStores, Unavailable};
use crate::tenants::Directory;

/// The cards read model.
pub const CARDS: &str = "cards";
/// The landlord's read models.
pub const LANDLORD: &str = "landlord";
/// The publisher to the broker.
pub const BROKER: &str = "broker";

/// The process that tells of thresholds.
pub const THRESHOLDS: &str = "thresholds";

/// How long a read waits for its read model.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// How many reads may wait for positions that this node has not seen.
const BEYOND_HEAD_AT_A_TIME: usize = 64;
/// How many tenants one subscriber works on at a time.
const TENANTS_AT_A_TIME: usize = 16;
/// How many one works on that does little but wait.
const TENANTS_WAITED_FOR_AT_A_TIME: usize = 64;
/// How many stores are opened at a time to catch up at the start.
const CATCH_UP_AT_A_TIME: usize = 4;

/// Drives the subscribers.
pub struct Subscribers {
    lines: HashMap<&'static str, Arc<Line>>,
    stores: Arc<dyn TenantStores>,
    doorbell: Doorbell,
    sweep_interval: Duration,
    beyond_head: Semaphore,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// One subscriber and its place in every ledger.
struct Line {
    subscriber: Arc<dyn Subscriber>,
    stores: Arc<dyn TenantStores>,
    clock: Arc<dyn Clock>,
    followers: Mutex<HashMap<TenantId, Arc<Follower>>>,
    at_a_time: Semaphore,
    /// Held while it is built anew for every tenant.
    rebuilding: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Subscribers {
    /// Subscribers that stand still until [`Self::start`]. Every `sweep_interval` the ledgers are
    /// looked at for rings that were lost.
    pub fn new(
        subscribers: Vec<Arc<dyn Subscriber>>,
        stores: Arc<dyn TenantStores>,
        clock: &Arc<dyn Clock>,
        doorbell: Doorbell,
        sweep_interval: Duration,
    ) -> Self {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let line = |subscriber: Arc<dyn Subscriber>| {
            let at_a_time = match subscriber.waits_elsewhere() {
                true => TENANTS_WAITED_FOR_AT_A_TIME,
                false => TENANTS_AT_A_TIME,
            };
            let line = Line {
                stores: Arc::clone(&stores),
                clock: Arc::clone(clock),
                followers: Mutex::default(),
                at_a_time: Semaphore::new(at_a_time),
                rebuilding: Arc::new(Semaphore::new(1)),
                stop: stop.clone(),
                tasks: tasks.clone(),
                subscriber,
            };
            (line.subscriber.name(), Arc::new(line))
        };
        Self {
            lines: subscribers.into_iter().map(line).collect(),
            stores,
            doorbell,
            sweep_interval,
            beyond_head: Semaphore::new(BEYOND_HEAD_AT_A_TIME),
            stop,
            tasks,
        }
    }

    /// Begins to listen, and catches up with every tenant that is ready in the background: a store
    /// rings for itself when it is opened.
    pub fn start(&self, directory: &Arc<Directory>) {
        for line in self.lines.values() {
            let mailbox = self.doorbell.listen();
            let line = Arc::clone(line);
            self.tasks.spawn(async move {
                loop {
                    tokio::select! {
                        () = line.stop.cancelled() => return,
                        rung = mailbox.next() => {
                            for (tenant, position) in rung {
                                line.rung(tenant, position);
                            }
                        }
                    }
                }
            });
        }
        let all = directory.all();
        let ready = all.iter().filter(|tenant| tenant.ready);
        self.tasks.spawn(catch_up(
            Arc::clone(&self.stores),
            ready.map(|tenant| tenant.id).collect(),
            self.doorbell.clone(),
            self.stop.clone(),
        ));
        let sweep = Sweep {
            stores: Arc::clone(&self.stores),
            lines: self.lines.values().cloned().collect(),
            directory: Arc::clone(directory),
            interval: self.sweep_interval,
        };
        self.tasks.spawn(sweep.run(self.stop.clone()));
    }

    /// Stops after the events in hand, and waits for that.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Waits until the named subscriber has handled everything that this node has seen of the
    /// tenant's ledger, and at least everything up to `at_least`.
    ///
    /// # Errors
    ///
    /// [`Error::Behind`] after a bounded time.
    pub async fn reached(
        &self,
        name: &str,
        store: &TenantStore,
        at_least: Position,
    ) -> Result<(), Error> {
        if store.ledger.head().position < at_least {
            store.ledger.heard(at_least).await?;
        }
        let head = store.ledger.head().position;
        let position = head.max(at_least);
        let follower = self.line(name)?.follower(store.tenant);
        // Nobody here knows whether a position beyond the head will ever come: asking for one
        // must not take the places of those who wait for what is there.
        let _place = match at_least > head {
            false => None,
            true => Some(
                self.beyond_head
                    .try_acquire()
                    .map_err(|_| Error::Behind { position })?,
            ),
        };
        match timeout(WAIT_MAX, follower.reached(position)).await {
            Ok(()) => Ok(()),
            Err(_) => Err(Error::Behind { position }),
        }
    }

    /// Waits, for a bounded time, until the named subscriber has handled everything that this node
    /// has seen of all ledgers that are open here. Those it fails with are not waited for.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no subscriber of this name.
    pub async fn reached_everywhere(&self, name: &str) -> Result<(), Error> {
        let line = self.line(name)?;
        let waiting = self
            .stores
            .open_tenants()
            .into_iter()
            .map(|tenant| async move {
                let follower = line.follower(tenant);
                let is_at_work = match follower.progress().state {
                    FollowerState::Idle | FollowerState::Running => true,
                    FollowerState::Retrying | FollowerState::Stopped => false,
                };
                if is_at_work && tenant != TenantId::LANDLORD {
                    let store = self.stores.open(tenant).await?;
                    follower.reached(store.ledger.head().position).await;
                }
                Ok::<_, Unavailable>(())
            });
        // What is late is shown as of where it is.
        let _ = timeout(WAIT_MAX, futures::future::join_all(waiting)).await;
        Ok(())
    }

    /// How far every subscriber is with every tenant that this node has seen since it started.
    pub fn progress(&self) -> Vec<(&'static str, TenantId, Progress)> {
        let mut all: Vec<_> = self
            .lines
            .values()
            .flat_map(|line| {
                let name = line.subscriber.name();
                let followers = line
                    .followers
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                let progress = |(tenant, follower): (&TenantId, &Arc<Follower>)| {
                    (name, *tenant, follower.progress())
                };
                followers.iter().map(progress).collect::<Vec<_>>()
            })
            .collect();
        all.sort_by_key(|(name, tenant, _)| (*name, *tenant));
        all
    }

    /// Lets a stopped subscriber try again: for one tenant, or for all.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no subscriber of this name.
    pub fn resume(&self, name: &str, tenant: Option<TenantId>) -> Result<(), Error> {
        let line = self.line(name)?;
        let followers = line
            .followers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        for (id, follower) in followers {
            if tenant.is_none_or(|wanted| wanted == id) && follower.resume() {
                line.rung(id, 0);
            }
        }
        Ok(())
    }

    /// Builds a subscriber's effect anew for one tenant, beside the one in use, then swaps them.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no read model of this name; what the subscriber says.
    pub async fn rebuild(
        &self,
        name: &str,
        tenant: TenantId,
        progress: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<Position, Error> {
        if !self.is_read_model(name) {
            return Err(Error::NotFound("read model"));
        }
        let line = self.line(name)?;
        let store = self.stores.open(tenant).await?;
        let position = match line.subscriber.rebuild(&store, progress).await {
            Ok(position) => position,
            Err(HandlerError::Unavailable(source)) => return Err(source.into()),
            Err(HandlerError::Failed(detail)) => return Err(Error::Internal(detail)),
        };
        line.follower(tenant).rebuilt(position);
        line.rung(tenant, store.ledger.head().position);
        Ok(position)
    }

    /// Builds a subscriber's effect anew for these tenants, one after the other in the background,
    /// until stopped. Does nothing while that is under way already.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] if there is no subscriber of this name.
    pub fn rebuild_all(self: &Arc<Self>, name: &str, tenants: Vec<TenantId>) -> Result<(), Error> {
        let line = self.line(name)?;
        let Ok(turn) = Arc::clone(&line.rebuilding).try_acquire_owned() else {
            return Ok(());
        };
        let (subscribers, name) = (Arc::clone(self), line.subscriber.name());
        self.tasks.spawn(async move {
            let _turn = turn;
            for tenant in tenants {
                let rebuild = subscribers.rebuild(name, tenant, &|_| {});
                match subscribers.stop.run_until_cancelled(rebuild).await {
                    None => return,
                    Some(Ok(_)) => {}
                    Some(Err(error)) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(subscriber = name, %tenant, error, "cannot rebuild");
                    }
                }
            }
            tracing::info!(subscriber = name, "rebuilt for every tenant");
        });
        Ok(())
    }

    /// Whether there is a subscriber of this name whose effect requests wait for.
    pub fn is_read_model(&self, name: &str) -> bool {
        let line = self.lines.get(name);
        line.is_some_and(|line| line.subscriber.is_read_model())
    }

    /// What keeps a subscriber from its work with every tenant.
    pub fn troubles(&self) -> Vec<(&'static str, String)> {
        let trouble = |line: &Arc<Line>| Some((line.subscriber.name(), line.subscriber.trouble()?));
        self.lines.values().filter_map(trouble).collect()
    }

    /// Runs `work` beside the subscribers; a stop waits for it.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn(work);
    }

    fn line(&self, name: &str) -> Result<&Arc<Line>, Error> {
        self.lines.get(name).ok_or(Error::NotFound("subscriber"))
    }
}

impl Line {
    fn follower(&self, tenant: TenantId) -> Arc<Follower> {
        Arc::clone(
            self.followers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(tenant)
                .or_default(),
        )
    }

    /// The tenant's ledger has reached `position`: unless a task is at it already, starts one. The
    /// landlord's own ledger has no read models.
    fn rung(self: &Arc<Self>, tenant: TenantId, position: Position) {
        if tenant == TenantId::LANDLORD {
            return;
        }
        let follower = self.follower(tenant);
        if follower.begin(position) {
            let line = Arc::clone(self);
            self.tasks
                .spawn(async move { line.follow(tenant, &follower).await });
        }
    }

    async fn follow(&self, tenant: TenantId, follower: &Follower) {
        follower::follow(self, tenant, follower).await;
    }
}

/// Opens every store once, so that what happened before a crash is handled after it. For one that
/// cannot be opened it rings all the same: the subscribers keep trying, and show that they are
/// behind.
async fn catch_up(
    stores: Arc<dyn TenantStores>,
    tenants: Vec<TenantId>,
    doorbell: Doorbell,
    stop: CancellationToken,
) {
    let opened = stream::iter(tenants).for_each_concurrent(CATCH_UP_AT_A_TIME, |tenant| {
        let (stores, doorbell) = (Arc::clone(&stores), doorbell.clone());
        async move {
            if let Err(error) = stores.open(tenant).await {
                tracing::error!(%tenant, error = &error as &dyn std::error::Error, "cannot open the store to catch up");
                doorbell.ring(tenant, 0);
            }
        }
    });
    tokio::select! {
        () = stop.cancelled() => {}
        () = opened => {}
    }
}
