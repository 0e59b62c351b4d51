//! How far the broker has confirmed: noted at once, saved a moment later.
//!
//! Events that come one by one are published one by one, and a commit for each would cost more than
//! its publishing: it wants the tenant's one writing connection, for which its ledger waits too. So a
//! checkpoint is saved together with all that is confirmed meanwhile. What is not saved when the
//! process dies is published again, and so is what cannot be saved, by whoever begins there.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use application::ports::TenantStore;
use application::ports::checkpoints::Checkpoints;
use application::subscribers::BROKER;
use domain::ids::{Position, TenantId};
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a checkpoint gathers what is confirmed before it is saved.
const GATHER: Duration = Duration::from_millis(100);
/// How many are saved at a time: appends want the same connections.
const AT_A_TIME: usize = 16;
/// How often it is tried to save one.
const TRIES_MAX: u32 = 20;

/// A tenant's checkpoint, and where it is to be saved: a moved tenant's is somewhere else.
type Noted = (Position, Arc<dyn Checkpoints>);

/// The checkpoints that are not saved yet. For each of these tenants one task is there.
#[derive(Clone)]
pub struct Confirmed {
    noted: Arc<Mutex<HashMap<TenantId, Noted>>>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    at_a_time: Arc<Semaphore>,
}

impl Default for Confirmed {
    fn default() -> Self {
        Self {
            noted: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            at_a_time: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }
}

impl Confirmed {
    /// Everything up to `position` is confirmed.
    pub fn note(&self, tenant: &TenantStore, position: Position) {
        let noted = (position, Arc::clone(&tenant.checkpoints));
        let before = self.noted().insert(tenant.tenant, noted);
        if before.is_none() {
            self.tasks.spawn(self.clone().save(tenant.tenant));
        }
    }

    /// Saves what is noted, when nobody notes anything any more.
    pub async fn close(&self) {
        self.stopping.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Saves a tenant's checkpoint for as long as it moves, and until it is saved.
    async fn save(self, tenant: TenantId) {
        let mut saved = None;
        let mut failures = 0;
        loop {
            self.stopping.run_until_cancelled(sleep(GATHER)).await;
            let Some((position, checkpoints)) = self.moved(tenant, saved) else {
                return;
            };
            // The semaphore is never closed.
            let _place = self.at_a_time.acquire().await;
            match checkpoints.advance(BROKER, position).await {
                Ok(()) => (saved, failures) = (Some(position), 0),
                Err(error) => {
                    failures += 1;
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%tenant, error, "cannot save how far the broker has confirmed");
                }
            }
            if failures == TRIES_MAX || (failures > 0 && self.stopping.is_cancelled()) {
                // What comes next is saved again; until then it is published again after a restart.
                self.noted().remove(&tenant);
                return;
            }
        }
    }

    /// Up to where a tenant's messages are confirmed, while that is not saved for certain.
    pub fn position(&self, tenant: TenantId) -> Option<Position> {
        self.noted().get(&tenant).map(|(position, _)| *position)
    }

    /// What is noted if it is not what is `saved`; else it is noted no more.
    fn moved(&self, tenant: TenantId, saved: Option<Position>) -> Option<Noted> {
        let mut noted = self.noted();
        let moved = noted.get(&tenant).filter(|it| Some(it.0) != saved).cloned();
        if moved.is_none() {
            noted.remove(&tenant);
        }
        moved
    }

    fn noted(&self) -> MutexGuard<'_, HashMap<TenantId, Noted>> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
