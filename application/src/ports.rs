//! Every door of the application to the outside, in one file and those below it. The adapters are
//! in the `infrastructure` crate; which one stands behind a port is chosen in `api/src/wiring.rs`.
//!
//! Ports are traits only where a second implementation exists or a test could not exist
//! otherwise; what is merely data is a struct beside them.

pub mod agenda;
pub mod checkpoints;
pub mod moves;
pub mod restore;
pub mod shards;
mod subscriber;
pub mod usage;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use cqrs_es::persist::SerializedEvent;
use domain::chain::{Hash, Link};
use domain::event::{AggregateKind, Event};
use domain::ids::{CardId, KeyId, Position, TenantId, Version};
use domain::subscription::TenantSubscription;
use domain::usage::{AdmissionRefusal, Usage};
use uuid::Uuid;

use self::checkpoints::Checkpoints;
use self::restore::{OutcomePage, RestoreError, RestoringStore, StoredOutcome};
pub use self::subscriber::{HandlerError, Subscriber};
use crate::cards::{Card, CardFilter, CardPage, DueCard};
use crate::keys::ApiKey;
use crate::shards::Shard;
use crate::tenants::{Tenant, TenantFilter, TenantOverview, TenantPage};

/// A dependency (a database, a full queue, a read model that is behind) could not answer.
/// Asking again later may help.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Unavailable {
    /// What could not be had, for people: `the tenant's store`.
    pub what: &'static str,
    /// Why.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Unavailable {
    /// `what` could not be had because of `source`.
    pub fn because(
        what: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self {
            what,
            source: Some(source.into()),
        }
    }

    /// `what` could not be had.
    pub const fn new(what: &'static str) -> Self {
        Self { what, source: None }
    }
}

// --- time and chance -----------------------------------------------------------------------

/// The time.
pub trait Clock: Send + Sync {
    /// Now, to the microsecond (what the stores keep).
    fn now(&self) -> DateTime<Utc>;
}

/// Chance.
pub trait Random: Send + Sync {
    /// A new UUID, version 7: unique, and later ones sort after earlier ones.
    fn id(&self) -> Uuid;
    /// 32 bytes that nobody can guess.
    fn secret(&self) -> [u8; 32];
}

// --- a tenant's own store ------------------------------------------------------------------

/// Finds and makes tenants' stores.
#[async_trait]
pub trait TenantStores: Send + Sync {
    /// The store of a tenant that exists. Open stores are kept, up to a bound. Its head is never
    /// without the ledger's first event, if that was there before the call.
    async fn open(&self, tenant: TenantId) -> Result<Arc<TenantStore>, Unavailable>;
    /// Makes a tenant's store; one that is there already is left as it is.
    async fn create(&self, tenant: TenantId) -> Result<(), Unavailable>;
    /// Begins to make the store of a tenant, who has none, out of a history from elsewhere.
    async fn restore(&self, tenant: &Tenant) -> Result<Box<dyn RestoringStore>, RestoreError>;
    /// The tenants whose stores are open.
    fn open_tenants(&self) -> Vec<TenantId>;
}

/// A tenant's store, open.
pub struct TenantStore {
    /// Whose.
    pub tenant: TenantId,
    /// What happened.
    pub ledger: Arc<dyn Ledger>,
    /// The read model of the cards.
    pub cards: Arc<dyn CardsView>,
    /// How far subscribers are whose effect is elsewhere.
    pub checkpoints: Arc<dyn Checkpoints>,
}

/// A tenant's append-only history, with its counters.
#[async_trait]
pub trait Ledger: Send + Sync {
    /// The newest state that this node has seen. In memory: no I/O, no lock held.
    fn head(&self) -> Arc<Head>;

    /// Somebody says that the ledger has reached `position` (0: that it may have moved): brings
    /// [`Self::head`] up to date, if another node has moved it.
    async fn heard(&self, position: Position) -> Result<(), Unavailable>;

    /// Adds events, all or none of them, and counts them.
    ///
    /// The append belongs to the ledger once it is queued: dropping the returned future neither
    /// stops nor doubles it. Appends without events only record their idempotency outcome.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; nothing was added then, except that after
    /// [`AppendError::Unavailable`] it may have been (ask again with the same idempotency key).
    async fn append(&self, append: Append) -> Result<Appended, AppendError>;

    /// An aggregate's events, oldest first; none if it does not exist.
    async fn load(
        &self,
        kind: AggregateKind,
        id: &str,
    ) -> Result<Vec<SerializedEvent>, Unavailable>;

    /// What was answered under an idempotency key before.
    async fn outcome(&self, key: &str) -> Result<Option<RecordedOutcome>, Unavailable>;

    /// A serial for [`domain::ids::CardNumber`] that was never handed out before for this
    /// tenant, on any node.
    async fn next_card_serial(&self) -> Result<u64, Unavailable>;

    /// Up to `limit` events after a position, in ledger order, decoded.
    async fn read(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Arc<RecordedEvent>>, Unavailable>;

    /// Up to `limit` stored events that match, in ledger order, byte for byte as stored.
    async fn history(
        &self,
        filter: &HistoryFilter,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, Unavailable>;

    /// Up to `limit` outcomes as stored: the first ones, or those from where `next` of the page
    /// before says. Those of events that were there before the first page are all found.
    async fn outcomes(&self, from: Option<&str>, limit: usize) -> Result<OutcomePage, Unavailable>;

    /// How many serials were ever reserved for [`Self::next_card_serial`], by any node.
    async fn card_serials_reserved(&self) -> Result<u64, Unavailable>;
}

/// The state of a ledger at its newest position.
#[derive(Clone, Debug)]
pub struct Head {
    /// The position of the last event; 0 if there is none.
    pub position: Position,
    /// The hash of the last event.
    pub hash: Hash,
    /// The cards by status.
    pub usage: Usage,
    /// The subscription, folded.
    pub subscription: Arc<TenantSubscription>,
    /// How many events the subscription has.
    pub subscription_version: Version,
}

/// Events to add, in one transaction.
#[derive(Clone, Debug, Default)]
pub struct Append {
    /// The events, by stream; a stream at most once.
    pub streams: Vec<StreamAppend>,
    /// What to answer if the same request comes again.
    pub idempotency: Option<IdempotencyRecord>,
}

/// New events of one aggregate.
#[derive(Clone, Debug)]
pub struct StreamAppend {
    /// What kind of aggregate.
    pub kind: AggregateKind,
    /// Which.
    pub id: String,
    /// How many events it has; the append is refused if it has another number of them.
    pub expected: Version,
    /// What happened; may be empty.
    pub events: Vec<Event>,
    /// Who, why and on whose request: JSON, the exact text to store with each event.
    pub metadata: String,
}

/// What a request was, and what to answer when it comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdempotencyRecord {
    /// The client's key, with the name space of who asked.
    pub key: String,
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
    /// What was answered, or which card as of which version: JSON.
    pub outcome: String,
}

/// What was answered before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedOutcome {
    /// SHA-256 of the request.
    pub fingerprint: [u8; 32],
    /// What was answered, or which card as of which version: JSON.
    pub outcome: String,
    /// The ledger's position after it.
    pub position: Position,
}

/// What became of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// The events are durable; this is the position of the last one (or of the head, if the
    /// append had none).
    Committed(Position),
    /// The idempotency key was used before for the same request; nothing was added.
    Replayed(RecordedOutcome),
}

/// Why an append was not done.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// A stream has another number of events than expected.
    #[error("the aggregate has changed meanwhile")]
    VersionConflict,
    /// The quota or the subscription does not allow it.
    #[error(transparent)]
    NotAdmitted(AdmissionRefusal),
    /// The idempotency key was used before for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The writer's queue is full.
    #[error("the ledger's queue is full")]
    Busy,
    /// The store did not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// An event as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the ledger.
    pub position: Position,
    /// The kind of its aggregate.
    pub aggregate_type: String,
    /// Its aggregate.
    pub aggregate_id: String,
    /// Its place among its aggregate's events, from 1.
    pub sequence: Version,
    /// Its name.
    pub event_type: String,
    /// The version of its shape.
    pub event_version: String,
    /// Its content: JSON.
    pub payload: String,
    /// Who, why and on whose request: JSON.
    pub metadata: String,
    /// When it was recorded.
    pub recorded_at: DateTime<Utc>,
    /// Its link in the chain.
    pub hash: Hash,
}

impl StoredEvent {
    /// What its hash covers.
    pub fn link(&self) -> Link<'_> {
        Link {
            position: self.position,
            aggregate_type: &self.aggregate_type,
            aggregate_id: &self.aggregate_id,
            sequence: self.sequence,
            event_type: &self.event_type,
            event_version: &self.event_version,
            payload: &self.payload,
            metadata: &self.metadata,
            recorded_at_micros: self.recorded_at.timestamp_micros(),
        }
    }
}

/// An event as stored, and what it says.
#[derive(Clone, Debug, PartialEq)]
pub struct RecordedEvent {
    /// As stored.
    pub stored: StoredEvent,
    /// Decoded, in its newest shape.
    pub event: Event,
}

/// Which events an auditor asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HistoryFilter {
    /// Only events after this position.
    pub after: Position,
    /// Only events of this name.
    pub event_type: Option<String>,
    /// Only events of aggregates of this kind.
    pub kind: Option<AggregateKind>,
    /// Only events of this aggregate.
    pub aggregate_id: Option<String>,
    /// Only events recorded at or after this time.
    pub from: Option<DateTime<Utc>>,
    /// Only events recorded before this time.
    pub to: Option<DateTime<Utc>>,
}

/// The read model of a tenant's cards.
#[async_trait]
pub trait CardsView: Send + Sync {
    /// One card.
    async fn get(&self, id: CardId) -> Result<Option<Card>, Unavailable>;
    /// The cards that match, a page of them.
    async fn list(&self, filter: &CardFilter) -> Result<CardPage, Unavailable>;
    /// Up to `limit` cards in circulation whose time was over by `now`, the longest overdue first.
    async fn due(&self, now: DateTime<Utc>, limit: usize) -> Result<Vec<DueCard>, Unavailable>;
    /// When the next card in circulation is due to expire.
    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, Unavailable>;
}

// --- the landlord's database ---------------------------------------------------------------

/// The landlord's own records: tenants and API keys.
///
/// All of it is small and is kept in memory too (see `tenants.rs` and `keys.rs`), so that
/// tenants' requests do not need this database. Where it has several nodes, each is told of every
/// change that is committed (see `news.rs`).
#[async_trait]
pub trait Landlord: Send + Sync {
    /// Every tenant.
    async fn tenants(&self) -> Result<Vec<Tenant>, Unavailable>;
    /// One tenant.
    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, Unavailable>;
    /// Records a tenant that is being provisioned, its first key, and the outcome to answer
    /// again, all or none of them.
    async fn add_tenant(
        &self,
        tenant: &Tenant,
        key: &ApiKey,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError>;
    /// Records that a tenant's store is ready.
    async fn mark_ready(&self, tenant: TenantId) -> Result<(), Unavailable>;

    /// Every shard; none on the embedded store.
    async fn shards(&self) -> Result<Vec<Shard>, Unavailable>;
    /// Records a shard and the outcome to answer again. One that is recorded as the same already
    /// is left as it is.
    ///
    /// # Errors
    ///
    /// [`LandlordError::ShardExists`] if there is another of its name.
    async fn add_shard(
        &self,
        shard: &Shard,
        at: DateTime<Utc>,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError>;
    /// Records whether a shard is open, and the outcome to answer again.
    async fn change_shard(
        &self,
        shard: &Shard,
        at: DateTime<Utc>,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError>;

    /// Every API key that is not revoked, of landlord staff and tenants alike.
    async fn keys(&self) -> Result<Vec<ApiKey>, Unavailable>;
    /// One API key, if it is not revoked.
    async fn key(&self, id: KeyId) -> Result<Option<ApiKey>, Unavailable>;
    /// Records a key and the outcome to answer again.
    async fn add_key(
        &self,
        key: &ApiKey,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError>;
    /// Revokes a key; `false` if there is no such key in force.
    async fn revoke_key(&self, id: KeyId, at: DateTime<Utc>) -> Result<bool, Unavailable>;

    /// What was answered under an idempotency key before.
    async fn outcome(&self, key: &str) -> Result<Option<RecordedOutcome>, Unavailable>;

    /// Up to `limit` answers as stored, in the order of their idempotency keys: those after
    /// `after` and, if it is given, before `before`.
    async fn answers(
        &self,
        after: &str,
        before: Option<&str>,
        limit: usize,
    ) -> Result<Vec<StoredOutcome>, Unavailable>;
    /// Records a tenant from elsewhere, keys and answers, all or none of them. Keys and answers
    /// that are there already, also revoked ones, stay as they are.
    ///
    /// # Errors
    ///
    /// [`LandlordError::SlugTaken`] if a tenant with this id or slug is there.
    async fn restore(
        &self,
        tenant: Option<&Tenant>,
        keys: &[ApiKey],
        answers: &[StoredOutcome],
    ) -> Result<(), LandlordError>;
}

/// What became of a record for the landlord.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is durable.
    New,
    /// The idempotency key was used before for the same request; nothing was recorded.
    Replayed(RecordedOutcome),
}

/// Why the landlord's record was not made.
#[derive(Debug, thiserror::Error)]
pub enum LandlordError {
    /// Another tenant has this slug.
    #[error("the slug is taken")]
    SlugTaken,
    /// Another shard has this name.
    #[error("there is another shard of this name")]
    ShardExists,
    /// The idempotency key was used before for another request.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// The database did not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

/// The landlord's read models: usage and entitlements of each tenant, kept by a subscriber.
#[async_trait]
pub trait LandlordView: Send + Sync {
    /// One tenant.
    async fn tenant(&self, id: TenantId) -> Result<Option<TenantOverview>, Unavailable>;
    /// The tenants that match, a page of them.
    async fn list(&self, filter: &TenantFilter) -> Result<TenantPage, Unavailable>;
}
