//! The doorbell: after a commit, the ledger's writer rings (tenant, position), and whoever
//! follows the ledgers wakes up. Nobody polls.
//!
//! A ring is a hint, the subscriber's checkpoint is the truth. Rings are coalesced by tenant, so
//! a slow listener holds at most one entry a tenant and never misses one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use domain::ids::{Position, TenantId};
use tokio::sync::Notify;

/// Where writers ring. Cloning gives another handle to the same bell.
#[derive(Clone, Default)]
pub struct Doorbell {
    mailboxes: Arc<Mutex<Vec<Arc<Shared>>>>,
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
    /// Tells every listener that the tenant's ledger has reached `position`.
    pub fn ring(&self, tenant: TenantId, position: Position) {
        self.ring_if(tenant, position, |_| true);
    }

    /// The same for every listener but one: who passes on what it has heard elsewhere does not
    /// hear itself.
    pub fn ring_others(&self, but: &Mailbox, tenant: TenantId, position: Position) {
        self.ring_if(tenant, position, |it| !Arc::ptr_eq(it, &but.shared));
    }

    fn ring_if(&self, tenant: TenantId, position: Position, hears: impl Fn(&Arc<Shared>) -> bool) {
        let mailboxes = self
            .mailboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for mailbox in mailboxes.iter().filter(|it| hears(it)) {
            let mut rung = mailbox.rung.lock().unwrap_or_else(PoisonError::into_inner);
            let newest = rung.entry(tenant).or_default();
            *newest = position.max(*newest);
            drop(rung);
            mailbox.wake.notify_one();
        }
    }

    /// A new listener, which hears every ring from now on.
    pub fn listen(&self) -> Mailbox {
        let shared = Arc::<Shared>::default();
        self.mailboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&shared));
        Mailbox { shared }
    }
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
