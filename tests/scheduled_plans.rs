//! Plan changes and cancellations that take effect later, and what a change would do.

use serde_json::{Value, json};

use crate::support::recount::history;
use crate::support::{Client, Service, eventually, in_seconds};

fn subscription(tenant: &Client, rest: &str) -> String {
    format!("/v1/landlord/tenants/{}/subscription{rest}", tenant.id())
}

async fn seen(service: &Service, tenant: &Client) -> Value {
    let seen = service.landlord().get(&subscription(tenant, "")).await;
    seen.expect(200).json()
}

#[tokio::test]
async fn a_change_at_the_periods_end_is_visible_and_can_be_taken_off() {
    let service = Service::shared();
    let tenant = service.tenant("enterprise").await;
    let landlord = service.landlord();
    let body = json!({ "plan": "free", "effective": "period_end", "reason": "too dear" });
    let plan = subscription(&tenant, "/plan");
    let changed = landlord.put(&plan, &body).await.expect(200).json();
    assert_eq!(changed["plan"], "enterprise", "{changed}");
    assert_eq!(changed["scheduled"]["plan"], "free", "{changed}");
    assert_eq!(changed["scheduled"]["why"], "too dear", "{changed}");
    assert_eq!(
        changed["scheduled"]["effective_at"],
        changed["period"]["end"]
    );
    assert_ne!(tenant.get("/v1/cards/stats").await.status, 402);
    let rights = tenant.get("/v1/entitlements").await.json();
    let bulk = &rights["features"]["cards.bulk"];
    assert_eq!(bulk["expires_at"], changed["period"]["end"], "{rights}");

    assert_eq!(
        seen(&service, &tenant).await["scheduled"],
        changed["scheduled"]
    );
    let off = landlord
        .delete(&subscription(&tenant, "/plan/scheduled"))
        .await;
    assert!(off.expect(200).json()["scheduled"].is_null(), "{off}");
    let again = landlord
        .delete(&subscription(&tenant, "/plan/scheduled"))
        .await;
    again.problem(404, "nothing_scheduled");
}

#[tokio::test]
async fn a_scheduled_change_happens_at_its_moment_and_the_newest_is_the_one() {
    let service = Service::shared();
    let tenant = service.tenant("enterprise").await;
    let landlord = service.landlord();
    let plan = subscription(&tenant, "/plan");
    let first = json!({ "plan": "free", "effective": in_seconds(1) });
    landlord.put(&plan, &first).await.expect(200);
    let moment = in_seconds(2);
    let second = json!({ "plan": "pro", "effective": moment, "reason": "the newest" });
    let scheduled = landlord.put(&plan, &second).await.expect(200).json();
    eventually("the plan changes", || async {
        (tenant.get("/v1/cards/stats").await.status == 402).then_some(())
    })
    .await;
    let recorded = eventually("it is recorded", || async {
        let events = history(&service, tenant.id()).await;
        let last = events.last().cloned();
        last.filter(|event| event["type"] == "PlanDowngraded")
    })
    .await;
    let content = &recorded["payload"]["PlanDowngraded"];
    assert_eq!(content["at"], scheduled["scheduled"]["effective_at"]);
    assert_eq!(
        content["why"], "the newest",
        "of whoever scheduled it: {recorded}"
    );
    let now = seen(&service, &tenant).await;
    assert_eq!(
        (&now["plan"], &now["scheduled"]),
        (&json!("pro"), &Value::Null)
    );
}

#[tokio::test]
async fn a_moment_that_cannot_be_is_refused() {
    let service = Service::shared();
    let tenant = service.tenant("pro").await;
    let landlord = service.landlord();
    let two_years_and_a_week = in_seconds(738 * 24 * 60 * 60);
    for effective in [
        "2001-01-01T00:00:00Z",
        &two_years_and_a_week,
        "tomorrow",
        "",
    ] {
        for (path, body) in [
            ("/plan", json!({ "plan": "free", "effective": effective })),
            ("/cancel", json!({ "effective": effective })),
        ] {
            let answer = landlord.put(&subscription(&tenant, path), &body).await;
            let problem = answer.problem(422, "validation_failed");
            assert_eq!(problem["errors"][0]["field"], "effective", "{problem}");
        }
    }
}

#[tokio::test]
async fn cancelling_honours_the_paid_period_unless_it_is_to_be_now() {
    let service = Service::shared();
    let tenant = service.tenant("pro").await;
    let landlord = service.landlord();
    let cancel = subscription(&tenant, "/cancel");
    let cancelled = landlord.put(&cancel, &json!({})).await.expect(200).json();
    assert_eq!(cancelled["state"], "cancelled", "{cancelled}");
    assert_eq!(
        cancelled["ends_at"], cancelled["period"]["end"],
        "{cancelled}"
    );
    let blocked = json!({ "plan_changes": true, "issuing": false, "level_2": false });
    assert_eq!(cancelled["blocked"], blocked);
    tenant.issue("Still served").await;

    // It may end sooner, and does so by itself.
    let sooner = json!({ "effective": in_seconds(1) });
    landlord.put(&cancel, &sooner).await.expect(200);
    let issue = json!({ "holder": { "name": "Too late" } });
    eventually("the subscription ends", || async {
        (tenant.post("/v1/cards", &issue).await.status == 402).then_some(())
    })
    .await;
    let refused = tenant.post("/v1/cards", &issue).await;
    refused.problem(402, "subscription_cancelled");
    eventually("the end is recorded", || async {
        let events = history(&service, tenant.id()).await;
        let last = events.last().cloned();
        last.filter(|event| event["type"] == "SubscriptionEnded")
    })
    .await;
    assert_eq!(seen(&service, &tenant).await["state"], "ended");
    assert_eq!(
        tenant.get("/v1/entitlements").await.json()["state"],
        "ended"
    );
    tenant.get("/v1/cards").await.expect(200);
}

#[tokio::test]
async fn a_preview_says_what_the_change_then_does() {
    let service = Service::shared();
    let tenant = service.tenant("enterprise").await;
    let landlord = service.landlord();
    for name in ["One", "Two", "Three"] {
        tenant.issue(name).await;
    }
    let before = seen(&service, &tenant).await;
    let free = json!({ "plan": "free" });
    let preview = subscription(&tenant, "/plan/preview");
    let foretold = landlord.post(&preview, &free).await.expect(200).json();
    assert_eq!(
        seen(&service, &tenant).await,
        before,
        "nothing has happened"
    );
    assert_eq!(
        (&foretold["from"], &foretold["to"]),
        (&json!("enterprise"), &json!("free"))
    );
    assert_eq!(foretold["limit_after"], 500, "{foretold}");
    assert_eq!(foretold["in_circulation"], 3, "{foretold}");
    assert_eq!(foretold["over_limit_by"], 0, "{foretold}");

    landlord
        .put(&subscription(&tenant, "/plan"), &free)
        .await
        .expect(200);
    let after = seen(&service, &tenant).await;
    for (slug, _) in foretold["lost"].as_object().expect("lost") {
        assert!(before["features"][slug].is_object(), "{slug}");
        assert!(after["features"][slug].is_null(), "{slug}");
    }
    for (slug, changed) in foretold["changed"].as_object().expect("changed") {
        assert_eq!(changed["from"]["value"], before["features"][slug]["value"]);
        assert_eq!(changed["to"]["value"], after["features"][slug]["value"]);
    }
    assert_eq!(
        foretold["lost"].as_object().map(serde_json::Map::len),
        Some(4)
    );
    assert!(
        foretold["gained"]
            .as_object()
            .is_some_and(serde_json::Map::is_empty)
    );

    let unknown = json!({ "plan": "platinum" });
    landlord
        .post(&preview, &unknown)
        .await
        .problem(422, "validation_failed");
    landlord
        .put(&subscription(&tenant, "/suspend"), &json!({}))
        .await
        .expect(200);
    let up = json!({ "plan": "enterprise" });
    landlord
        .post(&preview, &up)
        .await
        .problem(409, "plan_changes_blocked");
}
