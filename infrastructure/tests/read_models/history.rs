//! Histories: cards and a subscription that are given commands, and what happens to them, told
//! by the domain itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use application::cards::Card;
use application::ports::{RecordedEvent, StoredEvent};
use chrono::{DateTime, TimeDelta, Utc};
use domain::card::{CardCommand, CardEvent, DigitalCard, Holder, Issue};
use domain::catalogue::Catalogue;
use domain::chain::Hash;
use domain::event::Event;
use domain::ids::{CardId, CardNumber, Position};
use domain::subscription::{Effective, SubscriptionCommand, TenantSubscription};
use domain::text::{Email, ExternalRef, HolderName, Tier};
use domain::usage::Usage;
use proptest::prelude::*;

use crate::store::{MemoryLedger, tenant_id};

/// One thing that is asked, an hour after the one before.
#[derive(Clone, Debug)]
pub enum Ask {
    Issue(u16, String, Option<i64>, bool),
    Activate(u16),
    Suspend(u16),
    Reinstate(u16),
    Revoke(u16),
    Expire(u16),
    Renew(u16, i64),
    Replace(u16, u16),
    Rename(u16, String),
    ChangePlan(&'static str),
}

/// A tenant as its aggregates tell it, and the ledger that it writes.
pub struct History {
    pub now: DateTime<Utc>,
    pub cards: BTreeMap<CardId, (DigitalCard, u64)>,
    pub subscription: TenantSubscription,
    pub usage: Usage,
    ledger: Arc<MemoryLedger>,
    subscription_version: u64,
}

impl History {
    /// A tenant that has just begun on the free plan.
    pub fn begin(ledger: &Arc<MemoryLedger>) -> Self {
        let mut history = Self {
            now: day(0),
            cards: BTreeMap::new(),
            subscription: TenantSubscription::default(),
            usage: Usage::default(),
            ledger: Arc::clone(ledger),
            subscription_version: 0,
        };
        let plan = Catalogue::standard().plan("free").expect("a plan").clone();
        let at = history.now;
        history.tell(SubscriptionCommand::Start { plan, at });
        history
    }

    /// Does what is asked, as far as the domain does not refuse it.
    pub fn ask(&mut self, ask: &Ask) {
        self.now += TimeDelta::hours(1);
        let at = self.now;
        match *ask {
            Ask::Issue(n, ref name, days, activate) => {
                let expires_at = days.map(|days| at + TimeDelta::days(days));
                let issue = issue(n, name, at);
                let command = CardCommand::Issue(Issue {
                    expires_at,
                    activate,
                    ..issue
                });
                self.give(card_id(n), &command);
            }
            Ask::Activate(n) => self.give(card_id(n), &CardCommand::Activate { at }),
            Ask::Suspend(n) => self.give(card_id(n), &CardCommand::Suspend { at }),
            Ask::Reinstate(n) => self.give(card_id(n), &CardCommand::Reinstate { at }),
            Ask::Revoke(n) => self.give(card_id(n), &CardCommand::Revoke { at }),
            Ask::Expire(n) => self.give(card_id(n), &CardCommand::Expire { at }),
            Ask::Renew(n, days) => {
                let expires_at = at + TimeDelta::days(days);
                self.give(card_id(n), &CardCommand::Renew { expires_at, at });
            }
            Ask::Replace(n, by) => {
                let by = card_id(by);
                self.give(card_id(n), &CardCommand::Replace { by, at });
            }
            Ask::Rename(n, ref name) => {
                let holder = holder(name);
                self.give(card_id(n), &CardCommand::UpdateHolder { holder, at });
            }
            Ask::ChangePlan(plan) => {
                let to = Catalogue::standard().plan(plan).expect("a plan").clone();
                let effective = Effective::Now;
                self.tell(SubscriptionCommand::ChangePlan { to, effective, at });
            }
        }
    }

    /// Issues a card with these particulars.
    pub fn issue(&mut self, id: CardId, issue: Issue) {
        self.give(id, &CardCommand::Issue(issue));
    }

    fn give(&mut self, id: CardId, command: &CardCommand) {
        let card = self.cards.get(&id).map(|(card, _)| card.clone());
        for event in card.unwrap_or_default().decide(command).unwrap_or_default() {
            self.happen(id, event);
        }
    }

    fn happen(&mut self, id: CardId, event: CardEvent) {
        self.usage.apply(&event);
        let (card, version) = self.cards.entry(id).or_default();
        card.evolve(event.clone());
        *version += 1;
        record(&self.ledger, id.to_string(), *version, event.into());
    }

    /// Gives the subscription a command.
    pub fn tell(&mut self, command: SubscriptionCommand) {
        for event in self.subscription.decide(command).unwrap_or_default() {
            self.subscription.evolve(event.clone());
            self.subscription_version += 1;
            let id = tenant_id(1).to_string();
            record(&self.ledger, id, self.subscription_version, event.into());
        }
    }

    /// The cards that there are, by id.
    pub fn expected(&self) -> Vec<Card> {
        self.cards
            .iter()
            .filter_map(|(id, (card, version))| Card::of(*id, card, *version))
            .collect()
    }

    /// The position of the last event.
    pub fn position(&self) -> Position {
        self.ledger
            .events
            .lock()
            .expect("no test panics with it")
            .len() as Position
    }
}

/// Appends an event to a ledger.
fn record(ledger: &MemoryLedger, id: String, sequence: u64, event: Event) {
    let mut events = ledger.events.lock().expect("no test panics with it");
    let stored = StoredEvent {
        position: events.len() as Position + 1,
        aggregate_type: event.kind().as_str().to_owned(),
        aggregate_id: id,
        sequence,
        event_type: event.name().to_owned(),
        event_version: event.version().to_owned(),
        payload: String::new(),
        metadata: String::new(),
        recorded_at: event.at(),
        hash: Hash::GENESIS,
    };
    events.push(Arc::new(RecordedEvent { stored, event }));
}

/// Nine in the morning of the `n`-th day of 2026, from 0.
pub fn day(n: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_767_258_000, 0).expect("a time") + TimeDelta::days(n)
}

/// The `n`-th card's id.
pub fn card_id(n: u16) -> CardId {
    format!("0199aaaa-0000-7000-8000-{n:012}")
        .parse()
        .expect("a UUID")
}

/// Somebody of this name.
pub fn holder(name: &str) -> Holder {
    Holder {
        name: HolderName::try_from(name.to_owned()).expect("a name"),
        email: None,
    }
}

/// The `n`-th card, for somebody of this name.
pub fn issue(n: u16, name: &str, at: DateTime<Utc>) -> Issue {
    let email = format!("holder{n}@example.com");
    Issue {
        number: CardNumber::from_serial(u64::from(n)),
        holder: Holder {
            email: Some(Email::try_from(email).expect("an address")),
            ..holder(name)
        },
        external_ref: Some(ExternalRef::try_from(format!("REF-{n}")).expect("a reference")),
        tier: Tier::default(),
        expires_at: None,
        activate: false,
        replaces: None,
        at,
    }
}

/// Up to sixty things asked of few cards, so that each is asked often.
pub fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let card = || 0..8_u16;
    let name = || "[A-Za-zÄÖÜäöüßΣς]{1,12}";
    let plan = prop_oneof![Just("free"), Just("pro"), Just("enterprise")];
    let ask = prop_oneof![
        6 => (card(), name(), prop::option::of(1..9_i64), any::<bool>())
            .prop_map(|(n, name, days, active)| Ask::Issue(n, name, days, active)),
        3 => card().prop_map(Ask::Activate),
        2 => card().prop_map(Ask::Suspend),
        2 => card().prop_map(Ask::Reinstate),
        1 => card().prop_map(Ask::Revoke),
        2 => card().prop_map(Ask::Expire),
        3 => (card(), 1..9_i64).prop_map(|(n, days)| Ask::Renew(n, days)),
        1 => (card(), card()).prop_map(|(n, by)| Ask::Replace(n, by)),
        2 => (card(), name()).prop_map(|(n, name)| Ask::Rename(n, name)),
        1 => plan.prop_map(Ask::ChangePlan),
    ];
    prop::collection::vec(ask, 1..60)
}

/// Many cards, each issued, half of them put to use, in a ledger of `3 * count / 2` events.
pub fn issue_many(history: &mut History, cards: std::ops::Range<u16>) {
    for n in cards {
        history.ask(&Ask::Issue(n, format!("Holder {n}"), Some(30), false));
        if n % 2 == 0 {
            history.ask(&Ask::Activate(n));
        }
    }
}
