//! What a tenant may do: plans, features, gates, and the landlord's hand on them.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Client, Service, eventually, in_seconds};

/// The gated paths, and the feature that opens each.
const LEVEL_2: [(&str, &str, &str); 8] = [
    ("POST", "/v1/cards/bulk", "cards.bulk"),
    ("GET", "/v1/bulk-jobs", "cards.bulk"),
    (
        "GET",
        "/v1/bulk-jobs/018f0000-0000-7000-8000-000000000000",
        "cards.bulk",
    ),
    (
        "GET",
        "/v1/bulk-jobs/018f0000-0000-7000-8000-000000000000/failures",
        "cards.bulk",
    ),
    (
        "PUT",
        "/v1/bulk-jobs/018f0000-0000-7000-8000-000000000000/cancel",
        "cards.bulk",
    ),
    ("GET", "/v1/cards/export?format=xlsx", "cards.export"),
    ("GET", "/v1/cards/stats", "cards.stats"),
    ("GET", "/v1/live", "cards.live"),
];

fn subscription(tenant: &Client, rest: &str) -> String {
    format!("/v1/landlord/tenants/{}/subscription/{rest}", tenant.id())
}

async fn overview(service: &Service, tenant: &Client) -> Value {
    let path = format!("/v1/landlord/tenants/{}", tenant.id());
    service.landlord().get(&path).await.expect(200).json()
}

#[tokio::test]
async fn a_level_1_tenant_is_told_what_a_level_2_path_needs() {
    let service = Service::shared();
    for plan in ["free", "pro"] {
        let tenant = service.tenant(plan).await;
        for (method, path, feature) in LEVEL_2 {
            let answer = match method {
                "POST" => {
                    tenant
                        .post(path, &json!({ "operation": "issue", "cards": [] }))
                        .await
                }
                "PUT" => tenant.put(path, &json!({})).await,
                _ => tenant.get(path).await,
            };
            let problem = answer.problem(402, "upgrade_required");
            assert_eq!(problem["feature"], feature, "{answer}");
            assert_eq!(problem["required_level"], 2, "{answer}");
            assert_eq!(problem["current_level"], 1, "{answer}");
            assert_eq!(problem["tenant"], tenant.id(), "{answer}");
            assert!(problem["upgrade_url"].is_string(), "{answer}");
        }
    }
}

#[tokio::test]
async fn an_export_as_csv_is_also_sold_on_its_own() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let export = async |format| {
        let path = format!("/v1/cards/export?format={format}");
        tenant.get(&path).await
    };
    let needs_all_formats = async |format| {
        let problem = export(format).await.problem(402, "upgrade_required");
        assert_eq!(problem["feature"], "cards.export", "{problem}");
    };
    needs_all_formats("csv").await;
    let add_on = subscription(&tenant, "features/export_csv");
    let (landlord, yes) = (service.landlord(), json!({ "value": true }));
    landlord.put(&add_on, &yes).await.expect(200);
    let passed = export("csv").await;
    passed.problem(501, "module_not_available");
    for format in ["xlsx", "pdf", "ndjson"] {
        needs_all_formats(format).await;
    }
    landlord.delete(&add_on).await.expect(200);
    needs_all_formats("csv").await;
}

#[tokio::test]
async fn an_enterprise_tenant_passes_every_gate() {
    let service = Service::shared();
    let tenant = service.tenant("enterprise").await;
    for (method, path, _) in LEVEL_2 {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let answer = crate::support::client::send(tenant.request(method, path)).await;
        assert_ne!(answer.status, 402, "{answer}");
    }
}

#[tokio::test]
async fn entitlements_say_the_value_and_the_source_of_each_feature() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let answer = tenant.get("/v1/entitlements").await;
    let shown = answer.expect(200).json();
    assert_eq!(shown["plan"], "free");
    assert_eq!(shown["price_level"], 1);
    assert!(shown["as_of"].as_u64() >= Some(1), "{shown}");
    let features = features(&shown);
    assert_eq!(features["max_cards"]["value"], 500);
    assert_eq!(features["max_cards"]["source"], "plan");
    assert_eq!(features["cards.lifecycle"]["value"], true);
    assert!(features.get("cards.bulk").is_none(), "{shown}");
}

#[tokio::test]
async fn modules_say_what_is_installed_and_what_unlocks_the_rest() {
    let service = Service::shared();
    for (plan, advanced) in [("free", false), ("enterprise", true)] {
        let tenant = service.tenant(plan).await;
        let shown = tenant.get("/v1/modules").await.expect(200).json();
        let items = shown["items"].as_array().expect("items");
        let module = |key: &str| {
            let is = |module: &&Value| module["key"] == key;
            items
                .iter()
                .find(is)
                .unwrap_or_else(|| panic!("no {key}: {shown}"))
        };
        assert_eq!(items.len(), 2);
        assert_eq!(module("digital_card.basic")["installed"], true);
        assert_eq!(module("digital_card.advanced")["installed"], advanced);
        if !advanced {
            let locked = module("digital_card.advanced").to_string();
            assert!(locked.contains('2'), "which level unlocks it: {locked}");
        }
    }
}

#[tokio::test]
async fn usage_counts_by_status_and_in_percent() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue_active("One").await;
    tenant.issue("Two").await;
    let gone = tenant.issue("Three").await;
    tenant.change(&gone, "revoke").await.expect(200);
    tenant.change(&card, "suspend").await.expect(200);
    let usage = tenant.usage().await;
    assert_eq!(usage["in_circulation"], 2);
    assert_eq!(usage["issued_total"], 3);
    assert_eq!(usage["limit"], 500);
    assert_eq!(usage["percent"].as_f64(), Some(0.4), "{usage}");
    let count = |status| crate::support::recount::count(&usage, status);
    assert_eq!(
        (count("issued"), count("suspended"), count("revoked")),
        (1, 1, 1)
    );

    let unlimited = service.tenant("pro").await.usage().await;
    assert!(unlimited["limit"].is_null(), "{unlimited}");
}

#[tokio::test]
async fn an_upgrade_is_in_force_for_the_next_request_and_visible_within_milliseconds() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let landlord = service.landlord();
    let mut slowest = Duration::ZERO;
    for plan in ["enterprise", "free", "enterprise", "pro", "enterprise"] {
        let body = json!({ "plan": plan });
        let answer = landlord.put(&subscription(&tenant, "plan"), &body).await;
        answer.expect(200);
        let begun = Instant::now();
        let shown = overview(&service, &tenant).await;
        slowest = slowest.max(begun.elapsed());
        assert_eq!(shown["plan"], plan, "{shown}");
        let gate = tenant.get("/v1/cards/stats").await;
        assert_eq!(gate.status == 402, plan != "enterprise", "{plan}: {gate}");
        let entitled = tenant.get("/v1/entitlements").await.json();
        assert_eq!(entitled["plan"], plan);
        assert!(entitled["as_of"].as_u64() >= Some(answer.position()));
    }
    // Generous for a debug build on a busy machine, and far below any polling interval.
    assert!(slowest < Duration::from_millis(500), "{slowest:?}");
}

#[tokio::test]
async fn a_full_tenant_issues_again_right_after_the_upgrade() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let landlord = service.landlord();
    let one = json!({ "value": 1 });
    let path = subscription(&tenant, "features/max_cards");
    landlord.put(&path, &one).await.expect(200);
    // An add-on never takes away from the plan.
    assert_eq!(tenant.usage().await["limit"], 500);
    let more = json!({ "value": 501, "reason": "a gift" });
    landlord.put(&path, &more).await.expect(200);
    assert_eq!(tenant.usage().await["limit"], 501);
    let entitled = tenant.get("/v1/entitlements").await.json();
    assert_eq!(features(&entitled)["max_cards"]["source"], "add_on");
    landlord.delete(&path).await;
    assert_eq!(tenant.usage().await["limit"], 500);
    let body = json!({ "plan": "pro" });
    landlord
        .put(&subscription(&tenant, "plan"), &body)
        .await
        .expect(200);
    assert!(tenant.usage().await["limit"].is_null());
}

#[tokio::test]
async fn an_override_counts_below_the_plan_and_through_changes_of_plan() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let landlord = service.landlord();
    let path = subscription(&tenant, "features/max_cards");
    let two = json!({ "value": 2, "kind": "override", "reason": "on probation" });
    let granted = landlord.put(&path, &two).await.expect(200).json();
    assert_eq!(granted["limit"], 2, "{granted}");
    for plan in ["enterprise", "free", "pro"] {
        let to = json!({ "plan": plan });
        let changed = landlord.put(&subscription(&tenant, "plan"), &to).await;
        let limit = features(&changed.expect(200).json())["max_cards"].clone();
        assert_eq!(
            (&limit["value"], &limit["source"]),
            (&json!(2), &json!("override"))
        );
    }
    for name in ["First", "Second"] {
        tenant.issue(name).await;
    }
    let third = json!({ "holder": { "name": "Third" } });
    let refused = tenant.post("/v1/cards", &third).await;
    refused.problem(402, "quota_exceeded");
    // Granted again, as an add-on, it never takes away from the plan.
    let add_on = json!({ "value": 2, "kind": "add_on" });
    landlord.put(&path, &add_on).await.expect(200);
    assert!(tenant.usage().await["limit"].is_null(), "that of pro");
    let neither = json!({ "value": 2, "kind": "gift" });
    let refused = landlord.put(&path, &neither).await;
    refused.problem(422, "validation_failed");
}

#[tokio::test]
async fn an_add_on_ends_on_the_second() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let path = subscription(&tenant, "features/cards.stats");
    let body = json!({ "value": true, "expires_at": in_seconds(2) });
    service.landlord().put(&path, &body).await.expect(200);
    let gate = tenant.get("/v1/cards/stats").await;
    assert_ne!(gate.status, 402, "{gate}");
    let entitled = tenant.get("/v1/entitlements").await.json();
    let stats = &features(&entitled)["cards.stats"];
    assert_eq!(stats["source"], "override", "{entitled}");
    assert!(stats["expires_at"].is_string(), "{entitled}");
    eventually("the add-on ends", || async {
        (tenant.get("/v1/cards/stats").await.status == 402).then_some(())
    })
    .await;
}

#[tokio::test]
async fn unknown_features_plans_and_wrong_values_are_refused() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let landlord = service.landlord();
    for (slug, body) in [
        ("nothing_of_the_kind", json!({ "value": true })),
        ("max_cards", json!({ "value": true })),
        ("cards.bulk", json!({ "value": 7 })),
        ("cards.bulk", json!({ "value": "yes" })),
        ("max_cards", json!({ "value": -1 })),
        ("max_cards", json!({ "value": 1.5 })),
        (
            "cards.bulk",
            json!({ "value": true, "expires_at": "2001-01-01T00:00:00Z" }),
        ),
        ("cards.bulk", json!({})),
    ] {
        let path = subscription(&tenant, &format!("features/{slug}"));
        let answer = landlord.put(&path, &body).await;
        answer.problem(422, "validation_failed");
    }
    let answer = landlord
        .put(
            &subscription(&tenant, "plan"),
            &json!({ "plan": "platinum" }),
        )
        .await;
    answer.problem(422, "validation_failed");
    let answer = landlord
        .delete(&subscription(&tenant, "features/cards.bulk"))
        .await;
    assert_eq!(answer.any_problem()["status"], 404, "not granted: {answer}");
}

#[tokio::test]
async fn a_suspended_tenant_reads_and_ends_cards_but_gets_no_service() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue_active("Kept").await;
    let landlord = service.landlord();
    let body = json!({ "reason": "unpaid" });
    landlord
        .put(&subscription(&tenant, "suspend"), &body)
        .await
        .expect(200);

    let issue = json!({ "holder": { "name": "Refused" } });
    let answer = tenant.post("/v1/cards", &issue).await;
    let problem = answer.problem(402, "subscription_suspended");
    assert_eq!(problem["tenant"], tenant.id());
    assert!(problem["upgrade_url"].is_string(), "{problem}");
    assert_eq!(tenant.all("/v1/cards").await.len(), 1);
    tenant.usage().await;
    tenant.change(&card, "suspend").await.expect(200);
    tenant
        .change(&card, "reinstate")
        .await
        .problem(402, "subscription_suspended");

    landlord
        .put(&subscription(&tenant, "reinstate"), &json!({}))
        .await
        .expect(200);
    tenant.change(&card, "reinstate").await.expect(200);
    tenant.post("/v1/cards", &issue).await.expect(201);
}

#[tokio::test]
async fn a_cancelled_subscription_deletes_nothing_and_cannot_be_reinstated() {
    let service = Service::shared();
    let tenant = service.tenant("pro").await;
    let card = tenant.issue("Kept").await;
    let landlord = service.landlord();
    let now = json!({ "effective": "now" });
    let ended = landlord.put(&subscription(&tenant, "cancel"), &now).await;
    assert_eq!(ended.expect(200).json()["state"], "ended");
    let body = json!({ "holder": { "name": "Refused" } });
    let answer = tenant.post("/v1/cards", &body).await;
    assert_eq!(answer.expect(402).any_problem()["tenant"], tenant.id());
    assert_eq!(tenant.all("/v1/cards").await[0]["id"], card["id"]);
    let answer = landlord
        .put(&subscription(&tenant, "reinstate"), &json!({}))
        .await;
    answer.problem(409, "invalid_transition");
}

#[tokio::test]
async fn the_landlord_sees_plan_level_usage_limit_and_features_with_their_position() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let answer = tenant
        .post("/v1/cards", &json!({ "holder": { "name": "Counted" } }))
        .await;
    let shown = overview(&service, &tenant).await;
    assert_eq!(shown["plan"], "free", "{shown}");
    assert_eq!(shown["price_level"], 1, "{shown}");
    assert_eq!(shown["limit"], 500, "{shown}");
    assert_eq!(shown["usage"]["in_circulation"], 1, "{shown}");
    assert!(!shown["features"].is_null(), "{shown}");
    assert!(shown["api_key"].is_null(), "a key is shown once: {shown}");
    let position = ["position", "as_of"].map(|name| shown[name].as_u64());
    assert!(position.contains(&Some(answer.position())), "{shown}");

    let listed = service
        .landlord()
        .all("/v1/landlord/tenants?limit=500")
        .await;
    assert!(listed.iter().any(|one| one["id"] == tenant.id()));
}

#[tokio::test]
async fn if_match_guards_landlord_commands_too() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let request = service
        .landlord()
        .request(Method::PUT, &subscription(&tenant, "suspend"))
        .header("If-Match", "\"41\"")
        .json(&json!({}));
    let answer = crate::support::client::send(request).await;
    answer.problem(412, "precondition_failed");
}

/// The features of an answer by slug, whether it lists or maps them.
fn features(shown: &Value) -> Value {
    match &shown["features"] {
        Value::Array(items) => items
            .iter()
            .filter_map(|item| {
                let slug = ["slug", "feature"]
                    .iter()
                    .find_map(|name| item[name].as_str())?;
                Some((slug.to_owned(), item.clone()))
            })
            .collect::<serde_json::Map<_, _>>()
            .into(),
        other => other.clone(),
    }
}
