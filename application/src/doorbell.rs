//! The doorbell: after a commit, the ledger's writer rings (tenant, position), and whoever
//! follows the ledgers wakes up. Nobody polls.
//!
//! A ring is a hint, the subscriber's checkpoint is the truth. Rings are coalesced by tenant, so
//! a slow listener holds at most one entry a tenant and never misses one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use domain::ids::{Position, TenantId};
use tokio::sync::Notify;

/// Where writers ring. Cloning gives another handle to the same bell.
#[derive(Clone, Default)]
pub struct Doorbell {
    mailboxes: Arc<Mutex<Vec<Listening>>>,
}

/// A listener, until its mailbox is dropped.
struct Listening {
    shared: Weak<Shared>,
    reach: Reach,
    /// The one tenant that it wants to hear of; all, if `None`.
    only: Option<TenantId>,
}

/// What a listener wants to hear.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Whatever has happened.
    Everything,
    /// What has happened on this node, to tell it to the others.
    ThisNode,
}

/// One listener's own set of tenants that were rung for since it last looked.
pub struct Mailbox {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    rung: Mutex<HashMap<TenantId, Position>>,
    wake: Notify,
}

impl Doorbell {
    /// This node has moved the tenant's ledger to `position`: every listener hears it.
    pub fn ring(&self, tenant: TenantId, position: Position) {
        self.ring_for(tenant, position, |_| true);
    }

    /// Another node has: who would only tell the others does not hear it.
    pub fn ring_here(&self, tenant: TenantId, position: Position) {
        self.ring_for(tenant, position, |reach| reach == Reach::Everything);
    }

    fn ring_for(&self, tenant: TenantId, position: Position, hears: impl Fn(Reach) -> bool) {
        let mut mailboxes = self
            .mailboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        mailboxes.retain(|listening| {
            let Some(mailbox) = listening.shared.upgrade() else {
                return false;
            };
            let of_interest = listening.only.is_none_or(|only| only == tenant);
            if of_interest && hears(listening.reach) {
                mailbox.put(tenant, position);
            }
            true
        });
    }

    /// A new listener, which hears every ring from now on.
    pub fn listen(&self) -> Mailbox {
        self.add(Reach::Everything, None)
    }

    /// A new listener, which hears every ring for this tenant from now on.
    pub fn listen_for(&self, tenant: TenantId) -> Mailbox {
        self.add(Reach::Everything, Some(tenant))
    }

    /// A new listener that tells the other nodes what this one rings.
    pub fn relay(&self) -> Mailbox {
        self.add(Reach::ThisNode, None)
    }

    fn add(&self, reach: Reach, only: Option<TenantId>) -> Mailbox {
        let shared = Arc::<Shared>::default();
        let listening = Listening {
            shared: Arc::downgrade(&shared),
            reach,
            only,
        };
        self.mailboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(listening);
        Mailbox { shared }
    }
}

impl Shared {
    fn put(&self, tenant: TenantId, position: Position) {
        let mut rung = self.rung.lock().unwrap_or_else(PoisonError::into_inner);
        gather(&mut rung, tenant, position);
        drop(rung);
        self.wake.notify_one();
    }
}

/// Adds a ring to those that wait: the newest position counts, but 0 is a word of its own. It says
/// that nobody knows how far the ledger is, and whoever hears it looks.
pub fn gather(rung: &mut HashMap<TenantId, Position>, tenant: TenantId, position: Position) {
    let newest = rung.entry(tenant).or_insert(position);
    *newest = match (*newest, position) {
        (0, _) | (_, 0) => 0,
        (before, position) => before.max(position),
    };
}

impl Mailbox {
    /// Waits for a ring; the tenants rung for since the last call, with their newest positions.
    pub async fn next(&self) -> HashMap<TenantId, Position> {
        loop {
            let rung = std::mem::take(
                &mut *self
                    .shared
                    .rung
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner),
            );
            if !rung.is_empty() {
                return rung;
            }
            self.shared.wake.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_rings_that_wait_the_newest_counts_unless_one_says_that_nobody_knows() {
        let doorbell = Doorbell::default();
        let mailbox = doorbell.listen();
        let tenants = [1, 2, 3].map(|id| TenantId::new(uuid::Uuid::from_u128(id)));
        let rings = [[4, 7, 5], [0, 7, 5], [4, 7, 0]];
        for (tenant, rings) in tenants.into_iter().zip(rings) {
            for position in rings {
                doorbell.ring(tenant, position);
            }
        }
        let rung = mailbox.next().await;
        assert_eq!(tenants.map(|tenant| rung[&tenant]), [7, 0, 0]);
    }
}
