//! The catalogue on several nodes, and without the landlord's database.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::servers_down::with_a_second_shard;
use crate::support::cluster::Cluster;
use crate::support::store::Database;
use crate::support::{Client, Options, Service, Store, eventually};

const STATS: &str = "/v1/cards/stats";
const KILL: &str = "/v1/landlord/features/cards.stats/kill-switch";

fn three_nodes() -> (Arc<Store>, [Service; 3]) {
    let store = Arc::new(Store::Database(Database::new()));
    let start = |()| {
        let store = Arc::clone(&store);
        std::thread::spawn(move || Service::node_of(&store, Options::default()))
    };
    let nodes = [(); 3].map(start).map(|node| node.join().expect("a node"));
    (store, nodes)
}

async fn until_answered(tenant: &Client, status: u16) {
    eventually("the node hears of the switch", || async {
        (tenant.get(STATS).await.status == status).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_at_once_write_the_standard_once() {
    let (_store, nodes) = three_nodes();
    let mut versions = Vec::new();
    for node in &nodes {
        let plan = node.landlord().get("/v1/landlord/plans/free").await;
        assert_eq!(plan.expect(200).json()["version"], 1);
        versions.push(plan.version());
    }
    // Two modules, nine features, three plans.
    assert_eq!(versions, [14, 14, 14]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_on_one_node_is_in_force_on_the_others_within_milliseconds() {
    let (_store, nodes) = three_nodes();
    let tenant = nodes[0].tenant("enterprise").await;
    let elsewhere = tenant.clone().at(nodes[2].base());
    until_answered(&elsewhere, 501).await;
    let landlord = nodes[0].landlord();
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        landlord.put(KILL, &json!({})).await.expect(200);
        let killed = Instant::now();
        tenant.get(STATS).await.problem(503, "feature_disabled");
        until_answered(&elsewhere, 503).await;
        slowest = slowest.max(killed.elapsed());
        landlord.delete(KILL).await.expect(200);
        until_answered(&elsewhere, 501).await;
    }
    // Some milliseconds on an idle machine; the sweep would take a minute.
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalogue_last_known_goes_on_to_serve_while_the_landlords_server_is_down() {
    let landlords = Arc::new(Cluster::start_unsynced());
    let tenants = Arc::new(Cluster::start_unsynced());
    let service = with_a_second_shard(&landlords, &tenants, Options::default()).await;
    let (tenant, landlord) = (service.tenant("enterprise").await, service.landlord());
    landlord.put(KILL, &json!({})).await.expect(200);

    landlords.stop();
    tenant.get(STATS).await.problem(503, "feature_disabled");
    tenant.issue("During").await;
    let live = tenant.get("/v1/bulk-jobs").await;
    assert_eq!(live.status, 501, "{live}");
    landlord.get("/v1/landlord/plans").await.expect(200);
    let refused = landlord.delete(KILL).await;
    refused.problem(503, "unavailable");
    tenant.get(STATS).await.problem(503, "feature_disabled");

    landlords.start_again();
    eventually("the switch can be taken back", || async {
        (landlord.delete(KILL).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(tenant.get(STATS).await.status, 501);
}
