//! One frozen sample of every event and version that was ever stored, read by today's code.
//!
//! A ledger keeps what was written for ever, so a sample is never changed, only added to.
//! `SHA256SUMS` beside the samples (readable by `sha256sum --check`) holds them to that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Once;

use domain::catalogue::{FeatureValue, feature};
use domain::event::{Decoder, Event, Metadata};
use domain::ids::CardId;
use domain::subscription::{Attribution, SubscriptionEvent, SuspensionCause};
use domain::text::Tier;
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::every_event::{card_issued, every_event};
use crate::examples::{add_on, card_id, day, plan, slug};
use crate::source;

/// How to bring the generated files of this folder up to date.
pub const UPDATE: &str = "UPDATE_CONTRACTS=1 cargo test -p domain";

const SUMS: &str = "SHA256SUMS";

/// Whether this run writes the generated files rather than checks them.
pub fn updating() -> bool {
    std::env::var_os("UPDATE_CONTRACTS").is_some_and(|value| value == "1")
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("samples")
}

/// The samples by file name, after missing ones were written if this run may.
pub fn samples() -> BTreeMap<String, String> {
    static RECORDED: Once = Once::new();
    if updating() {
        RECORDED.call_once(record);
    }
    read()
}

fn read() -> BTreeMap<String, String> {
    std::fs::read_dir(folder())
        .expect("the folder of samples")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        })
        .map(|path| {
            let name = path.file_name().expect("a name").to_string_lossy();
            let text = std::fs::read_to_string(&path).expect("a sample's text");
            (name.into_owned(), text)
        })
        .collect()
}

/// The sums by file name.
fn sums() -> BTreeMap<String, String> {
    std::fs::read_to_string(folder().join(SUMS))
        .unwrap_or_default()
        .lines()
        .map(|line| {
            let (sum, name) = line.split_once("  ").expect("a sum, two spaces, a name");
            (name.to_owned(), sum.to_owned())
        })
        .collect()
}

fn sum(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// Writes the samples and the sums that are missing, and changes none that are there.
fn record() {
    for event in every_event() {
        let path = folder().join(file_name(&event));
        if !path.exists() {
            std::fs::write(path, pretty(&event)).expect("a new sample");
        }
    }
    let mut sums = sums();
    for (name, text) in read() {
        sums.entry(name).or_insert_with(|| sum(&text));
    }
    let lines: String = sums
        .into_iter()
        .map(|(name, sum)| format!("{sum}  {name}\n"))
        .collect();
    std::fs::write(folder().join(SUMS), lines).expect("the sums");
}

fn file_name(event: &Event) -> String {
    format!("{}.{}.json", event.name(), event.version())
}

fn pretty(event: &Event) -> String {
    #[derive(Serialize)]
    struct Sample<'a, E> {
        aggregate_type: &'a str,
        event_type: &'a str,
        event_version: &'a str,
        payload: &'a E,
        metadata: Metadata,
    }
    fn text<E: Serialize>(event: &Event, payload: &E) -> String {
        let sample = Sample {
            aggregate_type: event.kind().as_str(),
            event_type: event.name(),
            event_version: event.version(),
            payload,
            metadata: Metadata {
                actor: "0199aaaa-0000-7000-8000-00000000a001".to_owned(),
                role: "tenant_admin".to_owned(),
                reason: Some("a sample".to_owned()),
                request_id: "0199aaaa-0000-7000-8000-00000000b001".to_owned(),
                correlation_id: "0199aaaa-0000-7000-8000-00000000b001".to_owned(),
                causation_id: "0199aaaa-0000-7000-8000-00000000b001".to_owned(),
            },
        };
        serde_json::to_string_pretty(&sample).expect("JSON") + "\n"
    }
    match event {
        Event::Card(payload) => text(event, payload),
        Event::Subscription(payload) => text(event, payload),
        Event::Catalogue(payload) => text(event, payload),
        Event::Usage(payload) => text(event, payload),
    }
}

/// A sample's event as today's code reads it, with the version it was written in.
fn decoded(name: &str, text: &str) -> (Event, String) {
    let sample: Value = serde_json::from_str(text).expect("a sample is JSON");
    let part = |part| sample[part].as_str().expect("text").to_owned();
    let (event_type, version) = (part("event_type"), part("event_version"));
    assert_eq!(name, format!("{event_type}.{version}.json"));
    let event = Decoder::default()
        .decode_text(
            &part("aggregate_type"),
            &event_type,
            &version,
            &sample["payload"].to_string(),
        )
        .unwrap_or_else(|error| panic!("{name} can no longer be read: {error}"));
    (event, version)
}

#[test]
fn no_sample_was_ever_changed_or_removed() {
    let (samples, sums) = (samples(), sums());
    for (name, recorded) in &sums {
        let text = samples.get(name).unwrap_or_else(|| {
            panic!("samples/{name} is gone: ledgers hold such events for ever, bring it back")
        });
        assert_eq!(
            &sum(text),
            recorded,
            "samples/{name} was changed: ledgers hold such events for ever. Undo the change; if \
             the event has a new shape, give it a new version, an upcaster in src/event.rs and a \
             new sample ({UPDATE})"
        );
    }
    for name in samples.keys() {
        assert!(
            sums.contains_key(name),
            "samples/{name} is not in samples/{SUMS}: record it with {UPDATE}"
        );
    }
}

#[test]
fn every_event_has_a_sample_of_its_current_version() {
    let samples = samples();
    let mut names = BTreeSet::new();
    for event in every_event() {
        let name = file_name(&event);
        assert!(
            samples.contains_key(&name),
            "samples/{name} is missing: write it with {UPDATE}"
        );
        names.insert(event.name().to_owned());
    }
    let declared: BTreeSet<_> = source::events()
        .into_iter()
        .flat_map(|item| item.members)
        .map(|variant| variant.name)
        .collect();
    assert_eq!(names, declared, "every event is in the list of examples");
}

#[test]
fn every_sample_is_read_and_those_of_the_current_version_are_written_the_same() {
    for (name, text) in samples() {
        let (event, version) = decoded(&name, &text);
        if version == event.version() {
            let sample: Value = serde_json::from_str(&text).expect("a sample is JSON");
            let written: Value =
                serde_json::from_str(&event.to_payload().expect("text")).expect("JSON");
            assert_eq!(
                written, sample["payload"],
                "samples/{name} is written differently today: that is a new version of the event"
            );
        }
    }
}

#[test]
fn every_samples_metadata_is_read_and_written_the_same() {
    for (name, text) in samples() {
        let sample: Value = serde_json::from_str(&text).expect("a sample is JSON");
        let metadata: Metadata =
            serde_json::from_value(sample["metadata"].clone()).expect("metadata");
        let written = serde_json::to_value(metadata).expect("JSON");
        assert_eq!(written, sample["metadata"], "{name}");
    }
}

#[test]
fn samples_of_earlier_versions_are_read_as_the_events_they_stand_for() {
    // Version 1 said neither who nor why.
    let (at, attribution) = (day(1), Attribution::default());
    let subscriptions = [
        SubscriptionEvent::SubscriptionStarted {
            plan: plan("free"),
            attribution: attribution.clone(),
            at: day(0),
        },
        SubscriptionEvent::PlanUpgraded {
            from: plan("free").key,
            to: plan("enterprise"),
            attribution: attribution.clone(),
            at,
        },
        SubscriptionEvent::PlanDowngraded {
            from: plan("enterprise").key,
            to: plan("pro"),
            attribution: attribution.clone(),
            at,
        },
        SubscriptionEvent::AddOnGranted {
            feature: slug(feature::MAX_CARDS),
            grant: add_on(FeatureValue::Limit(1_000), Some(day(30))),
            attribution,
            at,
        },
        SubscriptionEvent::SubscriptionSuspended {
            cause: SuspensionCause::Landlord,
            at,
        },
    ];
    let expected: BTreeMap<_, _> = subscriptions
        .into_iter()
        .map(Event::from)
        .chain([Event::from(card_issued(Tier::default()))])
        .map(|event| (format!("{}.1.0.0.json", event.name()), event))
        .collect();
    let found: BTreeMap<_, _> = samples()
        .into_iter()
        .filter_map(|(name, text)| {
            let (event, version) = decoded(&name, &text);
            (version != event.version()).then_some((name, event))
        })
        .collect();
    assert_eq!(
        found, expected,
        "say here what each sample of an earlier version stands for today"
    );
}

#[test]
fn an_id_in_a_sample_is_a_uuid_of_version_7() {
    let id: CardId = card_id(1);
    assert_eq!(id.uuid().get_version_num(), 7);
}
