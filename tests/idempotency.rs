//! The same request again has the same outcome, once.

use serde_json::json;

use crate::support::client::send;
use crate::support::raw::Connection;
use crate::support::recount::everything_agrees;
use crate::support::{Answer, Service, unique};

/// The first answer again, in all that a client sees of it.
#[track_caller]
fn is_again(again: &Answer, first: &Answer, status: u16) {
    assert!(again.expect(status).is_replayed(), "{again}");
    assert_eq!(again.body, first.body);
    assert_eq!(again.header("etag"), first.header("etag"));
    assert_eq!(again.position(), first.position());
}

#[tokio::test]
async fn the_same_key_and_body_answers_the_first_outcome_again() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let (key, body) = (unique("key"), json!({ "holder": { "name": "Once" } }));
    let first = tenant.post_once("/v1/cards", &key, &body).await;
    let again = tenant.post_once("/v1/cards", &key, &body).await;
    assert!(!first.expect(201).is_replayed());
    is_again(&again, &first, 201);
    assert_eq!(tenant.all("/v1/cards").await.len(), 1);
}

#[tokio::test]
async fn the_same_key_with_another_body_or_path_is_refused() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let key = unique("key");
    let body = json!({ "holder": { "name": "Once" } });
    let card = tenant
        .post_once("/v1/cards", &key, &body)
        .await
        .expect(201)
        .json();
    let other = json!({ "holder": { "name": "Twice" } });
    let answer = tenant.post_once("/v1/cards", &key, &other).await;
    answer.problem(422, "idempotency_key_reused");
    let path = format!("/v1/cards/{}/activate", crate::support::client::id(&card));
    let answer = tenant.put_once(&path, &key, &json!({})).await;
    answer.problem(422, "idempotency_key_reused");
    assert_eq!(tenant.all("/v1/cards").await.len(), 1);
}

#[tokio::test]
async fn two_tenants_may_use_the_same_key() {
    let service = Service::shared();
    let (one, other) = (service.tenant("free").await, service.tenant("free").await);
    let (key, body) = (unique("key"), json!({ "holder": { "name": "Mine" } }));
    let of_one = one
        .post_once("/v1/cards", &key, &body)
        .await
        .expect(201)
        .json();
    let of_other = other.post_once("/v1/cards", &key, &body).await;
    assert!(!of_other.expect(201).is_replayed());
    assert_ne!(of_other.json()["id"], of_one["id"]);
}

#[tokio::test]
async fn a_replayed_transition_answers_what_was_true_then() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue_active("Then").await;
    let path = format!("/v1/cards/{}", crate::support::client::id(&card));
    let key = unique("key");
    let suspend = format!("{path}/suspend");
    let first = tenant.put_once(&suspend, &key, &json!({})).await;
    tenant.change(&card, "reinstate").await.expect(200);
    let again = tenant.put_once(&suspend, &key, &json!({})).await;
    is_again(&again, &first, 200);
    let now = tenant.get(&path).await.json();
    assert_eq!(now["status"], "active", "a replay does nothing");
}

#[tokio::test]
async fn a_replay_answers_the_holder_of_then() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let named = |name: &str| json!({ "holder": { "name": name } });
    let (issued, renamed) = (unique("key"), unique("key"));
    let first = tenant.post_once("/v1/cards", &issued, &named("One")).await;
    let holder = format!("/v1/cards/{}/holder", first.text("id"));
    let second = tenant.put_once(&holder, &renamed, &named("Two")).await;
    tenant.put(&holder, &named("Three")).await.expect(200);
    let again = tenant.post_once("/v1/cards", &issued, &named("One")).await;
    is_again(&again, &first, 201);
    let again = tenant.put_once(&holder, &renamed, &named("Two")).await;
    is_again(&again, &second, 200);
}

#[tokio::test]
async fn a_replayed_change_that_changed_nothing_answers_what_was_true_then() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue_active("Then").await;
    let path = format!("/v1/cards/{}/activate", crate::support::client::id(&card));
    let key = unique("key");
    let first = tenant.put_once(&path, &key, &json!({})).await;
    tenant.change(&card, "suspend").await.expect(200);
    let again = tenant.put_once(&path, &key, &json!({})).await;
    is_again(&again, &first, 200);
    assert_eq!(again.json()["status"], "active");
}

#[tokio::test]
async fn a_replayed_replacement_answers_the_new_card_as_it_was() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let old = tenant.issue_active("Lost").await;
    let path = format!("/v1/cards/{}/replace", crate::support::client::id(&old));
    let key = unique("key");
    let first = tenant.post_once(&path, &key, &json!({})).await;
    tenant
        .change(&first.expect(201).json(), "activate")
        .await
        .expect(200);
    let again = tenant.post_once(&path, &key, &json!({})).await;
    is_again(&again, &first, 201);
    assert_eq!(again.json()["replaces"], old["id"]);
    assert_eq!(again.header("location"), first.header("location"));
}

#[tokio::test]
async fn a_refused_request_may_be_tried_again_under_the_same_key() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue("Later").await;
    let path = format!("/v1/cards/{}/suspend", crate::support::client::id(&card));
    let key = unique("key");
    let refused = tenant.put_once(&path, &key, &json!({})).await;
    refused.problem(409, "invalid_transition");
    tenant.change(&card, "activate").await.expect(200);
    tenant.put_once(&path, &key, &json!({})).await.expect(200);
}

#[tokio::test]
async fn many_requests_at_once_with_one_key_have_one_outcome() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let (key, body) = (unique("key"), json!({ "holder": { "name": "Racer" } }));
    let racing = (0..40).map(|_| tenant.post_once("/v1/cards", &key, &body));
    let mut issued = 0;
    for answer in futures::future::join_all(racing).await {
        if answer.status == 409 {
            answer.problem(409, "request_in_progress");
            continue;
        }
        issued += u32::from(!answer.expect(201).is_replayed());
    }
    assert_eq!(issued, 1);
    assert_eq!(tenant.all("/v1/cards").await.len(), 1);
    everything_agrees(&service, &tenant).await;
}

#[tokio::test]
async fn the_first_outcome_is_answered_after_a_kill() {
    let mut service = Service::start();
    let tenant = service.tenant("free").await;
    let (key, body) = (unique("key"), json!({ "holder": { "name": "Survivor" } }));
    let first = tenant.post_once("/v1/cards", &key, &body).await;
    first.expect(201);
    service.kill();
    service.restart();
    let tenant = tenant.at(service.base());
    let again = tenant.post_once("/v1/cards", &key, &body).await;
    assert!(again.expect(201).is_replayed());
    assert_eq!(again.body, first.body);
    let other = json!({ "holder": { "name": "Impostor" } });
    let answer = tenant.post_once("/v1/cards", &key, &other).await;
    answer.problem(422, "idempotency_key_reused");
    everything_agrees(&service, &tenant).await;
}

#[tokio::test]
async fn provisioning_again_shows_the_same_tenant_and_the_same_key() {
    let mut service = Service::start();
    let landlord = service.landlord();
    let body = json!({ "name": "Twice", "slug": unique("twice"), "plan": "pro" });
    let key = unique("key");
    let path = "/v1/landlord/tenants";
    let first = landlord.post_once(path, &key, &body).await;
    first.expect(201);
    let again = landlord.post_once(path, &key, &body).await;
    assert!(again.expect(201).is_replayed());
    assert_eq!(again.json(), first.json());
    service.kill();
    service.restart();
    let landlord = service.landlord();
    let again = landlord.post_once(path, &key, &body).await;
    assert!(again.expect(201).is_replayed());
    assert_eq!(again.json(), first.json());
    assert_eq!(landlord.all(path).await.len(), 1);

    let taken = landlord.post(path, &body).await;
    taken.problem(409, "slug_taken");
    service.client(first.text("api_key")).usage().await;
}

#[tokio::test]
async fn landlord_commands_are_idempotent_too() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let landlord = service.landlord();
    let subscription = format!("/v1/landlord/tenants/{}/subscription", tenant.id());
    let plan = format!("{subscription}/plan");
    let key = unique("key");
    let first = landlord
        .put_once(&plan, &key, &json!({ "plan": "pro" }))
        .await;
    let again = landlord
        .put_once(&plan, &key, &json!({ "plan": "pro" }))
        .await;
    assert!(!first.expect(200).is_replayed());
    assert!(again.expect(200).is_replayed());
    assert_eq!(again.body, first.body);
    let other = landlord
        .put_once(&plan, &key, &json!({ "plan": "free" }))
        .await;
    other.problem(422, "idempotency_key_reused");

    // The tenant's keys and the landlord's are two name spaces.
    let body = json!({ "holder": { "name": "Own" } });
    let issued = tenant.post_once("/v1/cards", &key, &body).await;
    assert!(!issued.expect(201).is_replayed());
}

#[tokio::test]
async fn a_client_that_hangs_up_before_the_answer_finds_its_card_once() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let body = json!({ "holder": { "name": "Impatient" } });
    let text = body.to_string();
    let keys: Vec<_> = (0..50).map(|_| unique("hang-up")).collect();
    for key in &keys {
        let request = format!(
            "POST /v1/cards HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
             Idempotency-Key: {key}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{text}",
            tenant.key(),
            text.len(),
        );
        let mut connection = Connection::open(service.address()).await;
        connection.send(request).await;
        drop(connection);
    }
    for key in &keys {
        tenant.post_once("/v1/cards", key, &body).await.expect(201);
    }
    assert_eq!(tenant.all("/v1/cards").await.len(), keys.len());
    everything_agrees(&service, &tenant).await;
}

#[tokio::test]
async fn an_idempotency_key_has_a_bounded_readable_form() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let body = json!({ "holder": { "name": "Formed" } });
    for bad in [String::new(), "k".repeat(10_000)] {
        let answer = send(tenant.command(reqwest::Method::POST, "/v1/cards", &bad, &body)).await;
        assert_eq!(
            answer.any_problem()["status"].as_u64().map(|s| s / 100),
            Some(4)
        );
    }
    assert!(tenant.all("/v1/cards").await.is_empty());
}
