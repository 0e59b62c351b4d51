//! Several nodes on one PostgreSQL store: what one has done holds on every other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::{Connection, Executor, PgConnection};

use crate::support::client::id;
use crate::support::cluster::Cluster;
use crate::support::proxy::{Fate, Proxy, Which};
use crate::support::recount::{everything_agrees, history};
use crate::support::store::{Database, schema};
use crate::support::{Answer, Client, Options, Service, Store, eventually, in_seconds, unique};

/// Three nodes, and a tenant's client of each.
struct Three {
    nodes: [Service; 3],
    tenants: [Client; 3],
}

impl Three {
    async fn with_tenant(plan: &str) -> Self {
        let store = Arc::new(Store::Database(Database::new()));
        let nodes = [(); 3].map(|()| Service::node_of(&store, Options::default()));
        let tenant = nodes[0].tenant(plan).await;
        let tenants = nodes.each_ref().map(|node| tenant.clone().at(node.base()));
        for tenant in &tenants {
            seen(tenant, 0).await;
        }
        Self { nodes, tenants }
    }

    /// The tenant's client of a node, one after the other.
    fn tenant(&self, turn: usize) -> &Client {
        &self.tenants[turn % self.tenants.len()]
    }

    /// Fails unless each node, once it has heard of everything, says the same as the ledger. Nobody
    /// waits for the sweep, which comes too late.
    async fn all_agree(&self) {
        let position = history(&self.nodes[0], self.tenants[0].id()).await.len();
        for (node, tenant) in self.nodes.iter().zip(&self.tenants) {
            seen(tenant, position as u64).await;
            everything_agrees(node, tenant).await;
        }
    }
}

/// Waits until the client's node knows the tenant, and has heard of its ledger at this position.
async fn seen(tenant: &Client, position: u64) {
    eventually("the node hears of what the others did", || async {
        let usage = tenant.get("/v1/usage").await;
        let seen = usage.status == 200 && usage.json()["as_of"].as_u64() >= Some(position);
        seen.then_some(())
    })
    .await;
}

async fn issue(tenant: Client, name: String) -> Answer {
    let body = json!({ "holder": { "name": name } });
    tenant.post_once("/v1/cards", &unique("nodes"), &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_600_concurrent_issuances_on_three_nodes_exactly_500_succeed() {
    let three = Three::with_tenant("free").await;
    let asking: Vec<_> = (0..600)
        .map(|index| {
            let tenant = three.tenant(index).clone();
            tokio::spawn(issue(tenant, format!("Holder {index}")))
        })
        .collect();
    let mut issued = 0;
    let mut refused = 0;
    for answer in futures::future::join_all(asking).await {
        let answer = answer.expect("an answer");
        match answer.status {
            201 => issued += 1,
            _ => {
                answer.problem(402, "quota_exceeded");
                refused += 1;
            }
        }
    }
    assert_eq!((issued, refused), (500, 100));
    three.all_agree().await;
    for tenant in &three.tenants {
        let usage = tenant.usage().await;
        assert_eq!(usage["in_circulation"], 500);
        assert_eq!(usage["issued_total"], 500);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_has_its_effect_once_with_the_subscribers_of_three_nodes() {
    let three = Three::with_tenant("pro").await;
    let working: Vec<_> = (0..12)
        .map(|client| {
            let tenants = three.tenants.clone();
            tokio::spawn(async move {
                for turn in 0..15 {
                    let tenant = |step: usize| &tenants[(client + turn + step) % tenants.len()];
                    let card = tenant(0).issue(&format!("{client}-{turn}")).await;
                    // Each on another node than the command before.
                    tenant(1).change(&card, "activate").await.expect(200);
                    let last = ["suspend", "revoke"][turn % 2];
                    tenant(2).change(&card, last).await.expect(200);
                }
            })
        })
        .collect();
    for client in working {
        client.await.expect("every command succeeds on every node");
    }
    three.all_agree().await;
    let events = history(&three.nodes[0], three.tenants[0].id()).await;
    let times = |kind: &str| events.iter().filter(|it| it["type"] == kind).count();
    assert_eq!(times("CardIssued"), 180, "each command once");
    assert_eq!(times("CardActivated"), 180);
    assert_eq!(times("CardSuspended") + times("CardRevoked"), 180);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_on_one_node_is_in_force_on_the_others_for_the_next_request() {
    let three = Three::with_tenant("free").await;
    let path = format!(
        "/v1/landlord/tenants/{}/subscription/plan",
        three.tenants[0].id()
    );
    let mut slowest = Duration::ZERO;
    for (turn, plan) in ["enterprise", "free", "enterprise", "pro", "enterprise"]
        .into_iter()
        .enumerate()
    {
        let landlord = three.nodes[turn % 3].landlord();
        let changed = landlord.put(&path, &json!({ "plan": plan })).await;
        changed.expect(200);
        let begun = Instant::now();
        for other in 1..3 {
            let tenant = three.tenant(turn + other);
            seen(tenant, changed.position()).await;
            slowest = slowest.max(begun.elapsed());
            let gate = tenant.get("/v1/cards/stats").await;
            assert_eq!(gate.status == 402, plan != "enterprise", "{plan}: {gate}");
            let entitled = tenant.get("/v1/entitlements").await.expect(200).json();
            assert_eq!(entitled["plan"], plan);
        }
    }
    println!("at the latest after {slowest:?}, asked every 20 ms");
    assert!(
        slowest < Duration::from_secs(2),
        "nobody waits for the sweep"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_on_one_node_is_read_on_another_that_is_told_the_position() {
    let three = Three::with_tenant("free").await;
    for turn in 0..30 {
        let made = issue(three.tenant(turn).clone(), format!("Read {turn}")).await;
        let card = made.expect(201).json();
        let position = made.position();
        let path = format!("/v1/cards/{}?at_least={position}", id(&card));
        let read = three.tenant(turn + 1).get(&path).await;
        assert_eq!(read.expect(200).json(), card);
        let list = format!("/v1/cards?limit=500&at_least={position}");
        let listed = three.tenant(turn + 2).all(&list).await;
        assert_eq!(listed.len(), turn + 1);
    }
    three.all_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_repeated_on_another_node_has_its_first_outcome() {
    let three = Three::with_tenant("free").await;
    for turn in 0..10 {
        let key = unique("again");
        let body = json!({ "holder": { "name": "Once" } });
        let asking = three.tenants.iter().map(|tenant| {
            let (tenant, key, body) = (tenant.clone(), key.clone(), body.clone());
            tokio::spawn(async move { tenant.post_once("/v1/cards", &key, &body).await })
        });
        let answers: Vec<_> = futures::future::join_all(asking).await;
        let answers: Vec<_> = answers
            .into_iter()
            .map(|it| it.expect("answered"))
            .collect();
        let first = answers.iter().filter(|answer| !answer.is_replayed());
        assert_eq!(first.count(), 1, "{turn}: {answers:?}");
        for answer in &answers {
            answer.expect(201);
            assert_eq!(answer.body, answers[0].body);
        }
    }
    three.all_agree().await;
}

/// Two nodes of which the first is about to die: it can tell the other nothing any more.
struct Dying {
    first: Service,
    second: Service,
    proxy: Proxy,
}

impl Dying {
    async fn with(second: Options) -> Self {
        let cluster = Arc::new(Cluster::start_unsynced());
        let database = Database::within(&cluster);
        let proxy = Proxy::before(cluster.socket()).await;
        let way = Options::default().by_way_of(proxy.url(database.name()));
        let store = Arc::new(Store::Database(database));
        let first = Service::node_of(&store, way);
        let second = Service::node_of(&store, second);
        Self {
            first,
            second,
            proxy,
        }
    }

    /// A tenant, and its client of the second node, which has heard of a card.
    async fn tenant(&self) -> (Client, Client) {
        let tenant = self.first.tenant("free").await;
        let of_second = tenant.clone().at(self.second.base());
        seen(&of_second, 0).await;
        let body = json!({ "holder": { "name": "Before" } });
        let issued = tenant.post("/v1/cards", &body).await;
        seen(&of_second, issued.expect(201).position()).await;
        (tenant, of_second)
    }

    /// The first node issues a card, and is killed before it can say so; the last position.
    async fn issue_and_die(&mut self, tenant: &Client) -> u64 {
        self.proxy.decide(Which::Notifying, Fate::Silent);
        let body = json!({ "holder": { "name": "Last words" } });
        let issued = tenant.post("/v1/cards", &body).await;
        self.first.kill();
        issued.expect(201).position()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_did_before_it_was_cut_off_and_killed_is_found_by_the_others() {
    let options = Options::default().with("SWEEP_INTERVAL_S", 1);
    let mut nodes = Dying::with(options).await;
    // What was rung for is nothing to be found.
    for _ in 0..4 {
        nodes.tenant().await;
    }
    let (tenant, of_second) = nodes.tenant().await;
    let position = nodes.issue_and_die(&tenant).await;
    seen(&of_second, position).await;
    assert_eq!(of_second.all("/v1/cards").await.len(), 2);
    everything_agrees(&nodes.second, &of_second).await;

    let path = format!("/v1/landlord/subscribers?tenant={}", tenant.id());
    let subscribers = nodes.second.landlord().all(&path).await.len();
    let found = nodes.second.counted("subscriber_sweep_finds_total").await;
    assert_eq!(found, subscribers as u64, "each of this tenant's, once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_opened_again_is_read_although_nobody_rang_for_it() {
    let options = Options::default().with("OPEN_TENANTS_MAX", 1);
    let mut nodes = Dying::with(options).await;
    let (tenant, of_second) = nodes.tenant().await;
    // Closes the first one's store.
    let (_, other) = nodes.tenant().await;
    assert_eq!(other.all("/v1/cards").await.len(), 1);
    let position = nodes.issue_and_die(&tenant).await;
    let list = format!("/v1/cards?at_least={position}");
    assert_eq!(of_second.all(&list).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_does_not_answer_holds_up_no_other() {
    let cluster = Arc::new(Cluster::start_unsynced());
    let store = Arc::new(Store::Database(Database::within(&cluster)));
    let Store::Database(database) = &*store else {
        unreachable!("made above")
    };
    let first = Service::node_of(&store, Options::default());
    let second = Service::node_of(&store, Options::default());
    let (locked, tenant) = (first.tenant("free").await, first.tenant("free").await);
    let of_second = tenant.clone().at(second.base());
    seen(&of_second, 0).await;
    seen(&locked.clone().at(second.base()), 0).await;

    let mut holder = PgConnection::connect(&database.url())
        .await
        .expect("a connection");
    let mut transaction = holder.begin().await.expect("a transaction");
    let lock = format!(
        "lock table {}.head in access exclusive mode",
        schema(locked.id())
    );
    transaction.execute(&*lock).await.expect("locked");
    let ring = format!("{} {} 0", uuid::Uuid::nil(), locked.id());
    database.run(&format!("notify digital_card, '{ring}'"));
    let begun = Instant::now();
    let issued = issue(tenant.clone(), "Meanwhile".to_owned()).await;
    seen(&of_second, issued.expect(201).position()).await;
    assert!(begun.elapsed() < Duration::from_secs(4));
    transaction.rollback().await.expect("unlocked");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_is_told_once_though_three_nodes_follow_the_ledger() {
    let three = Three::with_tenant("free").await;
    let asking: Vec<_> = (0..500)
        .map(|index| {
            tokio::spawn(issue(
                three.tenant(index).clone(),
                format!("Holder {index}"),
            ))
        })
        .collect();
    for answer in futures::future::join_all(asking).await {
        answer.expect("an answer").expect(201);
    }
    let told = || async {
        let all = history(&three.nodes[0], three.tenants[0].id()).await;
        let told = all.iter().filter_map(|event| {
            let told = &event["payload"]["UsageThresholdReached"];
            told["percent"].as_u64()
        });
        (told.collect::<Vec<_>>(), all.len())
    };
    let path = format!(
        "/v1/landlord/subscribers?name=thresholds&tenant={}",
        three.tenants[0].id()
    );
    eventually("every node has followed the ledger to its end", || async {
        let (told, end) = told().await;
        for node in &three.nodes {
            let followed = node.landlord().all(&path).await;
            if followed.len() != 1 || followed[0]["checkpoint"] != end {
                return None;
            }
        }
        (!told.is_empty()).then_some(())
    })
    .await;
    assert_eq!(told().await.0, [80, 90, 100]);
    three.all_agree().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_time_brings_is_recorded_once_by_all_nodes_together() {
    let three = Three::with_tenant("enterprise").await;
    let tenant = three.tenant(0);
    let path = format!("/v1/landlord/tenants/{}/subscription/plan", tenant.id());
    let body = json!({ "plan": "free", "effective": in_seconds(3) });
    three.nodes[0]
        .landlord()
        .put(&path, &body)
        .await
        .expect(200);
    let brief = json!({ "holder": { "name": "Brief" }, "expires_at": in_seconds(3) });
    for turn in 0..9 {
        three.tenant(turn).issue_as(&brief).await;
    }
    for turn in 0..3 {
        eventually("the plan is another on every node", || async {
            let gate = three.tenant(turn).get("/v1/cards/stats").await;
            (gate.status == 402).then_some(())
        })
        .await;
    }
    let recorded = eventually("all of it is recorded", || async {
        let events = history(&three.nodes[0], tenant.id()).await;
        let of = |name| events.iter().filter(|event| event["type"] == name).count();
        let counts = (of("PlanDowngraded"), of("CardExpired"));
        (counts.0 >= 1 && counts.1 >= 9).then_some(counts)
    })
    .await;
    assert_eq!(recorded, (1, 9));
    three.all_agree().await;
}
