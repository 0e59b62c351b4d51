//! Trials: a plan's rights for some days, once.

use serde_json::{Value, json};

use crate::support::clock::WallClock;
use crate::support::recount::history;
use crate::support::{Client, Options, Service, eventually};

const DAY_SECONDS: i64 = 24 * 60 * 60;

fn subscription(tenant: &Client, rest: &str) -> String {
    format!("/v1/landlord/tenants/{}/subscription{rest}", tenant.id())
}

#[tokio::test]
async fn a_trial_opens_what_the_plan_does_not_have_and_says_where_it_comes_from() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    tenant
        .get("/v1/cards/stats")
        .await
        .problem(402, "upgrade_required");
    let body = json!({ "plan": "enterprise", "days": 14, "reason": "asked at the fair" });
    let started = service
        .landlord()
        .post(&subscription(&tenant, "/trial"), &body)
        .await;
    let started = started.expect(201).json();
    assert_eq!(started["plan"], "free", "{started}");
    assert_eq!(started["price_level"], 2, "{started}");
    assert_eq!(started["trial"]["plan"], "enterprise", "{started}");
    assert_eq!(started["plans_tried"], json!(["enterprise"]));

    let gate = tenant.get("/v1/cards/stats").await;
    assert_ne!(gate.status, 402, "{gate}");
    let shown = tenant.get("/v1/entitlements").await.expect(200).json();
    let bulk = &shown["features"]["cards.bulk"];
    assert_eq!(bulk["source"], "trial", "{shown}");
    assert_eq!(bulk["expires_at"], started["trial"]["ends_at"], "{shown}");
    assert_eq!(bulk["since"], started["trial"]["started_at"], "{shown}");
    assert_eq!(bulk["why"], "asked at the fair", "{shown}");
    assert!(bulk["by"].is_string(), "{shown}");
    assert!(tenant.usage().await["limit"].is_null());
}

#[tokio::test]
async fn a_plan_is_tried_once_and_one_at_a_time() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let landlord = service.landlord();
    let path = subscription(&tenant, "/trial");
    let enterprise = json!({ "plan": "enterprise" });
    landlord.delete(&path).await.problem(404, "no_trial");
    landlord.post(&path, &enterprise).await.expect(201);
    landlord
        .post(&path, &enterprise)
        .await
        .problem(409, "trial_running");
    let ended = landlord.delete(&path).await.expect(200).json();
    assert!(ended["trial"].is_null(), "{ended}");
    tenant
        .get("/v1/cards/stats")
        .await
        .problem(402, "upgrade_required");
    landlord
        .post(&path, &enterprise)
        .await
        .problem(409, "trial_used");
    landlord
        .post(&path, &json!({ "plan": "pro" }))
        .await
        .expect(201);
    for body in [
        json!({ "plan": "pro", "days": 0 }),
        json!({ "plan": "pro", "days": 366 }),
        json!({ "plan": "platinum" }),
        json!({}),
    ] {
        landlord
            .post(&path, &body)
            .await
            .problem(422, "validation_failed");
    }
}

#[tokio::test]
async fn buying_the_tried_plan_converts_the_trial() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let landlord = service.landlord();
    let enterprise = json!({ "plan": "enterprise" });
    let path = subscription(&tenant, "/trial");
    landlord.post(&path, &enterprise).await.expect(201);
    let bought = landlord
        .put(&subscription(&tenant, "/plan"), &enterprise)
        .await;
    let bought = bought.expect(200).json();
    assert!(bought["trial"].is_null(), "{bought}");
    assert_eq!(
        bought["features"]["cards.bulk"]["source"], "plan",
        "{bought}"
    );
    let events = history(&service, tenant.id()).await;
    let names = event_types(&events);
    assert_eq!(names[2..], ["TrialConverted", "PlanUpgraded"]);
}

#[tokio::test]
async fn a_trial_ends_on_the_second_and_its_end_is_recorded_with_its_moment_after_a_restart() {
    let clock = WallClock::new();
    let mut service = Service::start_with(clock.of(Options::default()));
    let tenant = service.tenant("free").await;
    let body = json!({ "plan": "enterprise", "days": 1 });
    let landlord = service.landlord();
    let path = subscription(&tenant, "/trial");
    let started = landlord.post(&path, &body).await.expect(201).json();
    let ends_at = started["trial"]["ends_at"].as_str().expect("an end");

    clock.set_apart(DAY_SECONDS - 60);
    let gate = tenant.get("/v1/cards/stats").await;
    assert_ne!(gate.status, 402, "a minute before the end: {gate}");
    clock.set_apart(DAY_SECONDS + 60);
    tenant
        .get("/v1/cards/stats")
        .await
        .problem(402, "upgrade_required");

    // The timer, which sleeps by a clock that nobody sets, learns of it at the next start.
    service.kill();
    service.restart();
    let tenant = tenant.at(service.base());
    let expired = eventually("the end is recorded", || async {
        let events = history(&service, tenant.id()).await;
        let last = events.last().cloned();
        last.filter(|event| event["type"] == "TrialExpired")
    })
    .await;
    assert_eq!(expired["payload"]["TrialExpired"]["at"], ends_at);
    let again = service.landlord().post(&path, &body).await;
    again.problem(409, "trial_used");
}

fn event_types(events: &[Value]) -> Vec<&str> {
    events
        .iter()
        .map(|event| event["type"].as_str().expect("a type"))
        .collect()
}
