//! Stored events are read whatever version they were written in, or refused by name.

use cqrs_es::persist::SerializedEvent;
use domain::card::CardEvent;
use domain::event::{Decoder, Event, Metadata, UndecodableEvent};
use serde_json::{Value, json};

use crate::examples::day;

/// Reads an event both ways, which must agree; a refusal as its text.
fn read(kind: &str, name: &str, version: &str, payload: &Value) -> Result<Event, String> {
    let decoder = Decoder::default();
    let text = |error: UndecodableEvent| error.to_string();
    let from_text = decoder
        .decode_text(kind, name, version, &payload.to_string())
        .map_err(text);
    let from_value = decoder
        .decode(SerializedEvent::new(
            "any".to_owned(),
            1,
            kind.to_owned(),
            name.to_owned(),
            version.to_owned(),
            payload.clone(),
            Value::Null,
        ))
        .map_err(text);
    assert_eq!(from_text.is_ok(), from_value.is_ok());
    if from_text.is_ok() {
        assert_eq!(from_text, from_value);
    }
    from_text
}

fn activated() -> Value {
    json!({ "CardActivated": { "at": day(1) } })
}

#[test]
fn an_event_is_read_in_its_own_shape() {
    assert_eq!(
        read("DigitalCard", "CardActivated", "1.0.0", &activated()),
        Ok(CardEvent::CardActivated { at: day(1) }.into())
    );
}

#[test]
fn an_unknown_kind_of_aggregate_is_refused_by_name() {
    assert_eq!(
        read("Invoice", "InvoicePaid", "1.0.0", &json!({})),
        Err("unknown aggregate type \"Invoice\"".to_owned())
    );
}

#[test]
fn an_event_of_another_aggregate_is_refused() {
    let refusal = read("TenantSubscription", "CardActivated", "1.0.0", &activated());
    let refusal = refusal.expect_err("not a subscription's event");
    assert!(refusal.starts_with("event CardActivated 1.0.0: unknown variant"));
}

#[test]
fn content_under_the_name_of_another_event_is_refused() {
    assert_eq!(
        read("DigitalCard", "CardSuspended", "1.0.0", &activated()),
        Err("event CardSuspended 1.0.0: the content is a CardActivated".to_owned())
    );
}

#[test]
fn a_version_newer_than_this_code_is_refused_rather_than_half_read() {
    assert_eq!(
        read("DigitalCard", "CardActivated", "1.1.0", &activated()),
        Err("event CardActivated 1.1.0: the newest version known here is 1.0.0".to_owned())
    );
}

#[test]
fn content_of_another_shape_is_refused() {
    for payload in [
        json!({ "CardActivated": {} }),
        json!({ "CardActivated": { "at": "yesterday" } }),
        json!(null),
        json!("CardActivated"),
    ] {
        let refusal = read("DigitalCard", "CardActivated", "1.0.0", &payload);
        let refusal = refusal.expect_err("malformed");
        assert!(refusal.starts_with("event CardActivated 1.0.0: "));
    }
}

#[test]
fn a_card_issued_1_without_address_and_tier_is_a_standard_card_without_address() {
    let old = json!({ "CardIssued": {
        "number": "0000000000000000",
        "holder_name": "Ada Lovelace",
        "at": day(0),
    }});
    let Ok(Event::Card(CardEvent::CardIssued { holder, tier, .. })) =
        read("DigitalCard", "CardIssued", "1.0.0", &old)
    else {
        panic!("an issued card");
    };
    assert_eq!(holder.name.as_str(), "Ada Lovelace");
    assert_eq!(holder.email, None);
    assert_eq!(tier.as_str(), "standard");
}

#[test]
fn a_card_issued_1_without_a_holder_is_refused_rather_than_made_up() {
    let old = json!({ "CardIssued": { "number": "0000000000000000", "at": day(0) }});
    assert!(read("DigitalCard", "CardIssued", "1.0.0", &old).is_err());
}

#[test]
fn metadata_in_the_frameworks_form_says_the_same_as_its_json() {
    for reason in [None, Some("lost".to_owned())] {
        let metadata = Metadata {
            actor: "key 1".to_owned(),
            role: "tenant_admin".to_owned(),
            reason,
            request_id: "r".to_owned(),
            correlation_id: "c".to_owned(),
            causation_id: "a".to_owned(),
        };
        assert_eq!(
            serde_json::to_value(metadata.clone().into_map()).expect("JSON"),
            serde_json::to_value(metadata).expect("JSON")
        );
    }
}
