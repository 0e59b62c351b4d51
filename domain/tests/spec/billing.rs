//! What a tenant owes for a period, told as days of January 2026.

mod both_ways;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use domain::billing::accountant::{Doubt, Entry, Fact};
use domain::billing::{Bill, InvalidPeriod, Line, Period};
use domain::card::{CardEvent, Status};
use domain::catalogue::{FeatureValue, feature};
use domain::event::Event;
use domain::subscription::{Attribution, Grant, SubscriptionEvent, SuspensionCause};

use self::both_ways::{account, heard, recounted};
use crate::examples::{add_on, card_id, day, issued_for_ever, override_with, plan, slug};

fn date(day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(2026, 1, 1).expect("a date") + TimeDelta::days(i64::from(day) - 1)
}

fn period(from: u32, to: u32) -> Period {
    Period::try_new(date(from), date(to)).expect("a period")
}

fn january() -> Period {
    period(1, 32)
}

/// So many hours after the beginning of a day of January.
fn at(day: u32, hour: i64) -> DateTime<Utc> {
    period(day, day + 1).start() + TimeDelta::hours(hour)
}

/// The bill of a history, by both ways; whoever asks knows that they agree.
#[track_caller]
fn bill(period: Period, history: impl IntoIterator<Item = impl Into<Event>>) -> Bill {
    let ledger: Vec<Event> = history.into_iter().map(Into::into).collect();
    let account = account(period, &heard(&ledger));
    assert_eq!(account.doubts, []);
    assert_eq!(account.bill, recounted(period, &ledger));
    account.bill
}

#[track_caller]
fn owes(
    period: Period,
    history: impl IntoIterator<Item = impl Into<Event>>,
    lines: &[(&str, &str, u64)],
) {
    let bill = bill(period, history);
    let said: Vec<_> = bill.lines().into_iter().map(shown).collect();
    let expected: Vec<_> = lines
        .iter()
        .map(|(charge, item, quantity)| ((*charge).to_owned(), (*item).to_owned(), *quantity))
        .collect();
    assert_eq!(said, expected);
}

fn shown(line: Line) -> (String, String, u64) {
    let item = line.item.unwrap_or_default();
    (line.charge.to_owned(), item, line.quantity)
}

fn started(key: &str, at: DateTime<Utc>) -> SubscriptionEvent {
    let plan = plan(key);
    SubscriptionEvent::SubscriptionStarted {
        plan,
        attribution: Attribution::default(),
        at,
    }
}

fn changed(to: &str, at: DateTime<Utc>) -> SubscriptionEvent {
    let (from, to) = (plan("free").key, plan(to));
    SubscriptionEvent::PlanUpgraded {
        from,
        to,
        attribution: Attribution::default(),
        at,
    }
}

fn granted(grant: Grant, at: DateTime<Utc>) -> SubscriptionEvent {
    let feature = slug(feature::EXPORT_CSV);
    SubscriptionEvent::AddOnGranted {
        feature,
        grant,
        attribution: Attribution::default(),
        at,
    }
}

fn issued(at: DateTime<Utc>) -> Event {
    let mut event = issued_for_ever();
    if let CardEvent::CardIssued { at: issued_at, .. } = &mut event {
        *issued_at = at;
    }
    event.into()
}

fn revoked(at: DateTime<Utc>) -> Event {
    let from = Status::Issued;
    CardEvent::CardRevoked { from, at }.into()
}

#[test]
fn a_day_of_service_is_billed_from_the_day_it_starts_on() {
    let begun = started("pro", at(30, 23));
    owes(january(), [begun], &[("plan_days", "pro", 2)]);
}

#[test]
fn a_period_includes_the_day_it_begins_on_and_not_the_day_it_ends_on() {
    let history = || [started("pro", at(10, 0))];
    owes(period(10, 12), history(), &[("plan_days", "pro", 2)]);
    owes(period(9, 10), history(), &[]);
    owes(period(5, 11), history(), &[("plan_days", "pro", 1)]);
}

#[test]
fn a_day_with_two_plans_is_a_day_of_the_dearer_one() {
    let history = [
        started("pro", at(1, 0)),
        changed("enterprise", at(10, 9)),
        changed("free", at(10, 10)),
    ];
    let lines = [
        ("plan_days", "free", 21),
        ("plan_days", "pro", 9),
        ("plan_days", "enterprise", 1),
    ];
    owes(january(), history, &lines);
}

#[test]
fn a_plan_replaced_in_the_moment_it_began_was_never_in_service() {
    let history = [
        started("free", at(1, 0)),
        changed("enterprise", at(3, 5)),
        changed("free", at(3, 5)),
    ];
    owes(january(), history, &[("plan_days", "free", 31)]);
}

#[test]
fn a_plan_that_ends_at_midnight_is_not_billed_for_the_day_that_begins() {
    let history = [started("pro", at(1, 0)), changed("free", at(3, 0))];
    let lines = [("plan_days", "free", 29), ("plan_days", "pro", 2)];
    owes(january(), history, &lines);
}

#[test]
fn a_suspended_day_is_no_plan_day_unless_there_was_service_on_it() {
    let history = [
        started("pro", at(1, 0)),
        SubscriptionEvent::SubscriptionSuspended {
            cause: SuspensionCause::Landlord,
            at: at(5, 12),
        },
        changed("enterprise", at(7, 0)),
        SubscriptionEvent::SubscriptionReinstated { at: at(8, 23) },
    ];
    let lines = [
        ("plan_days", "pro", 5),
        ("plan_days", "enterprise", 24),
        ("suspended_days", "", 2),
    ];
    owes(january(), history, &lines);
}

#[test]
fn a_cancelled_subscription_is_billed_until_its_end() {
    let history = [
        started("pro", at(1, 0)),
        SubscriptionEvent::SubscriptionCancelled {
            ends_at: at(20, 0),
            at: at(5, 0),
        },
    ];
    owes(january(), history, &[("plan_days", "pro", 19)]);
}

#[test]
fn an_add_on_ends_at_its_end_without_any_event() {
    let history = [
        started("free", at(1, 0)),
        granted(add_on(FeatureValue::On, Some(at(12, 1))), at(10, 23)),
    ];
    let lines = [("plan_days", "free", 31), ("add_on_days", "export_csv", 3)];
    owes(january(), history, &lines);
}

#[test]
fn an_add_on_revoked_and_granted_again_on_a_day_is_one_day() {
    let feature = slug(feature::EXPORT_CSV);
    let history = [
        started("free", at(1, 0)),
        granted(add_on(FeatureValue::On, None), at(10, 1)),
        SubscriptionEvent::AddOnRevoked {
            feature,
            at: at(10, 2),
        },
        granted(add_on(FeatureValue::On, Some(at(10, 9))), at(10, 8)),
    ];
    let lines = [("plan_days", "free", 31), ("add_on_days", "export_csv", 1)];
    owes(january(), history, &lines);
}

#[test]
fn an_add_on_is_not_billed_while_the_tenant_is_suspended() {
    let history = [
        started("free", at(1, 0)),
        SubscriptionEvent::SubscriptionSuspended {
            cause: SuspensionCause::Landlord,
            at: at(2, 0),
        },
        granted(add_on(FeatureValue::On, Some(at(6, 0))), at(3, 0)),
        SubscriptionEvent::SubscriptionReinstated { at: at(5, 12) },
    ];
    let lines = [
        ("plan_days", "free", 28),
        ("suspended_days", "", 3),
        ("add_on_days", "export_csv", 1),
    ];
    owes(january(), history, &lines);
}

#[test]
fn an_override_is_part_of_the_plan() {
    let history = [
        started("free", at(1, 0)),
        granted(override_with(FeatureValue::On, None), at(2, 0)),
    ];
    owes(january(), history, &[("plan_days", "free", 31)]);
}

#[test]
fn the_peak_includes_what_was_in_circulation_when_the_period_began() {
    let history = || {
        [
            started("free", at(1, 0)).into(),
            issued(at(2, 0)),
            issued(at(2, 1)),
            revoked(at(11, 0)),
            issued(at(12, 0)),
        ]
    };
    let lines = [
        ("plan_days", "free", 10),
        ("cards_issued", "", 1),
        ("peak_in_circulation", "", 2),
    ];
    owes(period(10, 20), history(), &lines);
    let lines = [("plan_days", "free", 1), ("peak_in_circulation", "", 1)];
    owes(period(11, 12), history(), &lines);
}

#[test]
fn a_card_that_takes_anothers_place_does_not_raise_the_peak() {
    let by = card_id(2);
    let replaced = CardEvent::CardReplaced {
        from: Status::Issued,
        by,
        at: at(3, 0),
    };
    let history = || started("free", at(1, 0)).into();
    let lines = [
        ("plan_days", "free", 31),
        ("cards_issued", "", 2),
        ("peak_in_circulation", "", 1),
    ];
    let in_this_order = [
        history(),
        issued(at(2, 0)),
        replaced.clone().into(),
        issued(at(3, 0)),
    ];
    owes(january(), in_this_order, &lines);
    let or_in_this = [
        history(),
        issued(at(2, 0)),
        issued(at(3, 0)),
        replaced.into(),
    ];
    owes(january(), or_in_this, &lines);
}

#[test]
fn an_expiry_recorded_late_happens_after_what_was_recorded_before_it() {
    let history = [
        started("free", at(1, 0)).into(),
        issued(at(2, 0)),
        issued(at(10, 1)),
        CardEvent::CardExpired {
            from: Status::Issued,
            at: at(9, 23),
        }
        .into(),
    ];
    let lines = [
        ("plan_days", "free", 5),
        ("cards_issued", "", 1),
        ("peak_in_circulation", "", 1),
    ];
    owes(period(10, 15), history, &lines);
}

/// A downgrade due as day 10 begins, and a card issued after that; recorded in the other order.
fn downgraded_behind_a_card(issued_at: DateTime<Utc>) -> [Event; 3] {
    let (from, to) = (plan("enterprise").key, plan("free"));
    let due = SubscriptionEvent::PlanDowngraded {
        from,
        to,
        attribution: Attribution::default(),
        at: at(10, 0),
    };
    [
        started("enterprise", at(1, 0)).into(),
        issued(issued_at),
        due.into(),
    ]
}

#[test]
fn a_downgrade_is_of_the_moment_it_was_due_though_a_card_is_recorded_before_it() {
    let a_moment_later = at(10, 0) + TimeDelta::milliseconds(5);
    for issued_at in [a_moment_later, at(12, 7)] {
        let lines = [
            ("plan_days", "free", 22),
            ("plan_days", "enterprise", 9),
            ("cards_issued", "", 1),
            ("peak_in_circulation", "", 1),
        ];
        owes(january(), downgraded_behind_a_card(issued_at), &lines);
    }
}

#[test]
fn what_was_due_within_the_period_is_heard_of_after_it() {
    let history = downgraded_behind_a_card(at(20, 0));
    let lines = [("plan_days", "free", 6), ("plan_days", "enterprise", 4)];
    owes(period(6, 16), history, &lines);
}

#[test]
fn what_billing_does_not_hear_of_does_not_move_its_time() {
    let used = CardEvent::CardActivated { at: at(3, 0) };
    let history = [
        started("free", at(1, 0)).into(),
        issued(at(2, 0)),
        used.into(),
        issued(at(2, 23)),
    ];
    let lines = [
        ("plan_days", "free", 2),
        ("cards_issued", "", 2),
        ("peak_in_circulation", "", 2),
    ];
    owes(period(1, 3), history, &lines);
}

#[test]
fn a_period_has_a_day_and_not_too_many() {
    assert_eq!(Period::try_new(date(2), date(2)), Err(InvalidPeriod::Empty));
    assert_eq!(Period::try_new(date(3), date(2)), Err(InvalidPeriod::Empty));
    assert!(Period::try_new(date(1), date(367)).is_ok());
    assert_eq!(
        Period::try_new(date(1), date(368)),
        Err(InvalidPeriod::TooLong)
    );
    let (long_ago, remote) = (NaiveDate::MIN, InvalidPeriod::Remote);
    assert_eq!(Period::try_new(long_ago, date(1)), Err(remote));
}

/// A started tenant with three cards, as a biller hears of it.
fn three_cards() -> Vec<Entry> {
    heard(&three_events())
}

fn three_events() -> [Event; 4] {
    [
        started("free", day(0)).into(),
        issued(day(1)),
        issued(day(2)),
        issued(day(3)),
    ]
}

#[test]
fn a_message_that_comes_twice_is_entered_once() {
    let once = three_cards();
    let twice: Vec<Entry> = once
        .iter()
        .flat_map(|entry| [entry, entry])
        .cloned()
        .collect();
    assert_eq!(account(january(), &twice), account(january(), &once));
}

#[test]
fn an_account_says_up_to_where_its_messages_go() {
    let late = [CardEvent::CardExpired {
        from: Status::Issued,
        at: day(2),
    }
    .into()];
    let ledger: Vec<Event> = three_events().into_iter().chain(late).collect();
    let account = account(january(), &heard(&ledger));
    assert_eq!((account.through, account.latest), (5, Some(day(3))));
    let none = both_ways::account(january(), &[]);
    assert_eq!((none.through, none.latest), (0, None));
}

#[test]
fn what_comes_before_the_beginning_is_missed_and_not_billed() {
    let account = account(january(), &three_cards()[2..]);
    assert_eq!(account.doubts, [Doubt::Missing(3)]);
    assert_eq!(account.bill.cards_issued, 2);
}

#[test]
fn a_type_of_message_that_is_not_known_is_said() {
    let mut entries = three_cards();
    let name = "subscription.trial_started.v1".to_owned();
    entries[3].fact = Fact::Unknown(name.clone());
    let sequence = 4;
    let unknown = Doubt::Unknown { sequence, name };
    assert_eq!(account(january(), &entries).doubts, [unknown]);
    let before_it = period(1, 3);
    assert_eq!(account(before_it, &entries).doubts, [], "it came later");
}

#[test]
fn what_cannot_have_happened_is_said() {
    let entries = heard(&[started("free", day(0)).into(), revoked(day(1))]);
    assert_eq!(account(january(), &entries).doubts, [Doubt::Impossible(2)]);
    let entries = heard(&[changed("pro", day(1)).into()]);
    let account = account(january(), &entries);
    assert_eq!(account.doubts, [Doubt::Impossible(1)]);
    assert_eq!(account.bill, Bill::default());
}

#[test]
fn so_many_doubts_are_kept_and_the_rest_counted() {
    let first = heard(&[started("free", day(0)).into()]);
    let unknown = (2..=51).map(|sequence| Entry {
        sequence,
        at: day(1),
        fact: Fact::Unknown("subscription.renamed.v1".to_owned()),
    });
    let entries: Vec<Entry> = first.into_iter().chain(unknown).collect();
    let account = account(january(), &entries);
    assert_eq!((account.doubts.len(), account.doubts_more), (20, 30));
}
