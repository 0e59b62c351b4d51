//! Tenants with a database of their own, and shards that another node has added.

use std::sync::Arc;

use application::doorbell::Doorbell;
use application::news::LandlordNews;
use application::ports::moves::{Condition, Places};
use application::ports::{Landlord, Random, TenantStores};
use application::shards::{Shard, Shards, UrlReference};
use application::tenants::{Directory, Isolation, Tenant};
use chrono::DateTime;
use domain::catalogue::PlanKey;
use domain::ids::{Slug, TenantId};
use domain::text::DisplayName;
use futures::future::join_all;
use infrastructure::clock::SystemRandom;
use infrastructure::database::Older;
use infrastructure::landlord::{LandlordDatabase, connect};
use infrastructure::shards::places::ShardPlaces;
use infrastructure::shards::{ConnectedShards, Node, pool};
use infrastructure::tenants::SchemaStores;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection};

use crate::cluster::Cluster;
use crate::world::*;

/// A new database with a landlord's records, and a shard in it.
pub async fn landlord() -> (PgConnectOptions, Arc<LandlordDatabase>) {
    let cluster = Cluster::shared();
    let name = format!("d{}", SystemRandom.id().simple());
    let mut connection = cluster.options().connect().await.expect("a server");
    let create = format!("create database {name}");
    let created = sqlx::query(&create).execute(&mut connection).await;
    created.expect("created");
    connection.close().await.expect("closed");
    let store = cluster.options().database(&name);
    let database = connect(pool(&store, 4), Older::Migrate).await;
    let landlord = LandlordDatabase::new(Arc::new(database.expect("a database")));
    let at = DateTime::UNIX_EPOCH;
    let added = landlord.add_shard(&main(), at, None).await;
    added.expect("added");
    (store, Arc::new(landlord))
}

pub fn main() -> Shard {
    Shard {
        name: slug("main"),
        url: UrlReference::Store,
        open: true,
    }
}

fn slug(text: &str) -> Slug {
    Slug::try_from(text.to_owned()).expect("a slug")
}

pub fn tenant(isolation: Isolation) -> Tenant {
    let id = TenantId::new(SystemRandom.id());
    Tenant {
        id,
        name: DisplayName::try_from("A tenant".to_owned()).expect("a name"),
        slug: slug("a-tenant"),
        first_plan: PlanKey::try_from("pro".to_owned()).expect("a key"),
        isolation,
        shard: Some(main().name),
        created_at: DateTime::UNIX_EPOCH,
        ready: true,
    }
}

/// A node that knows these shards and this tenant.
pub fn node(
    store: &PgConnectOptions,
    landlord: &Arc<LandlordDatabase>,
    shards: Vec<Shard>,
    tenant: &Tenant,
) -> SchemaStores {
    SchemaStores::new(
        connected(store, landlord, shards, tenant),
        LandlordNews::default(),
        8,
        WAITING_MAX,
        Older::Migrate,
        Arc::<TestClock>::default(),
        Doorbell::default(),
    )
}

/// Its connections.
pub fn connected(
    store: &PgConnectOptions,
    landlord: &Arc<LandlordDatabase>,
    shards: Vec<Shard>,
    tenant: &Tenant,
) -> Arc<ConnectedShards> {
    let node = Node {
        id: SystemRandom.id(),
        store: store.clone(),
        doorbell: Doorbell::default(),
        connections_max: 4,
        dedicated_connections_max: 2,
    };
    Arc::new(ConnectedShards::new(
        node,
        Arc::clone(landlord) as _,
        Arc::new(Shards::new(shards)),
        Arc::new(Directory::new(vec![tenant.clone()])),
    ))
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_make_a_tenants_database_at_once_make_one() {
    let (store, landlord) = landlord().await;
    let tenant = tenant(Isolation::Dedicated);
    let nodes: Vec<_> = (0..6)
        .map(|_| node(&store, &landlord, vec![main()], &tenant))
        .collect();
    for made in join_all(nodes.iter().map(|it| it.create(tenant.id))).await {
        made.expect("made");
    }
    let first = nodes[0].open(tenant.id).await.expect("open");
    let start = subscription(tenant.id, 0, vec![started("pro")]);
    committed(first.ledger.append(start).await);
    for node in &nodes {
        let store = node.open(tenant.id).await.expect("open");
        committed(store.ledger.append(issue()).await);
    }
    let last = nodes[5].open(tenant.id).await.expect("open");
    assert_eq!(last.ledger.head().usage.issued, 6);
    assert_sound(&*last.ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_this_node_has_not_heard_of_is_asked_for() {
    let (store, landlord) = landlord().await;
    let tenant = tenant(Isolation::Shared);
    let node = node(&store, &landlord, vec![], &tenant);
    node.create(tenant.id).await.expect("made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_is_not_thawed_by_who_has_not_seen_it_frozen_anew() {
    let (store, landlord) = landlord().await;
    let tenant = tenant(Isolation::Shared);
    let shards = connected(&store, &landlord, vec![main()], &tenant);
    let places = ShardPlaces::new(shards, Arc::<TestClock>::default());
    let condition = async || places.condition(&tenant).await.expect("asked");
    assert_eq!(condition().await, Condition::Missing);
    let node = node(&store, &landlord, vec![main()], &tenant);
    node.create(tenant.id).await.expect("made");
    assert_eq!(condition().await, Condition::InUse);
    let mut seen = Vec::new();
    for mover in ["first", "second"] {
        let frozen = places.freeze(&tenant, &slug(mover)).await;
        let frozen = frozen.expect("frozen");
        assert_eq!(condition().await, Condition::Frozen(frozen));
        seen.push(frozen);
    }
    for (seen, thaws) in [(seen[0], false), (seen[1], true), (seen[1], false)] {
        let thawed = places.thaw(&tenant, seen).await;
        assert_eq!(thawed.expect("asked"), thaws);
    }
    assert_eq!(condition().await, Condition::InUse);
}
