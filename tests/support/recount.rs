//! Counting again from the history what the service says it has counted.

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::Value;

use super::service::{command, run};
use super::{Client, Service};

/// A tenant's whole history, as an auditor downloads it.
pub async fn history(service: &Service, tenant: &str) -> Vec<Value> {
    ndjson(service, tenant)
        .await
        .lines()
        .map(|line| serde_json::from_str(line).expect("one event a line"))
        .collect()
}

/// The same, byte for byte.
pub async fn ndjson(service: &Service, tenant: &str) -> String {
    let request = service
        .landlord()
        .request(
            reqwest::Method::GET,
            &format!("/v1/audit/tenants/{tenant}/events"),
        )
        .header("Accept", "application/x-ndjson");
    let answer = super::client::send(request).await;
    answer.expect(200);
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    String::from_utf8(answer.body).expect("UTF-8")
}

/// Runs `digital-card verify` on a history; whether it verifies, and what it said.
pub fn verify(history: &str) -> (bool, String) {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(history.as_bytes()).expect("written");
    let (status, said) = run(command().arg("verify").arg(file.path()));
    (status.success(), said)
}

/// The cards by status, counted from the events.
pub fn by_status(events: &[Value]) -> BTreeMap<&'static str, u64> {
    let mut cards: BTreeMap<String, &'static str> = BTreeMap::new();
    for event in events {
        let id = event["aggregate_id"].as_str().expect("an aggregate");
        let status = match event["type"].as_str().expect("a type") {
            "CardIssued" => {
                assert!(!cards.contains_key(id), "card {id} was issued twice");
                "issued"
            }
            "CardActivated" | "CardReinstated" => "active",
            "CardSuspended" => "suspended",
            "CardRevoked" => "revoked",
            "CardExpired" => "expired",
            "CardReplaced" => "replaced",
            "CardRenewed" if cards[id] == "expired" => "active",
            _ => continue,
        };
        cards.insert(id.to_owned(), status);
    }
    let mut counts = BTreeMap::new();
    for status in cards.values() {
        *counts.entry(*status).or_default() += 1;
    }
    counts
}

/// Fails unless positions have no gap, the chain verifies, and ledger, counters, read model and
/// the landlord all say the same.
pub async fn everything_agrees(service: &Service, tenant: &Client) -> Vec<Value> {
    let text = ndjson(service, tenant.id()).await;
    let (verified, said) = verify(&text);
    assert!(verified, "the chain does not verify: {said}");
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("one event a line"))
        .collect();
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["position"], index as u64 + 1, "a gap: {event}");
    }

    let counted = by_status(&events);
    let usage = tenant.usage().await;
    let overview = service
        .landlord()
        .get(&format!("/v1/landlord/tenants/{}", tenant.id()))
        .await
        .expect(200)
        .json();
    let listed = tenant.all("/v1/cards?limit=500").await;
    for status in [
        "issued",
        "active",
        "suspended",
        "revoked",
        "expired",
        "replaced",
    ] {
        let events_say = counted.get(status).copied().unwrap_or_default();
        let rows = listed
            .iter()
            .filter(|card| card["status"] == status)
            .count();
        assert_eq!(
            count(&usage, status),
            events_say,
            "usage, {status}: {usage}"
        );
        assert_eq!(rows as u64, events_say, "list, {status}");
        assert_eq!(
            count(&overview["usage"], status),
            events_say,
            "landlord, {status}: {overview}"
        );
    }
    events
}

/// A count in a usage, wherever it groups them.
pub fn count(usage: &Value, status: &str) -> u64 {
    [&usage[status], &usage["by_status"][status]]
        .into_iter()
        .find_map(Value::as_u64)
        .unwrap_or_else(|| panic!("no count of {status} in {usage}"))
}
