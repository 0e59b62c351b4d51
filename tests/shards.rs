//! Shards: where tenants are placed, on PostgreSQL.

use std::process::Command;

use serde_json::{Value, json};

use crate::support::cluster::Cluster;
use crate::support::service::{LANDLORD_KEY, command};
use crate::support::{Answer, Client, Service, unique};

const SHARDS: &str = "/v1/landlord/shards";

/// The address of a new, empty database.
pub fn database() -> String {
    let cluster = Cluster::shared();
    let name = unique("d").replace('-', "_");
    cluster.run("postgres", &format!("create database {name}"));
    cluster.url(&name)
}

/// How a node is started whose landlord's database is at `store`.
pub fn node(store: &str) -> Command {
    let mut node = command();
    node.args(["serve", "--listen", "127.0.0.1:0"])
        .env("STORE", store)
        .env("LANDLORD_API_KEY", LANDLORD_KEY);
    node
}

/// A node on a database of its own, that knows the address of another as `env:SECOND`.
fn service() -> Service {
    let mut node = node(&database());
    Service::started_by(node.env("SECOND", database()).env("THIRD", database()))
}

async fn add(service: &Service, body: &Value) -> Answer {
    service.landlord().post(SHARDS, body).await
}

async fn shards(service: &Service) -> Vec<Value> {
    service.landlord().all(SHARDS).await
}

/// The tenant's record, as the landlord sees it.
async fn record(service: &Service, tenant: &Client) -> Value {
    let path = format!("/v1/landlord/tenants/{}", tenant.id());
    service.landlord().get(&path).await.expect(200).json()
}

#[tokio::test]
async fn a_new_tenant_is_placed_in_the_open_shard_with_the_fewest() {
    let service = service();
    let first = service.tenant("free").await;
    assert_eq!(record(&service, &first).await["shard"], "main");
    let second = json!({ "name": "second", "url": "env:SECOND" });
    let added = add(&service, &second).await;
    assert_eq!(added.expect(201).json()["open"], true);
    assert_eq!(added.header("location"), format!("{SHARDS}/second"));
    let there = service.tenant("free").await;
    assert_eq!(record(&service, &there).await["shard"], "second");
    there.issue("Somewhere else").await;
    assert_eq!(there.all("/v1/cards").await.len(), 1);
    let seen = json!([
        { "name": "main", "url": "store", "open": true, "tenants": 1, "reachable": true },
        { "name": "second", "url": "env:SECOND", "open": true, "tenants": 1, "reachable": true },
    ]);
    assert_eq!(json!(shards(&service).await), seen);
}

#[tokio::test]
async fn a_closed_shard_takes_no_new_tenants_and_keeps_its_own() {
    let service = service();
    let before = service.tenant("free").await;
    let (landlord, tenants) = (service.landlord(), "/v1/landlord/tenants");
    let first = json!({ "name": "A tenant", "slug": unique("t"), "plan": "free" });
    let made = landlord.post_once(tenants, "made-before", &first).await;
    made.expect(201);
    let main = format!("{SHARDS}/main");
    let closed = service
        .landlord()
        .put(&main, &json!({ "open": false }))
        .await;
    assert_eq!(closed.expect(200).json()["open"], false);
    let body = json!({ "name": "A tenant", "slug": unique("t"), "plan": "free" });
    let refused = service.landlord().post("/v1/landlord/tenants", &body).await;
    refused.problem(409, "no_open_shard");
    let again = landlord.post_once(tenants, "made-before", &first).await;
    assert_eq!(again.expect(201).json(), made.json());
    assert!(again.is_replayed());
    before.issue("Still here").await;
    add(&service, &json!({ "name": "second", "url": "env:SECOND" }))
        .await
        .expect(201);
    let after = service.tenant("free").await;
    assert_eq!(record(&service, &after).await["shard"], "second");
    let path = format!("{SHARDS}/nowhere");
    let missing = service
        .landlord()
        .put(&path, &json!({ "open": true }))
        .await;
    missing.problem(404, "not_found");
}

#[tokio::test]
async fn the_same_shard_again_is_answered_the_same_and_another_of_its_name_refused() {
    let service = service();
    let body = json!({ "name": "second", "url": "env:SECOND", "open": false });
    let first = add(&service, &body).await.expect(201).json();
    assert_eq!(add(&service, &body).await.expect(201).json(), first);
    let other = json!({ "name": "second", "url": "store", "open": false });
    add(&service, &other).await.problem(409, "shard_exists");

    for url in ["env:SECOND", "store"] {
        let twin = add(&service, &json!({ "name": "twin", "url": url })).await;
        let problem = twin.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["code"], "already_a_shard", "{problem}");
    }

    let landlord = service.landlord();
    let third = json!({ "name": "third", "url": "env:THIRD" });
    let with_key = |body: Value| {
        let request = landlord.request(reqwest::Method::POST, SHARDS);
        crate::support::client::send(request.header("Idempotency-Key", "third").json(&body))
    };
    with_key(third.clone()).await.expect(201);
    let path = format!("{SHARDS}/third");
    landlord
        .put(&path, &json!({ "open": false }))
        .await
        .expect(200);
    let again = with_key(third).await;
    assert_eq!(again.expect(201).json()["open"], true);
    assert_eq!(again.header("idempotent-replayed"), "true");
    with_key(other).await.problem(422, "idempotency_key_reused");
    assert_eq!(
        shards(&service).await[2]["open"],
        false,
        "nothing was done twice"
    );
}

#[tokio::test]
async fn a_shard_that_this_node_does_not_reach_is_refused_and_no_password_is_told() {
    let mut node = node(&database());
    node.env("BROKEN", "https://user:hunter2@somewhere")
        .env("DOWN", "postgres://user:hunter2@127.0.0.1:1/x")
        .env("RUST_LOG", "debug");
    let service = Service::started_by(&mut node);
    for (url, status, code, field) in [
        (
            "env:NOT_SET_ANYWHERE",
            422,
            "validation_failed",
            "no_address",
        ),
        ("env:BROKEN", 422, "validation_failed", "no_address"),
        ("file:/nowhere", 422, "validation_failed", "no_address"),
        (
            "file:relative",
            422,
            "validation_failed",
            "invalid_reference",
        ),
        (
            "postgres://user:hunter2@x/y",
            422,
            "validation_failed",
            "invalid_reference",
        ),
        ("env:DOWN", 503, "shard_unreachable", ""),
    ] {
        let refused = add(&service, &json!({ "name": "second", "url": url })).await;
        let problem = refused.problem(status, code);
        assert!(!problem.to_string().contains("hunter2"), "{problem}");
        let found = problem["errors"][0]["code"].as_str().unwrap_or_default();
        assert_eq!(found, field, "{problem}");
    }
    assert_eq!(shards(&service).await.len(), 1);
    assert!(
        !service.output().contains("hunter2"),
        "{}",
        service.output()
    );
}

#[tokio::test]
async fn a_node_that_does_not_reach_a_shard_says_so() {
    let (store, second) = (database(), database());
    let near = Service::started_by(node(&store).env("SECOND", &second));
    add(&near, &json!({ "name": "second", "url": "env:SECOND" }))
        .await
        .expect(201);
    let far = Service::started_by(&mut node(&store));
    let seen = shards(&far).await;
    assert_eq!(seen[0]["reachable"], true);
    assert_eq!(seen[1]["reachable"], false);
}

#[tokio::test]
async fn the_embedded_store_has_no_shards() {
    let service = Service::shared();
    let landlord = service.landlord();
    landlord.get(SHARDS).await.problem(409, "no_shards");
    add(&service, &json!({ "name": "second", "url": "store" }))
        .await
        .problem(409, "no_shards");
    let path = format!("{SHARDS}/main");
    landlord
        .put(&path, &json!({ "open": true }))
        .await
        .problem(409, "no_shards");
    let tenant = service.tenant("free").await;
    assert!(record(&service, &tenant).await["shard"].is_null());
}

#[tokio::test]
async fn a_dedicated_tenant_has_a_database_to_itself() {
    let store = database();
    let service = Service::started_by(&mut node(&store));
    let body = json!({
        "name": "A tenant", "slug": unique("t"), "plan": "free", "isolation": "dedicated",
    });
    let made = service.landlord().post("/v1/landlord/tenants", &body).await;
    made.expect(201);
    let tenant = service
        .client(made.text("api_key"))
        .of_tenant(made.text("id"));
    let name = format!("t_{}", tenant.id().replace('-', ""));
    let has_schema = format!("select count(*) from pg_namespace where nspname = '{name}'");
    let cluster = Cluster::shared();
    let of_landlord = store.split(['/', '?']).nth(3).expect("a database");
    assert_eq!(cluster.run(of_landlord, &has_schema).trim(), "0");
    assert_eq!(cluster.run(&name, &has_schema).trim(), "1");
    for nth in 0..20 {
        tenant.issue(&format!("Card {nth}")).await;
    }
    assert_eq!(tenant.all("/v1/cards").await.len(), 20);
    let connections = format!("select count(*) from pg_stat_activity where datname = '{name}'");
    let used: u32 = cluster
        .run("postgres", &connections)
        .trim()
        .parse()
        .expect("a number");
    assert!((1..=4).contains(&used), "{used} connections");
}

#[tokio::test]
async fn a_dedicated_tenant_is_refused_where_no_database_can_be_made() {
    let cluster = Cluster::shared();
    let name = unique("d").replace('-', "_");
    cluster.run(
        "postgres",
        &format!("create role {name} login noinherit createrole"),
    );
    cluster.run("postgres", &format!("create database {name} owner {name}"));
    cluster.run(&name, &format!("grant all on schema public to {name}"));
    let store = cluster.url(&name).replace("tests@", &format!("{name}@"));
    let service = Service::started_by(&mut node(&store));
    service.tenant("free").await;
    let body = json!({
        "name": "A tenant", "slug": unique("t"), "plan": "free", "isolation": "dedicated",
    });
    let refused = service.landlord().post("/v1/landlord/tenants", &body).await;
    let problem = refused.problem(409, "no_dedicated_database");
    assert!(
        problem["detail"].to_string().contains("CREATEDB"),
        "{problem}"
    );
    let tenants = service.landlord().all("/v1/landlord/tenants").await;
    assert_eq!(tenants.len(), 1, "nothing is left half made: {tenants:?}");
}
