//! What a biller reads in a message is what the event says. Both sides of the published language
//! are written by hand, so they are held together by the frozen samples of every event.

use std::collections::BTreeMap;
use std::path::Path;

use cqrs_es::persist::SerializedEvent;
use domain::billing::BilledPlan;
use domain::billing::accountant::Fact;
use domain::card::Status;
use domain::chain::Hash;
use domain::event::Decoder;
use domain::subscription::GrantKind;
use serde_json::{Value, from_value, json};

use super::{Message, types};
use crate::billing::message::{self, Message as Heard};
use crate::ports::{RecordedEvent, StoredEvent};

const TENANT: &str = "0199aaaa-0000-7000-8000-00000000beef";
const POSITION: u64 = 7;

/// What is published of every frozen sample, by the sample's name.
fn published() -> BTreeMap<String, Message> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../domain/samples");
    let files = std::fs::read_dir(folder).expect("the samples");
    let paths = files.map(|file| file.expect("a file").path());
    let samples = paths.filter(|path| path.extension().is_some_and(|it| it == "json"));
    let message = |path: std::path::PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy();
        let text = std::fs::read_to_string(&path).expect("its text");
        let sample: Value = serde_json::from_str(&text).expect("JSON");
        Some((name.into_owned(), message_of(&sample)?))
    };
    samples.filter_map(message).collect()
}

fn message_of(sample: &Value) -> Option<Message> {
    let text = |field: &str| sample[field].as_str().expect(field).to_owned();
    let event = SerializedEvent {
        aggregate_id: TENANT.to_owned(),
        sequence: 1,
        aggregate_type: text("aggregate_type"),
        event_type: text("event_type"),
        event_version: text("event_version"),
        payload: sample["payload"].clone(),
        metadata: sample["metadata"].clone(),
    };
    let event = Decoder::default().decode(event).expect("readable");
    let stored = StoredEvent {
        position: POSITION,
        aggregate_type: text("aggregate_type"),
        aggregate_id: TENANT.to_owned(),
        sequence: 1,
        event_type: text("event_type"),
        event_version: text("event_version"),
        payload: sample["payload"].to_string(),
        metadata: sample["metadata"].to_string(),
        recorded_at: event.at(),
        hash: Hash::GENESIS,
    };
    let tenant = TENANT.parse().expect("an id");
    Message::of(tenant, &RecordedEvent { stored, event })
}

/// What a biller reads in it.
fn fact(message: &Message) -> Fact {
    let heard = Heard::parse(Some(&message.id()), &message.body()).expect("as documented");
    assert_eq!((heard.sequence, heard.at), (POSITION, message.time));
    message::fact(&heard.name, &heard.data).expect("as documented")
}

fn plan(key: &str, price_level: u32, rank: u32) -> BilledPlan {
    BilledPlan {
        key: from_value(json!(key)).expect("a key"),
        price_level,
        rank,
    }
}

#[test]
fn a_biller_reads_what_the_event_says() {
    let day = |day: &str| from_value(json!(format!("2026-{day}T09:00:00Z"))).expect("a time");
    let feature = || from_value(json!("max_cards")).expect("a feature");
    let moved = |from, to| Fact::CardMoved { from, to };
    let granted = Fact::Granted {
        feature: feature(),
        kind: GrantKind::AddOn,
        expires_at: Some(day("01-31")),
    };
    let cancelled = Fact::Cancelled {
        ends_at: day("01-31"),
    };
    let published = published();
    for (sample, expected) in [
        ("CardIssued.1.0.0", moved(None, Status::Issued)),
        ("CardIssued.2.0.0", moved(None, Status::Issued)),
        (
            "CardRevoked.1.0.0",
            moved(Some(Status::Active), Status::Revoked),
        ),
        (
            "CardExpired.1.0.0",
            moved(Some(Status::Suspended), Status::Expired),
        ),
        (
            "CardRenewed.1.0.0",
            moved(Some(Status::Expired), Status::Active),
        ),
        (
            "CardReplaced.1.0.0",
            moved(Some(Status::Issued), Status::Replaced),
        ),
        (
            "SubscriptionStarted.1.0.0",
            Fact::Started(plan("free", 1, 0)),
        ),
        (
            "SubscriptionStarted.2.0.0",
            Fact::Started(plan("free", 1, 0)),
        ),
        (
            "PlanUpgraded.2.0.0",
            Fact::PlanChanged(plan("enterprise", 2, 2)),
        ),
        ("PlanDowngraded.2.0.0", Fact::PlanChanged(plan("pro", 1, 1))),
        ("AddOnGranted.1.0.0", granted.clone()),
        ("AddOnGranted.2.0.0", granted),
        ("AddOnRevoked.1.0.0", Fact::GrantRevoked(feature())),
        ("AddOnExpired.1.0.0", Fact::GrantRevoked(feature())),
        ("SubscriptionSuspended.2.0.0", Fact::Suspended),
        ("SubscriptionReinstated.1.0.0", Fact::Reinstated),
        ("SubscriptionCancelled.1.0.0", cancelled),
    ] {
        assert_eq!(fact(&published[sample]), expected, "{sample}");
    }
}

#[test]
fn every_type_is_published_of_some_sample_and_known_to_the_biller() {
    let mut unpublished: Vec<_> = types().iter().map(|it| it.kind).collect();
    for (sample, message) in published() {
        unpublished.retain(|name| *name != message.kind());
        let fact = fact(&message);
        assert!(!matches!(fact, Fact::Unknown(_)), "{sample}: {fact:?}");
    }
    assert_eq!(unpublished, [""; 0]);
}

/// The samples have them all.
#[test]
fn no_personal_data_and_nobody_who_acted_is_in_a_message() {
    let private = [
        "Ada",
        "Lovelace",
        "ada@example.com",
        "member-4711",
        "6180339887499094",
        "a sample",
        "0199aaaa-0000-7000-8000-00000000a001",
    ];
    for (sample, message) in published() {
        let body = String::from_utf8(message.body()).expect("UTF-8");
        let told = private.iter().find(|word| body.contains(*word));
        assert_eq!(told, None, "{sample}: {body}");
    }
}
