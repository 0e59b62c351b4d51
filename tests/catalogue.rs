//! The catalogue over HTTP: what is for sale is data, and a switch turns a feature off for
//! everybody.

use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::recount::{ndjson, verify};
use crate::support::{Client, Service};

const STATS: &str = "/v1/cards/stats";
const KILL: &str = "/v1/landlord/features/cards.stats/kill-switch";

fn subscription(tenant: &Client, rest: &str) -> String {
    format!("/v1/landlord/tenants/{}/subscription/{rest}", tenant.id())
}

/// `free` with so many cards.
fn free(max_cards: u64) -> Value {
    json!({
        "price_level": 1,
        "rank": 0,
        "features": { "cards.lifecycle": true, "max_cards": max_cards },
    })
}

async fn limit(tenant: &Client) -> Value {
    tenant.usage().await["limit"].clone()
}

async fn feature(tenant: &Client, slug: &str) -> Value {
    let entitlements = tenant.get("/v1/entitlements").await.expect(200).json();
    entitlements["features"][slug].clone()
}

#[tokio::test]
async fn a_new_price_level_with_its_module_features_and_plan_is_data() {
    let service = Service::start();
    let landlord = service.landlord();
    let tenant = service.tenant("enterprise").await;
    let module = json!({ "name": "Premium", "price_level": 3 });
    let premium = "/v1/landlord/modules/digital_card.premium";
    landlord.put(premium, &module).await.expect(200);
    for (slug, kind) in [("cards.wallet", "flag"), ("max_templates", "limit")] {
        let definition = json!({
            "name": slug, "kind": kind, "price_level": 3, "module": "digital_card.premium",
        });
        let path = format!("/v1/landlord/features/{slug}");
        let defined = landlord.put(&path, &definition).await;
        assert_eq!(
            defined.expect(200).json(),
            landlord.get(&path).await.json(),
            "{defined}"
        );
    }
    let plan = json!({
        "price_level": 3,
        "rank": 3,
        "features": {
            "cards.lifecycle": true, "cards.stats": true, "max_cards": "unlimited",
            "cards.wallet": true, "max_templates": 20,
        },
    });
    let defined = landlord.put("/v1/landlord/plans/premier", &plan).await;
    assert_eq!(defined.expect(200).json()["version"], 1, "{defined}");

    let locked = module_of(&tenant).await;
    assert_eq!(locked["installed"], false, "{locked}");
    assert_eq!(locked["locked"]["required_level"], 3, "{locked}");
    assert_eq!(locked["locked"]["plans"], json!(["premier"]), "{locked}");
    let to = json!({ "plan": "premier" });
    let upgraded = landlord.put(&subscription(&tenant, "plan"), &to).await;
    assert_eq!(upgraded.expect(200).json()["price_level"], 3, "{upgraded}");
    assert_eq!(feature(&tenant, "cards.wallet").await["value"], true);
    assert_eq!(feature(&tenant, "max_templates").await["value"], 20);
    let installed = module_of(&tenant).await;
    assert_eq!(installed["installed"], true, "{installed}");
    assert_eq!(installed["name"], "Premium");
    let new = service.tenant("premier").await;
    assert_eq!(feature(&new, "cards.wallet").await["source"], "plan");
}

async fn module_of(tenant: &Client) -> Value {
    let modules = tenant.all("/v1/modules").await;
    let premium = modules
        .into_iter()
        .find(|module| module["key"] == "digital_card.premium");
    premium.expect("the module")
}

#[tokio::test]
async fn a_plans_new_version_is_for_new_subscriptions_and_existing_ones_keep_theirs() {
    let service = Service::start();
    let landlord = service.landlord();
    let before = service.tenant("free").await;
    let revised = landlord.put("/v1/landlord/plans/free", &free(600)).await;
    assert_eq!(revised.expect(200).json()["version"], 2, "{revised}");
    let again = landlord.put("/v1/landlord/plans/free", &free(600)).await;
    assert_eq!(again.expect(200).json()["version"], 2, "{again}");
    assert_eq!(again.version(), revised.version(), "no event");

    let after = service.tenant("free").await;
    assert_eq!(
        (limit(&before).await, limit(&after).await),
        (500.into(), 600.into())
    );
    let other = service.tenant("pro").await;
    let to = json!({ "plan": "free" });
    let changed = landlord.put(&subscription(&other, "plan"), &to).await;
    assert_eq!(changed.expect(200).json()["plan_version"], 2, "{changed}");
}

#[tokio::test]
async fn an_archived_plan_cannot_be_taken_and_who_is_on_it_stays_on_it() {
    let service = Service::start();
    let landlord = service.landlord();
    let (there, other) = (service.tenant("free").await, service.tenant("pro").await);
    let mut plan = free(500);
    plan["archived"] = true.into();
    let archived = landlord.put("/v1/landlord/plans/free", &plan).await;
    assert_eq!(archived.expect(200).json()["archived"], true, "{archived}");

    let to = json!({ "plan": "free" });
    let refused = landlord.put(&subscription(&other, "plan"), &to).await;
    let problem = refused.problem(422, "validation_failed");
    assert_eq!(problem["errors"][0]["code"], "plan_archived", "{problem}");
    let new = json!({ "name": "New", "slug": "a-new-one", "plan": "free" });
    let refused = landlord.post("/v1/landlord/tenants", &new).await;
    let problem = refused.problem(422, "validation_failed");
    assert_eq!(problem["errors"][0]["code"], "plan_archived", "{problem}");
    there.issue("Still").await;
    assert_eq!(limit(&there).await, 500);

    let restored = landlord.put("/v1/landlord/plans/free", &free(500)).await;
    assert_eq!(restored.expect(200).json()["version"], 1, "{restored}");
    landlord
        .put(&subscription(&other, "plan"), &to)
        .await
        .expect(200);
}

#[tokio::test]
async fn an_archived_feature_cannot_be_granted_and_who_has_it_keeps_it() {
    let service = Service::start();
    let landlord = service.landlord();
    let (has, lacks) = (service.tenant("free").await, service.tenant("free").await);
    let granted = |tenant: &Client| subscription(tenant, "features/custom_branding");
    let on = json!({ "value": true });
    landlord.put(&granted(&has), &on).await.expect(200);
    let archive = json!({
        "name": "Custom branding", "kind": "flag", "price_level": 2, "add_on": true,
        "archived": true,
    });
    let path = "/v1/landlord/features/custom_branding";
    landlord.put(path, &archive).await.expect(200);
    let refused = landlord.put(&granted(&lacks), &on).await;
    let problem = refused.problem(422, "validation_failed");
    assert_eq!(
        problem["errors"][0]["code"], "feature_archived",
        "{problem}"
    );
    assert_eq!(feature(&has, "custom_branding").await["value"], true);
    let in_use = json!({
        "name": "Statistics", "kind": "flag", "price_level": 2,
        "module": "digital_card.advanced", "archived": true,
    });
    let refused = landlord
        .put("/v1/landlord/features/cards.stats", &in_use)
        .await;
    refused.problem(409, "feature_in_use");
}

#[tokio::test]
async fn a_switched_off_feature_is_off_for_everybody_and_comes_back_as_it_was() {
    let service = Service::start();
    let landlord = service.landlord();
    let (of_plan, granted, without) = (
        service.tenant("enterprise").await,
        service.tenant("free").await,
        service.tenant("free").await,
    );
    let grant = json!({ "value": true, "expires_at": "2099-01-01T00:00:00Z" });
    let path = subscription(&granted, "features/cards.stats");
    landlord.put(&path, &grant).await.expect(200);
    let before = feature(&granted, "cards.stats").await;
    assert_ne!(of_plan.get(STATS).await.status, 402);

    let reason = json!({ "reason": "it is slow today" });
    let killed = landlord.put(KILL, &reason).await.expect(200).json();
    for tenant in [&of_plan, &granted, &without] {
        let refused = tenant.get(STATS).await;
        let problem = refused.problem(503, "feature_disabled");
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("it is slow today"), "{problem}");
        assert_eq!(refused.header("retry-after"), "60");
    }
    for tenant in [&of_plan, &granted] {
        let shown = feature(tenant, "cards.stats").await;
        assert_eq!(shown["value"], false, "{shown}");
        assert_eq!(shown["source"], "kill_switch", "{shown}");
        assert_eq!(shown["why"], "it is slow today", "{shown}");
        assert_eq!(shown["since"], killed["kill_switch"]["since"], "{shown}");
        assert_eq!(shown["by"], killed["kill_switch"]["by"], "{shown}");
    }
    assert!(feature(&without, "cards.stats").await.is_null());
    for shown in landlords_views(&landlord, &of_plan).await {
        assert_eq!(shown, feature(&of_plan, "cards.stats").await);
    }
    let modules = of_plan.all("/v1/modules").await;
    assert_eq!(
        modules[1]["locked"]["reason"], "feature_disabled",
        "{modules:?}"
    );
    // What else the module has goes on.
    assert_ne!(of_plan.get("/v1/bulk-jobs").await.status, 503);

    landlord.delete(KILL).await.expect(200);
    assert_eq!(feature(&granted, "cards.stats").await, before);
    assert_ne!(of_plan.get(STATS).await.status, 503);
    without.get(STATS).await.problem(402, "upgrade_required");
}

/// The right to `cards.stats` of a tenant on `enterprise`, wherever the landlord sees it.
async fn landlords_views(landlord: &Client, tenant: &Client) -> Vec<Value> {
    let of = |shown: &Value| shown["features"]["cards.stats"].clone();
    let record = format!("/v1/landlord/tenants/{}", tenant.id());
    let one = landlord.get(&record).await.expect(200).json();
    let listed = landlord.all("/v1/landlord/tenants").await;
    let listed = listed.iter().find(|it| it["id"] == tenant.id());
    let seen = landlord.get(&format!("{record}/subscription")).await.json();
    let grace = json!({ "grace_days": 14 });
    let changed = landlord.put(&subscription(tenant, "grace"), &grace).await;
    let to = json!({ "plan": "free" });
    let preview = landlord
        .post(&subscription(tenant, "plan/preview"), &to)
        .await;
    let migrated = landlord.get(&subscription(tenant, "migrate/preview")).await;
    vec![
        of(&one),
        of(listed.expect("listed")),
        of(&seen),
        of(&changed.expect(200).json()),
        preview.expect(200).json()["lost"]["cards.stats"].clone(),
        of(&migrated.expect(200).json()["subscription"]),
    ]
}

#[tokio::test]
async fn issuing_stops_and_ending_cards_goes_on_while_the_basic_module_is_switched_off() {
    let service = Service::start();
    let (landlord, tenant) = (service.landlord(), service.tenant("free").await);
    let card = tenant.issue("Before").await;
    let switch = "/v1/landlord/features/cards.lifecycle/kill-switch";
    landlord.put(switch, &json!({})).await.expect(200);
    let body = json!({ "holder": { "name": "Meanwhile" } });
    let refused = tenant.post("/v1/cards", &body).await;
    refused.problem(503, "feature_disabled");
    assert_eq!(tenant.all("/v1/cards").await.len(), 1);
    tenant.change(&card, "revoke").await.expect(200);
}

#[tokio::test]
async fn a_limit_has_no_switch_and_an_unknown_feature_neither() {
    let service = Service::shared();
    let landlord = service.landlord();
    let of = |slug| format!("/v1/landlord/features/{slug}/kill-switch");
    let refused = landlord.put(&of("max_cards"), &json!({})).await;
    refused.problem(409, "no_kill_switch");
    let refused = landlord.put(&of("nope"), &json!({})).await;
    refused.problem(404, "not_found");
}

#[tokio::test]
async fn a_definition_that_cannot_be_is_refused_with_what_is_wrong() {
    let service = Service::shared();
    let landlord = service.landlord();
    let plan = |features: Value| json!({ "price_level": 1, "rank": 9, "features": features });
    let feature =
        |module: &str| json!({ "name": "A", "kind": "limit", "price_level": 1, "module": module });
    let plans = "/v1/landlord/plans/refused";
    let stats = "/v1/landlord/features/cards.stats";
    for (path, body, field, code) in [
        (
            plans,
            plan(json!({ "nope": true })),
            "features.nope",
            "unknown_feature",
        ),
        (
            plans,
            plan(json!({ "max_cards": true })),
            "features.max_cards",
            "wrong_type",
        ),
        (
            plans,
            plan(json!({ "cards.stats": true })),
            "price_level",
            "too_low",
        ),
        (
            plans,
            plan(json!({ "No Slug": true })),
            "features",
            "invalid_key",
        ),
        (
            plans,
            json!({ "price_level": 101, "rank": 9, "features": {} }),
            "price_level",
            "out_of_range",
        ),
        (
            plans,
            json!({ "price_level": 1, "rank": 10_001, "features": {} }),
            "rank",
            "out_of_range",
        ),
        (
            "/v1/landlord/plans/No-Key",
            plan(json!({})),
            "key",
            "invalid_key",
        ),
        (stats, feature("digital_card.advanced"), "kind", "immutable"),
        (
            "/v1/landlord/features/new",
            feature("nope"),
            "module",
            "unknown_module",
        ),
        (
            "/v1/landlord/modules/new",
            json!({ "name": " ", "price_level": 1 }),
            "name",
            "empty",
        ),
    ] {
        let refused = landlord.put(path, &body).await;
        let problem = refused.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["field"], field, "{refused}");
        assert_eq!(problem["errors"][0]["code"], code, "{refused}");
    }
    landlord.get(plans).await.problem(404, "not_found");
}

#[tokio::test]
async fn a_definition_is_conditional_and_repeatable_and_known_by_its_version() {
    let service = Service::start();
    let landlord = service.landlord();
    let path = "/v1/landlord/plans/free";
    let shown = landlord.get(path).await;
    let seen = format!("\"{}\"", shown.expect(200).version());
    let unchanged = landlord
        .request(reqwest::Method::GET, path)
        .header("If-None-Match", &seen);
    send(unchanged).await.expect(304);

    let first = landlord.put_once(path, "once", &free(600)).await;
    first.expect(200);
    landlord.put(path, &free(700)).await.expect(200);
    let again = landlord.put_once(path, "once", &free(600)).await;
    assert!(again.is_replayed(), "{again}");
    assert_eq!(again.body, first.body);
    let outdated = landlord
        .command(reqwest::Method::PUT, path, "late", &free(800))
        .header("If-Match", &seen);
    send(outdated).await.problem(412, "precondition_failed");
    let now = landlord.get(path).await.expect(200).json();
    assert_eq!(now["features"]["max_cards"], 700);
}

#[tokio::test]
async fn who_changed_the_catalogue_is_in_a_history_that_verifies() {
    let service = Service::start();
    let reason = json!({ "reason": "it is slow today" });
    let killed = service.landlord().put(KILL, &reason).await;
    killed.expect(200);
    let landlords = "00000000-0000-0000-0000-000000000000";
    let history = ndjson(&service, landlords).await;
    let (verified, said) = verify(&history);
    assert!(verified, "{said}");
    let last = history.lines().last().expect("events");
    let last: Value = serde_json::from_str(last).expect("JSON");
    assert_eq!(last["type"], "FeatureKilled", "{last}");
    assert_eq!(last["metadata"]["role"], "landlord", "{last}");
    assert_eq!(last["metadata"]["reason"], "it is slow today", "{last}");
    let tenant = service.tenant("free").await;
    let path = format!("/v1/audit/tenants/{landlords}/events");
    tenant.get(&path).await.problem(403, "forbidden");
    // It is nobody's tenant.
    let path = format!("/v1/landlord/tenants/{landlords}");
    service
        .landlord()
        .get(&path)
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn what_was_defined_and_switched_off_is_so_after_a_kill() {
    let mut service = Service::start();
    let tenant = service.tenant("enterprise").await;
    let landlord = service.landlord();
    landlord
        .put("/v1/landlord/plans/free", &free(600))
        .await
        .expect(200);
    let killed = landlord.put(KILL, &json!({})).await;
    killed.expect(200);
    service.kill();
    service.restart();
    let landlord = service.landlord();
    let plan = landlord.get("/v1/landlord/plans/free").await;
    assert_eq!(
        plan.version(),
        killed.version(),
        "nothing was written again"
    );
    assert_eq!(plan.json()["version"], 2);
    let tenant = tenant.at(service.base());
    tenant.get(STATS).await.problem(503, "feature_disabled");
    assert_eq!(limit(&service.tenant("free").await).await, 600);
}
