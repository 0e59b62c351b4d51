//! What holds for any sequence of commands.

use std::collections::{BTreeMap, BTreeSet};

use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::SerializedEvent;
use domain::card::{DigitalCard, Status};
use domain::event::{Decoder, Event};
use domain::ids::{CardId, CardNumber};
use domain::subscription::TenantSubscription;
use domain::usage::{AdmissionRefusal, Usage, admit, movement};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};

use crate::every_event::every_event;
use crate::given::Decider;
use crate::world::{Ask, Outcome, World, asks};

fn config() -> Config {
    Config {
        cases: 256,
        failure_persistence: None,
        ..Config::default()
    }
}

fn world_after(asks: &[(chrono::TimeDelta, Ask)]) -> World {
    let mut world = World::new();
    for ask in asks {
        world.step(ask);
    }
    world
}

/// What a ledger's events make of a tenant's cards and subscription.
fn replayed(
    ledger: impl IntoIterator<Item = (Option<CardId>, Event)>,
) -> (BTreeMap<CardId, DigitalCard>, TenantSubscription) {
    let mut cards: BTreeMap<CardId, DigitalCard> = BTreeMap::new();
    let mut subscription = TenantSubscription::default();
    for (card, event) in ledger {
        match (card, event) {
            (Some(id), Event::Card(event)) => cards.entry(id).or_default().evolve(event),
            (None, Event::Subscription(event)) => subscription.evolve(event),
            (_, event) => panic!("in the wrong stream: {event:?}"),
        }
    }
    (cards, subscription)
}

/// The counts, made from the cards themselves.
fn recount<'a>(cards: impl IntoIterator<Item = &'a DigitalCard>) -> Usage {
    let mut usage = Usage::default();
    for status in cards.into_iter().filter_map(DigitalCard::status) {
        match status {
            Status::Issued => usage.issued += 1,
            Status::Active => usage.active += 1,
            Status::Suspended => usage.suspended += 1,
            Status::Revoked => usage.revoked += 1,
            Status::Expired => usage.expired += 1,
            Status::Replaced => usage.replaced += 1,
        }
    }
    usage
}

/// What the framework's `handle` emits for a command, and that it leaves the aggregate alone.
fn handled<A>(aggregate: &A, command: A::Command) -> Result<Vec<A::Event>, A::Error>
where
    A: Aggregate<Services = ()> + Clone + PartialEq + std::fmt::Debug,
{
    let mut given = aggregate.clone();
    let sink = EventSink::default();
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(async {
            let outcome = given.handle(command, &(), &sink).await;
            assert_eq!(&given, aggregate, "the store applies the events, once");
            outcome?;
            Ok(sink.collect().await)
        })
}

/// That `handle` and `decide` agree, and that applying is evolving.
fn agree<A>(aggregate: &A, command: A::Command) -> Result<(), TestCaseError>
where
    A: Decider<Services = (), Event: PartialEq, Error: PartialEq> + Clone + PartialEq,
    A: std::fmt::Debug,
    A::Command: Clone,
{
    let decided = aggregate.decision(command.clone());
    prop_assert_eq!(handled(aggregate, command), decided);
    Ok(())
}

#[test]
fn the_sequences_below_meet_every_event_and_every_refusal_of_admission() {
    let (mut events, mut refusals) = (BTreeSet::new(), BTreeSet::new());
    // Always the same sequences, so that what they meet does not depend on luck.
    let mut runner = TestRunner::deterministic();
    for _ in 0..1_024 {
        let asks = asks().new_tree(&mut runner).expect("a sequence").current();
        let mut world = World::new();
        for (wait, ask) in &asks {
            let mut ahead = world.clone();
            ahead.now += *wait;
            if let Outcome::NotAdmitted(refusal, _) = ahead.append(ahead.card_commands(ask)) {
                refusals.insert(match refusal {
                    AdmissionRefusal::QuotaExceeded { .. } => "quota exceeded",
                    AdmissionRefusal::NotServed(_) => "not served",
                });
            }
            world.step(&(*wait, ask.clone()));
        }
        events.extend(world.ledger.iter().map(|(_, event)| event.name()));
    }
    // What commands lead to; of the usage as a whole, processes and the store itself tell, and the
    // catalogue is no tenant's.
    let of_commands: BTreeSet<_> = every_event()
        .iter()
        .filter(|event| !matches!(event, Event::Catalogue(_) | Event::Usage(_)))
        .map(Event::name)
        .collect();
    assert_eq!(events, of_commands);
    assert_eq!(refusals.len(), 2, "{refusals:?}");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_history_replays_to_the_same_state(asks in asks()) {
        let world = world_after(&asks);
        let (cards, subscription) = replayed(world.ledger);
        prop_assert_eq!(cards, world.cards);
        prop_assert_eq!(subscription, world.subscription);
    }

    #[test]
    fn any_history_replays_from_its_stored_text_to_the_same_state(asks in asks()) {
        let world = world_after(&asks);
        let decoder = Decoder::default();
        let stored: Vec<_> = world
            .ledger
            .iter()
            .map(|(card, event)| (*card, event, event.to_payload().expect("text")))
            .collect();
        let from_text = stored.iter().map(|(card, event, payload)| {
            let kind = event.kind().as_str();
            let read = decoder.decode_text(kind, event.name(), event.version(), payload);
            (*card, read.expect("readable"))
        });
        let from_framework = stored.iter().map(|(card, event, payload)| {
            let read = decoder.decode(SerializedEvent::new(
                card.map_or("subscription".to_owned(), |card| card.to_string()),
                1,
                event.kind().as_str().to_owned(),
                event.name().to_owned(),
                event.version().to_owned(),
                serde_json::from_str(payload).expect("JSON"),
                serde_json::Value::Null,
            ));
            (*card, read.expect("readable"))
        });
        let state = (world.cards, world.subscription);
        prop_assert_eq!(&replayed(from_text), &state);
        prop_assert_eq!(&replayed(from_framework), &state);
    }

    #[test]
    fn usage_counted_by_events_equals_a_recount_of_the_cards(asks in asks()) {
        let mut world = World::new();
        for ask in &asks {
            world.step(ask);
            prop_assert_eq!(world.usage, recount(world.cards.values()));
        }
    }

    #[test]
    fn every_event_says_the_status_it_found_and_left(asks in asks()) {
        let mut cards: BTreeMap<CardId, DigitalCard> = BTreeMap::new();
        for (id, event) in world_after(&asks).ledger {
            let (Some(id), Event::Card(event)) = (id, event) else { continue };
            let card = cards.entry(id).or_default();
            let (before, moved) = (card.status(), movement(&event));
            card.evolve(event);
            let unmoved = moved == (None, None) && before == card.status();
            prop_assert!(unmoved || moved == (before, card.status()), "{moved:?}");
        }
    }

    #[test]
    fn circulation_never_grows_beyond_the_limit_or_where_issuing_is_blocked(asks in asks()) {
        let mut world = World::new();
        for (wait, ask) in &asks {
            if matches!(ask, Ask::Subscription(_)) {
                world.step(&(*wait, ask.clone()));
                continue;
            }
            world.now += *wait;
            let before = world.usage.in_circulation();
            let limit = world.subscription.card_limit(world.now);
            let standing = world.subscription.standing(world.now);
            let outcome = world.append(world.card_commands(ask));
            let after = world.usage.in_circulation();
            match outcome {
                Outcome::Refused => prop_assert_eq!(after, before),
                Outcome::Appended if after > before => {
                    prop_assert!(!standing.blocked().issuing, "{standing:?}");
                    prop_assert!(limit.is_none_or(|limit| after <= limit));
                }
                Outcome::Appended => {}
                Outcome::NotAdmitted(refusal, events) => {
                    prop_assert_eq!(after, before);
                    let mut wanted = world.usage;
                    events.iter().for_each(|event| wanted.apply(event));
                    let requested = wanted.in_circulation() - before;
                    prop_assert!(requested > 0, "only growth is refused");
                    match standing.blocked().issuing {
                        false => {
                            let limit = limit.expect("a limit that was reached");
                            prop_assert!(before + requested > limit);
                            let used = before;
                            let exceeded =
                                AdmissionRefusal::QuotaExceeded { limit, used, requested };
                            prop_assert_eq!(refusal, exceeded);
                        }
                        true => {
                            prop_assert_eq!(refusal, AdmissionRefusal::NotServed(standing));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn an_append_that_does_not_grow_circulation_is_always_admitted(asks in asks()) {
        // The events of a history that was admitted, each against a subscription that allows
        // nothing: exactly those that bring a card into circulation are refused.
        let world = world_after(&asks);
        let (nothing, mut usage) = (TenantSubscription::NotStarted, Usage::default());
        for (_, event) in &world.ledger {
            let Event::Card(event) = event else { continue };
            let mut after = usage;
            after.apply(event);
            let grows = after.in_circulation() > usage.in_circulation();
            let admitted = admit(usage, &nothing, [event], world.now);
            prop_assert_eq!(admitted.is_ok(), !grows, "{:?}", event);
            usage = after;
        }
    }

    #[test]
    fn the_framework_emits_what_decide_says_and_applies_it_once(asks in asks()) {
        let mut world = World::new();
        for (wait, ask) in &asks {
            let at = world.now + *wait;
            if let Ask::Subscription(ask) = ask {
                agree(&world.subscription, ask.at(at))?;
            }
            for (id, command) in world.card_commands(ask) {
                agree(&world.card(id), command)?;
            }
            world.step(&(*wait, ask.clone()));
        }
        let mut applied: BTreeMap<CardId, DigitalCard> = BTreeMap::new();
        for (id, event) in world.ledger {
            if let (Some(id), Event::Card(event)) = (id, event) {
                applied.entry(id).or_default().apply(event);
            }
        }
        prop_assert_eq!(applied, world.cards);
    }

    #[test]
    fn a_card_number_with_one_wrong_digit_is_refused(
        serial in any::<u64>(),
        place in 0..16_usize,
        shift in 1..10_u8,
    ) {
        let number = String::from(CardNumber::from_serial(serial));
        prop_assert!(CardNumber::try_from(number.clone()).is_ok());
        let mut digits = number.into_bytes();
        digits[place] = b'0' + (digits[place] - b'0' + shift) % 10;
        let wrong = String::from_utf8(digits).expect("digits");
        prop_assert!(CardNumber::try_from(wrong).is_err());
    }
}
