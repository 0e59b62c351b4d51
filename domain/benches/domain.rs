//! What a request costs in the domain alone: the check of a right, a decision, a hash, a decoding.
//!
//! The first is on the path of every request and must stay below a microsecond.

use std::hint::black_box;

use chrono::{DateTime, TimeDelta, Utc};
use criterion::{Criterion, criterion_group, criterion_main};
use domain::card::{CardCommand, CardEvent, DigitalCard, Holder, Issue};
use domain::catalogue::{Catalogue, CatalogueEvent, FeatureSlug, FeatureValue, feature};
use domain::chain::{Hash, Link};
use domain::event::{Decoder, Event, Metadata};
use domain::ids::CardNumber;
use domain::subscription::{Attribution, Grant, GrantKind, SubscriptionEvent, TenantSubscription};
use domain::text::{Email, ExternalRef, HolderName, Tier};
use domain::usage::{Usage, admit};
use domain::verdict::verdict;

criterion_group!(
    benches,
    entitlement_check,
    gate,
    issue,
    admission,
    hash,
    decoding
);
criterion_main!(benches);

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_258_000, 0).expect("a time chrono can hold")
}

/// An enterprise tenant with an add-on that will end.
fn tenant() -> TenantSubscription {
    let plan = Catalogue::standard()
        .plan("enterprise")
        .expect("a plan that is for sale")
        .clone();
    let grant = Grant {
        value: FeatureValue::On,
        kind: GrantKind::AddOn,
        expires_at: Some(now() + TimeDelta::days(14)),
    };
    let feature = FeatureSlug::try_from(feature::EXPORT_CSV.to_owned()).expect("a slug");
    let mut tenant = TenantSubscription::default();
    tenant.evolve(SubscriptionEvent::SubscriptionStarted {
        plan,
        attribution: Attribution::default(),
        at: now(),
    });
    tenant.evolve(SubscriptionEvent::AddOnGranted {
        feature,
        grant,
        attribution: Attribution::default(),
        at: now(),
    });
    tenant
}

fn issue_command() -> CardCommand {
    let holder = Holder {
        name: HolderName::try_from("Augusta Ada King".to_owned()).expect("a name"),
        email: Some(Email::try_from("ada.king@example.com".to_owned()).expect("an address")),
    };
    CardCommand::Issue(Issue {
        number: CardNumber::from_serial(4_711),
        holder,
        external_ref: ExternalRef::try_from("member-4711".to_owned()).ok(),
        tier: Tier::default(),
        expires_at: Some(now() + TimeDelta::days(365)),
        activate: false,
        replaces: None,
        at: now(),
    })
}

fn issued() -> CardEvent {
    DigitalCard::default()
        .decide(&issue_command())
        .expect("a new card is issued")
        .remove(0)
}

fn metadata() -> String {
    let id = || "01997c5e-6f1a-7c3e-9b1d-2f6a4c8e0d11".to_owned();
    let metadata = Metadata {
        actor: id(),
        role: "tenant_admin".to_owned(),
        reason: None,
        request_id: id(),
        correlation_id: id(),
        causation_id: id(),
    };
    serde_json::to_string(&metadata).expect("JSON")
}

fn entitlement_check(criterion: &mut Criterion) {
    let (tenant, now) = (tenant(), now());
    for (name, slug) in [
        ("of the plan", feature::CARDS_LIFECYCLE),
        ("of an add-on", feature::EXPORT_CSV),
        ("absent", feature::CUSTOM_BRANDING),
    ] {
        criterion.bench_function(&format!("check a right: {name}"), |bencher| {
            bencher.iter(|| {
                let tenant = black_box(&tenant);
                let standing = tenant.standing(black_box(now));
                (standing, tenant.value(black_box(slug), now))
            });
        });
    }
}

/// As the gate asks, with another feature switched off and with this one.
fn gate(criterion: &mut Criterion) {
    let (tenant, now) = (tenant(), now());
    let mut catalogue = Catalogue::standard();
    catalogue.evolve(CatalogueEvent::FeatureKilled {
        slug: FeatureSlug::try_from(feature::CARDS_LIVE.to_owned()).expect("a slug"),
        by: "key".to_owned(),
        reason: None,
        at: now,
    });
    for (name, slug) in [
        ("granted", feature::CARDS_LIFECYCLE),
        ("absent", feature::CUSTOM_BRANDING),
        ("switched off", feature::CARDS_LIVE),
    ] {
        criterion.bench_function(&format!("gate: {name}"), |bencher| {
            bencher.iter(|| {
                let reason = verdict(&catalogue, black_box(&tenant), black_box(slug), now).reason();
                black_box(reason)
            });
        });
    }
}

fn issue(criterion: &mut Criterion) {
    let (card, command) = (DigitalCard::default(), issue_command());
    criterion.bench_function("decide: issue a card", |bencher| {
        bencher.iter(|| black_box(&card).decide(black_box(&command)));
    });
}

fn admission(criterion: &mut Criterion) {
    let (tenant, events, now) = (tenant(), [issued()], now());
    criterion.bench_function("admit: one card", |bencher| {
        bencher.iter(|| {
            admit(
                black_box(Usage::default()),
                &tenant,
                black_box(&events),
                now,
            )
        });
    });
}

fn hash(criterion: &mut Criterion) {
    let event = Event::from(issued());
    let (payload, metadata) = (event.to_payload().expect("text"), metadata());
    let link = Link {
        position: 4_711,
        aggregate_type: event.kind().as_str(),
        aggregate_id: "01997c5e-6f1a-7c3e-9b1d-2f6a4c8e0d11",
        sequence: 1,
        event_type: event.name(),
        event_version: event.version(),
        payload: &payload,
        metadata: &metadata,
        recorded_at_micros: now().timestamp_micros(),
    };
    criterion.bench_function("hash: a card's issuance", |bencher| {
        bencher.iter(|| black_box(&link).hash(black_box(&Hash::GENESIS)));
    });
}

fn decoding(criterion: &mut Criterion) {
    let decoder = Decoder::default();
    let event = Event::from(issued());
    let payload = event.to_payload().expect("text");
    let (kind, name, version) = (event.kind().as_str(), event.name(), event.version());
    criterion.bench_function("encode: a card's issuance", |bencher| {
        bencher.iter(|| black_box(&event).to_payload());
    });
    criterion.bench_function("decode: a card's issuance", |bencher| {
        bencher.iter(|| decoder.decode_text(kind, name, version, black_box(&payload)));
    });
}
