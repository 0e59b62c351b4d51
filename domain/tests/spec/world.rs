//! A tenant in memory: its ledger, its cards, its subscription, its counts. What the adapters do
//! with locks and transactions, done by plain assignment.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use domain::card::{CardCommand, CardEvent, CardRefusal, DigitalCard, Issue};
use domain::catalogue::{FeatureValue, PlanTerms, feature};
use domain::event::Event;
use domain::ids::CardId;
use domain::subscription::{Effective, Grant, GrantKind, SubscriptionCommand, TenantSubscription};
use domain::text::HolderName;
use domain::usage::{AdmissionRefusal, Usage, admit};
use proptest::prelude::*;

use crate::examples::{adas_card, card_id, day, holder, plan, slug};

/// One thing that somebody asks of the tenant, times relative to the asking.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Of one card.
    Card(u16, CardAsk),
    /// Issue so many cards in one append.
    IssueMany(u16),
    /// Replace the first card by the second, in one append.
    Replace(u16, u16),
    /// Of the subscription.
    Subscription(SubscriptionAsk),
}

/// A card's command without its time.
#[derive(Clone, Debug)]
pub enum CardAsk {
    Issue(Option<TimeDelta>, bool),
    Activate,
    Suspend,
    Reinstate,
    Revoke,
    Expire,
    Renew(TimeDelta),
    Replace(u16),
    UpdateHolder(HolderName),
}

/// A subscription's command without its time.
#[derive(Clone, Debug)]
pub enum SubscriptionAsk {
    ChangePlan(u32, FeatureValue, When),
    Unschedule,
    StartTrial(u32, u32),
    CancelTrial,
    SetGrace(u32),
    FailPayment(Option<u32>),
    Grant(GrantKind, FeatureValue, Option<TimeDelta>),
    Revoke,
    Suspend,
    Reinstate,
    Cancel(When),
    RecordDue,
    Republish,
}

/// When a change takes effect.
#[derive(Clone, Copy, Debug)]
pub enum When {
    Now,
    PeriodEnd,
    After(TimeDelta),
}

/// What became of an append.
#[derive(Debug)]
pub enum Outcome {
    /// A card refused its command.
    Refused,
    /// The ledger did not admit the events.
    NotAdmitted(AdmissionRefusal, Vec<CardEvent>),
    /// It happened.
    Appended,
}

/// A tenant in memory.
#[derive(Clone)]
pub struct World {
    pub now: DateTime<Utc>,
    pub subscription: TenantSubscription,
    pub cards: BTreeMap<CardId, DigitalCard>,
    pub usage: Usage,
    /// Everything that happened, in order; without a card it happened to the subscription.
    pub ledger: Vec<(Option<CardId>, Event)>,
}

impl World {
    /// A tenant that began with a quota of three cards.
    pub fn new() -> Self {
        let mut world = Self {
            now: day(0),
            subscription: TenantSubscription::NotStarted,
            cards: BTreeMap::new(),
            usage: Usage::default(),
            ledger: Vec::new(),
        };
        world.tell(SubscriptionCommand::Start {
            plan: plan_with(0, FeatureValue::Limit(3)),
            at: world.now,
        });
        world
    }

    /// The commands to cards that `ask` stands for now; none if it is for the subscription.
    pub fn card_commands(&self, ask: &Ask) -> Vec<(CardId, CardCommand)> {
        let issue = |issue: Issue| {
            CardCommand::Issue(Issue {
                at: self.now,
                ..issue
            })
        };
        match *ask {
            Ask::Card(n, ref ask) => vec![(card_id(n), ask.at(self.now))],
            Ask::IssueMany(count) => (0..count)
                .map(|n| (card_id(n), issue(adas_card())))
                .collect(),
            Ask::Replace(old, new) => {
                let by = card_id(new);
                let replaces = Some(card_id(old));
                let replacing = Issue {
                    replaces,
                    ..adas_card()
                };
                vec![
                    (card_id(old), CardCommand::Replace { by, at: self.now }),
                    (by, issue(replacing)),
                ]
            }
            Ask::Subscription(_) => vec![],
        }
    }

    /// Appends the events of all `commands` or of none; each is for a card of its own.
    pub fn append(&mut self, commands: Vec<(CardId, CardCommand)>) -> Outcome {
        let decisions: Result<Vec<_>, CardRefusal> = commands
            .into_iter()
            .map(|(id, command)| Ok((id, self.card(id).decide(&command)?)))
            .collect();
        let Ok(decisions) = decisions else {
            return Outcome::Refused;
        };
        let events: Vec<CardEvent> = decisions.iter().flat_map(|(_, e)| e.clone()).collect();
        match admit(self.usage, &self.subscription, &events, self.now) {
            Err(refusal) => Outcome::NotAdmitted(refusal, events),
            Ok(usage) => {
                self.usage = usage;
                for (id, events) in decisions {
                    for event in events {
                        self.ledger.push((Some(id), event.clone().into()));
                        self.cards.entry(id).or_default().evolve(event);
                    }
                }
                Outcome::Appended
            }
        }
    }

    /// Gives the subscription a command; a refusal changes nothing.
    pub fn tell(&mut self, command: SubscriptionCommand) {
        for event in self.subscription.decide(command).unwrap_or_default() {
            self.ledger.push((None, event.clone().into()));
            self.subscription.evolve(event);
        }
    }

    /// Does what is asked, after `wait`.
    pub fn step(&mut self, (wait, ask): &(TimeDelta, Ask)) {
        self.now += *wait;
        match ask {
            Ask::Subscription(ask) => self.tell(ask.at(self.now)),
            Ask::Card(..) | Ask::IssueMany(_) | Ask::Replace(..) => {
                self.append(self.card_commands(ask));
            }
        }
    }

    /// The card with this id.
    pub fn card(&self, id: CardId) -> DigitalCard {
        self.cards.get(&id).cloned().unwrap_or_default()
    }
}

impl CardAsk {
    /// The command, given at this time.
    pub fn at(&self, at: DateTime<Utc>) -> CardCommand {
        match *self {
            Self::Issue(end, activate) => CardCommand::Issue(Issue {
                expires_at: end.map(|end| at + end),
                activate,
                at,
                ..adas_card()
            }),
            Self::Activate => CardCommand::Activate { at },
            Self::Suspend => CardCommand::Suspend { at },
            Self::Reinstate => CardCommand::Reinstate { at },
            Self::Revoke => CardCommand::Revoke { at },
            Self::Expire => CardCommand::Expire { at },
            Self::Renew(end) => CardCommand::Renew {
                expires_at: at + end,
                at,
            },
            Self::Replace(by) => CardCommand::Replace {
                by: card_id(by),
                at,
            },
            Self::UpdateHolder(ref name) => CardCommand::UpdateHolder {
                holder: holder(name.as_str()),
                at,
            },
        }
    }
}

impl SubscriptionAsk {
    /// The command, given at this time.
    pub fn at(&self, at: DateTime<Utc>) -> SubscriptionCommand {
        let feature = slug(feature::MAX_CARDS);
        match *self {
            Self::ChangePlan(rank, value, when) => SubscriptionCommand::ChangePlan {
                to: plan_with(rank, value),
                effective: when.after(at),
                at,
            },
            Self::Unschedule => SubscriptionCommand::UnschedulePlanChange { at },
            Self::StartTrial(rank, days) => SubscriptionCommand::StartTrial {
                plan: plan_with(rank, FeatureValue::Limit(5)),
                days,
                at,
            },
            Self::CancelTrial => SubscriptionCommand::CancelTrial { at },
            Self::SetGrace(days) => SubscriptionCommand::SetGrace { days, at },
            Self::FailPayment(grace_days) => SubscriptionCommand::FailPayment { grace_days, at },
            Self::Grant(kind, value, end) => SubscriptionCommand::GrantAddOn {
                feature,
                grant: Grant {
                    value,
                    kind,
                    expires_at: end.map(|end| at + end),
                },
                at,
            },
            Self::Revoke => SubscriptionCommand::RevokeAddOn { feature, at },
            Self::Suspend => SubscriptionCommand::Suspend { at },
            Self::Reinstate => SubscriptionCommand::Reinstate { at },
            Self::Cancel(when) => SubscriptionCommand::Cancel {
                effective: when.after(at),
                at,
            },
            Self::RecordDue => SubscriptionCommand::RecordDue { at },
            Self::Republish => SubscriptionCommand::RequestRepublish { from: 1, at },
        }
    }
}

impl When {
    fn after(self, at: DateTime<Utc>) -> Effective {
        match self {
            Self::Now => Effective::Now,
            Self::PeriodEnd => Effective::PeriodEnd,
            Self::After(wait) => Effective::At(at + wait),
        }
    }
}

/// The plan of this rank, with this limit.
pub fn plan_with(rank: u32, max_cards: FeatureValue) -> PlanTerms {
    let mut terms = plan(["free", "pro", "enterprise"][rank as usize]);
    terms.features.insert(slug(feature::MAX_CARDS), max_cards);
    terms
}

/// Up to forty things asked, each some time after the one before.
pub fn asks() -> impl Strategy<Value = Vec<(TimeDelta, Ask)>> {
    prop::collection::vec(((0..72_i64).prop_map(TimeDelta::hours), ask()), 1..40)
}

fn ask() -> impl Strategy<Value = Ask> {
    // Few cards, so that each is asked often.
    let card = 0..6_u16;
    prop_oneof![
        12 => (card.clone(), card_ask()).prop_map(|(n, ask)| Ask::Card(n, ask)),
        2 => (1..5_u16).prop_map(Ask::IssueMany),
        2 => (card.clone(), card).prop_filter_map("a card does not replace itself", |(old, new)| {
            (old != new).then_some(Ask::Replace(old, new))
        }),
        6 => subscription_ask().prop_map(Ask::Subscription),
    ]
}

/// Some end, now and then in the past.
fn end() -> impl Strategy<Value = TimeDelta> {
    (-24..240_i64).prop_map(TimeDelta::hours)
}

fn card_ask() -> impl Strategy<Value = CardAsk> {
    prop_oneof![
        5 => (prop::option::of(end()), any::<bool>())
            .prop_map(|(end, activate)| CardAsk::Issue(end, activate)),
        2 => Just(CardAsk::Activate),
        2 => Just(CardAsk::Suspend),
        2 => Just(CardAsk::Reinstate),
        1 => Just(CardAsk::Revoke),
        2 => Just(CardAsk::Expire),
        2 => end().prop_map(CardAsk::Renew),
        1 => (0..6_u16).prop_map(CardAsk::Replace),
        1 => "\\PC{1,12}".prop_filter_map("a name", |text| {
            HolderName::try_from(text).ok().map(CardAsk::UpdateHolder)
        }),
    ]
}

fn max_cards() -> impl Strategy<Value = FeatureValue> {
    prop_oneof![
        4 => (0..6_u64).prop_map(FeatureValue::Limit),
        1 => Just(FeatureValue::Unlimited),
    ]
}

/// Any plan change that may be asked for.
pub fn plan_change() -> impl Strategy<Value = SubscriptionAsk> {
    (0..3_u32, max_cards(), when())
        .prop_map(|(rank, value, when)| SubscriptionAsk::ChangePlan(rank, value, when))
}

/// Anything that may be asked of a subscription.
pub fn subscription_ask() -> impl Strategy<Value = SubscriptionAsk> {
    let kind = prop_oneof![Just(GrantKind::AddOn), Just(GrantKind::Override)];
    prop_oneof![
        6 => plan_change(),
        1 => Just(SubscriptionAsk::Unschedule),
        4 => (0..3_u32, 0..9_u32)
            .prop_map(|(rank, days)| SubscriptionAsk::StartTrial(rank, days)),
        3 => Just(SubscriptionAsk::CancelTrial),
        4 => (kind, max_cards(), prop::option::of(end()))
            .prop_map(|(kind, value, end)| SubscriptionAsk::Grant(kind, value, end)),
        2 => Just(SubscriptionAsk::Revoke),
        1 => (0..9_u32).prop_map(SubscriptionAsk::SetGrace),
        3 => prop::option::of(0..9_u32).prop_map(SubscriptionAsk::FailPayment),
        2 => Just(SubscriptionAsk::Suspend),
        5 => Just(SubscriptionAsk::Reinstate),
        2 => when().prop_map(SubscriptionAsk::Cancel),
        2 => Just(SubscriptionAsk::RecordDue),
        1 => Just(SubscriptionAsk::Republish),
    ]
}

fn when() -> impl Strategy<Value = When> {
    prop_oneof![
        2 => Just(When::Now),
        1 => Just(When::PeriodEnd),
        2 => end().prop_map(When::After),
    ]
}
