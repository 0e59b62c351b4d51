//! News of the landlord's records: what this node remembers follows them.
//!
//! The records are in memory here, because no real database answers late or fails on command.
//! Time is tokio's paused clock, so pauses between tries take none.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use application::Application;
use application::doorbell::Doorbell;
use application::error::Error;
use application::keys::{ApiKey, KeyRing, NewKey, Secret, Seed};
use application::news::{LandlordNews, News, follow_news};
use application::ports::{
    Agenda, Clock, IdempotencyRecord, Landlord, LandlordError, LandlordView, Random, Recorded,
    RecordedOutcome, TenantStore, TenantStores, Unavailable,
};
use application::scope::{Command, Role, Scope};
use application::shards::{Shard, UrlReference};
use application::subscribers::Subscribers;
use application::tenants::{
    Directory, Isolation, NewTenant, Tenant, TenantFilter, TenantOverview, TenantPage,
};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::catalogue::Catalogue;
use domain::event::Decoder;
use domain::ids::{KeyId, Position, Slug, TenantId};
use domain::text::DisplayName;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

#[tokio::test(start_paused = true)]
async fn a_key_made_elsewhere_opens_here_and_one_revoked_elsewhere_opens_nothing() {
    let node = Node::start(Records::default());
    node.records.change(|it| it.keys.push(key(1)));
    node.hear(News::Key(key(1).id)).await;
    assert!(node.opens(1));
    node.records.change(|it| it.keys.clear());
    node.hear(News::Key(key(1).id)).await;
    assert!(!node.opens(1));
    assert_eq!(node.records.all_read(), 0, "one row is read, not all");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_recorded_elsewhere_is_known_here_and_ready_when_it_is_there() {
    let node = Node::start(Records::default());
    node.records.change(|it| it.tenants.push(tenant(1)));
    node.hear(News::Tenant(tenant(1).id)).await;
    assert_eq!(node.knows(1), Some(tenant(1)));
    node.records.change(|it| it.tenants[0].ready = true);
    node.hear(News::Tenant(tenant(1).id)).await;
    assert!(node.knows(1).expect("known").ready);
    assert_eq!(node.records.all_read(), 0, "one row is read, not all");
}

#[tokio::test(start_paused = true)]
async fn a_shard_recorded_elsewhere_is_known_here() {
    let node = Node::start(Records::default());
    let shard = Shard {
        name: slug("second"),
        url: UrlReference::Store,
        open: true,
    };
    node.records.change(|it| it.shards.push(shard.clone()));
    node.hear(News::Shards).await;
    assert_eq!(node.application.shards.all(), [shard]);
}

#[tokio::test(start_paused = true)]
async fn everything_takes_the_place_of_what_was_remembered() {
    let node = Node::start(Records {
        keys: vec![key(1), key(2)],
        tenants: vec![tenant(1)],
        ..Records::default()
    });
    node.records.change(|it| {
        it.keys = vec![key(2), key(3)];
        it.tenants = vec![tenant(2)];
    });
    node.hear(News::Everything).await;
    assert_eq!([1, 2, 3].map(|n| node.opens(n)), [false, true, true]);
    assert_eq!(node.knows(1), None);
    assert_eq!(node.knows(2), Some(tenant(2)));
}

#[tokio::test(start_paused = true)]
async fn a_configured_key_opens_whatever_the_records_say() {
    let node = Node::start(Records::default());
    node.application.keys.put_configured(key(1));
    node.hear(News::Everything).await;
    node.hear(News::Key(key(1).id)).await;
    assert!(node.opens(1));
    let listed = node.application.all_keys(&command().scope).await;
    assert_eq!(listed.expect("keys"), [key(1)]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_read_is_read_later_and_holds_up_nothing_else() {
    let node = Node::start(Records {
        keys: vec![key(1)],
        tenants_fail: 20,
        ..Records::default()
    });
    node.records.change(|it| {
        it.keys.clear();
        it.tenants.push(tenant(1));
    });
    node.news.tell(News::Tenant(tenant(1).id));
    node.hear(News::Key(key(1).id)).await;
    assert!(!node.opens(1));
    assert_eq!(node.knows(1), None);
    node.until(|node| node.knows(1).is_some()).await;
}

#[tokio::test(start_paused = true)]
async fn tenants_that_cannot_be_read_keep_no_revoked_key_in_force() {
    let node = Node::start(Records {
        keys: vec![key(1)],
        tenants_fail: usize::MAX,
        ..Records::default()
    });
    node.records.change(|it| it.keys.clear());
    node.hear(News::Everything).await;
    node.until(|node| !node.opens(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_never_comes_is_asked_for_again() {
    let node = Node::start(Records::default());
    node.records.change(|it| it.keys.push(key(1)));
    node.records.hold();
    node.news.tell(News::Key(key(1).id));
    node.records.asked().await;
    tokio::time::advance(Duration::from_secs(6)).await;
    node.records.asked().await;
    node.records.release();
    node.until(|node| node.opens(1)).await;
}

#[tokio::test(start_paused = true)]
async fn more_news_than_can_wait_is_everything() {
    let node = Node::start(Records::default());
    let many: Vec<_> = (0..5_000).map(key).collect();
    node.records.change(|it| it.keys = many.clone());
    for key in &many {
        node.news.tell(News::Key(key.id));
    }
    node.until(|node| node.opens(4_999)).await;
    assert!(node.opens(0));
    assert_eq!(node.records.all_read(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_made_here_while_everything_is_read_stays() {
    let node = Node::start(Records::default());
    node.records.hold();
    node.news.tell(News::Everything);
    node.records.asked().await;
    let application = Arc::clone(&node.application);
    let made = node.meanwhile(async move {
        let new = NewKey {
            role: Role::Auditor,
            name: name("audit"),
            tenant: None,
        };
        let made = application.create_key(&command(), new, &seed()).await;
        made.expect("made").value.secret
    });
    let secret = made.await.expect("no panic");
    node.hear(News::Key(key(9).id)).await;
    assert!(node.application.keys.authenticate(&secret).is_some());
}

#[tokio::test(start_paused = true)]
async fn the_first_key_of_a_tenant_made_here_while_everything_is_read_stays() {
    let node = Node::start(Records::default());
    node.records.hold();
    node.news.tell(News::Everything);
    node.records.asked().await;
    let application = Arc::clone(&node.application);
    let made = node.meanwhile(async move {
        let new = NewTenant {
            name: name("Acme"),
            slug: slug("acme"),
            plan: "free".to_owned().try_into().expect("a plan's key"),
            isolation: Isolation::Shared,
        };
        // There are no stores here, so the tenant is recorded but not made ready.
        application.provision_tenant(&command(), new, &seed()).await
    });
    assert!(matches!(
        made.await.expect("no panic"),
        Err(Error::Unavailable(_))
    ));
    node.hear(News::Key(key(9).id)).await;
    let listed = node.application.all_keys(&command().scope).await;
    assert_eq!(listed.expect("keys").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_key_revoked_here_while_everything_is_read_opens_nothing() {
    let node = Node::start(Records {
        keys: vec![key(1)],
        ..Records::default()
    });
    node.records.hold();
    node.news.tell(News::Everything);
    node.records.asked().await;
    let application = Arc::clone(&node.application);
    let revoked =
        node.meanwhile(async move { application.revoke_key(&command().scope, key(1).id).await });
    revoked.await.expect("no panic").expect("revoked");
    node.hear(News::Key(key(9).id)).await;
    assert!(!node.opens(1));
}

#[tokio::test(start_paused = true)]
async fn who_hears_that_a_key_is_revoked_already_can_rely_on_it() {
    let node = Node::start(Records {
        keys: vec![key(1)],
        ..Records::default()
    });
    node.records.change(|it| it.keys.clear());
    let scope = command().scope;
    let revoked = node.application.revoke_key(&scope, key(1).id).await;
    assert!(matches!(revoked, Err(Error::NotFound("key"))));
    assert!(!node.opens(1));
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_it_also_while_it_waits_for_an_answer() {
    let node = Node::start(Records::default());
    node.records.hold();
    node.news.tell(News::Everything);
    node.records.asked().await;
    node.stop.cancel();
    node.following.await.expect("no panic");
}

/// A node that follows the news.
struct Node {
    application: Arc<Application>,
    records: Arc<ScriptedLandlord>,
    news: LandlordNews,
    stop: CancellationToken,
    following: JoinHandle<()>,
}

impl Node {
    /// A node that has read these records.
    fn start(records: Records) -> Self {
        let (directory, keys) = (
            Directory::new(records.tenants.clone()),
            KeyRing::new(records.keys.clone()),
        );
        let records = Arc::new(ScriptedLandlord {
            records: Mutex::new(records),
            all_read: AtomicUsize::default(),
            asked: Semaphore::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        });
        let (stores, clock): (Arc<dyn TenantStores>, Arc<dyn Clock>) =
            (Arc::new(Absent), Arc::new(Epoch));
        let application = Arc::new(Application {
            random: Arc::new(Counter::default()),
            landlord: Arc::clone(&records) as _,
            overviews: Arc::new(Absent),
            agenda: Arc::new(Absent),
            catalogue: Catalogue::standard(),
            decoder: Decoder::default(),
            directory: Arc::new(directory),
            shards: Arc::default(),
            keys,
            subscribers: Arc::new(Subscribers::new(
                vec![],
                Arc::clone(&stores),
                &clock,
                Doorbell::default(),
            )),
            stores,
            clock,
        });
        let (news, stop) = (LandlordNews::default(), CancellationToken::new());
        let following = follow_news(Arc::clone(&application), news.clone(), stop.clone());
        Self {
            application,
            records,
            news,
            stop,
            following: tokio::spawn(following),
        }
    }

    /// Tells news and waits until the records were asked and have answered.
    async fn hear(&self, news: News) {
        self.news.tell(news);
        self.records.asked().await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    /// Begins `change`, lets it come as far as it does while an answer is held, and releases it.
    fn meanwhile<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let records = Arc::clone(&self.records);
        tokio::spawn(async move {
            let change = tokio::spawn(change);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            records.release();
            change.await.expect("no panic")
        })
    }

    async fn until(&self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            tokio::time::advance(Duration::from_millis(100)).await;
            tokio::task::yield_now().await;
        }
    }

    fn opens(&self, n: u64) -> bool {
        self.application.keys.authenticate(&secret(n)).is_some()
    }

    fn knows(&self, n: u64) -> Option<Tenant> {
        let known = self.application.directory.get(tenant(n).id);
        known.map(|tenant| Tenant::clone(&tenant))
    }
}

fn secret(n: u64) -> Secret {
    Secret::new(format!("secret {n}"))
}

fn name(text: &str) -> DisplayName {
    DisplayName::try_from(text.to_owned()).expect("a name")
}

fn slug(text: &str) -> Slug {
    Slug::try_from(text.to_owned()).expect("a slug")
}

fn seed() -> Seed {
    Seed::new(Secret::new("the asker's"))
}

fn key(n: u64) -> ApiKey {
    ApiKey {
        id: KeyId::new(Uuid::from_u128(u128::from(n))),
        hash: secret(n).hash(),
        role: Role::Landlord,
        tenant: None,
        name: name("key"),
        created_at: DateTime::UNIX_EPOCH,
    }
}

fn tenant(n: u64) -> Tenant {
    Tenant {
        id: TenantId::new(Uuid::from_u128(u128::from(n))),
        name: name("Acme"),
        slug: slug(&format!("acme-{n}")),
        first_plan: "free".to_owned().try_into().expect("a plan's key"),
        isolation: Isolation::Shared,
        shard: None,
        created_at: DateTime::UNIX_EPOCH,
        ready: false,
    }
}

fn command() -> Command {
    Command {
        scope: Scope {
            key: key(0).id,
            role: Role::Landlord,
            tenant: None,
            request_id: String::new(),
            correlation_id: String::new(),
        },
        reason: None,
        idempotency: None,
        if_match: None,
    }
}

/// What is on record, and how many times asking for tenants fails first.
#[derive(Default)]
struct Records {
    tenants: Vec<Tenant>,
    keys: Vec<ApiKey>,
    shards: Vec<Shard>,
    tenants_fail: usize,
}

/// Records that are changed behind the node's back, and answers that can be held back.
struct ScriptedLandlord {
    records: Mutex<Records>,
    all_read: AtomicUsize,
    /// A permit for each question.
    asked: Semaphore,
    /// Open, unless answers are held.
    gate: Semaphore,
}

impl ScriptedLandlord {
    fn change<T>(&self, change: impl FnOnce(&mut Records) -> T) -> T {
        change(&mut self.records.lock().expect("not poisoned"))
    }

    /// How often all keys were read.
    fn all_read(&self) -> usize {
        self.all_read.load(Ordering::SeqCst)
    }

    /// Keeps answers back; what they say is what is on record when they are asked for.
    fn hold(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    fn release(&self) {
        self.gate.add_permits(1_000);
    }

    /// Waits for a question.
    async fn asked(&self) {
        self.asked.acquire().await.expect("open").forget();
    }

    async fn answer<T>(&self, find: impl FnOnce(&mut Records) -> T) -> T {
        let found = self.change(find);
        self.asked.add_permits(1);
        drop(self.gate.acquire().await.expect("open"));
        found
    }
}

/// Fails as often as it is said to.
fn tenants(records: &mut Records) -> Result<Vec<Tenant>, Unavailable> {
    if records.tenants_fail > 0 {
        records.tenants_fail -= 1;
        return Err(Unavailable::new("scripted failure"));
    }
    Ok(records.tenants.clone())
}

#[async_trait]
impl Landlord for ScriptedLandlord {
    async fn tenants(&self) -> Result<Vec<Tenant>, Unavailable> {
        self.answer(tenants).await
    }

    async fn tenant(&self, id: TenantId) -> Result<Option<Tenant>, Unavailable> {
        let all = self.change(tenants)?;
        self.answer(|_| Ok(all.into_iter().find(|tenant| tenant.id == id)))
            .await
    }

    async fn add_tenant(
        &self,
        tenant: &Tenant,
        key: &ApiKey,
        _: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        self.change(|it| {
            it.tenants.push(tenant.clone());
            it.keys.push(key.clone());
        });
        Ok(Recorded::New)
    }

    async fn mark_ready(&self, _: TenantId) -> Result<(), Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn shards(&self) -> Result<Vec<Shard>, Unavailable> {
        Ok(self.answer(|it| it.shards.clone()).await)
    }

    async fn add_shard(&self, _: &Shard) -> Result<bool, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn keys(&self) -> Result<Vec<ApiKey>, Unavailable> {
        self.all_read.fetch_add(1, Ordering::SeqCst);
        Ok(self.answer(|it| it.keys.clone()).await)
    }

    async fn key(&self, id: KeyId) -> Result<Option<ApiKey>, Unavailable> {
        let found = |it: &mut Records| it.keys.iter().find(|key| key.id == id).cloned();
        Ok(self.answer(found).await)
    }

    async fn add_key(
        &self,
        key: &ApiKey,
        _: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        self.change(|it| it.keys.push(key.clone()));
        Ok(Recorded::New)
    }

    async fn revoke_key(&self, id: KeyId, _: DateTime<Utc>) -> Result<bool, Unavailable> {
        Ok(self.change(|it| {
            let before = it.keys.len();
            it.keys.retain(|key| key.id != id);
            it.keys.len() < before
        }))
    }

    async fn outcome(&self, _: &str) -> Result<Option<RecordedOutcome>, Unavailable> {
        Ok(None)
    }
}

const ABSENT: &str = "what is not here";

/// Everything that news does not touch.
struct Absent;

#[async_trait]
impl TenantStores for Absent {
    async fn open(&self, _: TenantId) -> Result<Arc<TenantStore>, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn create(&self, _: TenantId) -> Result<(), Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    fn heads(&self) -> Vec<(TenantId, Position)> {
        vec![]
    }
}

#[async_trait]
impl LandlordView for Absent {
    async fn tenant(&self, _: TenantId) -> Result<Option<TenantOverview>, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn list(&self, _: &TenantFilter) -> Result<TenantPage, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }
}

#[async_trait]
impl Agenda for Absent {
    async fn next(&self) -> Result<Option<(TenantId, DateTime<Utc>)>, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn replace(
        &self,
        _: TenantId,
        _: Position,
        _: Option<DateTime<Utc>>,
    ) -> Result<(), Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn changed(&self) {}
}

struct Epoch;

impl Clock for Epoch {
    fn now(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }
}

/// Ids and secrets in a row.
#[derive(Default)]
struct Counter(AtomicU64);

impl Counter {
    fn next(&self) -> u64 {
        1_000_000 + self.0.fetch_add(1, Ordering::SeqCst)
    }
}

impl Random for Counter {
    fn id(&self) -> Uuid {
        Uuid::from_u128(u128::from(self.next()))
    }

    fn secret(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&self.next().to_be_bytes());
        bytes
    }
}
