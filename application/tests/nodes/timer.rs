//! The timer attends to every tenant whose moment has come, whatever becomes of the others.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use application::Application;
use application::ports::agenda::Agenda;
use application::ports::restore::{RestoreError, RestoringStore};
use application::ports::{TenantStore, TenantStores, Unavailable};
use application::processes::run_timer;
use application::tenants::Tenant;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{Position, TenantId};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::node::{Records, application, tenant};

/// An agenda on which some tenants are due, and their stores: those of some never answer, those
/// of the others cannot be opened.
#[derive(Default)]
struct Day {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    due: BTreeMap<TenantId, DateTime<Utc>>,
    hang: BTreeSet<TenantId>,
    open: BTreeSet<TenantId>,
    most_open: usize,
    postponed: Vec<TenantId>,
}

impl Day {
    /// Everybody up to the `n`-th tenant is due; the first `hanging` have stores that hang.
    fn of(n: u64, hanging: u64) -> Self {
        let ids = |n: u64| (1..=n).map(|n| tenant(n).id);
        let state = State {
            due: ids(n).map(|id| (id, DateTime::UNIX_EPOCH)).collect(),
            hang: ids(hanging).collect(),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            changed: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("not poisoned")
    }

    /// Waits until so many tenants were postponed, for less than one that hangs may take.
    async fn postponed(&self, count: usize) {
        let enough = async {
            while self.state().postponed.len() < count {
                self.changed.notified().await;
            }
        };
        let waited = timeout(Duration::from_secs(20), enough).await;
        waited.expect("nobody waits for a store that hangs");
    }
}

#[async_trait]
impl Agenda for Day {
    async fn next(
        &self,
        except: &[TenantId],
    ) -> Result<Option<(TenantId, DateTime<Utc>)>, Unavailable> {
        let state = self.state();
        let due = state.due.iter().map(|(id, due)| (*id, *due));
        Ok(due
            .filter(|(id, _)| !except.contains(id))
            .min_by_key(|(id, due)| (*due, *id)))
    }

    async fn replace(
        &self,
        tenant: TenantId,
        _: Position,
        next: Option<DateTime<Utc>>,
    ) -> Result<(), Unavailable> {
        let mut state = self.state();
        state.due.remove(&tenant);
        state.due.extend(next.map(|next| (tenant, next)));
        state.postponed.push(tenant);
        self.changed.notify_one();
        Ok(())
    }

    async fn changed(&self) {
        pending().await
    }
}

#[async_trait]
impl TenantStores for Day {
    async fn open(&self, tenant: TenantId) -> Result<Arc<TenantStore>, Unavailable> {
        let hangs = {
            let mut state = self.state();
            assert!(state.open.insert(tenant), "twice at once: {tenant}");
            state.most_open = state.most_open.max(state.open.len());
            state.hang.contains(&tenant)
        };
        match hangs {
            true => pending().await,
            false => tokio::task::yield_now().await,
        }
        self.state().open.remove(&tenant);
        Err(Unavailable::new("the tenant's store"))
    }

    async fn create(&self, _: TenantId) -> Result<(), Unavailable> {
        Err(Unavailable::new("the tenant's store"))
    }

    async fn restore(&self, _: &Tenant) -> Result<Box<dyn RestoringStore>, RestoreError> {
        Err(Unavailable::new("the tenant's store").into())
    }

    fn open_tenants(&self) -> Vec<TenantId> {
        vec![]
    }
}

/// A node whose timer goes by this day.
fn node(day: &Arc<Day>, tenants: u64) -> Arc<Application> {
    let ready = |n| Tenant {
        ready: true,
        ..tenant(n)
    };
    let records = Records {
        tenants: (1..=tenants).map(ready).collect(),
        ..Records::default()
    };
    Arc::new(Application {
        agenda: Arc::clone(day) as _,
        stores: Arc::clone(day) as _,
        ..application(records).0
    })
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_keeps_only_its_own_tenant_waiting() {
    let day = Arc::new(Day::of(40, 3));
    let stop = CancellationToken::new();
    let timer = tokio::spawn(run_timer(node(&day, 40), stop.clone()));
    day.postponed(37).await;
    let postponed: BTreeSet<_> = day.state().postponed.iter().copied().collect();
    assert_eq!(postponed.len(), 37, "each once");
    assert!(postponed.is_disjoint(&day.state().hang));
    assert_eq!(day.state().most_open, 8);
    // It is stopped although some hang.
    stop.cancel();
    let stopped = timeout(Duration::from_secs(1), timer).await;
    stopped.expect("at once").expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn those_whose_stores_hang_are_postponed_and_others_have_their_turn() {
    let day = Arc::new(Day::of(10, 9));
    let stop = CancellationToken::new();
    let timer = tokio::spawn(run_timer(node(&day, 10), stop.clone()));
    tokio::time::sleep(Duration::from_secs(31)).await;
    day.postponed(9).await;
    assert!(day.state().postponed.contains(&tenant(10).id));
    stop.cancel();
    timer.await.expect("no panic");
}
