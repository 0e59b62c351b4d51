//! The PostgreSQL ledger: every sentence of the conformance suite, and what many nodes and a
//! server that goes away can do to it.

use std::sync::Arc;
use std::time::Duration;

use application::doorbell::Doorbell;
use application::ports::usage::Reconciliation;
use application::ports::{AppendError, Appended, Clock, Ledger, Random};
use domain::ids::TenantId;
use futures::future::join_all;
use infrastructure::clock::SystemRandom;
use infrastructure::ledger::postgres::PostgresLedger;
use infrastructure::shard::Shard;
use infrastructure::shard::schema::Schema;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Postgres, Transaction};
use tokio::task::JoinHandle;

use crate::cluster::Cluster;
use crate::sentences::conformance;
use crate::world::*;

conformance!(PostgresUnderTest);

/// A schema in the cluster that the tests share.
pub struct PostgresUnderTest {
    /// To look from outside: of a superuser.
    pool: PgPool,
    shard: Shard,
    clock: Arc<TestClock>,
    ledger: Arc<PostgresLedger>,
    tenant: TenantId,
    doorbell: Doorbell,
}

impl PostgresUnderTest {
    /// A schema in a cluster.
    pub async fn within(cluster: &Cluster) -> Self {
        let pool = PgPoolOptions::new().connect_lazy_with(cluster.options());
        let shard = connect_to(cluster);
        let (clock, doorbell) = (Arc::<TestClock>::default(), Doorbell::default());
        let tenant = TenantId::new(SystemRandom.id());
        let migrated = Schema::of(tenant).migrate(&cluster.shard()).await;
        migrated.expect("a schema");
        let ledger = open_ledger(tenant, &shard, &clock, &doorbell).await;
        Self {
            pool,
            shard,
            clock,
            ledger,
            tenant,
            doorbell,
        }
    }

    /// The ledger as another node has it.
    pub async fn another_node(&self) -> Arc<PostgresLedger> {
        self.another_node_ringing(&self.doorbell).await
    }

    /// The same, with a doorbell of its own.
    pub async fn another_node_ringing(&self, doorbell: &Doorbell) -> Arc<PostgresLedger> {
        open_ledger(self.tenant, &connect(), &self.clock, doorbell).await
    }

    /// The statement that waits for the head, as soon as one does; none if `task` is done before.
    pub async fn waiting<T>(&self, task: &JoinHandle<T>) -> Option<String> {
        let query = "select query from pg_stat_activity \
             where wait_event_type = 'Lock' and query like $1 limit 1";
        let of_this_tenant = format!("%{}%", self.table("head"));
        let mut waiting = None;
        while waiting.is_none() && !task.is_finished() {
            waiting = sqlx::query_scalar(query)
                .bind(&of_this_tenant)
                .fetch_optional(&self.pool)
                .await
                .expect("the activity");
        }
        waiting
    }

    /// The ledger as a node has it that is connected once, under this name.
    pub async fn connected_once(&self, name: &str) -> (Shard, Arc<PostgresLedger>) {
        let options = Cluster::shared().shard().application_name(name);
        self.by_way_of(options).await
    }

    /// The same, by another way.
    pub async fn by_way_of(&self, options: PgConnectOptions) -> (Shard, Arc<PostgresLedger>) {
        let shard = Shard::new(options, 1, Duration::from_secs(30), Duration::from_secs(30));
        let ledger = open_ledger(self.tenant, &shard, &self.clock, &self.doorbell).await;
        (shard, ledger)
    }

    /// The server processes of who is connected under a name.
    pub async fn processes_of(&self, name: &str) -> Vec<i32> {
        let query = "select pid from pg_stat_activity where application_name = $1";
        let found = sqlx::query_scalar(query).bind(name);
        found.fetch_all(&self.pool).await.expect("the activity")
    }

    /// Runs a statement, from outside.
    pub async fn run(&self, statement: &str) {
        let done = sqlx::query(statement).execute(&self.pool).await;
        done.expect("done");
    }

    /// The head, locked.
    pub async fn locked(&self) -> Transaction<'static, Postgres> {
        let mut transaction = self.pool.begin().await.expect("a transaction");
        sqlx::query(&format!("select 1 from {} for update", self.table("head")))
            .execute(&mut *transaction)
            .await
            .expect("the head, locked");
        transaction
    }

    /// A table of the tenant, which nobody else can use.
    pub async fn kept(&self, table: &str) -> Transaction<'static, Postgres> {
        let mut transaction = self.pool.begin().await.expect("a transaction");
        sqlx::query(&format!("lock table {}", self.table(table)))
            .execute(&mut *transaction)
            .await
            .expect("the table, locked");
        transaction
    }

    /// The name of a table of the tenant.
    pub fn table(&self, name: &str) -> String {
        format!("t_{}.{name}", self.tenant.to_string().replace('-', ""))
    }
}

fn connect() -> Shard {
    connect_to(Cluster::shared())
}

pub fn connect_to(cluster: &Cluster) -> Shard {
    Shard::new(
        cluster.shard(),
        8,
        Duration::from_secs(30),
        Duration::from_secs(30),
    )
}

async fn open_ledger(
    tenant: TenantId,
    shard: &Shard,
    clock: &Arc<TestClock>,
    doorbell: &Doorbell,
) -> Arc<PostgresLedger> {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    let ledger = PostgresLedger::open(tenant, shard, clock, doorbell.clone(), WAITING_MAX).await;
    Arc::new(ledger.expect("a ledger"))
}

impl LedgerUnderTest for PostgresUnderTest {
    async fn start() -> Self {
        Self::within(Cluster::shared()).await
    }

    fn ledger(&self) -> Arc<dyn Ledger> {
        Arc::clone(&self.ledger) as Arc<dyn Ledger>
    }

    async fn reopen(&mut self) {
        self.ledger.close().await;
        self.shard.close().await;
        self.shard = connect();
        self.ledger = open_ledger(self.tenant, &self.shard, &self.clock, &self.doorbell).await;
    }

    async fn hold(&self) -> Box<dyn Held + '_> {
        Box::new(self.locked().await)
    }

    async fn miscount(&self) {
        let head = self.table("head");
        let miscount = MISCOUNT.replace("head", &head);
        let done = sqlx::query(&miscount).execute(&self.pool).await;
        done.expect("miscounted");
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

#[tokio::test(flavor = "multi_thread")]
async fn of_600_issuances_on_three_nodes_exactly_500_fit_the_quota() {
    let world = on_plan::<PostgresUnderTest>("free").await;
    let nodes = [
        world.another_node().await,
        world.another_node().await,
        world.another_node().await,
    ];
    let answers = join_all((0..600).map(|nth| nodes[nth % 3].append(issue()))).await;
    let admitted = answers.iter().filter(|answer| answer.is_ok()).count();
    let refused = answers.iter();
    let refused = refused.filter(|answer| matches!(answer, Err(AppendError::NotAdmitted(_))));
    assert_eq!((admitted, refused.count()), (500, 100));
    // The last to have appended sees all of it.
    let change = subscription(world.tenant(), 1, vec![upgraded("free", "pro")]);
    committed(nodes[0].append(change).await);
    assert_sound(&*nodes[0]).await;
    // One has not heard of the upgrade; its next append finds it.
    committed(nodes[1].append(issue()).await);
    assert_sound(&*nodes[1]).await;
    // One hears of it.
    assert_eq!(nodes[2].head().subscription_version, 1);
    nodes[2].heard(502).await.expect("read");
    assert_eq!(nodes[2].head().subscription_version, 2);
    assert_sound(&*nodes[2]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_done_once_whatever_node_it_is_repeated_on() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let nodes = [world.another_node().await, world.another_node().await];
    for nth in 0..50 {
        let request = issue_under(&nth.to_string(), 1);
        let answers = join_all(nodes.iter().map(|node| node.append(request.clone()))).await;
        let done = answers
            .iter()
            .filter(|answer| matches!(answer, Ok(Appended::Committed(_))));
        assert_eq!(done.count(), 1, "{answers:?}");
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    }
    assert_eq!(everything(&*nodes[0]).await.len(), 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn serials_are_never_handed_out_twice_whatever_node_is_asked() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let nodes = [world.another_node().await, world.another_node().await];
    let serials = join_all((0..4_000).map(|nth| nodes[nth % 2].next_card_serial())).await;
    let mut serials: Vec<_> = serials.into_iter().map(Result::unwrap).collect();
    serials.sort_unstable();
    serials.dedup();
    assert_eq!(serials.len(), 4_000);
}

/// As when PostgreSQL is stopped: every connection is cut, also in the middle of a statement.
#[tokio::test(flavor = "multi_thread")]
async fn appends_whose_connection_is_cut_are_done_once_and_answered() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let application = format!("cut-{}", world.tenant());
    let options = Cluster::shared().shard().application_name(&application);
    let shard = Shard::new(options, 4, Duration::from_secs(30), Duration::from_secs(30));
    let ledger = open_ledger(world.tenant, &shard, &world.clock, &world.doorbell).await;
    let mut keys = Vec::new();
    for round in 0..40 {
        let new: Vec<_> = (0..20).map(|nth| format!("{round} {nth}")).collect();
        let cutting = sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1",
        )
        .bind(&application)
        .execute(&world.pool);
        let appends = join_all(new.iter().map(|key| ledger.append(issue_under(key, 1))));
        let (cut, answers) = tokio::join!(cutting, appends);
        cut.expect("cut");
        for (key, answer) in new.into_iter().zip(answers) {
            let position = match answer.expect("the answer that was lost is found") {
                Appended::Committed(position) => position,
                Appended::Replayed(before) => before.position,
            };
            keys.push((key, position));
        }
    }
    // As another node finds it.
    let other = world.another_node().await;
    assert_sound(&*other).await;
    assert_eq!(everything(&*other).await.len(), 1 + keys.len());
    for (key, position) in keys {
        let outcome = other.outcome(&key).await.expect("read");
        assert_eq!(outcome.expect("known").position, position);
    }
}

/// Another node that is always faster cannot keep an append from being stored: it locks the head.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_has_lost_often_locks_the_head() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    // An append may be faster than the one that is to be faster; then another is tried.
    while !loses_until_it_locks(&world).await {}
    assert_sound(&*world.ledger()).await;
}

async fn loses_until_it_locks(world: &PostgresUnderTest) -> bool {
    let ledger = world.ledger();
    let faster = format!("update {} set revision = revision + 1", world.table("head"));
    let mut held = world.locked().await;
    let append = tokio::spawn(async move { ledger.append(issue()).await });
    let mut locks = false;
    while !locks && let Some(statement) = world.waiting(&append).await {
        locks = statement.starts_with("begin; set local");
        sqlx::query(&faster)
            .execute(&mut *held)
            .await
            .expect("another node is faster");
        held.commit().await.expect("committed");
        held = world.locked().await;
    }
    held.commit().await.expect("committed");
    committed(append.await.expect("a task"));
    locks
}
