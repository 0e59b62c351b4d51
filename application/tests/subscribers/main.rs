//! The one loop: what it promises whatever a subscriber does.
//!
//! The ledger here is a list and the subscriber a script, because no real one fails on command.
//! Time is tokio's paused clock, so pauses between tries take none.

mod absent;
mod samples;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use application::doorbell::Doorbell;
use application::error::Error;
use application::ports::checkpoints::Turn;
use application::ports::restore::{OutcomePage, RestoreError, RestoringStore};
use application::ports::{
    Append, AppendError, Appended, Clock, HandlerError, Head, HistoryFilter, Ledger, RecordedEvent,
    RecordedOutcome, StoredEvent, Subscriber, TenantStore, TenantStores, Unavailable,
};
use application::subscribers::{FollowerState, Progress, Subscribers};
use application::tenants::{Directory, Tenant};
use async_trait::async_trait;
use cqrs_es::persist::SerializedEvent;
use domain::chain::Hash;
use domain::event::AggregateKind;
use domain::ids::{Position, TenantId};
use domain::subscription::TenantSubscription;
use domain::usage::Usage;
use uuid::Uuid;

use crate::absent::{Epoch, NoCards, NoCheckpoints};
use crate::samples::{event, tenant};

const NAME: &str = "scripted";
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

#[tokio::test(start_paused = true)]
async fn every_event_is_handled_once_and_in_order() {
    let house = House::new(vec![]);
    house.append(1_000);
    house.ring();
    house.reached(1_000).await.expect("caught up");
    assert_eq!(house.handled(), (1..=1_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn what_was_appended_before_the_start_is_handled_after_it() {
    let house = House::before_start(vec![]);
    house.append(3);
    house.start();
    house.reached(3).await.expect("caught up");
    assert_eq!(house.handled(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_dependency_is_tried_again_for_as_long_as_it_takes() {
    let house = House::new(vec![Act::Unreachable; 20]);
    house.append(1);
    house.ring();
    while house.handled().is_empty() {
        tokio::task::yield_now().await;
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    house.reached(1).await.expect("caught up");
    assert_eq!(house.progress().last_error, None);
}

#[tokio::test(start_paused = true)]
async fn events_that_cannot_be_handled_stop_the_subscriber_until_it_is_resumed() {
    let house = House::new(vec![Act::Fail; 5]);
    house.append(2);
    house.ring();
    house.until(FollowerState::Stopped).await;
    let progress = house.progress();
    assert_eq!(progress.last_error.as_deref(), Some("scripted failure"));
    assert_eq!(progress.lag(), 2);

    house.ring();
    assert_eq!(
        house.progress().state,
        FollowerState::Stopped,
        "a ring does not resume it"
    );
    assert!(matches!(
        house.reached(2).await,
        Err(Error::Behind { position: 2 })
    ));

    house.subscribers.resume(NAME, None).expect("a known name");
    house.reached(2).await.expect("caught up");
    assert_eq!(house.handled(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_is_a_handler_that_fails() {
    let house = House::new(vec![Act::Panic; 5]);
    house.append(1);
    house.ring();
    house.until(FollowerState::Stopped).await;
    house
        .subscribers
        .resume(NAME, Some(house.store.tenant))
        .expect("a known name");
    house.reached(1).await.expect("caught up");
}

#[tokio::test(start_paused = true)]
async fn a_ring_for_a_position_that_never_comes_does_not_keep_it_busy() {
    let house = House::new(vec![]);
    house.append(1);
    house.doorbell.ring(house.store.tenant, 99);
    house.until(FollowerState::Idle).await;
    house.reached(1).await.expect("caught up");
    assert_eq!(house.progress().lag(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_opened_is_behind_until_it_can() {
    let house = House::before_start(vec![]);
    house.append(3);
    house.stores.shut(true);
    house.start();
    house.until(FollowerState::Retrying).await;
    let progress = house.progress();
    assert_eq!(progress.checkpoint, None);
    assert!(progress.behind_since.is_some(), "{progress:?}");
    assert_eq!(progress.last_error.as_deref(), Some("scripted shutter"));

    house.stores.shut(false);
    while house.handled().is_empty() {
        tokio::time::advance(Duration::from_secs(5)).await;
    }
    house.reached(3).await.expect("caught up");
    assert_eq!(house.progress().behind_since, None);
}

#[tokio::test(start_paused = true)]
async fn a_look_that_failed_and_then_finds_nothing_leaves_nobody_behind() {
    let house = House::new(vec![]);
    house.append(3);
    house.ring();
    house.reached(3).await.expect("caught up");
    house.until(FollowerState::Idle).await;
    house.stores.shut(true);
    house.ring();
    house.until(FollowerState::Retrying).await;
    house.stores.shut(false);
    house.until(FollowerState::Idle).await;
    let progress = house.progress();
    assert_eq!((progress.behind_since, progress.last_error), (None, None));
}

#[tokio::test(start_paused = true)]
async fn a_ring_that_was_lost_is_made_up_for_by_the_sweep() {
    let house = House::new(vec![]);
    house.append(1);
    assert!(matches!(
        house.reached(1).await,
        Err(Error::Behind { position: 1 })
    ));
    tokio::time::advance(SWEEP_INTERVAL).await;
    house.reached(1).await.expect("caught up");
    assert_eq!(house.handled(), [1]);
}

#[tokio::test(start_paused = true)]
async fn the_sweep_finds_what_another_node_did_without_a_ring() {
    for open in [true, false] {
        let house = House::before_start(vec![]);
        house.append(1);
        house.start();
        house.reached(1).await.expect("caught up");
        house.until(FollowerState::Idle).await;
        house.stores.open.store(open, Ordering::SeqCst);
        house.append_elsewhere(2);
        tokio::time::sleep(SWEEP_INTERVAL / 2).await;
        assert_eq!(house.handled(), [1], "nothing rang");
        tokio::time::sleep(SWEEP_INTERVAL).await;
        assert_eq!(house.handled(), [1, 2, 3], "open: {open}");
    }
}

#[tokio::test(start_paused = true)]
async fn events_are_left_to_another_node_until_its_turn_lapses() {
    let house = House::new(vec![]);
    let elsewhere = Turn::Elsewhere {
        checkpoint: 2,
        lapses_in: std::time::Duration::from_secs(8),
    };
    *house.script.turns.lock().expect("not poisoned") = vec![Turn::HereFrom(2), elsewhere];
    house.append(3);
    house.ring();
    house.until(FollowerState::Running).await;
    house.reached(3).await.expect_err("left to the other node");
    assert!(house.handled().is_empty());
    house.reached(3).await.expect("its turn has lapsed");
    assert_eq!(house.handled(), [3]);
}

#[tokio::test(start_paused = true)]
async fn unknown_names_are_refused() {
    let house = House::new(vec![]);
    assert!(matches!(
        house.subscribers.resume("nobody", None),
        Err(Error::NotFound("subscriber"))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_the_events_in_hand() {
    let house = House::new(vec![]);
    house.append(10);
    house.ring();
    house.subscribers.stop().await;
    let handled = house.handled();
    assert!(handled.is_empty() || handled.len() == 10, "{handled:?}");
}

/// What the subscriber does when it is next handed events; when the script is over, it works.
#[derive(Clone, Copy)]
enum Act {
    Fail,
    Unreachable,
    Panic,
}

struct House {
    store: Arc<TenantStore>,
    ledger: Arc<ListLedger>,
    script: Arc<Script>,
    stores: Arc<OneStore>,
    doorbell: Doorbell,
    subscribers: Subscribers,
}

impl House {
    fn new(acts: Vec<Act>) -> Self {
        let house = Self::before_start(acts);
        house.subscribers.start(&Arc::default());
        house
    }

    fn before_start(acts: Vec<Act>) -> Self {
        let ledger = Arc::new(ListLedger::default());
        let store = Arc::new(TenantStore {
            tenant: TenantId::new(Uuid::from_u128(1)),
            ledger: Arc::<ListLedger>::clone(&ledger),
            cards: Arc::new(NoCards),
            checkpoints: Arc::new(NoCheckpoints),
        });
        let script = Arc::new(Script {
            acts: Mutex::new(acts),
            turns: Mutex::default(),
            handled: Mutex::default(),
            checkpoint: AtomicUsize::new(0),
        });
        let doorbell = Doorbell::default();
        let stores = Arc::new(OneStore {
            store: Arc::clone(&store),
            doorbell: doorbell.clone(),
            shut: AtomicBool::new(false),
            open: AtomicBool::new(true),
            greeted: AtomicBool::new(false),
        });
        let clock: Arc<dyn Clock> = Arc::new(Epoch);
        let subscribers = Subscribers::new(
            vec![Arc::<Script>::clone(&script)],
            Arc::<OneStore>::clone(&stores),
            &clock,
            doorbell.clone(),
            SWEEP_INTERVAL,
        );
        Self {
            store,
            ledger,
            script,
            stores,
            doorbell,
            subscribers,
        }
    }

    fn start(&self) {
        self.subscribers
            .start(&Arc::new(Directory::new(vec![tenant(self.store.tenant)])));
    }

    fn append(&self, count: u64) {
        self.append_elsewhere(count);
        self.ledger.look();
    }

    /// What this node does not see until it looks.
    fn append_elsewhere(&self, count: u64) {
        let mut events = self.ledger.events.lock().expect("not poisoned");
        for _ in 0..count {
            let position = events.len() as Position + 1;
            events.push(Arc::new(event(position)));
        }
    }

    fn ring(&self) {
        self.doorbell
            .ring(self.store.tenant, self.ledger.head().position);
    }

    async fn reached(&self, position: Position) -> Result<(), Error> {
        self.subscribers.reached(NAME, &self.store, position).await
    }

    fn handled(&self) -> Vec<Position> {
        self.script.handled.lock().expect("not poisoned").clone()
    }

    fn progress(&self) -> Progress {
        let mut all = self.subscribers.progress();
        assert_eq!(all.len(), 1);
        all.remove(0).2
    }

    async fn until(&self, state: FollowerState) {
        loop {
            match self.subscribers.progress().first() {
                Some((_, _, progress)) if progress.state == state => return,
                _ => tokio::time::advance(Duration::from_millis(10)).await,
            }
        }
    }
}

struct Script {
    acts: Mutex<Vec<Act>>,
    turns: Mutex<Vec<Turn>>,
    handled: Mutex<Vec<Position>>,
    checkpoint: AtomicUsize,
}

#[async_trait]
impl Subscriber for Script {
    fn name(&self) -> &'static str {
        NAME
    }

    async fn turn(&self, _: &TenantStore) -> Result<Turn, Unavailable> {
        let turn = self.turns.lock().expect("not poisoned").pop();
        Ok(turn.unwrap_or(Turn::Here))
    }

    async fn checkpoint(&self, _: &TenantStore) -> Result<Position, Unavailable> {
        Ok(self.checkpoint.load(Ordering::SeqCst) as Position)
    }

    async fn handle(
        &self,
        _: &TenantStore,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        let act = self.acts.lock().expect("not poisoned").pop();
        match act {
            Some(Act::Fail) => return Err(HandlerError::Failed("scripted failure".to_owned())),
            Some(Act::Unreachable) => return Err(Unavailable::new("scripted absence").into()),
            Some(Act::Panic) => panic!("scripted panic"),
            None => {}
        }
        let positions = events.iter().map(|event| event.stored.position);
        self.handled.lock().expect("not poisoned").extend(positions);
        let last = events.last().expect("never handed nothing").stored.position;
        self.checkpoint.store(last as usize, Ordering::SeqCst);
        Ok(last)
    }

    async fn rebuild(
        &self,
        _: &TenantStore,
        _: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<Position, HandlerError> {
        Err(HandlerError::Failed("nothing to build".to_owned()))
    }
}

/// A ledger that is a list: it can only be read.
#[derive(Default)]
struct ListLedger {
    events: Mutex<Vec<Arc<RecordedEvent>>>,
    seen: AtomicU64,
}

impl ListLedger {
    fn look(&self) {
        let position = self.events.lock().expect("not poisoned").len() as Position;
        self.seen.store(position, Ordering::SeqCst);
    }
}

#[async_trait]
impl Ledger for ListLedger {
    fn head(&self) -> Arc<Head> {
        Arc::new(Head {
            position: self.seen.load(Ordering::SeqCst),
            hash: Hash::GENESIS,
            usage: Usage::default(),
            subscription: Arc::new(TenantSubscription::default()),
            subscription_version: 0,
        })
    }

    async fn heard(&self, _: Position) -> Result<(), Unavailable> {
        self.look();
        Ok(())
    }

    async fn append(&self, _: Append) -> Result<Appended, AppendError> {
        Err(AppendError::Busy)
    }

    async fn load(&self, _: AggregateKind, _: &str) -> Result<Vec<SerializedEvent>, Unavailable> {
        Ok(vec![])
    }

    async fn outcome(&self, _: &str) -> Result<Option<RecordedOutcome>, Unavailable> {
        Ok(None)
    }

    async fn next_card_serial(&self) -> Result<u64, Unavailable> {
        Err(Unavailable::new("a list has no serials"))
    }

    async fn read(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Arc<RecordedEvent>>, Unavailable> {
        let events = self.events.lock().expect("not poisoned");
        Ok(events
            .iter()
            .skip(after as usize)
            .take(limit)
            .cloned()
            .collect())
    }

    async fn history(&self, _: &HistoryFilter, _: usize) -> Result<Vec<StoredEvent>, Unavailable> {
        Ok(vec![])
    }

    async fn outcomes(&self, _: Option<&str>, _: usize) -> Result<OutcomePage, Unavailable> {
        Err(Unavailable::new("a list has no outcomes"))
    }

    async fn card_serials_reserved(&self) -> Result<u64, Unavailable> {
        Err(Unavailable::new("a list has no serials"))
    }
}

struct OneStore {
    store: Arc<TenantStore>,
    doorbell: Doorbell,
    shut: AtomicBool,
    /// Whether it says that it is open.
    open: AtomicBool,
    greeted: AtomicBool,
}

impl OneStore {
    fn shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::SeqCst);
    }
}

#[async_trait]
impl TenantStores for OneStore {
    async fn open(&self, tenant: TenantId) -> Result<Arc<TenantStore>, Unavailable> {
        if self.shut.load(Ordering::SeqCst) {
            return Err(Unavailable::new("scripted shutter"));
        }
        if !self.greeted.swap(true, Ordering::SeqCst) {
            self.doorbell
                .ring(tenant, self.store.ledger.head().position);
        }
        Ok(Arc::clone(&self.store))
    }

    async fn create(&self, _: TenantId) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn restore(&self, _: &Tenant) -> Result<Box<dyn RestoringStore>, RestoreError> {
        Err(RestoreError::Exists)
    }

    fn open_tenants(&self) -> Vec<TenantId> {
        match self.open.load(Ordering::SeqCst) {
            true => vec![self.store.tenant],
            false => vec![],
        }
    }
}
