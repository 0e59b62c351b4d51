//! A node over records in memory.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use application::Application;
use application::doorbell::Doorbell;
use application::keys::{ApiKey, KeyRing, Secret, Seed};
use application::news::{LandlordNews, News, follow_news};
use application::ports::agenda::Agenda;
use application::ports::restore::{RestoreError, RestoringStore, StoredOutcome};
use application::ports::usage::{Begun, LedgerCounts, Reconciliation, Recount, UsageAuditRecords};
use application::ports::{
    AppendError, Appended, Clock, IdempotencyRecord, Landlord, LandlordError, LandlordView, Random,
    Recorded, RecordedOutcome, TenantStore, TenantStores, Unavailable,
};
use application::scope::{Command, Role, Scope};
use application::shards::Shard;
use application::subscribers::Subscribers;
use application::tenants::{
    Directory, Isolation, NewTenant, Tenant, TenantFilter, TenantOverview, TenantPage,
};
use application::usage_audits::{Auditor, Night, UsageAudit};
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

/// A node that follows the news.
pub struct Node {
    pub application: Arc<Application>,
    pub records: Arc<ScriptedLandlord>,
    pub news: LandlordNews,
    pub stop: CancellationToken,
    pub following: JoinHandle<()>,
}

impl Node {
    /// A node that has read these records.
    pub fn start(records: Records) -> Self {
        let (application, records) = application(records);
        let application = Arc::new(application);
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
    pub async fn hear(&self, news: News) {
        self.news.tell(news);
        self.records.asked().await;
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    /// Begins `change`, lets it come as far as it does while an answer is held, and releases it.
    pub fn meanwhile<T: Send + 'static>(
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

    pub async fn until(&self, holds: impl Fn(&Self) -> bool) {
        while !holds(self) {
            tokio::time::advance(Duration::from_millis(100)).await;
            tokio::task::yield_now().await;
        }
    }

    pub fn opens(&self, n: u64) -> bool {
        self.application.keys.authenticate(&secret(n)).is_some()
    }

    pub fn knows(&self, n: u64) -> Option<Tenant> {
        let known = self.application.directory.get(tenant(n).id);
        known.map(|tenant| Tenant::clone(&tenant))
    }
}

/// An application that has read these records, and has nothing but them.
pub fn application(records: Records) -> (Application, Arc<ScriptedLandlord>) {
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
    let application = Application {
        random: Arc::new(Counter::default()),
        landlord: Arc::clone(&records) as _,
        overviews: Arc::new(Absent),
        agenda: Arc::new(Absent),
        catalogue: Catalogue::standard().into(),
        decoder: Decoder::default(),
        directory: Arc::new(directory),
        shards: Arc::default(),
        shard_databases: None,
        keys,
        subscribers: Arc::new(Subscribers::new(
            vec![],
            Arc::clone(&stores),
            &clock,
            Doorbell::default(),
            Duration::from_secs(60),
        )),
        stores,
        clock,
        auditor: Auditor::new(Arc::new(Absent), Arc::new(Absent)),
    };
    (application, records)
}

fn secret(n: u64) -> Secret {
    Secret::new(format!("secret {n}"))
}

pub fn name(text: &str) -> DisplayName {
    DisplayName::try_from(text.to_owned()).expect("a name")
}

pub fn slug(text: &str) -> Slug {
    Slug::try_from(text.to_owned()).expect("a slug")
}

/// A tenant to make.
pub fn acme() -> NewTenant {
    NewTenant {
        name: name("Acme"),
        slug: slug("acme"),
        plan: "free".to_owned().try_into().expect("a plan's key"),
        isolation: Isolation::Shared,
    }
}

pub fn seed() -> Seed {
    Seed::new(Secret::new("the asker's"))
}

pub fn key(n: u64) -> ApiKey {
    ApiKey {
        id: KeyId::new(Uuid::from_u128(u128::from(n))),
        hash: secret(n).hash(),
        role: Role::Landlord,
        tenant: None,
        name: name("key"),
        created_at: DateTime::UNIX_EPOCH,
    }
}

pub fn tenant(n: u64) -> Tenant {
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

pub fn command() -> Command {
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
pub struct Records {
    pub tenants: Vec<Tenant>,
    pub keys: Vec<ApiKey>,
    pub shards: Vec<Shard>,
    pub tenants_fail: usize,
}

/// Records that are changed behind the node's back, and answers that can be held back.
pub struct ScriptedLandlord {
    records: Mutex<Records>,
    all_read: AtomicUsize,
    /// A permit for each question.
    asked: Semaphore,
    /// Open, unless answers are held.
    gate: Semaphore,
}

impl ScriptedLandlord {
    pub fn change<T>(&self, change: impl FnOnce(&mut Records) -> T) -> T {
        change(&mut self.records.lock().expect("not poisoned"))
    }

    /// How often all keys were read.
    pub fn all_read(&self) -> usize {
        self.all_read.load(Ordering::SeqCst)
    }

    /// Keeps answers back; what they say is what is on record when they are asked for.
    pub fn hold(&self) {
        self.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    pub fn release(&self) {
        self.gate.add_permits(1_000);
    }

    /// Waits for a question.
    pub async fn asked(&self) {
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

    async fn add_shard(
        &self,
        _: &Shard,
        _: DateTime<Utc>,
        _: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        Err(Unavailable::new(ABSENT).into())
    }

    async fn change_shard(
        &self,
        _: &Shard,
        _: DateTime<Utc>,
        _: Option<&IdempotencyRecord>,
    ) -> Result<Recorded, LandlordError> {
        Err(Unavailable::new(ABSENT).into())
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

    async fn answers(
        &self,
        _: &str,
        _: Option<&str>,
        _: usize,
    ) -> Result<Vec<StoredOutcome>, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn restore(
        &self,
        _: Option<&Tenant>,
        _: &[ApiKey],
        _: &[StoredOutcome],
    ) -> Result<(), LandlordError> {
        Err(Unavailable::new(ABSENT).into())
    }
}

const ABSENT: &str = "what is not here";

/// Everything that a test does not touch.
pub struct Absent;

#[async_trait]
impl TenantStores for Absent {
    async fn open(&self, _: TenantId) -> Result<Arc<TenantStore>, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn create(&self, _: TenantId) -> Result<(), Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn restore(&self, _: &Tenant) -> Result<Box<dyn RestoringStore>, RestoreError> {
        Err(Unavailable::new(ABSENT).into())
    }

    fn open_tenants(&self) -> Vec<TenantId> {
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
impl LedgerCounts for Absent {
    async fn recount(&self, _: TenantId, _: Position) -> Result<Recount, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn reconcile(&self, _: TenantId, _: Reconciliation) -> Result<Appended, AppendError> {
        Err(Unavailable::new(ABSENT).into())
    }
}

#[async_trait]
impl UsageAuditRecords for Absent {
    async fn begin(
        &self,
        _: &UsageAudit,
        _: Option<&Night>,
        _: DateTime<Utc>,
        _: Option<&IdempotencyRecord>,
    ) -> Result<Begun, LandlordError> {
        Err(Unavailable::new(ABSENT).into())
    }

    async fn report(&self, _: &UsageAudit) -> Result<(), Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn find(&self, _: Uuid) -> Result<Option<UsageAudit>, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn list(&self, _: Option<Uuid>, _: usize) -> Result<Vec<UsageAudit>, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }
}

#[async_trait]
impl Agenda for Absent {
    async fn next(&self, _: &[TenantId]) -> Result<Option<(TenantId, DateTime<Utc>)>, Unavailable> {
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
pub struct Counter(AtomicU64);

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
