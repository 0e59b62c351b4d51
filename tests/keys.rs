//! API keys: made, shown once, revoked at once.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::process::key_in;
use crate::support::client::id;
use crate::support::raw::{Connection, head};
use crate::support::{Service, Store, eventually, unique};

const PATH: &str = "/v1/api-keys";

#[tokio::test]
async fn a_second_key_needs_the_feature_api_access() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let body = json!({ "name": "a robot", "role": "tenant_viewer" });
    let problem = tenant
        .post(PATH, &body)
        .await
        .problem(402, "upgrade_required");
    assert_eq!(problem["feature"], "api_access");

    let feature = format!(
        "/v1/landlord/tenants/{}/subscription/features/api_access",
        tenant.id()
    );
    service
        .landlord()
        .put(&feature, &json!({ "value": true }))
        .await
        .expect(200);
    let made = tenant.post(PATH, &body).await;
    let viewer = service.client(made.expect(201).text("api_key"));
    viewer.get("/v1/cards").await.expect(200);
    let refused = viewer
        .post("/v1/cards", &json!({ "holder": { "name": "No" } }))
        .await;
    refused.problem(403, "forbidden");
    let listed = tenant.all(PATH).await;
    assert_eq!(listed.len(), 2);
    let secret = made.text("api_key");
    assert!(
        !format!("{listed:?}").contains(secret),
        "a secret is shown once"
    );
}

#[tokio::test]
async fn no_secret_is_kept_where_the_data_is() {
    let store = Arc::new(Store::new());
    let mut service = Service::spawn(&["serve"], &store);
    let said = eventually("the landlord's key is shown", || async {
        Some(service.output()).filter(|said| key_in(said).is_some())
    })
    .await;
    let landlord = service.client(key_in(&said).expect("a key"));
    let body = json!({ "name": "Kept here", "slug": unique("kept"), "plan": "free" });
    let made = landlord.post("/v1/landlord/tenants", &body).await;
    let tenant = service.client(made.expect(201).text("api_key"));
    let body = json!({ "name": "an auditor", "role": "auditor" });
    let made = landlord.post("/v1/landlord/api-keys", &body).await;
    let auditor = service.client(made.expect(201).text("api_key"));
    tenant.issue("Known To Be Kept").await;
    // Also what is in the log of a file only, and then what is left of it.
    let running = store.contents();
    service.terminate();
    service.stopped();
    for kept in [running, store.contents()] {
        let has = |text: &str| kept.windows(text.len()).any(|it| it == text.as_bytes());
        assert!(has("Known To Be Kept"), "it is looked for where it is");
        for client in [&landlord, &tenant, &auditor] {
            assert!(!has(client.key()), "{} is kept", client.key());
            let chance = client.key().trim_start_matches("dck_");
            assert!(!has(chance), "{chance} is kept");
        }
    }
}

#[tokio::test]
async fn a_repeated_request_shows_the_same_secret() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let feature = format!(
        "/v1/landlord/tenants/{}/subscription/features/api_access",
        tenant.id()
    );
    service
        .landlord()
        .put(&feature, &json!({ "value": true }))
        .await
        .expect(200);
    let key = unique("key");
    let body = json!({ "name": "twice", "role": "tenant_admin" });
    let first = tenant.post_once(PATH, &key, &body).await;
    let again = tenant.post_once(PATH, &key, &body).await;
    assert!(again.expect(201).is_replayed());
    assert_eq!(again.text("api_key"), first.expect(201).text("api_key"));
    let other = json!({ "name": "thrice", "role": "tenant_admin" });
    let answer = tenant.post_once(PATH, &key, &other).await;
    answer.problem(422, "idempotency_key_reused");
    assert_eq!(tenant.all(PATH).await.len(), 2);
}

#[tokio::test]
async fn a_tenant_has_100_keys_at_most() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let feature = format!(
        "/v1/landlord/tenants/{}/subscription/features/api_access",
        tenant.id()
    );
    let landlord = service.landlord();
    landlord
        .put(&feature, &json!({ "value": true }))
        .await
        .expect(200);
    let body = json!({ "name": "one more", "role": "tenant_viewer" });
    for _ in 1..100 {
        tenant.post(PATH, &body).await.expect(201);
    }
    let refused = tenant.post(PATH, &body).await;
    refused.problem(409, "too_many_keys");
    let all = tenant.all(PATH).await;
    let spare = all.iter().find(|key| key["role"] == "tenant_viewer");
    let path = format!("{PATH}/{}", id(spare.expect("a viewer")));
    tenant.delete(&path).await.expect(204);
    tenant.post(PATH, &body).await.expect(201);
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_from_that_moment_on() {
    let mut service = Service::start();
    let tenant = service.tenant("free").await;
    let made = service
        .landlord()
        .post(
            "/v1/landlord/api-keys",
            &json!({ "role": "tenant_admin", "name": "second", "tenant": tenant.id() }),
        )
        .await;
    let second = service.client(made.expect(201).text("api_key"));
    second.get("/v1/cards").await.expect(200);
    let revoked = tenant.delete(&format!("{PATH}/{}", id(&made.json()))).await;
    assert_eq!(revoked.status / 100, 2, "{revoked}");
    second.get("/v1/cards").await.problem(401, "unauthorized");
    service.kill();
    service.restart();
    second
        .at(service.base())
        .get("/v1/cards")
        .await
        .problem(401, "unauthorized");
    tenant.at(service.base()).get("/v1/cards").await.expect(200);
}

#[tokio::test]
async fn a_tenant_cannot_make_keys_of_roles_beyond_its_own() {
    let service = Service::shared();
    let tenant = service.tenant("enterprise").await;
    for role in ["landlord", "auditor", "billing", "god", ""] {
        let answer = tenant
            .post(PATH, &json!({ "name": "no", "role": role }))
            .await;
        answer.problem(422, "validation_failed");
    }
}

#[tokio::test]
async fn a_role_has_a_tenant_or_has_none() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let landlord = service.landlord();
    let path = "/v1/landlord/api-keys";
    for body in [
        json!({ "name": "no", "role": "tenant_admin" }),
        json!({ "name": "no", "role": "auditor", "tenant": tenant.id() }),
        json!({ "name": "no", "role": "tenant_viewer",
                "tenant": "018f0000-0000-7000-8000-000000000000" }),
    ] {
        landlord
            .post(path, &body)
            .await
            .problem(422, "validation_failed");
    }
}

#[tokio::test]
async fn a_revocation_whose_client_hangs_up_is_done_whole_or_not_at_all() {
    let service = Service::shared();
    let landlord = service.landlord();
    for round in 0..40 {
        let body = json!({ "name": "Hung up on", "role": "auditor" });
        let made = landlord.post("/v1/landlord/api-keys", &body).await;
        let key = service.client(made.expect(201).text("api_key"));
        let path = format!("/v1/landlord/api-keys/{}", id(&made.json()));
        hang_up_after(
            &service,
            &head(&landlord, &format!("DELETE {path} HTTP/1.1"), ""),
            round,
        )
        .await;
        // 404 says that it was revoked before; either way it is now.
        let again = landlord.delete(&path).await;
        assert!([204, 404].contains(&again.status), "{again}");
        let nowhere = "/v1/audit/tenants/018f0000-0000-7000-8000-000000000000/events";
        key.get(nowhere).await.problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn a_key_whose_client_hangs_up_opens_what_the_repeated_request_shows() {
    let service = Service::shared();
    let landlord = service.landlord();
    for round in 0..40 {
        let body = json!({ "name": "Hung up on", "slug": unique("hang-up"), "plan": "free" });
        let (path, key) = ("/v1/landlord/tenants", unique("hang-up"));
        let text = body.to_string();
        let line = format!("POST {path} HTTP/1.1");
        let extra = format!(
            "Idempotency-Key: {key}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
            text.len()
        );
        let request = head(&landlord, &line, &extra) + &text;
        hang_up_after(&service, &request, round).await;
        let made = landlord.post_once(path, &key, &body).await;
        let tenant = service.client(made.expect(201).text("api_key"));
        tenant.issue("First").await;
    }
}

/// Sends a request and hangs up: at once, or a little later each round, so that some rounds cut
/// in while it is being worked on.
async fn hang_up_after(service: &Service, request: &str, round: u32) {
    let mut connection = Connection::open(service.address()).await;
    connection.send(request).await;
    let patience = Duration::from_micros(200) * (round % 12);
    connection.read_all(patience).await;
}
