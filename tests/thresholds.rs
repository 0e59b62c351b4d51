//! Coming near a limit is recorded in the tenant's history, once each time.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::recount::{everything_agrees, history};
use crate::support::{Client, Service, eventually};

/// What was told of thresholds: percent, cards used, limit.
async fn told(service: &Service, tenant: &Client) -> Vec<(u64, u64, u64)> {
    let number = |event: &Value, field: &str| {
        let told = &event["payload"]["UsageThresholdReached"];
        told[field].as_u64().expect("a number")
    };
    history(service, tenant.id())
        .await
        .iter()
        .filter(|event| event["type"] == "UsageThresholdReached")
        .map(|event| {
            let number = |field| number(event, field);
            (number("percent"), number("used"), number("limit"))
        })
        .collect()
}

/// Waits until this was told, and nothing else.
async fn tells(service: &Service, tenant: &Client, expected: &[(u64, u64, u64)]) {
    eventually("the thresholds are told", || async {
        (told(service, tenant).await == expected).then_some(())
    })
    .await;
    followed(service, tenant).await;
    assert_eq!(told(service, tenant).await, expected);
}

/// Waits until the process has followed the ledger to its end, its own events too.
async fn followed(service: &Service, tenant: &Client) {
    let path = format!(
        "/v1/landlord/subscribers?name=thresholds&tenant={}",
        tenant.id()
    );
    eventually("the process is at the ledger's end", || async {
        let end = history(service, tenant.id()).await.len();
        let all = service.landlord().all(&path).await;
        (all.len() == 1 && all[0]["checkpoint"] == end && all[0]["state"] == "idle").then_some(())
    })
    .await;
}

/// Issues so many cards at once.
async fn issue(tenant: &Client, count: usize) -> Vec<Value> {
    let issuing = (0..count).map(|nth| {
        let tenant = tenant.clone();
        async move { tenant.issue(&format!("Holder {nth}")).await }
    });
    join_all(issuing).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_threshold_is_told_once_when_it_is_reached_also_across_restarts() {
    let mut service = Service::start();
    let tenant = service.tenant("free").await;
    issue(&tenant, 399).await;
    followed(&service, &tenant).await;
    tells(&service, &tenant, &[]).await;
    issue(&tenant, 51).await;
    let expected = [(80, 400, 500), (90, 450, 500)];
    tells(&service, &tenant, &expected).await;
    // The subscription has not changed by itself.
    let path = format!("/v1/landlord/tenants/{}/subscription/suspend", tenant.id());
    let suspended = service.landlord().put(&path, &json!({})).await;
    assert_eq!(suspended.expect(200).version(), 2);
    let path = path.replace("suspend", "reinstate");
    service.landlord().put(&path, &json!({})).await.expect(200);

    service.kill();
    service.restart();
    let tenant = tenant.at(service.base());
    tells(&service, &tenant, &expected).await;
    issue(&tenant, 50).await;
    let expected = [(80, 400, 500), (90, 450, 500), (100, 500, 500)];
    tells(&service, &tenant, &expected).await;
    everything_agrees(&service, &tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_threshold_is_told_again_after_usage_fell_or_the_limit_rose() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let cards = issue(&tenant, 400).await;
    tells(&service, &tenant, &[(80, 400, 500)]).await;

    tenant.change(&cards[0], "revoke").await.expect(200);
    issue(&tenant, 1).await;
    let expected = [(80, 400, 500), (80, 400, 500)];
    tells(&service, &tenant, &expected).await;

    let of_tenant = format!("/v1/landlord/tenants/{}/subscription", tenant.id());
    let add_on = format!("{of_tenant}/features/max_cards");
    let landlord = service.landlord();
    let raised = landlord.put(&add_on, &json!({ "value": 600 })).await;
    raised.expect(200);
    tells(&service, &tenant, &expected).await;
    // Back at the plan's own limit.
    landlord.delete(&add_on).await.expect(200);
    let expected = [expected[0], expected[1], (80, 400, 500)];
    tells(&service, &tenant, &expected).await;
    assert_eq!(told(&service, &tenant).await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_limit_nothing_is_told() {
    let service = Service::shared();
    let tenant = service.tenant("pro").await;
    issue(&tenant, 20).await;
    followed(&service, &tenant).await;
    tells(&service, &tenant, &[]).await;
}
