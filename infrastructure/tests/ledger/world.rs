//! Ledgers under test, and short words for what goes into them.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use application::doorbell::Doorbell;
use application::ports::usage::Reconciliation;
use application::ports::{
    Append, AppendError, Appended, Clock, HistoryFilter, IdempotencyRecord, Ledger, Random,
    StoredEvent, StreamAppend,
};
use chrono::{DateTime, TimeDelta, Utc};
use domain::card::{CardEvent, Holder, Status};
use domain::catalogue::Catalogue;
use domain::chain::Hash;
use domain::event::{AggregateKind, Event};
use domain::ids::{CardId, CardNumber, Position, TenantId, Version};
use domain::subscription::{Attribution, SubscriptionEvent};
use domain::text::{HolderName, Tier};
use infrastructure::clock::SystemRandom;
use infrastructure::database::Database;
use infrastructure::ledger::sqlite::{MIGRATOR, SqliteLedger};
use infrastructure::projections::cards::LiveCards;
use sqlx::Executor;
use tempfile::TempDir;

/// How many appends may wait for a ledger under test.
pub const WAITING_MAX: usize = 2_048;

/// Counters that say what is not so.
pub const MISCOUNT: &str = "update head set issued = 0, active = 300, revoked = revoked + 7";

/// A store that keeps one tenant's ledger and survives its closing.
pub trait LedgerUnderTest: Send + Sync + Sized {
    /// An empty ledger.
    fn start() -> impl Future<Output = Self> + Send;
    /// The ledger, open.
    fn ledger(&self) -> Arc<dyn Ledger>;
    /// Closes the ledger and opens it again, as after a restart.
    fn reopen(&mut self) -> impl Future<Output = ()> + Send;
    /// Keeps the ledger from committing until the answer is dropped.
    fn hold(&self) -> impl Future<Output = Box<dyn Held + '_>> + Send;
    /// Adds cards that there are not to the stored counters, behind the ledger's back.
    fn miscount(&self) -> impl Future<Output = ()> + Send;
    /// Puts a recount in place of the counters.
    fn reconcile(
        &self,
        wanted: Reconciliation,
    ) -> impl Future<Output = Result<Appended, AppendError>> + Send;
    /// Whose ledger it is.
    fn tenant(&self) -> TenantId;
    /// The time it goes by.
    fn clock(&self) -> &TestClock;
    /// Where it rings.
    fn doorbell(&self) -> &Doorbell;
}

/// A SQLite file in a directory of its own.
pub struct SqliteUnderTest {
    pub directory: TempDir,
    pub database: Arc<Database>,
    pub clock: Arc<TestClock>,
    ledger: Arc<SqliteLedger>,
    tenant: TenantId,
    doorbell: Doorbell,
}

impl SqliteUnderTest {
    /// A second ledger on the same database, as another node would have.
    pub async fn another_node(&self) -> Arc<dyn Ledger> {
        let database = Arc::clone(&self.database);
        open_ledger(self.tenant, database, &self.clock, &self.doorbell).await
    }

    /// The table of cards that its appends take along.
    pub fn cards(&self) -> Arc<LiveCards> {
        self.ledger.cards()
    }
}

async fn open_database(directory: &TempDir) -> Arc<Database> {
    let path = directory.path().join("tenant.db");
    Arc::new(Database::open(&path, &MIGRATOR).await.expect("a database"))
}

async fn open_ledger(
    tenant: TenantId,
    database: Arc<Database>,
    clock: &Arc<TestClock>,
    doorbell: &Doorbell,
) -> Arc<SqliteLedger> {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    let ledger = SqliteLedger::open(tenant, database, clock, doorbell.clone(), WAITING_MAX).await;
    Arc::new(ledger.expect("a ledger"))
}

impl LedgerUnderTest for SqliteUnderTest {
    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let database = open_database(&directory).await;
        let (clock, doorbell) = (Arc::<TestClock>::default(), Doorbell::default());
        let tenant = TenantId::new(SystemRandom.id());
        let ledger = open_ledger(tenant, Arc::clone(&database), &clock, &doorbell).await;
        Self {
            directory,
            database,
            clock,
            ledger,
            tenant,
            doorbell,
        }
    }

    fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::clone(&self.ledger) as Arc<dyn Ledger>
    }

    async fn reopen(&mut self) {
        self.ledger.close().await;
        self.database.close().await.expect("closed");
        self.database = open_database(&self.directory).await;
        let database = Arc::clone(&self.database);
        self.ledger = open_ledger(self.tenant, database, &self.clock, &self.doorbell).await;
    }

    async fn hold(&self) -> Box<dyn Held + '_> {
        Box::new(self.database.writer().await.expect("the writer"))
    }

    async fn miscount(&self) {
        let mut writer = self.database.writer().await.expect("the writer");
        writer.execute(MISCOUNT).await.expect("miscounted");
    }

    async fn reconcile(&self, wanted: Reconciliation) -> Result<Appended, AppendError> {
        self.ledger.reconcile(wanted).await
    }

    fn tenant(&self) -> TenantId {
        self.tenant
    }

    fn clock(&self) -> &TestClock {
        &self.clock
    }

    fn doorbell(&self) -> &Doorbell {
        &self.doorbell
    }
}

/// Whatever is held.
pub trait Held: Send {}

impl<T: Send> Held for T {}

/// A clock that stands until it is moved, or fails when told to.
pub struct TestClock {
    micros: AtomicI64,
    broken: AtomicBool,
}

impl Default for TestClock {
    fn default() -> Self {
        Self {
            micros: AtomicI64::new(1_767_225_600_000_000),
            broken: AtomicBool::new(false),
        }
    }
}

impl TestClock {
    pub fn advance(&self, by: TimeDelta) {
        let micros = by.num_microseconds().expect("a span");
        self.micros.fetch_add(micros, Ordering::SeqCst);
    }

    pub fn breaks(&self, broken: bool) {
        self.broken.store(broken, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        assert!(!self.broken.load(Ordering::SeqCst), "the clock is broken");
        let micros = self.micros.load(Ordering::SeqCst);
        DateTime::from_timestamp_micros(micros).expect("a time")
    }
}

pub fn at() -> DateTime<Utc> {
    TestClock::default().now()
}

pub fn new_id() -> CardId {
    CardId::new(SystemRandom.id())
}

pub fn issued() -> CardEvent {
    CardEvent::CardIssued {
        number: CardNumber::from_serial(1),
        holder: Holder {
            name: HolderName::try_from("Ada Lovelace".to_owned()).expect("a name"),
            email: None,
        },
        external_ref: None,
        tier: Tier::default(),
        expires_at: None,
        replaces: None,
        at: at(),
    }
}

pub fn card(id: CardId, expected: Version, events: Vec<CardEvent>) -> StreamAppend {
    StreamAppend {
        kind: AggregateKind::Card,
        id: id.to_string(),
        expected,
        events: events.into_iter().map(Event::Card).collect(),
        metadata: r#"{"actor":"test"}"#.to_owned(),
    }
}

pub fn append(streams: Vec<StreamAppend>) -> Append {
    Append {
        streams,
        idempotency: None,
    }
}

/// Issues a new card.
pub fn issue() -> Append {
    append(vec![card(new_id(), 0, vec![issued()])])
}

/// The same, under an idempotency key.
pub fn issue_under(key: &str, fingerprint: u8) -> Append {
    Append {
        idempotency: Some(IdempotencyRecord {
            key: key.to_owned(),
            fingerprint: [fingerprint; 32],
            outcome: format!("\"{key} {fingerprint}\""),
        }),
        ..issue()
    }
}

/// Replaces a card that is `from` by a new one.
pub fn replace(old: CardId, version: Version, from: Status) -> Append {
    let by = new_id();
    let gone = CardEvent::CardReplaced { from, by, at: at() };
    append(vec![
        card(old, version, vec![gone]),
        card(by, 0, vec![issued()]),
    ])
}

pub fn subscription(tenant: TenantId, expected: Version, events: Vec<SubscriptionEvent>) -> Append {
    append(vec![StreamAppend {
        kind: AggregateKind::Subscription,
        id: tenant.to_string(),
        expected,
        events: events.into_iter().map(Event::Subscription).collect(),
        metadata: "{}".to_owned(),
    }])
}

pub fn started(plan: &str) -> SubscriptionEvent {
    let plan = Catalogue::standard().plan(plan).expect("a plan").clone();
    SubscriptionEvent::SubscriptionStarted {
        plan,
        attribution: Attribution::default(),
        at: at(),
    }
}

/// A ledger whose subscription has started on a plan.
pub async fn on_plan<L: LedgerUnderTest>(plan: &str) -> L {
    let world = L::start().await;
    let start = subscription(world.tenant(), 0, vec![started(plan)]);
    let position = committed(world.ledger().append(start).await);
    assert_eq!(position, 1);
    world
}

#[track_caller]
pub fn committed(answer: Result<Appended, AppendError>) -> Position {
    match answer {
        Ok(Appended::Committed(position)) => position,
        other => panic!("{other:?}"),
    }
}

/// Everything a ledger holds, as stored.
pub async fn everything(ledger: &dyn Ledger) -> Vec<StoredEvent> {
    ledger
        .history(&HistoryFilter::default(), usize::MAX)
        .await
        .expect("the history")
}

/// What must hold of every ledger, always: positions without gaps, an unbroken chain that ends in
/// the head, counters equal to a recount, versions without gaps.
pub async fn assert_sound(ledger: &dyn Ledger) {
    let history = everything(ledger).await;
    let head = ledger.head();
    let mut hash = Hash::GENESIS;
    let mut usage = domain::usage::Usage::default();
    let mut versions = std::collections::HashMap::<_, Version>::new();
    let decoder = domain::event::Decoder::default();
    for (index, stored) in history.iter().enumerate() {
        assert_eq!(stored.position, index as Position + 1);
        hash = stored.link().hash(&hash);
        assert_eq!(stored.hash, hash, "the chain at {}", stored.position);
        let version = versions
            .entry((&stored.aggregate_type, &stored.aggregate_id))
            .or_default();
        *version += 1;
        assert_eq!(stored.sequence, *version);
        let event = decoder
            .decode_text(
                &stored.aggregate_type,
                &stored.event_type,
                &stored.event_version,
                &stored.payload,
            )
            .expect("an event");
        if let Event::Card(event) = event {
            usage.apply(&event);
        }
    }
    assert_eq!(head.position, history.len() as Position);
    assert_eq!(head.hash, hash);
    assert_eq!(head.usage, usage);
}

pub fn upgraded(from: &str, to: &str) -> SubscriptionEvent {
    let from = from.to_owned().try_into().expect("a key");
    let to = Catalogue::standard().plan(to).expect("a plan").clone();
    SubscriptionEvent::PlanUpgraded {
        from,
        to,
        attribution: Attribution::default(),
        at: at(),
    }
}
