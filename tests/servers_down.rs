//! PostgreSQL servers go away and come back: meanwhile a bounded 503, afterwards full service from
//! the same processes.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use tokio::time::timeout;

use crate::support::client::id;
use crate::support::cluster::Cluster;
use crate::support::proxy::{Fate, Proxy, Which};
use crate::support::recount::{everything_agrees, history};
use crate::support::store::Database;
use crate::support::{Answer, Client, DEADLINE, Options, Service, Store, eventually, unique};

/// Says within a bounded time that it will be served later.
async fn told_to_come_back(asked: impl Future<Output = Answer>) {
    let answer = timeout(DEADLINE, asked).await;
    let answer = answer.expect("answered within a bounded time");
    let code = answer.expect(503).any_problem()["code"].clone();
    assert!(
        code == "unavailable" || code == "read_model_behind",
        "{answer}"
    );
    let seconds: u64 = answer.header("retry-after").parse().expect("seconds");
    assert!(seconds >= 1, "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_serve_again_after_postgresql_was_stopped_and_started() {
    serve_again_after(Cluster::stop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_serve_again_after_postgresql_was_killed_and_started() {
    serve_again_after(Cluster::crash).await;
}

async fn serve_again_after(goes_away: impl Fn(&Cluster)) {
    let cluster = Arc::new(Cluster::start_unsynced());
    let store = Arc::new(Store::Database(Database::within(&cluster)));
    let first = Service::node_of(&store, Options::default());
    let tenant = first.tenant("free").await;
    let card = tenant.issue_active("Before").await;
    let second = Service::node_of(&store, Options::default());
    let nodes = [&first, &second];
    let of_nodes = nodes.map(|node| tenant.clone().at(node.base()));
    for tenant in &of_nodes {
        assert_eq!(tenant.all("/v1/cards").await.len(), 1);
    }

    goes_away(&cluster);
    let path = format!("/v1/landlord/tenants/{}", tenant.id());
    let body = json!({ "holder": { "name": "Meanwhile" } });
    let keys = nodes.map(|_| unique("meanwhile"));
    for ((node, tenant), key) in nodes.iter().zip(&of_nodes).zip(&keys) {
        let (landlord, stranger) = (node.landlord(), node.stranger());
        let one = format!("/v1/cards/{}", id(&card));
        let ready = timeout(DEADLINE, stranger.get("/readyz"));
        let ((), (), (), (), ready) = tokio::join!(
            told_to_come_back(tenant.post_once("/v1/cards", key, &body)),
            told_to_come_back(tenant.get(&one)),
            told_to_come_back(tenant.get("/v1/cards")),
            told_to_come_back(landlord.get(&path)),
            ready,
        );
        ready.expect("answered").problem(503, "not_ready");
        stranger.get("/healthz").await.expect(200);
    }

    cluster.start_again();
    for (tenant, key) in of_nodes.iter().zip(&keys) {
        eventually("what was asked meanwhile is done, once", || async {
            let again = tenant.post_once("/v1/cards", key, &body).await;
            (again.status == 201).then_some(())
        })
        .await;
    }
    for (node, tenant) in nodes.iter().zip(&of_nodes) {
        eventually("the node is ready", || async {
            (node.stranger().get("/readyz").await.status == 200).then_some(())
        })
        .await;
        tenant.issue("Afterwards").await;
    }
    let position = history(&first, tenant.id()).await.len() as u64;
    for (node, tenant) in nodes.iter().zip(&of_nodes) {
        eventually("the node hears of what the other did", || async {
            (tenant.usage().await["as_of"] == position).then_some(())
        })
        .await;
        everything_agrees(node, tenant).await;
        assert_eq!(tenant.all("/v1/cards").await.len(), 5);
    }
}

/// A node whose landlord is in one cluster and whose tenants are in a shard in another.
pub async fn with_a_second_shard(
    landlord: &Arc<Cluster>,
    tenants: &Arc<Cluster>,
    options: Options,
) -> Service {
    let shard = Database::within(tenants);
    let database = Database::within(landlord);
    let store = Arc::new(Store::Database(database));
    let options = options.with("SHARD_2_URL", shard.url());
    let mut service = Service::node_of(&store, options);
    service.terminate();
    service.stopped();
    if let Store::Database(database) = &*store {
        database.run(
            "insert into shards (name, url, open) values ('second', 'env:SHARD_2_URL', 1); \
             update shards set open = 0 where name = 'main'",
        );
    }
    service.restart();
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_in_another_server_go_on_while_the_landlords_is_down() {
    let landlords = Arc::new(Cluster::start_unsynced());
    let tenants = Arc::new(Cluster::start_unsynced());
    let service = with_a_second_shard(&landlords, &tenants, Options::default()).await;
    let tenant = service.tenant("free").await;
    let card = tenant.issue_active("Before").await;
    let landlord = service.landlord();
    let path = format!("/v1/landlord/tenants/{}", tenant.id());
    landlord.get(&path).await.expect(200);

    landlords.stop();
    for index in 0..20 {
        let during = tenant.issue(&format!("During {index}")).await;
        tenant.change(&during, "activate").await.expect(200);
    }
    tenant.change(&card, "suspend").await.expect(200);
    let read = tenant.get(&format!("/v1/cards/{}", id(&card))).await;
    assert_eq!(read.expect(200).json()["status"], "suspended");
    assert_eq!(tenant.all("/v1/cards").await.len(), 21);
    assert_eq!(tenant.usage().await["in_circulation"], 21);
    tenant.get("/v1/entitlements").await.expect(200);
    let refused = tenant.get("/v1/cards/stats").await;
    refused.problem(402, "upgrade_required");
    told_to_come_back(landlord.get(&path)).await;
    told_to_come_back(landlord.get("/v1/landlord/tenants")).await;
    // The tenant's own event needs no landlord's database.
    let plan = format!("{path}/subscription/plan");
    let changed = landlord.put(&plan, &json!({ "plan": "pro" })).await;
    changed.expect(200);
    assert!(tenant.usage().await["limit"].is_null());

    landlords.start_again();
    eventually("the landlord sees what happened meanwhile", || async {
        let shown = landlord.get(&path).await;
        (shown.status == 200 && shown.json()["plan"] == "pro").then_some(())
    })
    .await;
    everything_agrees(&service, &tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_of_other_shards_go_on_while_a_shard_is_down() {
    let landlords = Arc::new(Cluster::start_unsynced());
    let tenants = Arc::new(Cluster::start_unsynced());
    let service = with_a_second_shard(&landlords, &tenants, Options::default()).await;
    let away: Client = service.tenant("free").await;
    away.issue("Before").await;
    let mut service = service;
    service.terminate();
    service.stopped();
    if let Store::Database(database) = &**service.store() {
        database.run("update shards set open = 1 - open");
    }
    service.restart();
    let away = away.at(service.base());
    let here = service.tenant("free").await;
    assert_eq!(away.all("/v1/cards").await.len(), 1);

    tenants.crash();
    told_to_come_back(away.get("/v1/cards")).await;
    let body = json!({ "holder": { "name": "Meanwhile" } });
    told_to_come_back(away.post("/v1/cards", &body)).await;
    let ready = service.stranger().get("/readyz").await.expect(200).json();
    assert_eq!(ready["errors"][0]["field"], "shards.second", "{ready}");
    assert_eq!(ready["errors"].as_array().map(Vec::len), Some(1));
    for index in 0..20 {
        here.issue(&format!("During {index}")).await;
    }
    everything_agrees(&service, &here).await;

    tenants.start_again();
    eventually("the shard serves again", || async {
        (away.post("/v1/cards", &body).await.status == 201).then_some(())
    })
    .await;
    everything_agrees(&service, &away).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_are_given_up_and_keep_no_place() {
    let cluster = Arc::new(Cluster::start_unsynced());
    let database = Database::within(&cluster);
    let proxy = Proxy::before(cluster.socket()).await;
    let way = Options::default().by_way_of(proxy.url(database.name()));
    let options = way.with("SHARD_CONNECTIONS_MAX", 4);
    let store = Arc::new(Store::Database(database));
    let service = Service::node_of(&store, options.with("LANDLORD_CONNECTIONS_MAX", 4));
    let tenant = service.tenant("pro").await;
    let card = tenant.issue("Before").await;
    let over = Arc::new(AtomicBool::new(false));
    let (started, mut begun) = tokio::sync::mpsc::unbounded_channel();
    let asking: Vec<_> = (0..16)
        .map(|client| {
            let (tenant, over, started) = (tenant.clone(), Arc::clone(&over), started.clone());
            let landlord = service.landlord();
            let paths = [
                format!("/v1/cards/{}", id(&card)),
                "/v1/cards".to_owned(),
                format!("/v1/landlord/tenants/{}", tenant.id()),
            ];
            tokio::spawn(async move {
                let body = json!({ "holder": { "name": "Meanwhile" } });
                for turn in 0.. {
                    if over.load(Ordering::SeqCst) {
                        return;
                    }
                    let asked = async {
                        match (client + turn) % 4 {
                            3 => tenant.post("/v1/cards", &body).await,
                            2 => landlord.get(&paths[2]).await,
                            which => tenant.get(&paths[which]).await,
                        }
                    };
                    let answer = timeout(3 * DEADLINE, asked).await.expect("no hang");
                    assert!([200, 201, 503].contains(&answer.status), "{answer}");
                    let _ = started.send(());
                }
            })
        })
        .collect();
    drop(started);
    // In the middle of it: some are being used, others were just now.
    for _ in 0..2 {
        for _ in 0..100 {
            begun.recv().await.expect("they go on");
        }
        proxy.decide(Which::All, Fate::Silent);
    }
    over.store(true, Ordering::SeqCst);
    for client in asking {
        client.await.expect("every request was answered");
    }
    let path = format!("/v1/landlord/tenants/{}", tenant.id());
    let landlord = service.landlord();
    eventually("as many are served at once as before", || async {
        let asking = (0..16).map(|turn| match turn % 2 {
            0 => tenant.get("/v1/cards"),
            _ => landlord.get(&path),
        });
        let answers = futures::future::join_all(asking).await;
        answers.iter().all(|it| it.status == 200).then_some(())
    })
    .await;
    everything_agrees(&service, &tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_shard_was_down_is_finished_without_a_restart() {
    let landlords = Arc::new(Cluster::start_unsynced());
    let tenants = Arc::new(Cluster::start_unsynced());
    let options = Options::default().with("SWEEP_INTERVAL_S", 1);
    let service = with_a_second_shard(&landlords, &tenants, options).await;
    tenants.stop();
    let body = json!({ "name": "Half made", "slug": "half-made", "plan": "free" });
    let landlord = service.landlord();
    told_to_come_back(landlord.post("/v1/landlord/tenants", &body)).await;

    tenants.start_again();
    eventually("it is finished", || async {
        let listed = landlord.all("/v1/landlord/tenants?q=half-made").await;
        let one = format!("/v1/landlord/tenants/{}", id(listed.first()?));
        (landlord.get(&one).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_starts_although_a_half_made_tenants_shard_says_nothing() {
    let cluster = Arc::new(Cluster::start_unsynced());
    let store = Arc::new(Store::Database(Database::within(&cluster)));
    // Its connections are made, and then nobody is there.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = silent.local_addr().expect("an address");
    let url = format!("postgres://tests@{address}/nowhere?sslmode=disable");
    let options = Options::default().with("SHARD_2_URL", url);
    let mut service = Service::node_of(&store, options);
    let here = service.tenant("free").await;
    let half = service.tenant("free").await;
    service.kill();
    if let Store::Database(database) = &*store {
        database.run(&format!(
            "insert into shards (name, url, open) values ('second', 'env:SHARD_2_URL', 0); \
             update tenants set ready = 0, shard = 'second' where id = '{}'",
            half.id(),
        ));
    }
    service.restart();
    here.at(service.base()).issue("Meanwhile").await;
}
