//! The doorbell between nodes: what is rung on one is heard on the others.

use std::collections::HashMap;
use std::sync::Arc;

use application::doorbell::{Doorbell, Mailbox};
use application::ports::{Ledger, Random};
use domain::ids::{Position, TenantId};
use futures::FutureExt;
use infrastructure::clock::SystemRandom;
use infrastructure::doorbell::{Residents, ShardDoorbell};
use sqlx::ConnectOptions;
use sqlx::postgres::PgListener;

use crate::cluster::Cluster;
use crate::postgres::PostgresUnderTest;
use crate::world::*;

/// A node: its doorbell, what its subscribers hear, and its part of the shard's doorbell.
struct Node {
    doorbell: Doorbell,
    heard: Mailbox,
    shard: ShardDoorbell,
    name: String,
}

/// Tenants of the shard: those given to ring for at first, and any other.
struct Everyone(Vec<TenantId>);

impl Residents for Everyone {
    fn all(&self) -> Vec<TenantId> {
        self.0.clone()
    }

    fn has(&self, _tenant: TenantId) -> bool {
        true
    }
}

impl Node {
    /// A node that follows these tenants and is listening.
    async fn start(residents: &[TenantId]) -> Self {
        let (doorbell, id) = (Doorbell::default(), SystemRandom.id());
        let heard = doorbell.listen();
        let name = format!("node {id}");
        let options = Cluster::shared().options().application_name(&name);
        let residents = Arc::new(Everyone(residents.to_vec()));
        let shard = ShardDoorbell::start(&options, &doorbell, id, residents);
        let node = Self {
            doorbell,
            heard,
            shard,
            name,
        };
        // It rings for its residents once it listens.
        node.heard.next().await;
        node
    }

    /// Everything heard until the tenant is rung for at the position.
    async fn hears(&self, tenant: TenantId, position: Position) -> HashMap<TenantId, Position> {
        let mut heard = HashMap::new();
        while heard.get(&tenant).is_none_or(|it| *it < position) {
            heard.extend(self.heard.next().await);
        }
        heard
    }

    /// Cuts both of its connections.
    async fn cut(&self) {
        let mut connection = Cluster::shared()
            .options()
            .connect()
            .await
            .expect("a connection");
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = $1",
        )
        .bind(&self.name)
        .execute(&mut connection)
        .await
        .expect("cut");
    }
}

fn tenant() -> TenantId {
    TenantId::new(SystemRandom.id())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_rung_on_one_node_is_heard_on_the_others_and_sent_once() {
    let one = tenant();
    let nodes = [
        Node::start(&[one]).await,
        Node::start(&[one]).await,
        Node::start(&[one]).await,
    ];
    let options = Cluster::shared().options();
    let pool = sqlx::PgPool::connect_lazy_with(options);
    let mut wire = PgListener::connect_with(&pool).await.expect("a listener");
    wire.listen("digital_card").await.expect("listening");
    nodes[0].doorbell.ring(one, 7);
    for node in &nodes {
        node.hears(one, 7).await;
    }
    // An echo of a node would be on the wire before what it rings next.
    let last: Vec<_> = nodes.iter().map(|_| tenant()).collect();
    for (node, last) in nodes.iter().zip(&last) {
        node.doorbell.ring(*last, 1);
    }
    let mut sent = Vec::new();
    while !last.iter().all(|last| sent.contains(last)) {
        let word = wire.recv().await.expect("a word");
        let tenant = word.payload().split(' ').nth(1);
        sent.extend(tenant.and_then(|it| it.parse::<TenantId>().ok()));
    }
    assert_eq!(sent.iter().filter(|it| **it == one).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_ledger_learns_from_another_node_is_not_sent_again() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let (elsewhere, here) = (world.another_node().await, world.doorbell().relay());
    let heard = world.doorbell().listen();
    let other = Doorbell::default();
    let far = world.another_node_ringing(&other).await;
    let position = committed(far.append(issue()).await);
    elsewhere.heard(position).await.expect("read");
    assert_eq!(
        heard.next().await,
        HashMap::from([(world.tenant(), position)])
    );
    let position = committed(elsewhere.append(issue()).await);
    assert_eq!(
        here.next().await,
        HashMap::from([(world.tenant(), position)])
    );
}

/// Whoever cannot find out whether a batch is stored has told nobody of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_moves_a_head_after_a_batch_has_failed_is_told_to_the_other_nodes() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let (near, here) = (world.another_node().await, world.doorbell().relay());
    let far = world.another_node_ringing(&Doorbell::default()).await;
    let (head, away) = (world.table("head"), "away");
    world
        .run(&format!("alter table {head} rename to {away}"))
        .await;
    near.append(issue()).await.expect_err("there is no head");
    let back = world.table(away);
    world
        .run(&format!("alter table {back} rename to head"))
        .await;
    // As if that batch were stored.
    let position = committed(far.append(issue()).await);
    near.heard(position).await.expect("read");
    let told = Some(HashMap::from([(world.tenant(), position)]));
    assert_eq!(here.next().now_or_never(), told);
    // Once.
    let position = committed(far.append(issue()).await);
    near.heard(position).await.expect("read");
    assert_eq!(here.next().now_or_never(), None);
}

/// Also if the connection was lost of which nobody has heard yet.
#[tokio::test]
async fn what_was_rung_right_before_a_doorbell_is_closed_is_sent() {
    let one = tenant();
    let (closed, open) = (Node::start(&[one]).await, Node::start(&[one]).await);
    closed.cut().await;
    for position in 1..=20 {
        closed.doorbell.ring(one, position);
    }
    closed.shard.close().await;
    open.hears(one, 20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_connections_are_cut_rings_for_all_and_sends_what_was_rung_meanwhile() {
    let (resident, rung) = (tenant(), tenant());
    let (cut, other) = (
        Node::start(&[resident]).await,
        Node::start(&[resident]).await,
    );
    for position in 1..=5 {
        cut.cut().await;
        cut.doorbell.ring(rung, position);
        other.hears(rung, position).await;
        cut.hears(resident, 0).await;
        other.doorbell.ring(rung, 10 * position);
        cut.hears(rung, 10 * position).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_doorbell_sends_no_more() {
    let (one, two) = (tenant(), tenant());
    let (closed, open) = (Node::start(&[one]).await, Node::start(&[one]).await);
    closed.shard.close().await;
    closed.doorbell.ring(two, 1);
    let third = Node::start(&[one]).await;
    third.doorbell.ring(one, 9);
    let heard = open.hears(one, 9).await;
    assert!(!heard.contains_key(&two), "{heard:?}");
}
