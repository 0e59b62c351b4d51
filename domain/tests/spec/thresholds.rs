//! When it is told that a tenant comes near its limit.

use chrono::{DateTime, Utc};
use domain::card::{CardEvent, Status};
use domain::catalogue::{FeatureValue, feature};
use domain::event::Event;
use domain::ids::CardId;
use domain::subscription::{
    Attribution, Effective, SubscriptionCommand, SubscriptionEvent, SuspensionCause,
    TenantSubscription,
};
use domain::usage::thresholds::{THRESHOLDS, Thresholds};
use domain::usage::{Usage, UsageEvent};
use proptest::prelude::*;

use crate::examples::{
    ada, card_id, day, granted, issued_for_ever, just_before, override_with, plan, started,
};
use crate::given::after;

/// Nothing was told.
const NOTHING: [u32; 0] = [];

/// A tenant's ledger, and what its events have led to.
#[derive(Default)]
struct Story {
    thresholds: Thresholds,
    told: Vec<UsageEvent>,
}

impl Story {
    fn with_limit(limit: u64) -> Self {
        let mut story = Self::default();
        story.happened(started("free"), day(0));
        story.limited_to(limit, None, day(0));
        story
    }

    fn happened(&mut self, event: impl Into<Event>, at: DateTime<Utc>) -> Vec<u32> {
        self.thresholds.evolve(&event.into(), at);
        let told = self.thresholds.decide();
        self.told.extend(told.clone());
        told.iter().map(percent).collect()
    }

    fn limited_to(
        &mut self,
        limit: u64,
        until: Option<DateTime<Utc>>,
        at: DateTime<Utc>,
    ) -> Vec<u32> {
        let grant = override_with(FeatureValue::Limit(limit), until);
        self.happened(granted(feature::MAX_CARDS, grant), at)
    }

    /// Issues so many cards; what that told.
    fn issued(&mut self, cards: u64) -> Vec<u32> {
        let issue = |_| self.happened(issued_for_ever(), day(1));
        (0..cards).flat_map(issue).collect()
    }

    /// Revokes so many cards; what that told.
    fn revoked(&mut self, cards: u64) -> Vec<u32> {
        let revoke = |_| self.happened(revocation(), day(1));
        (0..cards).flat_map(revoke).collect()
    }

    /// Appends these events together; what that told.
    fn appended<E: Into<Event>>(
        &mut self,
        events: impl IntoIterator<Item = E>,
        at: DateTime<Utc>,
    ) -> Vec<u32> {
        let happen = |event: E| self.happened(event, at);
        events.into_iter().flat_map(happen).collect()
    }

    /// Replaces a card; what that told.
    fn replaced(&mut self) -> Vec<u32> {
        self.appended([replacement(card_id(2)), issued_for_ever()], day(2))
    }
}

fn percent(event: &UsageEvent) -> u32 {
    match event {
        UsageEvent::UsageThresholdReached { percent, .. } => *percent,
        UsageEvent::UsageReconciled { .. } => panic!("no threshold: {event:?}"),
    }
}

fn revocation() -> CardEvent {
    CardEvent::CardRevoked {
        from: Status::Issued,
        at: day(1),
    }
}

fn replacement(by: CardId) -> CardEvent {
    CardEvent::CardReplaced {
        from: Status::Issued,
        by,
        at: day(2),
    }
}

fn expiry() -> CardEvent {
    CardEvent::CardExpired {
        from: Status::Issued,
        at: day(2),
    }
}

fn renewal() -> CardEvent {
    CardEvent::CardRenewed {
        from: Status::Expired,
        to: Status::Active,
        expires_at: day(50),
        at: day(3),
    }
}

fn moves_nothing() -> CardEvent {
    CardEvent::CardHolderUpdated {
        holder: ada(),
        at: day(1),
    }
}

#[test]
fn each_threshold_is_told_when_it_is_reached() {
    let mut story = Story::with_limit(10);
    assert_eq!(story.issued(7), NOTHING);
    assert_eq!(story.issued(1), [80]);
    assert_eq!(story.issued(1), [90]);
    assert_eq!(story.issued(1), [100]);
    let at = day(1);
    let told = |percent, used| UsageEvent::UsageThresholdReached {
        percent,
        used,
        limit: 10,
        at,
    };
    assert_eq!(story.told, [told(80, 8), told(90, 9), told(100, 10)]);
}

#[test]
fn one_card_may_reach_several_thresholds() {
    assert_eq!(Story::with_limit(1).issued(1), [80, 90, 100]);
}

#[test]
fn a_threshold_is_told_again_after_the_usage_was_below_it() {
    let mut story = Story::with_limit(10);
    story.issued(9);
    assert_eq!(story.revoked(1), NOTHING);
    assert_eq!(story.issued(1), [90]);
    assert_eq!(story.revoked(2), NOTHING);
    assert_eq!(story.issued(2), [80, 90]);
}

#[test]
fn a_card_that_takes_the_place_of_another_reaches_nothing_again() {
    for cards in 7..=10 {
        let mut story = Story::with_limit(10);
        story.issued(cards);
        let level = story.thresholds.level();
        assert_eq!(story.replaced(), NOTHING, "at {cards} of 10");
        assert_eq!(story.replaced(), NOTHING, "at {cards} of 10, again");
        assert_eq!(story.thresholds.level(), level);
    }
    // What is revoked makes room, also before a replacement.
    let mut story = Story::with_limit(10);
    story.issued(10);
    story.revoked(1);
    assert_eq!(story.replaced(), NOTHING);
    assert_eq!(story.issued(1), [100]);
}

#[test]
fn a_card_that_is_renewed_as_its_time_is_over_reaches_nothing_again() {
    let mut story = Story::with_limit(10);
    story.issued(10);
    assert_eq!(story.appended([expiry(), renewal()], day(3)), NOTHING);
    assert_eq!(story.thresholds.level(), 100);
    // There was room meanwhile, if the end was recorded before.
    assert_eq!(story.appended([expiry()], day(4)), NOTHING);
    assert_eq!(story.appended([renewal()], day(5)), [100]);
}

#[test]
fn a_trial_that_is_converted_reaches_nothing_on_the_way() {
    let tried = SubscriptionEvent::TrialStarted {
        plan: plan("enterprise"),
        ends_at: day(15),
        attribution: Attribution::default(),
        at: day(1),
    };
    let tenant: TenantSubscription = after([started("free"), tried.clone()]);
    let converted = tenant.decide(SubscriptionCommand::ChangePlan {
        to: plan("enterprise"),
        effective: Effective::Now,
        at: day(2),
    });
    let converted = converted.expect("allowed");
    assert_eq!(converted.len(), 2);

    let mut story = Story::default();
    story.appended([started("free"), tried], day(1));
    assert_eq!(story.issued(600), NOTHING);
    assert_eq!(story.appended(converted, day(2)), NOTHING);
    assert_eq!(story.thresholds.level(), 0);
}

#[test]
fn a_limit_that_rises_arms_what_the_usage_is_below_then() {
    let mut story = Story::with_limit(10);
    story.issued(10);
    assert_eq!(story.limited_to(12, None, day(2)), NOTHING);
    assert_eq!(story.issued(1), [90]);
    assert_eq!(story.limited_to(100, None, day(2)), NOTHING);
    assert_eq!(story.limited_to(11, None, day(2)), [80, 90, 100]);
}

#[test]
fn a_clock_that_is_behind_reaches_nothing_again() {
    let mut story = Story::default();
    story.happened(started("free"), day(0));
    story.limited_to(1_000, Some(day(5)), day(1));
    assert_eq!(story.issued(400), NOTHING);
    // The override has ended, and the plan's limit of 500 counts again.
    assert_eq!(story.happened(moves_nothing(), day(5)), [80]);
    for at in [just_before(day(5)), day(5)] {
        assert_eq!(story.happened(moves_nothing(), at), NOTHING);
    }
}

#[test]
fn a_limit_that_falls_may_reach_thresholds_at_once() {
    let mut story = Story::with_limit(100);
    assert_eq!(story.issued(9), NOTHING);
    assert_eq!(story.limited_to(10, None, day(2)), [80, 90]);
    assert_eq!(story.limited_to(9, None, day(2)), [100]);
}

#[test]
fn a_limit_that_ends_by_itself_counts_until_then() {
    let mut story = Story::with_limit(10);
    story.limited_to(100, Some(day(5)), day(0));
    story.issued(9);
    let change = SubscriptionEvent::SubscriptionSuspended {
        cause: SuspensionCause::Landlord,
        at: day(2),
    };
    assert_eq!(story.happened(change, just_before(day(5))), NOTHING);
    // The plan's own limit, 500, counts again.
    let change = SubscriptionEvent::SubscriptionReinstated { at: day(5) };
    assert_eq!(story.happened(change, day(5)), NOTHING);
    assert_eq!(story.limited_to(9, None, day(6)), [80, 90, 100]);
}

#[test]
fn without_a_limit_nothing_is_told() {
    let mut story = Story::default();
    story.happened(started("pro"), day(0));
    assert_eq!(story.issued(1_000), NOTHING);
    assert_eq!(story.thresholds.level(), 0);
}

#[test]
fn where_nothing_is_used_nothing_is_told() {
    let mut story = Story::with_limit(10);
    assert_eq!(story.limited_to(0, None, day(1)), NOTHING);
    assert_eq!(story.issued(1), [80, 90, 100]);
}

#[test]
fn what_it_has_led_to_leads_to_nothing_more() {
    let mut story = Story::with_limit(10);
    story.issued(8);
    let told = story.told.clone();
    for event in told {
        assert_eq!(story.happened(event, day(1)), NOTHING);
    }
    assert_eq!(story.issued(1), [90]);
}

/// Something that moves usage or limit.
#[derive(Clone, Debug)]
enum Step {
    Issue,
    Revoke,
    Limit(u64),
    LimitUntil(u64, i64),
    Plan(&'static str),
    Told,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => Just(Step::Issue),
        3 => Just(Step::Revoke),
        1 => (0..20_u64).prop_map(Step::Limit),
        1 => (0..20_u64, 1..60_i64).prop_map(|(limit, day)| Step::LimitUntil(limit, day)),
        1 => prop_oneof![Just("free"), Just("pro")].prop_map(Step::Plan),
        1 => Just(Step::Told),
    ];
    prop::collection::vec(step, 1..120)
}

impl Step {
    fn event(&self, usage: Usage, at: DateTime<Utc>) -> Option<Event> {
        let limit = |limit, until| {
            let grant = override_with(FeatureValue::Limit(limit), until);
            granted(feature::MAX_CARDS, grant).into()
        };
        Some(match self {
            Self::Issue => issued_for_ever().into(),
            Self::Revoke if usage.issued == 0 => return None,
            Self::Revoke => revocation().into(),
            Self::Limit(most) => limit(*most, None),
            Self::LimitUntil(most, end) => limit(*most, Some(day(*end))),
            Self::Plan(key) => started(key).into(),
            Self::Told => Event::Usage(UsageEvent::UsageThresholdReached {
                percent: 80,
                used: 8,
                limit: 10,
                at,
            }),
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Told exactly when a threshold is passed from below; so never twice without having been
    /// below it in between.
    #[test]
    fn a_threshold_is_told_exactly_when_it_is_passed_from_below(steps in steps()) {
        let (mut story, mut usage) = (Story::default(), Usage::default());
        let mut subscription = TenantSubscription::default();
        let mut was_at = [false; 3];
        for (index, step) in (0..).zip(&steps) {
            let at = day(index);
            let Some(event) = step.event(usage, at) else { continue };
            match &event {
                Event::Card(event) => usage.apply(event),
                Event::Subscription(event) => subscription.evolve(event.clone()),
                Event::Catalogue(_) | Event::Usage(_) => {}
            }
            let used = usage.in_circulation();
            let limit = subscription.card_limit(at);
            let is_at = THRESHOLDS.map(|percent| {
                used > 0 && limit.is_some_and(|limit| used * 100 >= limit * u64::from(percent))
            });
            let passed: Vec<u32> = (0..3)
                .filter(|&n| is_at[n] && !was_at[n])
                .map(|n| THRESHOLDS[n])
                .collect();
            prop_assert_eq!(story.happened(event, at), passed, "at step {}", index);
            was_at = is_at;
        }
    }

    /// What is remembered between two looks at a ledger is all that counts.
    #[test]
    fn what_is_remembered_as_text_goes_on_the_same(steps in steps(), cut in 0..120_usize) {
        let (mut through, mut usage) = (Story::default(), Usage::default());
        let mut halves = Story::default();
        for (index, step) in steps.iter().enumerate() {
            if index == cut {
                let text = serde_json::to_string(&halves.thresholds).expect("JSON");
                halves.thresholds = serde_json::from_str(&text).expect("the same");
            }
            let at = day(index as i64);
            let Some(event) = step.event(usage, at) else { continue };
            if let Event::Card(event) = &event {
                usage.apply(event);
            }
            prop_assert_eq!(through.happened(event.clone(), at), halves.happened(event, at));
        }
    }
}
