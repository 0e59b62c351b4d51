//! A tenant's ledger: append-only events with gap-free positions, a head that counts, a chain.
//!
//! What is here and in `stored`, `writer`, `admission`, `tail`, `serials`, `recount` and
//! `restore` holds for
//! every database; an adapter (`sqlite`, `postgres`) adds only the SQL. One writer task a ledger
//! takes all appends that wait, decides them in memory in arrival order and commits them in one
//! transaction:
//!
//! ```text
//! append -> writer (queue, batch) -> Engine::commit -> admission (decide) -> SQL -> Memory::publish
//! ```
//!
//! Absent on purpose: rules. Who may have how many cards is [`domain::usage::admit`].

mod admission;
mod column;
pub(crate) mod recount;
mod restore;
mod serials;
mod stored;
mod tail;
mod writer;

pub mod postgres;
pub mod sqlite;

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use application::doorbell::Doorbell;
use application::ports::{AppendError, Appended, Clock, Head, RecordedEvent, RecordedOutcome};
use arc_swap::ArcSwap;
use cqrs_es::persist::PersistenceError;
use domain::chain::Hash;
use domain::event::{Decoder, UndecodableEvent};
use domain::ids::{Position, TenantId, Version};
use domain::subscription::TenantSubscription;
use domain::usage::Usage;

use self::admission::{Admission, Prepared, Versions};
use self::recount::{Pages, count_on};
use self::serials::{Block, Serials};
use self::tail::Tail;

/// The stored head row.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct HeadRow {
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

/// Whom a moved head is told to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ring {
    /// All nodes.
    Everybody,
    /// This node only: whoever has moved it has told the others.
    ThisNode,
}

/// Why a batch was not committed, or may not have been.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    File(#[from] std::io::Error),
    #[error(transparent)]
    Undecodable(#[from] UndecodableEvent),
    #[error("the ledger is being moved to another shard")]
    Frozen,
    #[error(transparent)]
    Repository(#[from] PersistenceError),
    #[error("the stored {0} is malformed")]
    Malformed(&'static str),
    #[error("event {0} is missing")]
    Missing(Position),
    #[error("another node has moved the head since it was read")]
    Moved,
    #[error("deciding or storing a batch has panicked")]
    Panicked,
}

/// One database's way to commit a batch: makes the transaction that [`work_through`] runs in.
trait Engine: Send + Sync + 'static {
    /// Works a batch through in one transaction.
    fn commit(
        &self,
        batch: &[Prepared],
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

/// The transaction of a batch. If it is dropped before its commit, nothing has happened.
trait Transaction: Pages {
    /// Begins; reads the head, with what was answered under those of the batch's keys that
    /// were used before, and how many events those of its aggregates have that have any.
    fn begin(
        &mut self,
        batch: &[Prepared],
    ) -> impl Future<Output = Result<Before, StoreError>> + Send;

    /// The subscription, folded.
    fn subscription(
        &mut self,
        decoder: &Decoder,
    ) -> impl Future<Output = Result<TenantSubscription, StoreError>> + Send;

    /// Stores everything that was admitted, moves the head, if it is still where it was read, and
    /// commits. An error if it is not, [`StoreError::Moved`] where that happens to sound ledgers;
    /// nothing is stored then.
    fn commit(
        self,
        from: Position,
        admitted: &Admission,
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Ends without having stored anything.
    fn rollback(self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// What a batch needs to know of what is stored.
struct Before {
    head: HeadRow,
    outcomes: HashMap<String, RecordedOutcome>,
    versions: Versions,
}

/// A batch worked through; true only once its transaction is committed.
struct Committed {
    verdicts: Vec<Result<Appended, AppendError>>,
    events: Vec<Arc<RecordedEvent>>,
    head: HeadRow,
    subscription: Arc<TenantSubscription>,
    serials: Option<Block>,
}

/// Reads what the batch needs to know, decides it, stores what was admitted.
async fn work_through<T: Transaction>(
    mut transaction: T,
    batch: &[Prepared],
    memory: &Memory,
) -> Result<Committed, StoreError> {
    let before = transaction.begin(batch).await?;
    let seen = memory.head.load_full();
    let subscription = match before.head.subscription_version == seen.subscription_version {
        true => Arc::clone(&seen.subscription),
        false => Arc::new(transaction.subscription(&memory.decoder).await?),
    };
    let from = before.head.position;
    let recount = match batch.iter().find_map(Prepared::recount) {
        Some(count) => Some(count_on(&mut transaction, count, from).await?.usage),
        None => None,
    };
    let mut admission = Admission::new(before, subscription, recount, memory.clock.now());
    let verdicts = batch
        .iter()
        .map(|append| admission.decide(append))
        .collect();
    let serials = memory
        .serials
        .wanted()
        .map(|count| admission.reserve_serials(count));
    match admission.has_changes() {
        true => transaction.commit(from, &admission).await?,
        false => transaction.rollback().await?,
    }
    Ok(Committed {
        verdicts,
        serials,
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

    /// Makes a committed state the one that this node sees, and rings if it is a later one; whether
    /// it is.
    ///
    /// Whoever is answered after this finds the state at least as new as the answer.
    fn publish(
        &self,
        head: HeadRow,
        subscription: Arc<TenantSubscription>,
        events: Vec<Arc<RecordedEvent>>,
        ring: Ring,
    ) -> bool {
        let position = head.position;
        let moved = position != self.head.load().position;
        self.tail.push(events);
        self.head.store(Arc::new(head.with(subscription)));
        match ring {
            _ if !moved => {}
            Ring::Everybody => self.doorbell.ring(self.tenant, position),
            Ring::ThisNode => self.doorbell.ring_here(self.tenant, position),
        }
        moved
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
