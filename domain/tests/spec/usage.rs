//! How many cards there are, and whether another may come into circulation.

use domain::card::{CardCommand, CardEvent, DigitalCard, Issue, Status};
use domain::catalogue::{FeatureValue, feature};
use domain::entitlements::Standing;
use domain::subscription::{SubscriptionEvent, TenantSubscription};
use domain::usage::{AdmissionRefusal, Usage, admit, movement};

use crate::examples::{
    ada, adas_card, add_on, card_id, day, granted, issued, issued_for_ever, issued_until,
    just_before, started, suspended,
};
use crate::given::after;

/// A subscription of plan `free`: 500 cards.
fn free() -> TenantSubscription {
    after([started("free")])
}

fn active(cards: u64) -> Usage {
    Usage {
        active: cards,
        ..Usage::default()
    }
}

fn exceeded(used: u64, requested: u64) -> AdmissionRefusal {
    AdmissionRefusal::QuotaExceeded {
        limit: 500,
        used,
        requested,
    }
}

/// One active card is replaced by a new one.
fn replacement() -> [CardEvent; 2] {
    [
        CardEvent::CardReplaced {
            from: Status::Active,
            by: card_id(2),
            at: day(1),
        },
        issued(Issue {
            replaces: Some(card_id(1)),
            ..adas_card()
        }),
    ]
}

fn revocation() -> CardEvent {
    CardEvent::CardRevoked {
        from: Status::Active,
        at: day(1),
    }
}

#[test]
fn the_last_place_is_given_and_the_one_after_it_is_not() {
    let one = [issued_for_ever()];
    let full = admit(active(499), &free(), &one, day(1)).expect("the 500th card");
    assert_eq!(full.in_circulation(), 500);
    assert_eq!(admit(full, &free(), &one, day(1)), Err(exceeded(500, 1)));
}

#[test]
fn an_append_is_admitted_whole_or_not_at_all() {
    let eleven = vec![issued_for_ever(); 11];
    assert_eq!(
        admit(active(490), &free(), &eleven, day(1)),
        Err(exceeded(490, 11))
    );
    assert!(admit(active(490), &free(), &eleven[1..], day(1)).is_ok());
}

#[test]
fn replacing_a_card_is_net_zero_and_so_admitted_at_the_limit() {
    let after = admit(active(500), &free(), &replacement(), day(1)).expect("net zero");
    assert_eq!(
        after,
        Usage {
            issued: 1,
            active: 499,
            replaced: 1,
            ..Usage::default()
        }
    );
}

#[test]
fn above_the_limit_cards_may_be_replaced_and_ended_but_not_added() {
    let above = active(600);
    assert!(admit(above, &free(), &replacement(), day(1)).is_ok());
    assert!(admit(above, &free(), &[revocation()], day(1)).is_ok());
    assert_eq!(
        admit(above, &free(), &[issued_for_ever()], day(1)),
        Err(exceeded(600, 1))
    );
}

#[test]
fn renewing_an_expired_card_takes_a_place_again() {
    let renewed = [CardEvent::CardRenewed {
        from: Status::Expired,
        to: Status::Active,
        expires_at: day(90),
        at: day(1),
    }];
    let usage = |active| Usage {
        active,
        expired: 1,
        ..Usage::default()
    };
    assert_eq!(
        admit(usage(500), &free(), &renewed, day(1)),
        Err(exceeded(500, 1))
    );
    assert_eq!(
        admit(usage(499), &free(), &renewed, day(1)),
        Ok(active(500))
    );
}

#[test]
fn renewing_a_lapsed_card_whose_place_was_never_given_back_is_net_zero() {
    let lapsed: DigitalCard = after([
        issued_until(day(10)),
        CardEvent::CardActivated { at: day(0) },
    ]);
    let renewal = lapsed
        .decide(&CardCommand::Renew {
            expires_at: day(90),
            at: day(11),
        })
        .expect("an expired card may be renewed");
    assert_eq!(
        admit(active(500), &free(), &renewal, day(11)),
        Ok(active(500))
    );
}

#[test]
fn the_limit_is_the_one_in_force_at_the_moment_of_admission() {
    let end = day(10);
    let more: TenantSubscription = after([
        started("free"),
        granted(
            feature::MAX_CARDS,
            add_on(FeatureValue::Limit(501), Some(end)),
        ),
    ]);
    let one = [issued_for_ever()];
    assert!(admit(active(500), &more, &one, just_before(end)).is_ok());
    assert_eq!(admit(active(500), &more, &one, end), Err(exceeded(500, 1)));
}

#[test]
fn without_a_limit_every_card_is_admitted() {
    let pro: TenantSubscription = after([started("pro")]);
    assert!(admit(active(1_000_000), &pro, &[issued_for_ever()], day(1)).is_ok());
}

#[test]
fn who_is_not_served_gets_no_new_card_but_may_end_and_replace_the_ones_there_are() {
    let cancelled = SubscriptionEvent::SubscriptionCancelled {
        ends_at: day(1),
        at: day(1),
    };
    for (subscription, standing) in [
        (TenantSubscription::NotStarted, Standing::NotStarted),
        (after([started("pro"), suspended(1)]), Standing::Suspended),
        (after([started("pro"), cancelled]), Standing::Ended),
    ] {
        assert_eq!(
            admit(active(1), &subscription, &[issued_for_ever()], day(1)),
            Err(AdmissionRefusal::NotServed(standing))
        );
        assert!(admit(active(1), &subscription, &[revocation()], day(1)).is_ok());
        assert!(admit(active(1), &subscription, &replacement(), day(1)).is_ok());
    }
}

#[test]
fn every_card_is_counted_once_in_the_status_it_has() {
    let mut usage = Usage::default();
    for event in [
        issued_for_ever(),
        issued_for_ever(),
        issued_for_ever(),
        CardEvent::CardActivated { at: day(1) },
        CardEvent::CardActivated { at: day(1) },
        CardEvent::CardSuspended { at: day(2) },
        revocation(),
    ] {
        usage.apply(&event);
    }
    assert_eq!(usage.issued_total(), 3);
    assert_eq!(
        Status::ALL.map(|status| usage.of(status)),
        [1, 0, 1, 1, 0, 0]
    );
}

#[test]
fn a_change_of_holder_moves_no_card() {
    let updated = CardEvent::CardHolderUpdated {
        holder: ada(),
        at: day(1),
    };
    assert_eq!(movement(&updated), (None, None));
}
