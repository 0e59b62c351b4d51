//! The cards in a PostgreSQL schema: every sentence, and what several nodes can do to them.

use std::sync::Arc;
use std::time::Duration;

use application::ports::{CardsView, Ledger, Random, Subscriber, Unavailable};
use async_trait::async_trait;
use domain::ids::TenantId;
use futures::future::join_all;
use infrastructure::clock::SystemRandom;
use infrastructure::projections::cards::companion::Companion;
use infrastructure::projections::cards::postgres::{
    PostgresCards, PostgresCardsProjection, TenantShards,
};
use infrastructure::shard::Shard;
use infrastructure::shard::schema::Schema;
use sqlx::{Connection, Executor, PgConnection};

use crate::cards::all;
use crate::cluster::Cluster;
use crate::engines::conformance;
use crate::history::{History, issue_many};
use crate::store::{Engine, Tenant, tenant_on};

conformance!(InSchema);

/// A schema in the cluster that the tests share.
pub struct InSchema {
    tenant: TenantId,
    shard: Shard,
}

/// Answers the one shard there is.
struct One(Shard);

#[async_trait]
impl TenantShards for One {
    async fn shard(&self, _: TenantId) -> Result<Shard, Unavailable> {
        Ok(self.0.clone())
    }

    async fn cards(&self, _: TenantId) -> Result<Arc<Companion>, Unavailable> {
        Ok(Arc::default())
    }
}

fn connect() -> Shard {
    Shard::new(
        Cluster::shared().shard(),
        4,
        Duration::from_secs(30),
        Duration::from_secs(30),
    )
}

impl InSchema {
    /// A connection for which the tenant's tables need no schema.
    async fn inside(&self) -> PgConnection {
        let inside = self.shard.room(self.tenant).separate().await;
        let mut inside = inside.expect("a connection");
        let schema = format!("t_{}", self.tenant.to_string().replace('-', ""));
        let set = inside
            .execute(&*format!("set search_path to {schema}"))
            .await;
        set.expect("set");
        inside
    }

    /// What keeps the cards up to date on another node.
    fn another_node(&self) -> PostgresCardsProjection {
        PostgresCardsProjection::new(Arc::new(One(connect())))
    }
}

impl Engine for InSchema {
    type Cards = PostgresCardsProjection;

    async fn start() -> Self {
        let tenant = TenantId::new(SystemRandom.id());
        let options = Cluster::shared().shard();
        let migrated = Schema::of(tenant).migrate(&options).await;
        migrated.expect("a schema");
        Self {
            tenant,
            shard: connect(),
        }
    }

    fn tenant(&self) -> TenantId {
        self.tenant
    }

    async fn view(&self) -> Arc<dyn CardsView> {
        let view = PostgresCards::open(self.tenant, &self.shard).await;
        Arc::new(view.expect("the table"))
    }

    fn cards(&self) -> PostgresCardsProjection {
        PostgresCardsProjection::new(Arc::new(One(self.shard.clone())))
    }

    async fn change(&self, sql: &str) {
        let mut connection = self.inside().await;
        // While nobody handles events, who might hold what the change waits for.
        let alone = "select from checkpoints where subscriber = 'cards' for update";
        let sql = format!("begin; {alone}; {sql}; commit");
        let changed = connection.execute(sql.as_str()).await;
        changed.expect("a change");
        connection.close().await.expect("closed");
    }

    async fn dump(&self) -> Vec<String> {
        let mut connection = self.inside().await;
        let rows = sqlx::query_scalar("select card::text from cards card order by id");
        let rows = rows.fetch_all(&mut connection).await.expect("the rows");
        connection.close().await.expect("closed");
        rows
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_open_the_cards_at_the_same_time_make_one_table() {
    let engine = InSchema::start().await;
    let nodes = (0..8).map(|_| async {
        let opened = PostgresCards::open(engine.tenant, &connect()).await;
        opened.expect("the table")
    });
    for view in join_all(nodes).await {
        assert_eq!(all(&view).await, vec![]);
    }
}

/// A second effect would be a second row of the same card and version, which fails.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_handle_the_same_events_at_the_same_time_have_the_effect_once() {
    let tenant: Tenant<InSchema> = tenant_on().await;
    tenant
        .engine
        .change(
            "create table effects (id text, version bigint, primary key (id, version)); \
             create function note() returns trigger language plpgsql set search_path from current \
             as 'begin insert into effects values (new.id, new.version); return null; end'; \
             create trigger note after insert or update on cards \
             for each row execute function note()",
        )
        .await;
    let nodes = [(); 3].map(|()| tenant.engine.another_node());
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..120);
    let mut position = 0;
    loop {
        // One event at a time, every other of which needs the row that the one before wrote.
        let events = tenant.ledger.read(position, 1).await.expect("events");
        if events.is_empty() {
            break;
        }
        position += 1;
        for handled in join_all(nodes.iter().map(|node| node.handle(&tenant.store, &events))).await
        {
            assert_eq!(handled.expect("handled"), position);
        }
    }
    assert_eq!(position, history.position());
    assert_eq!(all(tenant.view()).await, history.expected());
    let mut connection = tenant.engine.inside().await;
    let effects: i64 = sqlx::query_scalar("select count(*) from effects")
        .fetch_one(&mut connection)
        .await
        .expect("a count");
    // Each event but the one that began the subscription.
    assert_eq!(effects, i64::try_from(position).expect("few") - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_follow_at_different_paces_lose_nothing() {
    let tenant: Arc<Tenant<InSchema>> = Arc::new(tenant_on().await);
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..600);
    let nodes = (1..4).map(|at_a_time| {
        let (tenant, node) = (Arc::clone(&tenant), tenant.engine.another_node());
        tokio::spawn(async move { tenant.follow(&node, at_a_time * 3).await })
    });
    for node in nodes.collect::<Vec<_>>() {
        assert_eq!(node.await.expect("no panic"), history.position());
    }
    assert_eq!(all(tenant.view()).await, history.expected());
}

/// Tables this small are read from end to end unless that is forbidden.
#[tokio::test]
async fn the_order_of_issue_and_what_is_due_are_read_from_an_index() {
    let tenant: Tenant<InSchema> = tenant_on().await;
    let mut connection = tenant.engine.inside().await;
    let forbid = "set enable_seqscan = off; set enable_bitmapscan = off";
    let forbidden = connection.execute(forbid).await;
    forbidden.expect("set");
    for (query, index) in [
        (
            "select id from cards where (issued_at, id) > (1, 'a') order by issued_at, id limit 9",
            "cards_issued_at",
        ),
        (
            "select id from cards where expires_at is not null and status in ('issued', 'active', 'suspended') and expires_at <= 5 order by expires_at, id limit 9",
            "cards_due",
        ),
    ] {
        let plan: Vec<String> = sqlx::query_scalar(&format!("explain {query}"))
            .fetch_all(&mut connection)
            .await
            .expect("a plan");
        let plan = plan.join("\n");
        assert!(plan.contains(index) && !plan.contains("Sort"), "{plan}");
    }
}
