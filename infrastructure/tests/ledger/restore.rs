//! A ledger carried to another store, from either engine to either: exactly what it was, or
//! nothing at all.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use application::doorbell::Doorbell;
use application::ports::restore::{
    LedgerEnd, RestoreError, RestoringStore, StoredOutcome, Unsound,
};
use application::ports::{
    Append, AppendError, Appended, Clock, HistoryFilter, IdempotencyRecord, Ledger, StoredEvent,
};
use chrono::TimeDelta;
use domain::card::CardEvent;
use domain::ids::TenantId;
use infrastructure::database::{Database, Older};
use infrastructure::ledger::postgres::{self, PostgresLedger};
use infrastructure::ledger::sqlite::{self, MIGRATOR, SqliteLedger};
use infrastructure::shard::Shard;
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::cluster::Cluster;
use crate::postgres::PostgresUnderTest;
use crate::world::*;

/// Somewhere to carry a ledger to.
pub trait Destination: Sized {
    async fn new(tenant: TenantId) -> Self;
    async fn restore(&self) -> Result<Box<dyn RestoringStore>, RestoreError>;
    async fn open(&self, clock: &Arc<TestClock>) -> Arc<dyn Ledger>;
    /// The names of everything that is kept of the tenant.
    async fn kept(&self) -> Vec<String>;
}

struct Directory {
    tenant: TenantId,
    directory: TempDir,
}

impl Directory {
    fn path(&self) -> PathBuf {
        self.directory.path().join("restored.db")
    }
}

impl Destination for Directory {
    async fn new(tenant: TenantId) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { tenant, directory }
    }

    async fn restore(&self) -> Result<Box<dyn RestoringStore>, RestoreError> {
        sqlite::restore(self.tenant, self.path()).await
    }

    async fn open(&self, clock: &Arc<TestClock>) -> Arc<dyn Ledger> {
        let database = Database::open_existing(&self.path(), &MIGRATOR, Older::Migrate).await;
        let (database, clock) = (Arc::new(database.expect("a database")), Arc::clone(clock));
        let ledger = SqliteLedger::open(
            self.tenant,
            database,
            clock as Arc<dyn Clock>,
            Doorbell::default(),
            WAITING_MAX,
        );
        Arc::new(ledger.await.expect("a ledger"))
    }

    async fn kept(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).expect("listed");
        let name = |entry: std::io::Result<std::fs::DirEntry>| {
            let name = entry.expect("an entry").file_name();
            name.to_string_lossy().into_owned()
        };
        entries.map(name).collect()
    }
}

const PATIENCE: Duration = Duration::from_secs(30);

pub struct InShard {
    tenant: TenantId,
    options: PgConnectOptions,
}

impl Destination for InShard {
    /// In a database of its own, so that a shard that has the tenant can be carried from.
    async fn new(tenant: TenantId) -> Self {
        static MADE: OnceCell<()> = OnceCell::const_new();
        let cluster = Cluster::shared().options();
        MADE.get_or_init(|| async {
            let mut connection = cluster.connect().await.expect("connected");
            let made = sqlx::query("create database carried owner shards");
            made.execute(&mut connection).await.expect("made");
        })
        .await;
        let options = Cluster::shared().shard().database("carried");
        Self { tenant, options }
    }

    async fn restore(&self) -> Result<Box<dyn RestoringStore>, RestoreError> {
        postgres::restore(self.tenant, &self.options).await
    }

    async fn open(&self, clock: &Arc<TestClock>) -> Arc<dyn Ledger> {
        let shard = Shard::new(self.options.clone(), 4, PATIENCE, PATIENCE);
        let ledger = PostgresLedger::open(
            self.tenant,
            &shard,
            Arc::clone(clock) as Arc<dyn Clock>,
            Doorbell::default(),
            WAITING_MAX,
        );
        Arc::new(ledger.await.expect("a ledger"))
    }

    async fn kept(&self) -> Vec<String> {
        let schemas = "select nspname::text from pg_namespace where nspname like $1";
        let like = format!("t\\_{}%", self.tenant.to_string().replace('-', ""));
        let mut connection = self.options.connect().await.expect("connected");
        let found = sqlx::query_scalar(schemas)
            .bind(like)
            .fetch_all(&mut connection);
        found.await.expect("the schemas")
    }
}

/// Everything that is carried.
#[derive(Clone)]
pub struct Carried {
    events: Vec<StoredEvent>,
    outcomes: Vec<StoredOutcome>,
    pub end: LedgerEnd,
}

impl Carried {
    pub async fn from(ledger: &dyn Ledger) -> Self {
        let mut outcomes = Vec::new();
        let mut from = None;
        loop {
            let page = ledger.outcomes(from.as_deref(), 100).await.expect("a page");
            outcomes.extend(page.items);
            from = page.next;
            if from.is_none() {
                break;
            }
        }
        let head = ledger.head();
        let reserved = ledger.card_serials_reserved().await;
        Self {
            events: everything(ledger).await,
            outcomes,
            end: LedgerEnd {
                position: head.position,
                hash: head.hash,
                card_serials_reserved: reserved.expect("the serials"),
            },
        }
    }

    async fn carry(&self, destination: &impl Destination) -> Result<(), RestoreError> {
        let mut store = destination.restore().await?;
        match self.fill(&mut *store).await {
            Ok(()) => store.finish(&self.end).await,
            Err(error) => {
                store.discard().await;
                Err(error)
            }
        }
    }

    pub async fn fill(&self, store: &mut dyn RestoringStore) -> Result<(), RestoreError> {
        for some in self.events.chunks(300) {
            store.add_events(some).await?;
        }
        for some in self.outcomes.chunks(300) {
            store.add_outcomes(some).await?;
        }
        Ok(())
    }
}

const KEYS: usize = 600;

fn key(nth: usize) -> String {
    format!("tenant:ключ \"{nth}\"")
}

/// A tenant's ledger with all that one may hold: two kinds of aggregates, cards in several states,
/// texts that only stay what they are byte by byte, outcomes with and without events.
async fn lived_in<L: LedgerUnderTest>() -> L {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    ledger.next_card_serial().await.expect("a serial");
    for nth in 0..KEYS {
        if nth % 100 == 0 {
            world.clock().advance(TimeDelta::microseconds(1_234_567));
        }
        let mut issue = issue_under(&key(nth), 1);
        issue.streams[0].metadata =
            format!(r#"{{ "reason" : "\u00e9 é \u0001 / \/",  "n" : {nth}.50e1, "n": [ ] }}"#);
        let id = issue.streams[0].id.parse().expect("a card");
        committed(ledger.append(issue).await);
        if nth % 3 == 0 {
            let activated = CardEvent::CardActivated { at: at() };
            committed(
                ledger
                    .append(append(vec![card(id, 1, vec![activated])]))
                    .await,
            );
        }
    }
    committed(ledger.append(only_answered()).await);
    let change = subscription(world.tenant(), 1, vec![upgraded("pro", "enterprise")]);
    committed(ledger.append(change).await);
    world
}

fn only_answered() -> Append {
    Append {
        streams: vec![],
        idempotency: Some(IdempotencyRecord {
            key: "landlord:nothing".to_owned(),
            fingerprint: [9; 32],
            outcome: r#"{ "a":  1.0 }"#.to_owned(),
        }),
    }
}

fn sorted(mut outcomes: Vec<StoredOutcome>) -> Vec<StoredOutcome> {
    outcomes.sort_by(|one, other| one.key.cmp(&other.key));
    outcomes
}

async fn a_ledger_is_carried<L: LedgerUnderTest, D: Destination>() {
    let world = lived_in::<L>().await;
    let source = world.ledger();
    let carried = Carried::from(&*source).await;
    assert_eq!(carried.outcomes.len(), KEYS + 1);
    let destination = D::new(world.tenant()).await;
    carried.carry(&destination).await.expect("restored");
    assert_eq!(destination.kept().await.len(), 1);

    let clock = Arc::new(TestClock::default());
    let ledger = destination.open(&clock).await;
    assert_sound(&*ledger).await;
    let (before, head) = (source.head(), ledger.head());
    assert_eq!((head.position, head.hash), (before.position, before.hash));
    assert_eq!(head.usage, before.usage);
    assert_eq!(head.subscription, before.subscription);
    assert_eq!(head.subscription_version, before.subscription_version);
    let again = Carried::from(&*ledger).await;
    assert!(again.events == carried.events, "another history");
    assert_eq!(sorted(again.outcomes), sorted(carried.outcomes.clone()));
    assert_eq!(again.end, carried.end);
    life_goes_on(&*ledger, &carried).await;
}

/// A repeated request is answered as before, a serial is a new one, and more can be appended.
async fn life_goes_on(ledger: &dyn Ledger, carried: &Carried) {
    for nth in [0, 255, 256, KEYS - 1] {
        let answer = ledger.append(issue_under(&key(nth), 1)).await;
        let Ok(Appended::Replayed(outcome)) = answer else {
            panic!("{nth}: {answer:?}");
        };
        let before = carried.outcomes.iter().find(|it| it.key == key(nth));
        let before = before.expect("it was carried");
        assert_eq!(outcome.outcome, before.outcome);
        assert_eq!(outcome.position, before.position);
        let other = ledger.append(issue_under(&key(nth), 2)).await;
        assert!(matches!(other, Err(AppendError::KeyReused)), "{other:?}");
    }
    let nothing = ledger.append(only_answered()).await;
    assert!(matches!(nothing, Ok(Appended::Replayed(_))), "{nothing:?}");
    let serial = ledger.next_card_serial().await.expect("a serial");
    assert!(serial > carried.end.card_serials_reserved, "{serial}");
    let position = committed(ledger.append(issue_under("new", 1)).await);
    assert_eq!(position, carried.end.position + 1);
    assert_sound(ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_is_carried_from_a_file_to_a_file() {
    a_ledger_is_carried::<SqliteUnderTest, Directory>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_is_carried_from_a_file_to_a_schema() {
    a_ledger_is_carried::<SqliteUnderTest, InShard>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_is_carried_from_a_schema_to_a_file() {
    a_ledger_is_carried::<PostgresUnderTest, Directory>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_is_carried_from_a_schema_to_a_schema() {
    a_ledger_is_carried::<PostgresUnderTest, InShard>().await;
}

/// A change to what is carried, and what is said of it.
type Damage = (fn(&mut Carried), &'static str);

const DAMAGES: &[Damage] = &[
    (|it| drop(it.events.pop()), "ends at position"),
    (
        |it| drop(it.events.remove(10)),
        "position 12 where 11 must be",
    ),
    (|it| it.events.swap(10, 11), "position 12 where 11 must be"),
    (
        |it| it.events[400].payload.push(' '),
        "position 401 does not cover",
    ),
    (|it| it.events[7].metadata.push(' '), "position 8 does not"),
    (
        |it| it.events[7].recorded_at += TimeDelta::microseconds(1),
        "position 8 does not",
    ),
    (|it| it.end.position += 1, "ends at position"),
    (|it| it.end.hash = it.events[0].hash, "last hash"),
    (|it| it.end.card_serials_reserved = 10, "card numbers"),
    (
        |it| it.outcomes[3].position = it.end.position + 1,
        "after the end",
    ),
    (
        |it| {
            it.events[5].payload = "{}".to_owned();
            it.rechain();
        },
        "position 6 cannot be read",
    ),
    (
        |it| {
            it.events[5].event_version = "99.0.0".to_owned();
            it.rechain();
        },
        "position 6 cannot be read",
    ),
    (
        |it| {
            it.events[0].aggregate_id = new_id().to_string();
            it.rechain();
        },
        "position 1 is of another tenant",
    ),
    (
        |it| {
            it.events.remove(0);
            it.events
                .retain(|event| event.aggregate_type == "DigitalCard");
            it.outcomes.clear();
            it.rechain();
        },
        "no event of the tenant's subscription",
    ),
    (
        |it| {
            it.events[1].sequence = 3;
            it.rechain();
        },
        "numbered",
    ),
    (
        |it| {
            // A card's issuance and activation change places.
            it.events.swap(1, 2);
            it.rechain();
        },
        "numbered",
    ),
];

impl Carried {
    /// As somebody would who rewrites the history and its chain.
    fn rechain(&mut self) {
        let mut hash = domain::chain::Hash::GENESIS;
        for (event, position) in self.events.iter_mut().zip(1..) {
            event.position = position;
            event.hash = event.link().hash(&hash);
            (hash, self.end.hash) = (event.hash, event.hash);
            self.end.position = position;
        }
    }
}

async fn what_is_not_sound_is_refused_and_leaves_nothing<D: Destination>() {
    let world = lived_in::<SqliteUnderTest>().await;
    let whole = Carried::from(&*world.ledger()).await;
    let destination = D::new(world.tenant()).await;
    for (damage, says) in DAMAGES {
        let mut damaged = whole.clone();
        damage(&mut damaged);
        let refused = damaged.carry(&destination).await;
        let Err(RestoreError::Unsound(unsound)) = refused else {
            panic!("{says}: {refused:?}");
        };
        assert!(unsound.to_string().contains(says), "{says}: {unsound}");
        assert_eq!(destination.kept().await, [""; 0], "{says}");
    }
    whole.carry(&destination).await.expect("restored");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sound_leaves_no_file() {
    what_is_not_sound_is_refused_and_leaves_nothing::<Directory>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sound_leaves_no_schema() {
    what_is_not_sound_is_refused_and_leaves_nothing::<InShard>().await;
}

async fn an_interrupted_restoring_is_invisible_and_repeated<D: Destination>() {
    let world = lived_in::<SqliteUnderTest>().await;
    let whole = Carried::from(&*world.ledger()).await;
    let destination = D::new(world.tenant()).await;
    for _ in 0..2 {
        let mut store = destination.restore().await.expect("begun");
        whole.fill(&mut *store).await.expect("filled");
        // As when the process ends here.
        drop(store);
    }
    let kept = destination.kept().await;
    assert!(
        kept.iter().all(|name| name.contains("importing")),
        "{kept:?}"
    );
    // The connection of the one that was dropped may still be closing.
    while let Err(error) = whole.carry(&destination).await {
        assert!(matches!(error, RestoreError::InProgress), "{error:?}");
    }
    let ledger = destination.open(&Arc::default()).await;
    life_goes_on(&*ledger, &whole).await;
    let moved_on = everything(&*ledger).await;

    // As after an attempt that came as far as this; one with another history did not.
    whole.carry(&destination).await.expect("there already");
    let mut other = whole.clone();
    other.events[3].metadata.push(' ');
    other.rechain();
    let other = other.carry(&destination).await;
    assert!(matches!(other, Err(RestoreError::Exists)), "{other:?}");
    let kept = destination.kept().await;
    assert!(
        !kept.iter().any(|name| name.contains("importing")),
        "{kept:?}"
    );
    let filter = HistoryFilter::default();
    let history = ledger.history(&filter, usize::MAX).await.expect("read");
    assert!(history == moved_on, "the store that was there has changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restoring_of_a_file_is_invisible_and_repeated() {
    an_interrupted_restoring_is_invisible_and_repeated::<Directory>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_restoring_of_a_schema_is_invisible_and_repeated() {
    an_interrupted_restoring_is_invisible_and_repeated::<InShard>().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_do_not_restore_the_same_schema_at_once() {
    let world = on_plan::<SqliteUnderTest>("pro").await;
    let destination = InShard::new(world.tenant()).await;
    let first = destination.restore().await.expect("begun");
    let second = destination.restore().await.map(drop);
    assert!(
        matches!(second, Err(RestoreError::InProgress)),
        "{second:?}"
    );
    first.discard().await;
    destination.restore().await.expect("begun").discard().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_key_answered_twice_is_refused() {
    let world = lived_in::<SqliteUnderTest>().await;
    let mut doubled = Carried::from(&*world.ledger()).await;
    doubled.outcomes.push(doubled.outcomes[0].clone());
    let destination = Directory::new(world.tenant()).await;
    let refused = doubled.carry(&destination).await;
    assert!(
        matches!(refused, Err(RestoreError::Unsound(Unsound::OutcomeTwice))),
        "{refused:?}"
    );
    let destination = InShard::new(world.tenant()).await;
    doubled.carry(&destination).await.expect_err("refused");
    assert_eq!(destination.kept().await, [""; 0]);
}
