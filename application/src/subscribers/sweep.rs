//! The safety sweep: a slow look at the ledgers themselves, for what happened without a ring.
//!
//! A node that was cut off and killed has told nobody of its last events, so what this node
//! remembers of a ledger cannot be trusted here: its store is asked. Tenants whose stores are open
//! are looked at every time, the others a few at a time, in turn.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use domain::ids::{Position, TenantId};
use futures::stream::{self, StreamExt};
use metrics::counter;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{FollowerState, Line};
use crate::ports::{TenantStore, TenantStores, Unavailable};
use crate::tenants::Directory;

/// How many ledgers are looked at at a time.
const AT_A_TIME: usize = 8;
/// How long one may take: a store that does not answer is looked at again by the next sweep.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// How many tenants whose stores are closed are looked at in one sweep.
const CLOSED_MAX: usize = 32;
/// A ring takes milliseconds; for an event that is younger it may be on its way.
const RING_MAX: TimeDelta = TimeDelta::seconds(5);

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
        stream::iter(tenants)
            .for_each_concurrent(AT_A_TIME, |tenant| async move {
                if let Err(error) = self.look_at(tenant).await {
                    let error = &error as &dyn std::error::Error;
                    tracing::warn!(%tenant, error, "the sweep cannot look at the ledger");
                }
            })
            .await;
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

    async fn look_at(&self, tenant: TenantId) -> Result<(), Unavailable> {
        if tenant == TenantId::LANDLORD {
            // It rings for what it finds, and no subscriber follows it.
            let looked = timeout(LOOK_MAX, self.store_as_it_is(tenant)).await;
            let late = |late| Unavailable::because("the landlord's ledger", late);
            return looked.map_err(late)?.map(drop);
        }
        // Before the look: it rings for what it finds.
        let progress = |line: &Arc<Line>| line.follower(tenant).progress();
        let before: Vec<_> = self.lines.iter().map(progress).collect();
        let looked = timeout(LOOK_MAX, self.store_as_it_is(tenant)).await;
        let late = |late| Unavailable::because("the tenant's store", late);
        let store = looked.map_err(late)??;
        let head = store.ledger.head().position;
        for (line, before) in self.lines.iter().zip(before) {
            let behind = before.checkpoint.is_none_or(|at| at < head);
            if before.state != FollowerState::Idle || !behind {
                continue;
            }
            if let Some(checkpoint) = before.checkpoint
                && line.was_not_rung(&store, checkpoint).await?
            {
                counter!("subscriber_sweep_finds_total", "subscriber" => line.subscriber.name())
                    .increment(1);
            }
            line.rung(tenant, head);
        }
        Ok(())
    }

    /// The tenant's store, with its head in memory as it is stored.
    async fn store_as_it_is(&self, tenant: TenantId) -> Result<Arc<TenantStore>, Unavailable> {
        let store = self.stores.open(tenant).await?;
        store.ledger.heard(0).await?;
        Ok(store)
    }
}

impl Line {
    /// Whether the event after the checkpoint is so old that its ring must have been lost.
    async fn was_not_rung(
        &self,
        store: &TenantStore,
        checkpoint: Position,
    ) -> Result<bool, Unavailable> {
        let next = store.ledger.read(checkpoint, 1).await?;
        let age = next
            .first()
            .map(|event| self.clock.now() - event.stored.recorded_at);
        Ok(age.is_some_and(|age| age > RING_MAX))
    }
}
