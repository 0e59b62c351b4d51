//! Who may do what: every path and method of the contract stands in one table, and a test walks
//! it with no key, a bad key, every role, and another tenant's ids.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use crate::contracts::committed;
use crate::support::client::{id, send};
use crate::support::{Answer, Client, Options, Service, eventually, unique};

/// Anybody, without a key.
const ANYBODY: &[&str] = &["anybody"];
const TENANT: &[&str] = &["tenant_admin", "tenant_viewer"];
const ADMIN: &[&str] = &["tenant_admin"];
const LANDLORD: &[&str] = &["landlord"];
const LANDLORD_READ: &[&str] = &["landlord", "billing"];
const AUDIT: &[&str] = &["auditor", "landlord", "billing"];

const ROLES: [&str; 5] = [
    "landlord",
    "tenant_admin",
    "tenant_viewer",
    "auditor",
    "billing",
];

/// Method, path, and the roles that may. A new endpoint is added here, or the first test fails.
const TABLE: &[(&str, &str, &[&str])] = &[
    ("get", "/v1/cards", TENANT),
    ("post", "/v1/cards", ADMIN),
    ("get", "/v1/cards/{id}", TENANT),
    ("get", "/v1/cards/{id}/history", TENANT),
    ("put", "/v1/cards/{id}/activate", ADMIN),
    ("put", "/v1/cards/{id}/suspend", ADMIN),
    ("put", "/v1/cards/{id}/reinstate", ADMIN),
    ("put", "/v1/cards/{id}/revoke", ADMIN),
    ("put", "/v1/cards/{id}/renew", ADMIN),
    ("put", "/v1/cards/{id}/holder", ADMIN),
    ("post", "/v1/cards/{id}/replace", ADMIN),
    ("get", "/v1/entitlements", TENANT),
    ("get", "/v1/entitlements/{slug}", TENANT),
    ("get", "/v1/modules", TENANT),
    ("get", "/v1/usage", TENANT),
    ("get", "/v1/api-keys", ADMIN),
    ("post", "/v1/api-keys", ADMIN),
    ("delete", "/v1/api-keys/{id}", ADMIN),
    ("post", "/v1/cards/bulk", ADMIN),
    ("get", "/v1/bulk-jobs", TENANT),
    ("get", "/v1/bulk-jobs/{id}", TENANT),
    ("get", "/v1/bulk-jobs/{id}/failures", TENANT),
    ("put", "/v1/bulk-jobs/{id}/cancel", ADMIN),
    ("get", "/v1/cards/export", TENANT),
    ("get", "/v1/cards/stats", TENANT),
    ("get", "/v1/live", TENANT),
    ("get", "/v1/landlord/tenants", LANDLORD_READ),
    ("post", "/v1/landlord/tenants", LANDLORD),
    ("get", "/v1/landlord/tenants/{id}", LANDLORD_READ),
    (
        "get",
        "/v1/landlord/tenants/{id}/subscription",
        LANDLORD_READ,
    ),
    (
        "put",
        "/v1/landlord/tenants/{id}/subscription/plan",
        LANDLORD,
    ),
    (
        "post",
        "/v1/landlord/tenants/{id}/subscription/plan/preview",
        LANDLORD,
    ),
    (
        "delete",
        "/v1/landlord/tenants/{id}/subscription/plan/scheduled",
        LANDLORD,
    ),
    (
        "post",
        "/v1/landlord/tenants/{id}/subscription/trial",
        LANDLORD,
    ),
    (
        "delete",
        "/v1/landlord/tenants/{id}/subscription/trial",
        LANDLORD,
    ),
    (
        "put",
        "/v1/landlord/tenants/{id}/subscription/grace",
        LANDLORD,
    ),
    (
        "put",
        "/v1/landlord/tenants/{id}/subscription/payment-failed",
        LANDLORD,
    ),
    (
        "put",
        "/v1/landlord/tenants/{id}/subscription/features/{slug}",
        LANDLORD,
    ),
    (
        "delete",
        "/v1/landlord/tenants/{id}/subscription/features/{slug}",
        LANDLORD,
    ),
    (
        "put",
        "/v1/landlord/tenants/{id}/subscription/suspend",
        LANDLORD,
    ),
    (
        "put",
        "/v1/landlord/tenants/{id}/subscription/reinstate",
        LANDLORD,
    ),
    (
        "put",
        "/v1/landlord/tenants/{id}/subscription/cancel",
        LANDLORD,
    ),
    (
        "post",
        "/v1/landlord/tenants/{id}/subscription/migrate",
        LANDLORD,
    ),
    (
        "get",
        "/v1/landlord/tenants/{id}/subscription/migrate/preview",
        LANDLORD,
    ),
    ("post", "/v1/landlord/entitlements/query", LANDLORD),
    ("post", "/v1/landlord/tenants/{id}/republish", LANDLORD),
    ("get", "/v1/landlord/shards", LANDLORD),
    ("post", "/v1/landlord/shards", LANDLORD),
    ("put", "/v1/landlord/shards/{name}", LANDLORD),
    ("get", "/v1/landlord/plans", LANDLORD),
    ("get", "/v1/landlord/plans/{key}", LANDLORD),
    ("put", "/v1/landlord/plans/{key}", LANDLORD),
    ("post", "/v1/landlord/plans/{key}/migrate", LANDLORD),
    ("get", "/v1/landlord/plans/{key}/migrate", LANDLORD),
    ("get", "/v1/landlord/plans/{key}/migrate/preview", LANDLORD),
    ("get", "/v1/landlord/features", LANDLORD),
    ("get", "/v1/landlord/features/{slug}", LANDLORD),
    ("put", "/v1/landlord/features/{slug}", LANDLORD),
    ("put", "/v1/landlord/features/{slug}/kill-switch", LANDLORD),
    (
        "delete",
        "/v1/landlord/features/{slug}/kill-switch",
        LANDLORD,
    ),
    ("get", "/v1/landlord/modules", LANDLORD),
    ("get", "/v1/landlord/modules/{key}", LANDLORD),
    ("put", "/v1/landlord/modules/{key}", LANDLORD),
    ("get", "/v1/landlord/subscribers", LANDLORD),
    ("put", "/v1/landlord/subscribers/{name}/resume", LANDLORD),
    ("put", "/v1/landlord/subscribers/{name}/rebuild", LANDLORD),
    ("get", "/v1/landlord/usage-audits", LANDLORD),
    ("post", "/v1/landlord/usage-audits", LANDLORD),
    ("get", "/v1/landlord/usage-audits/{id}", LANDLORD),
    ("put", "/v1/landlord/usage-audits/{id}/repair", LANDLORD),
    ("get", "/v1/landlord/api-keys", LANDLORD),
    ("post", "/v1/landlord/api-keys", LANDLORD),
    ("delete", "/v1/landlord/api-keys/{id}", LANDLORD),
    ("get", "/v1/audit/tenants/{id}/events", AUDIT),
    ("get", "/healthz", ANYBODY),
    ("get", "/readyz", ANYBODY),
    ("get", "/metrics", ANYBODY),
    ("get", "/openapi.json", ANYBODY),
    ("get", "/docs", ANYBODY),
];

#[test]
fn every_operation_of_the_contract_stands_in_the_authorization_table() {
    let contract = committed();
    let operations = contract["paths"].as_object().expect("paths");
    let in_contract: BTreeSet<_> = operations
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().expect("methods").keys();
            methods.map(move |method| (method.clone(), path.clone()))
        })
        .collect();
    let in_table: BTreeSet<_> = TABLE
        .iter()
        .map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned()))
        .collect();
    let missing: Vec<_> = in_contract.difference(&in_table).collect();
    assert!(
        missing.is_empty(),
        "add to the table in tests/authorization.rs, with the roles that may: {missing:?}"
    );
    let gone: Vec<_> = in_table
        .difference(&in_contract)
        .filter(|(_, path)| path.starts_with("/v1/"))
        .collect();
    assert!(gone.is_empty(), "not in the contract any more: {gone:?}");
}

#[tokio::test]
async fn without_a_key_or_with_a_bad_one_nothing_is_told() {
    let service = Service::shared();
    let strangers = [
        service.stranger(),
        service.client("dck_0000000000000000000000000000000000000000000000000000000000000000"),
        service.client("x"),
        service.client(&"k".repeat(4_000)),
    ];
    for (method, path, roles) in TABLE {
        for stranger in &strangers {
            let answer = ask(stranger, method, &sample(path)).await;
            if *roles == ANYBODY {
                assert!(answer.status < 400, "{answer}");
                continue;
            }
            answer.problem(401, "unauthorized");
            assert!(
                answer.header("www-authenticate").starts_with("Bearer"),
                "{answer}"
            );
        }
    }
    for scheme in [
        "Basic YTpi",
        "Bearer",
        "Bearer ",
        "bearer  x y",
        "Token x",
        "",
    ] {
        let request = service
            .stranger()
            .request(Method::GET, "/v1/cards")
            .header("Authorization", scheme);
        send(request).await.problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn a_role_gets_through_exactly_where_the_table_says_so() {
    let service = Service::shared();
    let tenant = service.tenant("enterprise").await;
    for role in ROLES {
        let of_tenant = role.starts_with("tenant").then(|| tenant.id());
        let client = service.with_role(role, of_tenant).await;
        for (method, path, roles) in TABLE {
            if *roles == ANYBODY {
                continue;
            }
            let answer = ask(&client, method, &sample(path)).await;
            if roles.contains(&role) {
                assert!(
                    answer.status != 401 && answer.status != 403,
                    "{role}: {answer}"
                );
                assert!(
                    answer.status < 500 || answer.status == 501,
                    "{role}: {answer}"
                );
            } else {
                assert_eq!(answer.status, 403, "{role}: {answer}");
                answer.problem(403, "forbidden");
            }
        }
    }
}

#[tokio::test]
async fn another_tenants_resource_answers_exactly_as_a_missing_one() {
    let service = Service::shared();
    let (mine, theirs) = (service.tenant("free").await, service.tenant("free").await);
    let card = theirs.issue("Not yours").await;
    let keys = theirs.all("/v1/api-keys").await;
    let nobody = "018f0000-0000-7000-8000-000000000000";
    for (method, path, roles) in TABLE {
        if !roles.contains(&"tenant_admin") || !path.contains("{id}") || path.contains("bulk") {
            continue;
        }
        let of_others = if path.contains("api-keys") {
            id(&keys[0])
        } else {
            id(&card)
        };
        let foreign = ask(&mine, method, &path.replace("{id}", of_others)).await;
        let missing = ask(&mine, method, &path.replace("{id}", nobody)).await;
        foreign.problem(404, "not_found");
        assert_eq!(bare(&foreign), bare(&missing), "{method} {path}");
    }
    let listed = mine.all("/v1/cards").await;
    assert!(listed.is_empty());
    assert_eq!(theirs.all("/v1/cards").await, [card]);
}

#[tokio::test]
async fn the_tenant_comes_from_the_key_and_never_from_the_body() {
    let service = Service::shared();
    let (mine, theirs) = (service.tenant("free").await, service.tenant("free").await);
    let body = json!({ "holder": { "name": "A" }, "tenant": theirs.id() });
    mine.post("/v1/cards", &body)
        .await
        .problem(422, "validation_failed");
    let answer = mine.get(&format!("/v1/cards?tenant={}", theirs.id())).await;
    answer.problem(400, "invalid_query");
    assert!(theirs.all("/v1/cards").await.is_empty());
}

#[tokio::test]
async fn no_secret_and_no_personal_data_is_in_the_logs() {
    // Also where every request is logged.
    let service = Service::start_with(Options::default().with("RUST_LOG", "debug"));
    let tenant = service.tenant("free").await;
    tenant
        .issue_as(&json!({ "holder": { "name": "Unloggable Name", "email": "un@log.example" } }))
        .await;
    tenant.get("/v1/cards?q=Unloggable").await.expect(200);
    tenant
        .post(
            "/v1/cards",
            &json!({ "holder": { "name": "Unloggable\u{0}" } }),
        )
        .await;
    let bad = service.client("dck_bad-key-that-must-not-be-logged");
    bad.get("/v1/cards").await.problem(401, "unauthorized");
    let log = service.output();
    for secret in [
        "Unloggable",
        "un@log",
        tenant.key(),
        "bad-key-that",
        "landlord-key-of",
    ] {
        assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
    }
    assert!(
        log.contains(tenant.id()),
        "requests are logged with their tenant:\n{log}"
    );
}

#[tokio::test]
async fn what_is_asked_about_a_tenant_is_logged_with_the_tenant() {
    let options = Options::default().with("RUST_LOG", "api=debug");
    let service = Service::start_with(options.with("LOG_FORMAT", "json"));
    let tenant = service.tenant("free").await.id().to_owned();
    let (landlord, auditor) = (service.landlord(), service.with_role("auditor", None).await);
    let subscription = "/v1/landlord/tenants/{id}/subscription";
    let events = "/v1/audit/tenants/{id}/events";
    for (client, path, id, logged) in [
        (&landlord, subscription, tenant.as_str(), json!(tenant)),
        (&auditor, events, &tenant, json!(tenant)),
        (&landlord, events, "ada@example.com", json!(null)),
    ] {
        let answer = client.get(&path.replace("{id}", id)).await;
        let line = eventually("it is logged", || async {
            let output = service.output();
            let request = format!("\"request_id\":\"{}\"", answer.header("x-request-id"));
            let line = output.lines().find(|line| line.contains(&request))?;
            serde_json::from_str::<Value>(line).ok()
        })
        .await;
        assert_eq!((&line["path"], &line["tenant"]), (&json!(path), &logged));
    }
}

/// The path with ids of nobody.
fn sample(path: &str) -> String {
    path.replace("{id}", "018f0000-0000-7000-8000-000000000000")
        .replace("{slug}", "cards.stats")
        .replace("{key}", "free")
        .replace("{name}", "cards")
}

/// Asks with a body that is valid wherever it is possible without an effect.
async fn ask(client: &Client, method: &str, path: &str) -> Answer {
    let method: Method = method.to_uppercase().parse().expect("a method");
    let request = client.request(method.clone(), path);
    if method != Method::POST && method != Method::PUT {
        return send(request).await;
    }
    let request = request.header("Idempotency-Key", unique("key"));
    send(request.json(&body(path))).await
}

fn body(path: &str) -> Value {
    let holder = json!({ "name": "Somebody" });
    match path.rsplit('/').next().unwrap_or_default() {
        "shards" => json!({ "name": unique("s"), "url": "store" }),
        _ if path.contains("/shards/") => json!({ "open": true }),
        "cards" => json!({ "holder": holder }),
        "bulk" => json!({ "operation": "issue", "cards": [{ "holder": holder }] }),
        "renew" => json!({ "expires_at": "2099-01-01T00:00:00Z" }),
        "holder" => holder,
        "query" => json!({ "tenants": ["x"], "features": ["cards.stats"] }),
        "republish" => json!({ "from": 1 }),
        "plan" => json!({ "plan": "free" }),
        // Refused: other tests use the feature at the same time.
        "kill-switch" => json!({ "reason": "" }),
        "cards.stats" => json!({ "value": true }),
        "tenants" => json!({ "name": "A tenant", "slug": unique("t"), "plan": "free" }),
        "api-keys" if path.contains("landlord") => json!({ "name": "A key", "role": "auditor" }),
        "api-keys" => json!({ "name": "A key", "role": "tenant_viewer" }),
        _ => json!({}),
    }
}

/// The body without what differs between any two requests.
fn bare(answer: &Answer) -> String {
    let id = answer.text("request_id");
    String::from_utf8_lossy(&answer.body).replace(id, "")
}
