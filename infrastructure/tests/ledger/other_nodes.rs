//! What a node's open stores hear of other nodes, also when it comes at a bad time.

use std::collections::HashMap;
use std::sync::Arc;

use application::doorbell::Doorbell;
use application::news::LandlordNews;
use application::ports::TenantStores;
use application::tenants::{Isolation, Tenant};
use domain::ids::TenantId;
use futures::poll;
use infrastructure::database::Older;
use infrastructure::tenants::SchemaStores;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgPool, Postgres, Transaction};
use tokio_util::sync::CancellationToken;

use crate::dedicated::{connected, landlord, main, node, tenant};
use crate::world::*;

/// A node that hears, another one that writes, and somebody who locks heads.
struct Nodes {
    near: SchemaStores,
    far: SchemaStores,
    doorbell: Doorbell,
    tenant: Tenant,
    outside: PgPool,
}

impl Nodes {
    async fn start() -> Self {
        let (store, landlord) = landlord().await;
        let (tenant, doorbell) = (tenant(Isolation::Shared), Doorbell::default());
        let near = SchemaStores::new(
            connected(&store, &landlord, vec![main()], &tenant),
            LandlordNews::default(),
            8,
            WAITING_MAX,
            Older::Migrate,
            Arc::<TestClock>::default(),
            doorbell.clone(),
        );
        let far = node(&store, &landlord, vec![main()], &tenant);
        far.create(tenant.id).await.expect("made");
        Self {
            near,
            far,
            doorbell,
            tenant,
            outside: PgPoolOptions::new().connect_lazy_with(store),
        }
    }

    /// The other node moves the head to position 1, and nobody tells.
    async fn start_subscription(&self) {
        let store = self.far.open(self.tenant.id).await.expect("open");
        let start = subscription(self.tenant.id, 0, vec![started("pro")]);
        committed(store.ledger.append(start).await);
    }

    /// The head, so that it cannot even be read.
    async fn locked(&self) -> Transaction<'static, Postgres> {
        let mut transaction = self.outside.begin().await.expect("a transaction");
        let lock = format!(
            "lock table {} in access exclusive mode",
            head(self.tenant.id)
        );
        let locked = sqlx::query(&lock).execute(&mut *transaction).await;
        locked.expect("locked");
        transaction
    }

    /// The server process that waits for the head, other than `but`.
    async fn waiting(&self, but: i32) -> i32 {
        let query = "select pid from pg_stat_activity where datname = current_database() \
                     and wait_event_type = 'Lock' and query like $1 and pid <> $2";
        let of_head = format!("%{}%", head(self.tenant.id));
        loop {
            let found = sqlx::query_scalar(query).bind(&of_head).bind(but);
            let found = found.fetch_optional(&self.outside).await;
            if let Some(pid) = found.expect("the activity") {
                return pid;
            }
        }
    }
}

fn head(tenant: TenantId) -> String {
    format!("t_{}.head", tenant.to_string().replace('-', ""))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_could_not_be_read_when_it_was_rung_for_is_read_again() {
    let nodes = Nodes::start().await;
    let tenant = nodes.tenant.id;
    let store = nodes.near.open(tenant).await.expect("open");
    nodes.start_subscription().await;
    let stop = CancellationToken::new();
    let mut following = Box::pin(nodes.near.clone().follow_other_nodes(stop.clone()));
    assert!(poll!(&mut following).is_pending());
    let following = tokio::spawn(following);
    let held = nodes.locked().await;
    nodes.doorbell.ring_here(tenant, 1);
    let first = nodes.waiting(0).await;
    let cut = sqlx::query("select pg_terminate_backend($1)").bind(first);
    cut.execute(&nodes.outside).await.expect("cut");
    nodes.waiting(first).await;
    let heard = nodes.doorbell.listen_for(tenant);
    held.rollback().await.expect("let go");
    assert_eq!(heard.next().await, HashMap::from([(tenant, 1)]));
    assert_eq!(store.ledger.head().position, 1);
    stop.cancel();
    following.await.expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_opened_before_its_first_event_has_it_the_next_time_though_nobody_rang() {
    let nodes = Nodes::start().await;
    let tenant = nodes.tenant.id;
    let empty = nodes.near.open(tenant).await.expect("open");
    assert_eq!(empty.ledger.head().position, 0);
    nodes.start_subscription().await;
    assert_eq!(empty.ledger.head().position, 0);
    let store = nodes.near.open(tenant).await.expect("open");
    assert_eq!(store.ledger.head().position, 1);
}

/// The head may have been read before that.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_rung_while_a_store_is_being_opened_is_rung_again_when_it_is_open() {
    let nodes = Nodes::start().await;
    let tenant = nodes.tenant.id;
    nodes.start_subscription().await;
    let stop = CancellationToken::new();
    let mut following = Box::pin(nodes.near.clone().follow_other_nodes(stop));
    assert!(poll!(&mut following).is_pending());
    let held = nodes.locked().await;
    let opening = tokio::spawn({
        let near = nodes.near.clone();
        async move { near.open(tenant).await }
    });
    nodes.waiting(0).await;
    nodes.doorbell.ring_here(tenant, 7);
    assert!(poll!(&mut following).is_pending());
    let heard = nodes.doorbell.listen_for(tenant);
    held.rollback().await.expect("let go");
    opening.await.expect("a task").expect("open");
    assert_eq!(heard.next().await, HashMap::from([(tenant, 7)]));
}
