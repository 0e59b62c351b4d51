//! The safety sweep: a slow look at the ledgers themselves, for what happened without a ring.
//!
//! A node that was cut off and killed has told nobody of its last events, so what this node
//! remembers of a ledger cannot be trusted here: its store is asked. Tenants whose stores are open
//! are looked at every time, the others a few at a time, in turn.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use domain::ids::{Position, TenantId};
use futures::stream::{self, StreamExt};
use metrics::counter;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{FollowerState, Line};
use crate::ports::{TenantStores, Unavailable};
use crate::tenants::Directory;

/// How many ledgers are looked at at a time.
const AT_A_TIME: usize = 8;
/// How long one may take: a store that does not answer is looked at again by the next sweep.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How many tenants whose stores are closed are looked at in one sweep.
const CLOSED_MAX: usize = 32;
/// A ring takes milliseconds: what has not come after this time was lost. It is waited for, because
/// the times of events are other nodes' clocks.
const RING_MAX: Duration = Duration::from_secs(5);

/// Looks for ledgers that a subscriber is behind although nothing rang.
pub(super) struct Sweep {
    pub(super) stores: Arc<dyn TenantStores>,
    pub(super) lines: Vec<Arc<Line>>,
    pub(super) directory: Arc<Directory>,
    pub(super) interval: Duration,
}

impl Sweep {
    pub(super) async fn run(self, stop: CancellationToken) {
        let sweeps = async {
            let mut last_closed = None;
            loop {
                sleep(self.interval).await;
                self.sweep(&mut last_closed).await;
            }
        };
        stop.run_until_cancelled(sweeps).await;
    }

    async fn sweep(&self, last_closed: &mut Option<TenantId>) {
        let mut tenants = self.stores.open_tenants();
        let closed = self.closed(&tenants, *last_closed);
        *last_closed = closed.last().copied();
        tenants.extend(closed);
        let unrung = self.of_each(&tenants, |tenant| self.unrung(tenant)).await;
        let unrung: HashMap<_, _> = unrung.into_iter().collect();
        if unrung.values().any(|places| !places.is_empty()) {
            sleep(RING_MAX).await;
        }
        let look = |tenant| self.look_at(tenant, unrung.get(&tenant).map_or(&[], Vec::as_slice));
        self.of_each(&tenants, look).await;
    }

    /// What `ask` answers for each tenant, some at a time; those whose stores do not are left out.
    async fn of_each<'a, T, F>(
        &self,
        tenants: &[TenantId],
        ask: impl Fn(TenantId) -> F,
    ) -> Vec<(TenantId, T)>
    where
        F: Future<Output = Result<T, Unavailable>> + 'a,
    {
        let ask = |tenant: &TenantId| {
            let (tenant, answer) = (*tenant, timeout(LOOK_MAX, ask(*tenant)));
            async move {
                let late = |late| Unavailable::because("the tenant's store", late);
                match answer.await.map_err(late).flatten() {
                    Ok(answer) => Some((tenant, answer)),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(%tenant, error, "the sweep cannot look at the ledger");
                        None
                    }
                }
            }
        };
        let asking = stream::iter(tenants.iter().map(ask)).buffer_unordered(AT_A_TIME);
        asking.filter_map(std::future::ready).collect().await
    }

    /// The next tenants whose stores are closed; none when all had their turn.
    fn closed(&self, open: &[TenantId], last: Option<TenantId>) -> Vec<TenantId> {
        let open: HashSet<_> = open.iter().collect();
        let all = self.directory.all();
        let ready = all.iter().filter(|tenant| tenant.ready);
        let mut closed: Vec<_> = ready
            .map(|tenant| tenant.id)
            .filter(|id| !open.contains(id) && last.is_none_or(|last| *id > last))
            .collect();
        closed.sort_unstable();
        closed.truncate(CLOSED_MAX);
        closed
    }

    /// The subscribers that rest although there is more in the store, and where.
    async fn unrung(&self, tenant: TenantId) -> Result<Vec<Unrung>, Unavailable> {
        if tenant == TenantId::LANDLORD {
            // No subscriber follows it.
            return Ok(vec![]);
        }
        let store = self.stores.open(tenant).await?;
        let resting = self.lines.iter().filter_map(|line| {
            let checkpoint = line.resting_at(tenant)?;
            Some((Arc::clone(line), checkpoint))
        });
        let resting: Vec<_> = resting.collect();
        let Some(first) = resting.iter().map(|(_, checkpoint)| *checkpoint).min() else {
            return Ok(vec![]);
        };
        let more = store.ledger.read(first, 1).await?;
        let is_behind = |(_, checkpoint): &Unrung| !more.is_empty() && *checkpoint == first;
        Ok(resting.into_iter().filter(is_behind).collect())
    }

    /// Brings the head in memory up to date, and rings for those who still rest where they were.
    async fn look_at(&self, tenant: TenantId, unrung: &[Unrung]) -> Result<(), Unavailable> {
        // Before the look, which rings for what it finds.
        let missed: Vec<_> = unrung
            .iter()
            .filter(|(line, checkpoint)| line.resting_at(tenant) == Some(*checkpoint))
            .collect();
        let store = self.stores.open(tenant).await?;
        store.ledger.heard(0).await?;
        for (line, _) in missed {
            counter!("subscriber_sweep_finds_total", "subscriber" => line.subscriber.name())
                .increment(1);
            line.rung(tenant, store.ledger.head().position);
        }
        Ok(())
    }
}

/// A subscriber, and where it rests in a tenant's ledger.
type Unrung = (Arc<Line>, Position);

impl Line {
    /// Where this subscriber rests in a tenant's ledger, if it does.
    fn resting_at(&self, tenant: TenantId) -> Option<Position> {
        let progress = self.follower(tenant).progress();
        progress
            .checkpoint
            .filter(|_| progress.state == FollowerState::Idle)
    }
}
