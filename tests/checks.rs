//! Whether a tenant may use a feature, and why not: one question, or many in one call.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::{Answer, Client, Service, in_seconds};

const QUERY: &str = "/v1/landlord/entitlements/query";

async fn query(landlord: &Client, tenants: &[&str], features: &[&str]) -> Answer {
    let body = json!({ "tenants": tenants, "features": features });
    landlord.post(QUERY, &body).await
}

/// The reason of each check of a tenant.
fn reasons(answer: &Answer, tenant: usize) -> Vec<Value> {
    let checks = answer.expect(200).json()["items"][tenant]["features"].clone();
    let checks = checks.as_array().expect("checks").clone();
    checks.iter().map(|check| check["reason"].clone()).collect()
}

fn subscription(tenant: &Client, rest: &str) -> String {
    format!("/v1/landlord/tenants/{}/subscription/{rest}", tenant.id())
}

#[tokio::test]
async fn one_call_checks_many_tenants_and_features_and_each_has_its_own_reason() {
    let service = Service::start();
    let landlord = service.landlord();
    let (free, enterprise, suspended, cancelled) = (
        service.tenant("free").await,
        service.tenant("enterprise").await,
        service.tenant("enterprise").await,
        service.tenant("enterprise").await,
    );
    for (tenant, verb, body) in [
        (&suspended, "suspend", json!({})),
        (&cancelled, "cancel", json!({ "effective": "now" })),
    ] {
        let path = subscription(tenant, verb);
        landlord.put(&path, &body).await.expect(200);
    }
    let kill = "/v1/landlord/features/cards.live/kill-switch";
    landlord.put(kill, &json!({})).await.expect(200);
    let features = ["cards.stats", "cards.live", "max_cards", "nope", "No Slug"];
    let nobody = "018f0000-0000-7000-8000-000000000000";
    let answer = query(
        &landlord,
        &[
            free.id(),
            enterprise.id(),
            suspended.id(),
            cancelled.id(),
            nobody,
            "no id",
        ],
        &features,
    )
    .await;
    let unknown = "unknown_feature";
    for (tenant, expected) in [
        (0, ["not_in_plan", "killed", "granted", unknown, unknown]),
        (1, ["granted", "killed", "granted", unknown, unknown]),
        (2, ["suspended", "killed", "suspended", unknown, unknown]),
        (3, ["cancelled", "killed", "cancelled", unknown, unknown]),
    ] {
        assert_eq!(reasons(&answer, tenant), expected, "{tenant}: {answer}");
    }
    let items = answer.json()["items"].clone();
    assert_eq!(items[0]["tenant"], free.id());
    assert_eq!(items[0]["features"][2]["entitlement"]["value"], 500);
    assert_eq!(items[1]["features"][0]["granted"], true);
    assert_eq!(
        items[1]["features"][1]["entitlement"]["source"],
        "kill_switch"
    );
    for nobody in [4, 5] {
        assert_eq!(items[nobody]["error"], "unknown_tenant", "{answer}");
        assert_eq!(items[nobody]["features"], json!([]), "{answer}");
    }
}

#[tokio::test]
async fn a_hundred_tenants_and_features_are_checked_and_no_more() {
    let service = Service::shared();
    let (landlord, tenant) = (service.landlord(), service.tenant("free").await);
    let hundred = query(&landlord, &[tenant.id(); 100], &["max_cards"; 100]).await;
    assert_eq!(reasons(&hundred, 99).len(), 100);
    for (tenants, features, field) in [(101, 1, "tenants"), (1, 101, "features"), (0, 1, "tenants")]
    {
        let tenants = vec![tenant.id(); tenants];
        let refused = query(&landlord, &tenants, &vec!["max_cards"; features]).await;
        let problem = refused.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["field"], field, "{refused}");
    }
}

#[tokio::test]
async fn a_tenant_whose_store_does_not_answer_is_unavailable_and_not_refused() {
    let mut service = Service::start();
    let (well, broken) = (service.tenant("free").await, service.tenant("free").await);
    service.terminate();
    service.stopped();
    service.store().break_tenant(broken.id());
    service.restart();
    let tenants = [broken.id(), well.id()];
    let answer = query(&service.landlord(), &tenants, &["max_cards"]).await;
    let items = answer.expect(200).json()["items"].clone();
    assert_eq!(items[0]["error"], "unavailable", "{answer}");
    assert_eq!(items[0]["features"], json!([]), "{answer}");
    assert_eq!(reasons(&answer, 1), ["granted"]);
}

#[tokio::test]
async fn an_answer_is_sent_again_only_when_it_has_changed() {
    let service = Service::shared();
    let (landlord, tenant) = (service.landlord(), service.tenant("free").await);
    let body = json!({ "tenants": [tenant.id()], "features": ["max_cards", "cards.stats"] });
    let one = "/v1/entitlements/max_cards";
    let (many_first, one_first) = (landlord.post(QUERY, &body).await, tenant.get(one).await);
    let tags = [&many_first, &one_first].map(|first| first.expect(200).header("etag").to_owned());
    let again = async || {
        let many = landlord
            .request(Method::POST, QUERY)
            .header("If-None-Match", &tags[0])
            .json(&body);
        let one = tenant
            .request(Method::GET, one)
            .header("If-None-Match", &tags[1]);
        [send(many).await, send(one).await]
    };
    // What has nothing to do with rights changes no answer.
    tenant.issue("Meanwhile").await;
    for unchanged in again().await {
        unchanged.expect(304);
        assert!(unchanged.body.is_empty());
    }
    let to = json!({ "plan": "enterprise" });
    landlord
        .put(&subscription(&tenant, "plan"), &to)
        .await
        .expect(200);
    for changed in again().await {
        changed.expect(200);
        assert!(!tags.contains(&changed.header("etag").to_owned()));
    }
}

#[tokio::test]
async fn a_tenant_asks_for_one_feature_and_hears_why() {
    let service = Service::shared();
    let (landlord, tenant) = (service.landlord(), service.tenant("free").await);
    let check = async |feature: &str| {
        let answer = tenant.get(&format!("/v1/entitlements/{feature}")).await;
        answer.expect(200).json()
    };
    let lacks = check("custom_branding").await;
    assert_eq!(
        (&lacks["granted"], &lacks["reason"]),
        (&json!(false), &json!("not_in_plan"))
    );
    let grant = json!({ "value": true, "expires_at": in_seconds(3600) });
    let path = subscription(&tenant, "features/custom_branding");
    landlord.put(&path, &grant).await.expect(200);
    let has = check("custom_branding").await;
    assert_eq!(
        (&has["granted"], &has["reason"]),
        (&json!(true), &json!("granted"))
    );
    assert_eq!(has["entitlement"]["source"], "add_on", "{has}");
    let unknown = tenant.get("/v1/entitlements/nope").await;
    unknown.problem(404, "not_found");
}
