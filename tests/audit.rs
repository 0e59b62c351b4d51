//! The auditor's view: the history as it was stored, with the hashes that prove it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::{id, send};
use crate::support::recount::{history, ndjson, verify};
use crate::support::{Client, Service, eventually};

async fn tenant_with_history(service: &Service) -> Client {
    let tenant = service.tenant("free").await;
    for index in 0..7 {
        let card = tenant.issue_active(&format!("Audited {index}")).await;
        tenant.change(&card, "suspend").await.expect(200);
    }
    tenant
}

#[tokio::test]
async fn a_downloaded_history_verifies_and_a_changed_one_does_not() {
    let service = Service::shared();
    let tenant = tenant_with_history(&service).await;
    let history = ndjson(&service, tenant.id()).await;
    assert_eq!(history.lines().count(), 1 + 7 * 3);
    let (verified, said) = verify(&history);
    assert!(verified, "{said}");

    let lines: Vec<_> = history.lines().collect();
    let without_one = [&lines[..5], &lines[6..]].concat().join("\n");
    let swapped = {
        let mut lines = lines.clone();
        lines.swap(3, 4);
        lines.join("\n")
    };
    for (what, tampered) in [
        (
            "another name",
            history.replacen("Audited 3", "Audited 4", 1),
        ),
        ("one event less", without_one),
        ("two events swapped", swapped),
        (
            "another actor",
            history.replacen("tenant_admin", "tenant_viewer", 1),
        ),
    ] {
        assert_ne!(tampered.trim(), history.trim(), "{what}");
        let (verified, said) = verify(&tampered);
        assert!(!verified, "{what} was not noticed: {said}");
        assert!(!said.trim().is_empty(), "{what}: it says why");
        assert!(!said.contains("panicked"), "{what}: {said}");
    }
    let (verified, said) = verify("this is not a history\n");
    assert!(!verified && !said.contains("panicked"), "{said}");
}

#[tokio::test]
async fn pages_and_the_stream_say_the_same() {
    let service = Service::shared();
    let tenant = tenant_with_history(&service).await;
    let path = format!("/v1/audit/tenants/{}/events", tenant.id());
    let auditor = service.with_role("auditor", None).await;
    let paged = auditor.all(&format!("{path}?limit=4")).await;
    let streamed: Vec<Value> = ndjson(&service, tenant.id())
        .await
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(paged, streamed);
}

#[tokio::test]
async fn a_history_is_asked_for_from_a_position_on() {
    let service = Service::shared();
    let tenant = tenant_with_history(&service).await;
    let path = format!("/v1/audit/tenants/{}/events", tenant.id());
    let landlord = service.landlord();
    landlord
        .get(&format!("{path}?at_least=22"))
        .await
        .expect(200);
    for format in ["json", "ndjson"] {
        let beyond = format!("{path}?at_least=23&format={format}");
        let beyond = landlord.get(&beyond).await;
        beyond.problem(503, "read_model_behind");
    }
    let odd = format!("{path}?type=%00");
    landlord.get(&odd).await.problem(400, "invalid_query");
}

#[tokio::test]
async fn events_are_filtered_by_position_type_and_aggregate() {
    let service = Service::shared();
    let tenant = tenant_with_history(&service).await;
    let path = format!("/v1/audit/tenants/{}/events", tenant.id());
    let landlord = service.landlord();
    let after = landlord.all(&format!("{path}?after=20")).await;
    let positions: Vec<_> = after
        .iter()
        .map(|event| event["position"].clone())
        .collect();
    assert_eq!(positions, [21, 22]);
    let suspended = landlord.all(&format!("{path}?type=CardSuspended")).await;
    assert_eq!(suspended.len(), 7);
    let card = &tenant.all("/v1/cards?sort=issued_at").await[2];
    let of_card = landlord
        .all(&format!("{path}?aggregate_id={}", id(card)))
        .await;
    assert_eq!(of_card.len(), 3);
    let none = landlord
        .all(&format!("{path}?from=2099-01-01T00:00:00Z"))
        .await;
    assert!(none.is_empty());
    let all = landlord
        .all(&format!(
            "{path}?from=2001-01-01T00:00:00Z&to=2099-01-01T00:00:00Z"
        ))
        .await;
    assert_eq!(all.len(), 22);
}

#[tokio::test]
async fn an_event_says_who_asked_for_it_and_with_what_it_belongs() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let path = format!("/v1/landlord/tenants/{}/subscription", tenant.id());
    let few = json!({ "value": 5, "kind": "override" });
    let limited = service
        .landlord()
        .put(&format!("{path}/features/max_cards"), &few)
        .await;
    limited.expect(200);
    for _ in 0..3 {
        tenant.issue("One of many").await;
    }
    let request = tenant
        .request(Method::POST, "/v1/cards")
        .header("X-Request-Id", "request-7")
        .header("X-Correlation-Id", "order-7")
        .json(&json!({ "holder": { "name": "The fourth of five" } }));
    let card = send(request).await.expect(201).json();

    let (of_card, of_threshold) = eventually("the threshold is told", || async {
        let events = history(&service, tenant.id()).await;
        let told = events
            .iter()
            .position(|it| it["type"] == "UsageThresholdReached")?;
        Some((events[told - 1].clone(), events[told].clone()))
    })
    .await;
    let keys = tenant.all("/v1/api-keys").await;
    let mut metadata = json!({
        "actor": id(&keys[0]), "role": "tenant_admin", "request_id": "request-7",
        "correlation_id": "order-7", "causation_id": "request-7",
    });
    assert_eq!(of_card["metadata"], metadata, "{of_card}");
    metadata["actor"] = "thresholds".into();
    metadata["role"] = "process".into();
    assert_eq!(of_threshold["metadata"], metadata, "{of_threshold}");

    let of_card = format!("/v1/cards/{}/history", id(&card));
    let shown = &tenant.all(&of_card).await[0];
    assert_eq!(shown["actor"], id(&keys[0]), "{shown}");
    assert_eq!(shown["correlation_id"], "order-7", "{shown}");
    // Without another word it is the request.
    let first = &history(&service, tenant.id()).await[2]["metadata"];
    assert!(first["request_id"].is_string(), "{first}");
    assert_eq!(first["correlation_id"], first["request_id"], "{first}");
}

#[tokio::test]
async fn personal_data_is_in_one_object_of_its_event() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let holder = |name| json!({ "name": name, "email": "private@example.com" });
    let issued = json!({ "holder": holder("Private Person") });
    let card = tenant.issue_as(&issued).await;
    let path = format!("/v1/cards/{}", id(&card));
    let renamed = json!({ "holder": holder("Private Citizen") });
    let updated = tenant.put(&format!("{path}/holder"), &renamed).await;
    updated.expect(200);
    let replaced = tenant.post(&format!("{path}/replace"), &json!({})).await;
    replaced.expect(201);

    let mut told = Vec::new();
    for mut event in history(&service, tenant.id()).await {
        if event.to_string().contains("Private") {
            told.push(event["type"].clone());
        }
        forget_holders(&mut event);
        let rest = event.to_string();
        assert!(
            !rest.contains("Private") && !rest.contains("private@"),
            "{rest}"
        );
    }
    assert_eq!(told, ["CardIssued", "CardHolderUpdated", "CardIssued"]);
}

/// Takes every `holder` away, also out of payloads that are kept as text.
fn forget_holders(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.remove("holder");
            fields.values_mut().for_each(forget_holders);
        }
        Value::Array(items) => items.iter_mut().for_each(forget_holders),
        Value::String(text) => {
            if let Ok(mut inner @ (Value::Object(_) | Value::Array(_))) = serde_json::from_str(text)
            {
                forget_holders(&mut inner);
                *text = inner.to_string();
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
