//! A tenant's ledger: append-only events with gap-free positions, a head that counts, a chain.
//!
//! What is here and in `writer`, `admission`, `tail` and `serials` holds for every database; an
//! adapter (`sqlite`) adds only the SQL. One writer task a ledger takes all appends that wait,
//! decides them in memory in arrival order and commits them in one transaction:
//!
//! ```text
//! append -> writer (queue, batch) -> Engine::commit -> admission (decide) -> SQL -> Memory::publish
//! ```
//!
//! Absent on purpose: rules. Who may have how many cards is [`domain::usage::admit`].

mod admission;
mod serials;
mod tail;
mod writer;

pub mod sqlite;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use application::doorbell::Doorbell;
use application::ports::{AppendError, Appended, Clock, Head, RecordedEvent, RecordedOutcome};
use arc_swap::ArcSwap;
use domain::chain::Hash;
use domain::event::{Decoder, UndecodableEvent};
use domain::ids::{Position, TenantId, Version};
use domain::subscription::TenantSubscription;
use domain::usage::Usage;

use self::admission::{Admission, Prepared, Versions};
use self::serials::{Block, Serials};
use self::tail::Tail;

/// The stored head row.
#[derive(Clone, Debug, PartialEq)]
struct HeadRow {
    position: Position,
    hash: Hash,
    usage: Usage,
    subscription_version: Version,
    card_serials_reserved: u64,
}

/// What this node knows of a ledger without asking the database.
struct Memory {
    tenant: TenantId,
    head: ArcSwap<Head>,
    tail: Tail,
    serials: Serials,
    doorbell: Doorbell,
    clock: Arc<dyn Clock>,
    decoder: Decoder,
}

/// Why a batch was not committed, or may not have been.
#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Undecodable(#[from] UndecodableEvent),
    #[error("the head has moved although it was locked")]
    HeadMoved,
    #[error("the stored {0} is malformed")]
    Malformed(&'static str),
    #[error("deciding or storing a batch has panicked")]
    Panicked,
}

/// One database's way to commit a batch: locks the head, lets [`work_through`] run, commits.
trait Engine: Send + Sync + 'static {
    /// Works a batch through in one transaction.
    fn commit(
        &self,
        batch: Vec<Prepared>,
        memory: &Memory,
    ) -> impl Future<Output = Result<Committed, StoreError>> + Send;

    /// The committed head, and the subscription folded.
    fn load(
        &self,
        decoder: &Decoder,
    ) -> impl Future<Output = Result<(HeadRow, TenantSubscription), StoreError>> + Send;

    /// A batch has failed: whatever was held for writing must not be relied on.
    fn distrust(&self);
}

/// The statements of an append, inside a transaction that is begun and ended by the [`Engine`].
trait Transaction: Send {
    /// Locks and reads the head.
    fn head(&mut self) -> impl Future<Output = Result<HeadRow, StoreError>> + Send;

    /// The subscription, folded.
    fn subscription(
        &mut self,
        decoder: &Decoder,
    ) -> impl Future<Output = Result<TenantSubscription, StoreError>> + Send;

    /// What was answered under those of the keys that were used before.
    fn outcomes(
        &mut self,
        keys: &[&str],
    ) -> impl Future<Output = Result<HashMap<String, RecordedOutcome>, StoreError>> + Send;

    /// How many events those of the aggregates have that have any.
    fn versions(
        &mut self,
        ids: &[&str],
    ) -> impl Future<Output = Result<Versions, StoreError>> + Send;

    /// Stores everything that was admitted; moves the head last, if it is still at `from`.
    fn write(
        &mut self,
        from: Position,
        admitted: &Admission,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A batch worked through; true only once its transaction is committed.
struct Committed {
    verdicts: Vec<Result<Appended, AppendError>>,
    events: Vec<Arc<RecordedEvent>>,
    head: HeadRow,
    subscription: Arc<TenantSubscription>,
    serials: Option<Block>,
    /// Whether anything was stored.
    wrote: bool,
}

/// Reads what the batch needs to know, decides it, stores what was admitted.
async fn work_through<T: Transaction>(
    transaction: &mut T,
    batch: Vec<Prepared>,
    memory: &Memory,
) -> Result<Committed, StoreError> {
    let before = transaction.head().await?;
    let seen = memory.head.load_full();
    let subscription = match before.subscription_version == seen.subscription_version {
        true => Arc::clone(&seen.subscription),
        false => Arc::new(transaction.subscription(&memory.decoder).await?),
    };
    let keys: Vec<_> = batch.iter().filter_map(Prepared::key).collect();
    let outcomes = match keys.is_empty() {
        true => HashMap::new(),
        false => transaction.outcomes(&keys).await?,
    };
    let ids: Vec<_> = batch.iter().flat_map(Prepared::ids).collect();
    let versions = match ids.is_empty() {
        true => Versions::default(),
        false => transaction.versions(&ids).await?,
    };
    drop((keys, ids));
    let from = before.position;
    let now = memory.clock.now();
    let mut admission = Admission::new(before, subscription, outcomes, versions, now);
    let verdicts = batch
        .into_iter()
        .map(|append| admission.decide(append))
        .collect();
    let serials = memory
        .serials
        .wanted()
        .map(|count| admission.reserve_serials(count));
    let wrote = admission.has_changes();
    if wrote {
        transaction.write(from, &admission).await?;
    }
    Ok(Committed {
        verdicts,
        serials,
        wrote,
        events: admission.events,
        head: admission.head,
        subscription: admission.subscription,
    })
}

impl Memory {
    fn new(
        tenant: TenantId,
        (head, subscription): (HeadRow, TenantSubscription),
        clock: Arc<dyn Clock>,
        doorbell: Doorbell,
        decoder: Decoder,
    ) -> Self {
        Self {
            tenant,
            head: ArcSwap::from_pointee(head.with(Arc::new(subscription))),
            tail: Tail::default(),
            serials: Serials::default(),
            doorbell,
            clock,
            decoder,
        }
    }

    /// Makes a committed state the one that this node sees, and rings if it is a later one.
    ///
    /// Whoever is answered after this finds the state at least as new as the answer.
    fn publish(
        &self,
        head: HeadRow,
        subscription: Arc<TenantSubscription>,
        events: Vec<Arc<RecordedEvent>>,
    ) {
        let position = head.position;
        let moved = position != self.head.load().position;
        self.tail.push(events);
        self.head.store(Arc::new(head.with(subscription)));
        if moved {
            self.doorbell.ring(self.tenant, position);
        }
    }
}

impl HeadRow {
    fn with(self, subscription: Arc<TenantSubscription>) -> Head {
        Head {
            position: self.position,
            hash: self.hash,
            usage: self.usage,
            subscription,
            subscription_version: self.subscription_version,
        }
    }
}
