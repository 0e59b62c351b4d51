//! Connections to PostgreSQL, which has few: a node takes no more than it is allowed, however many
//! tenants it has and whatever they do.

use serde_json::json;

use crate::shards::node;
use crate::support::store::Database;
use crate::support::{Service, eventually};

const TENANTS: usize = 30;
const OF_LANDLORD: u64 = 3;
const OF_SHARD: u64 = 4;
/// One that listens and one that notifies.
const OF_DOORBELL: u64 = 2;
/// One that listens for news of the landlord's records.
const OF_NEWS: u64 = 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_many_tenants_keeps_within_its_connections_and_listens_once_a_shard() {
    let (main, second) = (Database::new(), Database::new());
    let mut node = node(&main.url());
    node.env("SECOND", second.url())
        .env("LANDLORD_CONNECTIONS_MAX", OF_LANDLORD.to_string())
        .env("SHARD_CONNECTIONS_MAX", OF_SHARD.to_string());
    let service = Service::started_by(&mut node);
    let shard = json!({ "name": "second", "url": "env:SECOND" });
    let added = service.landlord().post("/v1/landlord/shards", &shard).await;
    added.expect(201);
    // One after the other, so that each shard is given half of them.
    let mut tenants = Vec::new();
    for _ in 0..TENANTS {
        tenants.push(service.tenant("pro").await);
    }

    let allowed = [
        (&main, OF_LANDLORD + OF_SHARD + OF_DOORBELL + OF_NEWS),
        (&second, OF_SHARD + OF_DOORBELL),
    ];
    for (database, allowed) in allowed {
        eventually("those that made the schemas are closed", || async {
            (open(database) <= allowed).then_some(())
        })
        .await;
    }
    let working: Vec<_> = tenants
        .into_iter()
        .map(|tenant| {
            tokio::spawn(async move {
                for turn in 1..=20 {
                    tenant.issue("One of many").await;
                    assert_eq!(tenant.all("/v1/cards").await.len(), turn);
                }
            })
        })
        .collect();
    while !working.iter().all(|tenant| tenant.is_finished()) {
        for (database, allowed) in allowed {
            let open = open(database);
            assert!(open <= allowed, "{open} of {allowed}");
        }
    }
    for tenant in working {
        tenant.await.expect("a tenant is served");
    }
    assert_eq!(
        open(&second),
        OF_SHARD + OF_DOORBELL,
        "all were of use at once"
    );
    assert_eq!(listening(&main), 1 + OF_NEWS);
    assert_eq!(listening(&second), 1);
}

/// The node's connections to a database.
fn open(database: &Database) -> u64 {
    connections(database, "true")
}

/// Those that listen: they do nothing else, but notify themselves when it is quiet.
fn listening(database: &Database) -> u64 {
    let listens = "query like 'LISTEN %' or query = 'select pg_notify($1, '''')'";
    connections(database, listens)
}

fn connections(database: &Database, which: &str) -> u64 {
    let count = database.run(&format!(
        "select count(*) from pg_stat_activity where datname = current_database() \
         and application_name = 'digital-card' and ({which})"
    ));
    count.trim().parse().expect("a number")
}
