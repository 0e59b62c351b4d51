//! One card after another: its life, and finding it again.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::support::client::id;
use crate::support::{Client, Service};

#[tokio::test]
async fn an_issued_card_has_a_number_a_status_and_a_version() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let answer = tenant
        .post(
            "/v1/cards",
            &json!({
                "holder": { "name": "Ada Lovelace", "email": "ada@example.com" },
                "external_ref": "M-1815",
                "tier": "gold",
                "expires_at": "2099-01-01T00:00:00Z",
            }),
        )
        .await;
    answer.expect(201);
    let card = answer.json();
    assert_eq!(card["status"], "issued");
    assert_eq!(card["holder"]["name"], "Ada Lovelace");
    assert_eq!(card["holder"]["email"], "ada@example.com");
    assert_eq!(card["external_ref"], "M-1815");
    assert_eq!(card["tier"], "gold");
    assert_eq!(card["number"].as_str().map(str::len), Some(16), "{card}");
    assert_eq!(card["version"], answer.version());
    assert_eq!(
        id(&card).as_bytes()[14],
        b'7',
        "a UUID of version 7: {card}"
    );
    let issued_at = card["issued_at"].as_str().expect("a time");
    chrono::DateTime::parse_from_rfc3339(issued_at).expect("RFC 3339");

    let read = tenant.get(&format!("/v1/cards/{}", id(&card))).await;
    assert_eq!(read.expect(200).json(), card);
    assert_eq!(read.version(), answer.version());
}

#[tokio::test]
async fn a_card_can_be_active_from_the_start() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue_active("Grace Hopper").await;
    assert_eq!(card["status"], "active");
}

#[tokio::test]
async fn a_card_lives_through_every_transition() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue("Alan Turing").await;
    for (verb, status) in [
        ("activate", "active"),
        ("suspend", "suspended"),
        ("reinstate", "active"),
        ("revoke", "revoked"),
    ] {
        let answer = tenant.change(&card, verb).await;
        assert_eq!(answer.expect(200).json()["status"], status, "{answer}");
    }
}

#[tokio::test]
async fn repeating_a_done_transition_succeeds_without_an_event() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue("Alan Turing").await;
    for verb in ["activate", "suspend", "reinstate", "revoke"] {
        let first = tenant.change(&card, verb).await;
        let again = tenant.change(&card, verb).await;
        assert_eq!(again.expect(200).json(), first.expect(200).json());
        assert_eq!(again.version(), first.version(), "{verb} made an event");
        assert_eq!(again.position(), first.position(), "{verb} made an event");
        assert!(!again.is_replayed(), "another key is another request");
    }
}

#[tokio::test]
async fn a_transition_that_the_status_does_not_allow_is_a_conflict() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let issued = tenant.issue("Issued").await;
    let revoked = tenant.issue("Revoked").await;
    tenant.change(&revoked, "revoke").await.expect(200);
    let replaced = tenant.issue("Replaced").await;
    let path = format!("/v1/cards/{}/replace", id(&replaced));
    tenant.post(&path, &json!({})).await.expect(201);

    for (card, verbs) in [
        (&issued, &["suspend", "reinstate"][..]),
        (&revoked, &["activate", "suspend", "reinstate"][..]),
        (
            &replaced,
            &["activate", "suspend", "reinstate", "revoke"][..],
        ),
    ] {
        for verb in verbs {
            let answer = tenant.change(card, verb).await;
            answer.problem(409, "invalid_transition");
        }
    }
    let renewal = json!({ "expires_at": "2099-01-01T00:00:00Z" });
    for card in [&revoked, &replaced] {
        let path = format!("/v1/cards/{}/renew", id(card));
        tenant
            .put(&path, &renewal)
            .await
            .problem(409, "invalid_transition");
    }
    let path = format!("/v1/cards/{}/replace", id(&revoked));
    tenant
        .post(&path, &json!({}))
        .await
        .problem(409, "invalid_transition");
}

#[tokio::test]
async fn a_replacement_is_linked_to_the_card_it_replaces() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let old = tenant
        .issue_as(&json!({
            "holder": { "name": "Edsger Dijkstra", "email": "ewd@example.com" },
            "tier": "gold", "activate": true,
        }))
        .await;
    let path = format!("/v1/cards/{}/replace", id(&old));
    let new = tenant.post(&path, &json!({ "reason": "lost" })).await;
    let new = new.expect(201).json();
    assert_eq!(new["replaces"], old["id"]);
    assert_eq!(new["holder"], old["holder"]);
    assert_eq!(new["tier"], old["tier"]);
    assert_ne!(new["number"], old["number"]);

    let old = tenant.get(&format!("/v1/cards/{}", id(&old))).await.json();
    assert_eq!(old["status"], "replaced");
    assert_eq!(old["replaced_by"], new["id"]);
}

#[tokio::test]
async fn renewing_gives_a_card_a_new_end() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue_active("Barbara Liskov").await;
    let path = format!("/v1/cards/{}/renew", id(&card));
    let renewed = tenant
        .put(&path, &json!({ "expires_at": "2098-12-31T23:59:59Z" }))
        .await;
    let renewed = renewed.expect(200).json();
    assert_eq!(renewed["status"], "active");
    let end = renewed["expires_at"].as_str().expect("an end");
    let end = chrono::DateTime::parse_from_rfc3339(end).expect("RFC 3339");
    assert_eq!(end.to_rfc3339(), "2098-12-31T23:59:59+00:00");

    let past = tenant
        .put(&path, &json!({ "expires_at": "2001-01-01T00:00:00Z" }))
        .await;
    let problem = past.problem(422, "validation_failed");
    assert_eq!(problem["errors"][0]["field"], "expires_at");
}

#[tokio::test]
async fn the_holder_can_be_changed_whole() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant
        .issue_as(&json!({ "holder": { "name": "Old", "email": "old@example.com" } }))
        .await;
    let path = format!("/v1/cards/{}/holder", id(&card));
    let answer = tenant
        .put(&path, &json!({ "name": "New Name", "reason": "married" }))
        .await;
    let changed = answer.expect(200).json();
    assert_eq!(changed["holder"]["name"], "New Name");
    assert!(changed["holder"]["email"].is_null(), "{changed}");
    let found = tenant.get("/v1/cards?q=new+name").await.expect(200).json();
    assert_eq!(found["items"][0]["id"], card["id"]);
    let gone = tenant
        .get("/v1/cards?q=old@example")
        .await
        .expect(200)
        .json();
    assert_eq!(gone["items"], json!([]));
}

#[tokio::test]
async fn the_history_says_who_did_what_when_and_why() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue_active("Donald Knuth").await;
    let path = format!("/v1/cards/{}", id(&card));
    let suspended = tenant
        .request(reqwest::Method::PUT, &format!("{path}/suspend"))
        .header("X-Request-Id", "request-of-the-history-test")
        .json(&json!({ "reason": "the card was found" }));
    crate::support::client::send(suspended).await.expect(200);

    let history = tenant
        .get(&format!("{path}/history"))
        .await
        .expect(200)
        .json();
    let events = history["items"].as_array().expect("items");
    let names: Vec<_> = events.iter().map(|event| event["type"].clone()).collect();
    assert_eq!(names.len(), 3, "{history}");
    let last = events[2].to_string();
    assert!(last.contains("the card was found"), "why: {last}");
    assert!(last.contains("tenant_admin"), "who: {last}");
    assert!(
        last.contains("request-of-the-history-test"),
        "whose request: {last}"
    );
    assert!(events[2]["position"].as_u64() > events[0]["position"].as_u64());

    // The subscription has the tenant's id: its history, with the landlord's reasons, is no card's.
    let subscription = format!("/v1/cards/{}/history", tenant.id());
    tenant.get(&subscription).await.problem(404, "not_found");
    let beyond = format!("{path}/history?at_least=999999");
    let beyond = tenant.get(&beyond).await;
    beyond.problem(503, "read_model_behind");
}

#[tokio::test]
async fn a_list_is_paged_without_gaps_or_repeats_while_cards_are_issued() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let mut issued = HashSet::new();
    for index in 0..23 {
        let card = tenant.issue(&format!("Card {index}")).await;
        issued.insert(id(&card).to_owned());
    }
    for sort in ["issued_at", "-issued_at", "name", "-name"] {
        let listed = tenant.all(&format!("/v1/cards?limit=5&sort={sort}")).await;
        let ids: HashSet<_> = listed.iter().map(|card| id(card).to_owned()).collect();
        assert_eq!(listed.len(), 23, "{sort}");
        assert_eq!(ids, issued, "{sort}");
    }

    let first = tenant.get("/v1/cards?limit=10&sort=issued_at").await.json();
    let cursor = first["next_cursor"].as_str().expect("more").to_owned();
    tenant.issue("Newcomer").await;
    let rest = tenant
        .get(&format!(
            "/v1/cards?limit=50&sort=issued_at&cursor={cursor}"
        ))
        .await
        .json();
    assert_eq!(rest["items"].as_array().map(Vec::len), Some(14));
    assert!(rest["next_cursor"].is_null());
}

#[tokio::test]
async fn a_list_is_sorted_by_name_in_any_case_and_by_time() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    for name in ["delta", "Alpha", "charlie", "Bravo"] {
        tenant.issue(name).await;
    }
    let names = |cards: Vec<Value>| -> Vec<String> {
        let name = |card: &Value| card["holder"]["name"].as_str().map(str::to_owned);
        cards.iter().filter_map(name).collect()
    };
    let up = names(tenant.all("/v1/cards?sort=name").await);
    assert_eq!(up, ["Alpha", "Bravo", "charlie", "delta"]);
    let down = names(tenant.all("/v1/cards?sort=-name&limit=2").await);
    assert_eq!(down, ["delta", "charlie", "Bravo", "Alpha"]);
    let oldest = names(tenant.all("/v1/cards?sort=issued_at").await);
    assert_eq!(oldest, ["delta", "Alpha", "charlie", "Bravo"]);
    let newest = names(tenant.all("/v1/cards?sort=-issued_at").await);
    assert_eq!(newest, ["Bravo", "charlie", "Alpha", "delta"]);
}

#[tokio::test]
async fn a_search_finds_part_of_a_word_in_any_case() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant
        .issue_as(&json!({
            "holder": { "name": "Åsa Öberg 100%_\\", "email": "Asa.O@Example.com" },
            "external_ref": "REF-77",
        }))
        .await;
    tenant.issue("Somebody Else").await;
    let number = card["number"].as_str().expect("a number");
    for q in [
        "sa",
        "ÅSA",
        "öBERG",
        "example.COM",
        "ref-7",
        &number[4..12],
        "100%25",
        "%25_%5C",
    ] {
        let found = tenant.all(&format!("/v1/cards?q={q}")).await;
        assert_eq!(found.len(), 1, "{q}: {found:?}");
        assert_eq!(found[0]["id"], card["id"], "{q}");
    }
    for q in ["nobody", "1000%25", "a_a"] {
        let found = tenant.all(&format!("/v1/cards?q={q}")).await;
        assert!(found.is_empty(), "{q}: {found:?}");
    }
}

#[tokio::test]
async fn a_list_is_filtered_by_status_and_tier() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    tenant.issue("Issued").await;
    let active = tenant.issue_active("Active").await;
    let gold = tenant
        .issue_as(&json!({ "holder": { "name": "Gold" }, "tier": "gold", "activate": true }))
        .await;
    let ids =
        |cards: Vec<Value>| -> Vec<Value> { cards.iter().map(|card| card["id"].clone()).collect() };
    let found = ids(tenant.all("/v1/cards?status=active&sort=issued_at").await);
    assert_eq!(found, [active["id"].clone(), gold["id"].clone()]);
    let found = ids(tenant.all("/v1/cards?status=active&tier=gold").await);
    assert_eq!(found, [gold["id"].clone()]);
    assert!(tenant.all("/v1/cards?status=revoked").await.is_empty());
}

#[tokio::test]
async fn a_read_after_a_write_shows_it() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    for index in 0..50 {
        let name = format!("Reader {index}");
        let card = tenant.issue(&name).await;
        let read = tenant.get(&format!("/v1/cards/{}", id(&card))).await;
        assert_eq!(read.expect(200).json(), card);
    }
    assert_eq!(tenant.all("/v1/cards?q=reader").await.len(), 50);
}

#[tokio::test]
async fn a_read_waits_for_the_position_it_names() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let body = json!({ "holder": { "name": "Positioned" } });
    let answer = tenant.post("/v1/cards", &body).await;
    let reached = answer.expect(201).position();
    let path = format!("/v1/cards?at_least={reached}");
    assert_eq!(
        tenant.get(&path).await.expect(200).json()["items"][0],
        answer.json()
    );

    // A position that nobody has reached is not answered with an older state.
    let ahead = format!("/v1/cards?at_least={}", reached + 1);
    tenant.get(&ahead).await.problem(503, "read_model_behind");
    let answer = tenant.get("/v1/cards?at_least=soon").await;
    answer.problem(400, "invalid_query");
}

#[tokio::test]
async fn if_match_is_honoured() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let body = json!({ "holder": { "name": "Matched" }, "activate": true });
    let issued = tenant.post("/v1/cards", &body).await;
    let (card, tag) = (issued.json(), issued.header("etag").to_owned());
    let suspend = |client: &Client, tag: &str| {
        client
            .request(
                reqwest::Method::PUT,
                &format!("/v1/cards/{}/suspend", id(&card)),
            )
            .header("If-Match", tag)
            .json(&json!({}))
    };
    let stale = crate::support::client::send(suspend(&tenant, "\"99\"")).await;
    stale.problem(412, "precondition_failed");
    let fresh = crate::support::client::send(suspend(&tenant, &tag)).await;
    fresh.expect(200);
    assert_eq!(fresh.version(), issued.version() + 1);
    let stale = crate::support::client::send(suspend(&tenant, &tag)).await;
    stale.problem(412, "precondition_failed");
    let any = crate::support::client::send(suspend(&tenant, "*")).await;
    any.expect(200);
    let garbage = crate::support::client::send(suspend(&tenant, "not a tag")).await;
    assert_eq!(
        garbage.any_problem()["status"].as_u64().map(|s| s / 100),
        Some(4)
    );
}
