//! What the landlord sees of its tenants: subscription, usage, and when each next needs attention.
//!
//! One row a tenant in the landlord's database, and the row is its own checkpoint: it is stored only
//! in the place of the very row that events were folded into, so several nodes may hand over the
//! same events. Whoever has stored it last folds on from memory. It is written replayably (see
//! [`Engine::write_replayable`]): a power loss takes the row back as a whole, position and all, and the subscriber folds again what the tenant's ledger has kept. So a hundred
//! busy tenants do not wait for a file's disk behind each other. Each handler has up to a whole
//! batch of its tenant's events, which is all the grouping that is needed.

mod agenda;
mod overview;
mod view;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use application::ports::{
    HandlerError, Ledger, RecordedEvent, Subscriber, TenantStore, Unavailable,
};
use application::subscribers::LANDLORD;
use async_trait::async_trait;
use domain::ids::{Position, TenantId};
use tokio::sync::Notify;

use self::overview::{Overview, Stored};
use crate::database::unavailable;
use crate::landlord::THE_DATABASE;
use crate::portable::Engine;

/// How many events of a tenant are read at a time when its row is built anew.
const PAGE_EVENTS: usize = 4096;
/// How many rows are remembered.
const KNOWN_MAX: usize = 1024;

/// The landlord's read models: [`Subscriber`], [`application::ports::LandlordView`] and
/// [`application::ports::agenda::Agenda`] over the same rows.
pub struct LandlordReadModel {
    database: Arc<dyn Engine>,
    /// Woken when a moment came in that is earlier than the one its tenant had.
    earlier: Notify,
    /// The moment that the agenda has last answered, in microseconds; the end of time while it
    /// looks and if it found none. Other nodes fold too, so this one must tell what is news here.
    known: AtomicI64,
    /// The rows that this node has stored last, as far as it knows.
    known_rows: Mutex<HashMap<TenantId, Stored>>,
}

impl LandlordReadModel {
    /// The read models in a database made by [`crate::landlord::open`] or
    /// [`crate::landlord::connect`].
    pub fn new(database: Arc<impl Engine + 'static>) -> Self {
        Self {
            database,
            earlier: Notify::new(),
            known: AtomicI64::new(i64::MAX),
            known_rows: Mutex::default(),
        }
    }

    /// Folds the events after the row's position into it.
    async fn fold(
        &self,
        tenant: TenantId,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        if let Some(position) = self.fold_on(tenant, events).await? {
            return Ok(position);
        }
        loop {
            let begun = overview::begin(&*self.database, tenant).await;
            let (transaction, before) = begun.map_err(failed)?;
            let before_row = before.as_ref().map(|stored| &stored.overview);
            let mut after = before_row.cloned().unwrap_or_default();
            let folded = after.fold(events);
            if folded.is_err() || before_row == Some(&after) {
                transaction.rollback().await.map_err(failed)?;
                folded?;
            } else {
                let after = after.clone();
                let stored = overview::commit(transaction, tenant, before.as_ref(), after).await;
                let Some(stored) = stored.map_err(failed)? else {
                    continue;
                };
                self.stored(tenant, before_row, stored);
            }
            let before = before_row.map_or(0, |row| row.position);
            if events.iter().any(|event| event.stored.position <= before) {
                self.announce_unknown(&after);
            }
            return Ok(after.position);
        }
    }

    /// The same in one statement, if this node has stored the row last. None if it has not: the row
    /// is to be read.
    async fn fold_on(
        &self,
        tenant: TenantId,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Option<Position>, HandlerError> {
        // Whatever becomes of the statement, only what it answers is known afterwards.
        let Some(before) = self.known().remove(&tenant) else {
            return Ok(None);
        };
        let mut after = before.overview.clone();
        // Somebody else may have stored it since: events that do not follow on this one may follow on
        // that.
        if after.fold(events).is_err() {
            return Ok(None);
        }
        let stored = match after == before.overview {
            true => Some(before.clone()),
            false => overview::replace(&*self.database, tenant, &before, after)
                .await
                .map_err(failed)?,
        };
        Ok(stored.map(|stored| self.stored(tenant, Some(&before.overview), stored)))
    }

    /// Puts a row that was folded from the first event in place of the one in use, after folding
    /// what that one has seen since.
    async fn swap(
        &self,
        tenant: TenantId,
        ledger: &dyn Ledger,
        mut anew: Overview,
    ) -> Result<Position, HandlerError> {
        loop {
            let begun = overview::begin(&*self.database, tenant).await;
            let (transaction, before) = begun.map_err(failed)?;
            let before_row = before.as_ref().map(|stored| &stored.overview);
            let reached = before_row.map_or(0, |row| row.position);
            while anew.position < reached {
                let events = ledger.read(anew.position, PAGE_EVENTS).await?;
                // The ledger is what counts, also where it ends before what was read from it: it
                // was put back from a backup.
                if events.is_empty() {
                    break;
                }
                anew.fold(&events)?;
            }
            let after = anew.clone();
            let stored = overview::commit(transaction, tenant, before.as_ref(), after).await;
            if let Some(stored) = stored.map_err(failed)? {
                return Ok(self.stored(tenant, before_row, stored));
            }
        }
    }

    /// A row was stored: remembers it, and wakes who waits for an earlier moment; up to where it
    /// has the ledger.
    fn stored(&self, tenant: TenantId, before: Option<&Overview>, stored: Stored) -> Position {
        self.announce(before, &stored.overview);
        let position = stored.overview.position;
        let mut known = self.known();
        if known.len() >= KNOWN_MAX
            && let Some(any) = known.keys().next().copied()
        {
            // It can be read again.
            known.remove(&any);
        }
        known.insert(tenant, stored);
        position
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TenantId, Stored>> {
        self.known_rows
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn announce(&self, before: Option<&Overview>, after: &Overview) {
        let earlier = match (before.and_then(|row| row.next_due_at), after.next_due_at) {
            (_, None) => false,
            (None, Some(_)) => true,
            (Some(before), Some(after)) => after < before,
        };
        if earlier {
            self.earlier.notify_one();
        }
    }

    /// Another node has folded some of the events: its agenda was told, this one's was not.
    fn announce_unknown(&self, row: &Overview) {
        let known = self.known.load(Ordering::SeqCst);
        if row.next_due_at.is_some_and(|due| due < known) {
            self.earlier.notify_one();
        }
    }
}

#[async_trait]
impl Subscriber for LandlordReadModel {
    fn name(&self) -> &'static str {
        LANDLORD
    }

    async fn checkpoint(&self, tenant: &TenantStore) -> Result<Position, Unavailable> {
        overview::position(&*self.database, tenant.tenant)
            .await
            .map_err(unavailable(THE_DATABASE))
    }

    async fn handle(
        &self,
        tenant: &TenantStore,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        self.fold(tenant.tenant, events).await
    }

    async fn rebuild(
        &self,
        tenant: &TenantStore,
        progress: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<Position, HandlerError> {
        let ledger = tenant.ledger.as_ref();
        let mut anew = Overview::default();
        loop {
            let events = ledger.read(anew.position, PAGE_EVENTS).await?;
            if events.is_empty() {
                let position = self.swap(tenant.tenant, ledger, anew).await?;
                progress(position);
                return Ok(position);
            }
            anew.fold(&events)?;
            progress(anew.position);
        }
    }
}

fn failed(error: sqlx::Error) -> HandlerError {
    unavailable(THE_DATABASE)(error).into()
}
