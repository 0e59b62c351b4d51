//! The auditor's view: the history as it was stored, with the hashes that prove it.

use serde_json::Value;

use crate::support::client::id;
use crate::support::recount::{ndjson, verify};
use crate::support::{Client, Service};

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
async fn personal_data_is_in_one_object_of_its_event() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    tenant
        .issue_as(&serde_json::json!({
            "holder": { "name": "Private Person", "email": "private@example.com" },
        }))
        .await;
    for line in ndjson(&service, tenant.id()).await.lines() {
        let mut event: Value = serde_json::from_str(line).expect("JSON");
        forget_holders(&mut event);
        let rest = event.to_string();
        assert!(
            !rest.contains("Private") && !rest.contains("private@"),
            "{rest}"
        );
    }
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
