//! The doorbell between nodes: what is rung on one is heard on the others.

use std::collections::HashMap;
use std::sync::Arc;

use application::doorbell::{Doorbell, Mailbox};
use application::ports::Random;
use domain::ids::{Position, TenantId};
use infrastructure::clock::SystemRandom;
use infrastructure::doorbell::ShardDoorbell;
use sqlx::ConnectOptions;

use crate::cluster::Cluster;

/// A node: its doorbell, what its subscribers hear, and its part of the shard's doorbell.
struct Node {
    doorbell: Doorbell,
    heard: Mailbox,
    shard: ShardDoorbell,
    name: String,
}

impl Node {
    /// A node that follows these tenants and is listening.
    async fn start(residents: &[TenantId]) -> Self {
        let (doorbell, id) = (Doorbell::default(), SystemRandom.id());
        let heard = doorbell.listen();
        let name = format!("node {id}");
        let options = Cluster::shared().options().application_name(&name);
        let residents = residents.to_vec();
        let residents = Arc::new(move || residents.clone());
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
async fn what_is_rung_on_one_node_is_heard_on_every_node_once() {
    let (one, other) = (tenant(), tenant());
    let nodes = [
        Node::start(&[one]).await,
        Node::start(&[one]).await,
        Node::start(&[one]).await,
    ];
    nodes[0].doorbell.ring(one, 7);
    for node in &nodes {
        node.hears(one, 7).await;
    }
    // The order of one node's rings is kept, so an echo of the first would come before this.
    nodes[1].doorbell.ring(other, 1);
    let heard = nodes[0].hears(other, 1).await;
    assert!(!heard.contains_key(&one), "{heard:?}");
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
