//! A payment fails: grace, suspension, and back to exactly what was.

use serde_json::{Value, json};

use crate::support::clock::WallClock;
use crate::support::recount::history;
use crate::support::{Client, Options, Service, eventually};

const DAY_SECONDS: i64 = 24 * 60 * 60;

fn subscription(tenant: &Client, rest: &str) -> String {
    format!("/v1/landlord/tenants/{}/subscription{rest}", tenant.id())
}

#[tokio::test]
async fn in_grace_everything_is_served_but_a_higher_plan() {
    let service = Service::shared();
    let tenant = service.tenant("enterprise").await;
    let landlord = service.landlord();
    let failed = landlord
        .put(
            &subscription(&tenant, "/payment-failed"),
            &json!({ "reason": "card declined" }),
        )
        .await;
    let failed = failed.expect(200).json();
    assert_eq!(failed["state"], "grace", "{failed}");
    let blocked = json!({ "plan_changes": true, "issuing": false, "level_2": false });
    assert_eq!(failed["blocked"], blocked);
    assert_eq!(
        tenant.get("/v1/entitlements").await.json()["blocked"],
        blocked
    );
    tenant.issue("Served in grace").await;
    assert_ne!(tenant.get("/v1/cards/stats").await.status, 402);

    // Reported again, later or for longer, the grace stays as it is.
    let longer = json!({ "grace_days": 90 });
    let again = landlord
        .put(&subscription(&tenant, "/payment-failed"), &longer)
        .await;
    assert_eq!(
        again.expect(200).json()["grace_ends_at"],
        failed["grace_ends_at"]
    );
    let trial = landlord
        .post(&subscription(&tenant, "/trial"), &json!({ "plan": "pro" }))
        .await;
    trial.problem(409, "plan_changes_blocked");

    let paid = landlord
        .put(&subscription(&tenant, "/reinstate"), &json!({}))
        .await;
    let paid = paid.expect(200).json();
    assert_eq!(
        (&paid["state"], &paid["grace_ends_at"]),
        (&json!("active"), &Value::Null)
    );
    for grace_days in [json!(91), json!(-1), json!("long")] {
        let body = json!({ "grace_days": grace_days });
        let answer = landlord
            .put(&subscription(&tenant, "/payment-failed"), &body)
            .await;
        answer.problem(422, "validation_failed");
    }
}

#[tokio::test]
async fn a_tenant_may_have_a_grace_of_its_own() {
    let service = Service::shared();
    let tenant = service.tenant("pro").await;
    let landlord = service.landlord();
    let grace = subscription(&tenant, "/grace");
    let none = json!({ "grace_days": 0, "reason": "has been late before" });
    let set = landlord.put(&grace, &none).await.expect(200).json();
    assert_eq!(
        (&set["grace_days"], &set["state"]),
        (&json!(0), &json!("active"))
    );
    let failed = landlord
        .put(&subscription(&tenant, "/payment-failed"), &json!({}))
        .await;
    assert_eq!(failed.expect(200).json()["state"], "suspended");
    for body in [json!({ "grace_days": 91 }), json!({})] {
        landlord
            .put(&grace, &body)
            .await
            .problem(422, "validation_failed");
    }
}

#[tokio::test]
async fn who_is_suspended_for_not_paying_keeps_reading_and_gets_back_exactly_what_was() {
    let service = Service::shared();
    let tenant = service.tenant("enterprise").await;
    let landlord = service.landlord();
    let card = tenant.issue_active("Kept").await;
    let before = landlord.get(&subscription(&tenant, "")).await.json();
    let at_once = json!({ "grace_days": 0 });
    let failed = landlord
        .put(&subscription(&tenant, "/payment-failed"), &at_once)
        .await;
    let failed = failed.expect(200).json();
    assert_eq!(failed["state"], "suspended", "{failed}");
    assert_eq!(failed["suspended_by"], "payment", "{failed}");
    let blocked = json!({ "plan_changes": true, "issuing": true, "level_2": true });
    assert_eq!(failed["blocked"], blocked);

    let issue = json!({ "holder": { "name": "Refused" } });
    let refused = tenant.post("/v1/cards", &issue).await;
    refused.problem(402, "subscription_suspended");
    let refused = tenant.get("/v1/cards/stats").await;
    refused.problem(402, "subscription_suspended");
    // What is one's own can be read, taken along and ended.
    assert_eq!(tenant.all("/v1/cards").await.len(), 1);
    let export = tenant.get("/v1/cards/export?format=csv").await;
    assert_ne!(export.status, 402, "{export}");
    tenant.change(&card, "revoke").await.expect(200);

    landlord
        .put(&subscription(&tenant, "/reinstate"), &json!({}))
        .await
        .expect(200);
    let mut after = landlord.get(&subscription(&tenant, "")).await.json();
    after["in_circulation"] = before["in_circulation"].clone();
    assert_eq!(after, before);
    tenant.issue("Served again").await;
}

#[tokio::test]
async fn the_end_of_the_grace_suspends_on_the_second_and_is_recorded_with_its_moment() {
    let clock = WallClock::new();
    let mut service = Service::start_with(clock.of(Options::default()));
    let tenant = service.tenant("pro").await;
    let failed = service
        .landlord()
        .put(&subscription(&tenant, "/payment-failed"), &json!({}))
        .await;
    let failed = failed.expect(200).json();
    let ends_at = failed["grace_ends_at"].as_str().expect("an end");
    clock.set_apart(14 * DAY_SECONDS - 60);
    tenant.issue("Just in time").await;
    clock.set_apart(14 * DAY_SECONDS + 60);
    let issue = json!({ "holder": { "name": "Too late" } });
    tenant
        .post("/v1/cards", &issue)
        .await
        .problem(402, "subscription_suspended");
    service.kill();
    service.restart();
    let suspended = eventually("the suspension is recorded", || async {
        let events = history(&service, tenant.id()).await;
        let last = events.last().cloned();
        last.filter(|event| event["type"] == "SubscriptionSuspended")
    })
    .await;
    let content = &suspended["payload"]["SubscriptionSuspended"];
    assert_eq!(
        (&content["at"], &content["cause"]),
        (&json!(ends_at), &json!("payment"))
    );
}
