//! The table of cards in a PostgreSQL ledger's schema: new cards go along with the append, what else
//! happens to cards is the subscriber's, and nothing about them costs an append.

use std::ops::Deref;
use std::sync::Arc;

use application::ports::checkpoints::Turn;
use application::ports::{Ledger, TenantStore, Unavailable};
use async_trait::async_trait;
use domain::card::Status;
use domain::ids::TenantId;
use futures::future::join_all;
use infrastructure::checkpoints::SchemaCheckpoints;
use infrastructure::ledger::postgres::PostgresLedger;
use infrastructure::projections::cards::companion::Companion;
use infrastructure::projections::cards::postgres::{
    PostgresCards, PostgresCardsProjection, TenantShards,
};
use infrastructure::shard::Shard;

use crate::cluster::Cluster;
use crate::kept::Kept;
use crate::postgres::{PostgresUnderTest, connect_to};
use crate::world::*;

/// A node's ledger of the tenant, and who keeps the cards on it when no append does.
struct Node {
    ledger: Arc<PostgresLedger>,
    kept: Kept,
}

impl Deref for Node {
    type Target = Kept;

    fn deref(&self) -> &Kept {
        &self.kept
    }
}

struct OneSchema(Shard, Arc<Companion>);

#[async_trait]
impl TenantShards for OneSchema {
    async fn shard(&self, _: TenantId) -> Result<Shard, Unavailable> {
        Ok(self.0.clone())
    }

    async fn cards(&self, _: TenantId) -> Result<Arc<Companion>, Unavailable> {
        Ok(Arc::clone(&self.1))
    }
}

impl Node {
    async fn of(world: &PostgresUnderTest) -> Self {
        let (tenant, ledger) = (world.tenant(), world.another_node().await);
        let shard = connect_to(Cluster::shared());
        let cards = PostgresCards::open(tenant, &shard).await;
        let clock = Arc::<TestClock>::default();
        let checkpoints = SchemaCheckpoints::new(shard.room(tenant), new_id().uuid(), clock);
        let store = TenantStore {
            tenant,
            ledger: Arc::clone(&ledger) as _,
            cards: Arc::new(cards.expect("the table")),
            checkpoints: Arc::new(checkpoints),
        };
        let schema = OneSchema(shard, ledger.cards());
        let subscriber = Box::new(PostgresCardsProjection::new(Arc::new(schema)));
        let kept = Kept { store, subscriber };
        Self { ledger, kept }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_card_is_shown_when_its_append_is_answered() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let node = Node::of(&world).await;
    let before = node.issue().await;
    assert_eq!(
        node.shown(before).await,
        None,
        "nobody has looked where the table is"
    );
    node.catch_up().await;
    let along = node.issue().await;
    let head = node.ledger.head().position;
    assert_eq!(node.turn().await, Turn::HereFrom(head));
    let burst = join_all((0..300).map(|_| node.issue())).await;
    let mut all = vec![before, along];
    all.extend(burst);
    node.assert_as_built_anew(&all).await;
    let change = subscription(world.tenant(), 1, vec![upgraded("pro", "enterprise")]);
    let position = committed(node.ledger.append(change).await);
    assert_eq!(node.turn().await, Turn::HereFrom(position));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_to_a_card_later_is_the_subscribers() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let node = Node::of(&world).await;
    node.catch_up().await;
    let one = node.issue().await;
    let taken_along = Turn::HereFrom(node.ledger.head().position);
    node.activate(&[one]).await;
    let behind = node.issue().await;
    assert_eq!(node.shown(behind).await, None);
    assert_eq!(node.turn().await, taken_along);
    node.catch_up().await;
    let along = node.issue().await;
    let shown = node.shown(one).await.map(|it| it.status);
    assert_eq!(shown, Some(Status::Active));
    node.assert_as_built_anew(&[one, behind, along]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_that_cannot_be_stored_cost_no_append() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let node = Node::of(&world).await;
    node.catch_up().await;
    let table = world.table("cards");
    let breaking = format!("alter table {table} add constraint broken check (version > 1)");
    world.run(&breaking).await;
    let missed = node.issue().await;
    assert_eq!(node.turn().await, Turn::Here);
    let again = node.issue().await;
    let mending = format!("alter table {table} drop constraint broken");
    world.run(&mending).await;
    node.catch_up().await;
    let along = node.issue().await;
    node.assert_as_built_anew(&[missed, again, along]).await;
    assert_sound(&*node.ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cards_that_somebody_keeps_locked_cost_no_append() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let node = Node::of(&world).await;
    node.catch_up().await;
    let kept = world.kept("cards").await;
    let late = node.issue().await;
    let at_once = node.issue().await;
    kept.rollback().await.expect("let go");
    node.catch_up().await;
    node.assert_as_built_anew(&[late, at_once]).await;
    assert_sound(&*node.ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_append_in_turn_show_every_card_once() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let nodes = [Node::of(&world).await, Node::of(&world).await];
    let mut all = Vec::new();
    for round in 0..40 {
        let (one, other) = (&nodes[round % 2], &nodes[(round + 1) % 2]);
        let (issued, meanwhile, ()) = futures::join!(one.issue(), other.issue(), one.catch_up());
        all.extend([issued, meanwhile]);
        other.catch_up().await;
    }
    for node in &nodes {
        node.ledger.heard(0).await.expect("read");
        node.catch_up().await;
    }
    nodes[0].assert_as_built_anew(&all).await;
    assert_sound(&*nodes[0].ledger).await;
}
