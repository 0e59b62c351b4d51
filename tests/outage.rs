//! The landlord's database fails: tenants go on, the landlord is told to come back later, and
//! nobody is asked to pay for it.

use serde_json::json;

use crate::support::client::id;
use crate::support::recount::{by_status, history};
use crate::support::{Client, Service, unique};

/// Breaks it while nothing is being written: a transaction in progress would write part of what
/// was destroyed anew.
async fn lose_the_landlords_database(service: &Service, tenant: &Client) {
    let path = format!("/v1/landlord/tenants/{}", tenant.id());
    // Answered when the read model has handled everything.
    service.landlord().get(&path).await.expect(200);
    service.store().lose_the_landlord();
}

async fn later(client: &Client, what: &str, answer: crate::support::Answer) {
    let problem = answer.problem(503, "unavailable");
    assert!(
        answer.headers.contains_key("retry-after"),
        "{what}: {problem}"
    );
    // A repetition is no better, and no worse.
    client.get("/healthz").await.expect(200);
}

#[tokio::test]
async fn a_known_tenant_goes_on_while_the_landlords_database_is_gone() {
    let service = Service::start();
    let tenant = service.tenant("free").await;
    let card = tenant.issue_active("Before").await;
    lose_the_landlords_database(&service, &tenant).await;

    for index in 0..20 {
        let during = tenant.issue(&format!("During {index}")).await;
        tenant.change(&during, "activate").await.expect(200);
    }
    tenant.change(&card, "suspend").await.expect(200);
    let read = tenant.get(&format!("/v1/cards/{}", id(&card))).await;
    assert_eq!(read.expect(200).json()["status"], "suspended");
    assert_eq!(tenant.all("/v1/cards").await.len(), 21);
    assert_eq!(tenant.usage().await["in_circulation"], 21);
    for path in ["/v1/entitlements", "/v1/modules"] {
        tenant.get(path).await.expect(200);
    }
    tenant
        .get("/v1/cards/stats")
        .await
        .problem(402, "upgrade_required");
    assert_eq!(
        by_status(&history(&service, tenant.id()).await)["active"],
        20
    );
}

#[tokio::test]
async fn landlord_paths_answer_503_and_never_402_while_the_database_is_gone() {
    let service = Service::start();
    let tenant = service.tenant("free").await;
    tenant.issue("Before").await;
    let landlord = service.landlord();
    lose_the_landlords_database(&service, &tenant).await;

    let one = format!("/v1/landlord/tenants/{}", tenant.id());
    later(&landlord, "one tenant", landlord.get(&one).await).await;
    let all = landlord.get("/v1/landlord/tenants").await;
    later(&landlord, "all tenants", all).await;
    let body = json!({ "name": "No", "slug": unique("no"), "plan": "free" });
    let made = landlord.post("/v1/landlord/tenants", &body).await;
    later(&landlord, "a new tenant", made).await;
    let body = json!({ "name": "No", "role": "auditor" });
    let made = landlord.post("/v1/landlord/api-keys", &body).await;
    later(&landlord, "a new key", made).await;

    // A plan change is the tenant's own event: it is in force although no read model shows it.
    let plan = format!("{one}/subscription/plan");
    landlord
        .put(&plan, &json!({ "plan": "pro" }))
        .await
        .expect(200);
    assert!(tenant.usage().await["limit"].is_null());
    // Tenants are served, so a load balancer must not take the node away; but it says what fails.
    let ready = service.stranger().get("/readyz").await;
    let failing = ready.expect(200).json()["errors"].to_string();
    assert!(failing.contains("landlord's database"), "{failing}");
}
