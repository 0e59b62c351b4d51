//! Bringing subscriptions to the newest version of their plan: one, or all of a plan's.

use serde_json::{Value, json};

use crate::support::{Client, Options, Service, eventually};

const FREE: &str = "/v1/landlord/plans/free";
const MIGRATE: &str = "/v1/landlord/plans/free/migrate";

fn subscription(tenant: &Client, rest: &str) -> String {
    format!("/v1/landlord/tenants/{}/subscription/{rest}", tenant.id())
}

/// A second version of `free`: other cards, and branding instead of nothing.
async fn revise(service: &Service, max_cards: u64) {
    let branding = json!({
        "name": "Custom branding", "kind": "flag", "price_level": 1, "add_on": true,
    });
    let path = "/v1/landlord/features/custom_branding";
    let landlord = service.landlord();
    landlord.put(path, &branding).await.expect(200);
    let plan = json!({
        "price_level": 1,
        "rank": 0,
        "features": { "max_cards": max_cards, "cards.lifecycle": true, "custom_branding": true },
    });
    landlord.put(FREE, &plan).await.expect(200);
}

/// A subscription without since when, by whom and why it has each right: a preview has done nothing.
fn without_provenance(mut subscription: Value) -> Value {
    let features = subscription["features"].as_object_mut().expect("rights");
    for right in features.values_mut() {
        for said in ["since", "by", "why"] {
            right[said].take();
        }
    }
    subscription
}

async fn limit(tenant: &Client) -> Value {
    tenant.usage().await["limit"].clone()
}

async fn finished(service: &Service) -> Value {
    eventually("the migration is over", || async {
        let shown = service.landlord().get(MIGRATE).await.expect(200).json();
        (shown["state"] == "finished").then_some(shown)
    })
    .await
}

#[tokio::test]
async fn a_tenant_is_brought_to_the_newest_version_as_the_preview_says() {
    let service = Service::start();
    let (landlord, tenant) = (service.landlord(), service.tenant("free").await);
    for index in 0..3 {
        tenant.issue(&format!("Card {index}")).await;
    }
    revise(&service, 2).await;
    let path = subscription(&tenant, "migrate");
    let preview = landlord.get(&format!("{path}/preview")).await;
    let preview = preview.expect(200).json();
    assert_eq!(preview["from_version"], 1);
    assert_eq!(preview["gained"], json!({ "custom_branding": true }));
    assert_eq!(preview["lost"], json!({}));
    assert_eq!(
        preview["changed"]["max_cards"],
        json!({ "from": 500, "to": 2 })
    );
    assert_eq!(preview["subscription"]["over_limit_by"], 1);
    assert_eq!(limit(&tenant).await, 500, "a preview changes nothing");

    let migrated = landlord.post(&path, &json!({})).await;
    let migrated_to = without_provenance(migrated.expect(200).json());
    assert_eq!(
        migrated_to,
        without_provenance(preview["subscription"].clone())
    );
    assert_eq!(limit(&tenant).await, 2);
    let again = landlord.post(&path, &json!({})).await;
    assert_eq!(again.expect(200).version(), migrated.version(), "no event");
    let nothing = landlord.get(&format!("{path}/preview")).await.json();
    assert_eq!(nothing["gained"], json!({}));
}

#[tokio::test]
async fn a_repeated_or_outdated_migration_does_nothing() {
    let service = Service::start();
    let (landlord, tenant) = (service.landlord(), service.tenant("free").await);
    revise(&service, 600).await;
    let path = subscription(&tenant, "migrate");
    let first = landlord.post_once(&path, "migrate", &json!({})).await;
    first.expect(200);
    let to = json!({ "plan": "pro" });
    landlord
        .put(&subscription(&tenant, "plan"), &to)
        .await
        .expect(200);
    let late = landlord.post_once(&path, "migrate", &json!({})).await;
    assert!(late.is_replayed(), "{late}");
    assert!(limit(&tenant).await.is_null(), "still on pro");
    let outdated = landlord
        .command(reqwest::Method::POST, &path, "outdated", &json!({}))
        .header("If-Match", "\"1\"");
    let outdated = crate::support::client::send(outdated).await;
    outdated.problem(412, "precondition_failed");
}

#[tokio::test]
async fn all_tenants_on_a_plan_are_migrated_and_the_others_are_not() {
    let service = Service::start();
    let landlord = service.landlord();
    let mut tenants = Vec::new();
    for _ in 0..5 {
        tenants.push(service.tenant("free").await);
    }
    let other = service.tenant("pro").await;
    landlord.get(MIGRATE).await.problem(404, "not_found");
    revise(&service, 600).await;
    let newest = service.tenant("free").await;
    let preview = landlord.get(&format!("{MIGRATE}/preview")).await;
    let versions = preview.expect(200).json()["items"].clone();
    assert_eq!(versions.as_array().map(Vec::len), Some(1), "{versions}");
    assert_eq!(
        (&versions[0]["version"], &versions[0]["tenants"]),
        (&json!(1), &json!(5))
    );
    assert_eq!(versions[0]["gained"], json!({ "custom_branding": true }));

    let begun = landlord.post(MIGRATE, &json!({})).await;
    begun.expect(202);
    let done = finished(&service).await;
    let counts = [&done["migrated"], &done["unchanged"], &done["failed"]];
    assert_eq!(counts, [5, 1, 0], "{done}");
    for tenant in tenants.iter().chain([&newest]) {
        assert_eq!(limit(tenant).await, 600);
    }
    assert!(limit(&other).await.is_null());
    let history = landlord
        .all(&format!("/v1/audit/tenants/{}/events", tenants[0].id()))
        .await;
    let last = history.last().expect("events");
    assert_eq!(last["metadata"]["actor"], done["by"], "{last}");

    landlord.post(MIGRATE, &json!({})).await.expect(202);
    eventually("the second one is over", || async {
        let shown = landlord.get(MIGRATE).await.json();
        (shown["state"] == "finished" && shown["unchanged"] == 6).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_plan_can_be_edited_as_it_was_seen_while_a_migration_goes_on() {
    let service = Service::start();
    let landlord = service.landlord();
    service.tenant("free").await;
    revise(&service, 600).await;
    let begun = landlord.post(MIGRATE, &json!({})).await;
    let seen = begun.expect(202).header("etag").to_owned();
    finished(&service).await;
    let shown = landlord.get(FREE).await;
    assert_eq!(shown.expect(200).header("etag"), seen);
    let mut plan = shown.json();
    let plan = json!({
        "price_level": plan["price_level"].take(),
        "rank": plan["rank"].take(),
        "features": { "max_cards": 700, "cards.lifecycle": true },
    });
    let edit = landlord
        .command(reqwest::Method::PUT, FREE, "edit", &plan)
        .header("If-Match", &seen);
    let edited = crate::support::client::send(edit).await;
    assert_ne!(edited.expect(200).header("etag"), seen);
}

#[tokio::test]
async fn who_has_cancelled_is_left_as_it_is_and_fails_nothing() {
    let service = Service::start();
    let landlord = service.landlord();
    let tenant = service.tenant("free").await;
    for effective in ["now", "period_end"] {
        let leaving = service.tenant("free").await;
        let cancel = json!({ "effective": effective });
        let path = subscription(&leaving, "cancel");
        landlord.put(&path, &cancel).await.expect(200);
    }
    revise(&service, 600).await;
    landlord.post(MIGRATE, &json!({})).await.expect(202);
    let done = finished(&service).await;
    let counts = [&done["migrated"], &done["unchanged"], &done["failed"]];
    assert_eq!(counts, [1, 2, 0], "{done}");
    assert_eq!(limit(&tenant).await, 600);
}

#[tokio::test]
async fn a_tenant_that_fails_is_named_and_holds_up_no_other() {
    let mut service = Service::start();
    let (well, broken) = (service.tenant("free").await, service.tenant("free").await);
    service.terminate();
    service.stopped();
    service.store().break_tenant(broken.id());
    service.restart();
    revise(&service, 600).await;
    let begun = service.landlord().post(MIGRATE, &json!({})).await;
    begun.expect(202);
    let done = finished(&service).await;
    assert_eq!(done["failed"], 1, "{done}");
    assert_eq!(done["errors"][0]["tenant"], broken.id(), "{done}");
    assert_eq!(limit(&well.at(service.base())).await, 600);
}

#[tokio::test]
async fn a_migration_that_a_kill_interrupted_goes_on_by_itself() {
    let options = Options::default().with("SWEEP_INTERVAL_S", 1);
    let mut service = Service::start_with(options);
    let mut tenants = Vec::new();
    for _ in 0..120 {
        tenants.push(service.tenant("free").await);
    }
    revise(&service, 600).await;
    let begun = service.landlord().post(MIGRATE, &json!({})).await;
    begun.expect(202);
    service.kill();
    service.restart();
    let done = finished(&service).await;
    assert_eq!(done["failed"], 0, "{done}");
    for tenant in tenants {
        assert_eq!(limit(&tenant.at(service.base())).await, 600);
    }
}

#[tokio::test]
async fn only_a_plan_that_there_is_can_be_migrated() {
    let service = Service::shared();
    for plan in ["nope", "No-Plan"] {
        let path = format!("/v1/landlord/plans/{plan}/migrate");
        let refused = service.landlord().post(&path, &json!({})).await;
        refused.problem(404, "not_found");
        let refused = service.landlord().get(&format!("{path}/preview")).await;
        refused.problem(404, "not_found");
    }
}
