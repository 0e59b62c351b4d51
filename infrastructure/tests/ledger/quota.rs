//! The quota where it is tightest: whole appends in parallel, the last place, a limit that moves.

use application::ports::AppendError;
use chrono::TimeDelta;
use domain::card::{CardEvent, Status};
use domain::catalogue::Catalogue;
use domain::event::Event;
use domain::ids::CardId;
use domain::subscription::{Attribution, SubscriptionEvent};
use domain::usage::{AdmissionRefusal, Usage};
use futures::future::join_all;

use crate::world::*;

macro_rules! on_both_engines {
    ($($sentence:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $sentence() {
                super::$sentence::<crate::world::SqliteUnderTest>().await;
            })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $sentence() {
                super::$sentence::<crate::postgres::PostgresUnderTest>().await;
            })+
        }
    };
}

on_both_engines! {
    of_600_concurrent_issuances_exactly_500_fit_the_quota,
    replacing_a_card_is_atomic_and_admitted_at_the_full_quota,
    of_20_parallel_appends_of_75_cards_exactly_6_fit_500,
    at_the_full_quota_a_card_is_reinstated_or_replaced_but_no_expired_one_renewed,
    raising_the_limit_admits_the_next_card_at_once,
    a_downgrade_among_200_issuances_leaves_what_their_order_explains,
}

fn exceeded(limit: u64, used: u64, requested: u64) -> AdmissionRefusal {
    AdmissionRefusal::QuotaExceeded {
        limit,
        used,
        requested,
    }
}

fn downgraded() -> SubscriptionEvent {
    let plan = |key| Catalogue::standard().plan(key).expect("a plan").clone();
    SubscriptionEvent::PlanDowngraded {
        from: plan("pro").key,
        to: plan("free"),
        attribution: Attribution::default(),
        at: at(),
    }
}

async fn of_600_concurrent_issuances_exactly_500_fit_the_quota<L: LedgerUnderTest>() {
    let world = on_plan::<L>("free").await;
    let ledger = world.ledger();
    let answers = join_all((0..600).map(|_| ledger.append(issue()))).await;
    let admitted = answers.iter().filter(|answer| answer.is_ok()).count();
    assert_eq!(admitted, 500);
    for refusal in answers.into_iter().filter_map(Result::err) {
        let expected = AdmissionRefusal::QuotaExceeded {
            limit: 500,
            used: 500,
            requested: 1,
        };
        assert!(matches!(refusal, AppendError::NotAdmitted(it) if it == expected));
    }
    assert_eq!(ledger.head().usage.in_circulation(), 500);
    assert_sound(&*ledger).await;
}

async fn replacing_a_card_is_atomic_and_admitted_at_the_full_quota<L: LedgerUnderTest>() {
    let world = on_plan::<L>("free").await;
    let ledger = world.ledger();
    let old = new_id();
    committed(
        ledger
            .append(append(vec![card(old, 0, vec![issued()])]))
            .await,
    );
    for answer in join_all((0..499).map(|_| ledger.append(issue()))).await {
        committed(answer);
    }
    assert!(matches!(
        ledger.append(issue()).await,
        Err(AppendError::NotAdmitted(_))
    ));
    let before = ledger.head().position;
    let conflicting = ledger.append(replace(old, 7, Status::Issued)).await;
    assert!(matches!(conflicting, Err(AppendError::VersionConflict)));
    assert_eq!(ledger.head().position, before);
    let position = committed(ledger.append(replace(old, 1, Status::Issued)).await);
    assert_eq!(position, before + 2);
    assert_eq!(ledger.head().usage.in_circulation(), 500);
    assert_eq!(ledger.head().usage.replaced, 1);
    assert_sound(&*ledger).await;
}

async fn of_20_parallel_appends_of_75_cards_exactly_6_fit_500<L: LedgerUnderTest>() {
    let world = on_plan::<L>("free").await;
    let whole = || append((0..75).map(|_| card(new_id(), 0, vec![issued()])).collect());
    let appending = (0..20).map(|_| {
        let ledger = world.ledger();
        tokio::spawn(async move { ledger.append(whole()).await })
    });
    let answers: Vec<_> = join_all(appending).await;
    let answers = answers.into_iter().map(|answer| answer.expect("an answer"));
    let (fit, refused): (Vec<_>, Vec<_>) = answers.partition(Result::is_ok);
    assert_eq!((fit.len(), refused.len()), (6, 14));
    for refusal in refused.into_iter().filter_map(Result::err) {
        let expected = exceeded(500, 450, 75);
        assert!(matches!(refusal, AppendError::NotAdmitted(it) if it == expected));
    }
    assert_eq!(world.ledger().head().usage.in_circulation(), 450);
    assert_sound(&*world.ledger()).await;
}

async fn at_the_full_quota_a_card_is_reinstated_or_replaced_but_no_expired_one_renewed<
    L: LedgerUnderTest,
>() {
    let world = on_plan::<L>("free").await;
    let ledger = world.ledger();
    let (expired, suspended) = (new_id(), new_id());
    let at = at();
    let change = |id: CardId, version, event| append(vec![card(id, version, vec![event])]);
    let before = [
        issued(),
        CardEvent::CardExpired {
            from: Status::Issued,
            at,
        },
    ];
    let out_of_use = [
        issued(),
        CardEvent::CardActivated { at },
        CardEvent::CardSuspended { at },
    ];
    let first = append(vec![
        card(expired, 0, before.to_vec()),
        card(suspended, 0, out_of_use.to_vec()),
    ]);
    committed(ledger.append(first).await);
    for answer in join_all((0..499).map(|_| ledger.append(issue()))).await {
        committed(answer);
    }
    assert_eq!(ledger.head().usage.in_circulation(), 500);

    let renewal = || CardEvent::CardRenewed {
        from: Status::Expired,
        to: Status::Active,
        expires_at: at + TimeDelta::days(30),
        at,
    };
    let refused = ledger.append(change(expired, 2, renewal())).await;
    let expected = exceeded(500, 500, 1);
    assert!(matches!(refused, Err(AppendError::NotAdmitted(it)) if it == expected));
    committed(
        ledger
            .append(change(suspended, 3, CardEvent::CardReinstated { at }))
            .await,
    );
    committed(ledger.append(replace(suspended, 4, Status::Active)).await);
    assert_eq!(ledger.head().usage.in_circulation(), 500);
    assert_sound(&*ledger).await;
}

async fn raising_the_limit_admits_the_next_card_at_once<L: LedgerUnderTest>() {
    let world = on_plan::<L>("free").await;
    let ledger = world.ledger();
    let full = append(
        (0..500)
            .map(|_| card(new_id(), 0, vec![issued()]))
            .collect(),
    );
    committed(ledger.append(full).await);
    assert!(ledger.append(issue()).await.is_err());
    let raise = subscription(world.tenant(), 1, vec![upgraded("free", "pro")]);
    // Queued before the raise is answered.
    let (raised, next) = tokio::join!(ledger.append(raise), ledger.append(issue()));
    committed(raised);
    committed(next);
    assert_sound(&*ledger).await;
}

async fn a_downgrade_among_200_issuances_leaves_what_their_order_explains<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    let some = append(
        (0..400)
            .map(|_| card(new_id(), 0, vec![issued()]))
            .collect(),
    );
    committed(ledger.append(some).await);
    let issuing = (0..200).map(|_| {
        let ledger = world.ledger();
        tokio::spawn(async move { ledger.append(issue()).await })
    });
    let issuing: Vec<_> = issuing.collect();
    tokio::task::yield_now().await;
    let down = subscription(world.tenant(), 1, vec![downgraded()]);
    committed(ledger.append(down).await);
    let answers = join_all(issuing).await;
    let answers = answers.into_iter().map(|answer| answer.expect("an answer"));
    let (issued, refused): (Vec<_>, Vec<_>) = answers.partition(Result::is_ok);

    // The ledger is the order: in it, no card comes in above the limit after the downgrade.
    let (mut usage, mut limit) = (Usage::default(), u64::MAX);
    for event in ledger.read(0, usize::MAX).await.expect("everything") {
        match &event.event {
            Event::Subscription(SubscriptionEvent::PlanDowngraded { .. }) => limit = 500,
            Event::Card(event) => {
                usage.apply(event);
                assert!(usage.in_circulation() <= limit, "{usage:?}");
            }
            _ => {}
        }
    }
    assert_eq!(usage.in_circulation(), 400 + issued.len() as u64);
    let full = usage.in_circulation();
    assert!(
        refused.is_empty() || full >= 500,
        "a place was left at {full}"
    );
    for refusal in refused.into_iter().filter_map(Result::err) {
        let AppendError::NotAdmitted(AdmissionRefusal::QuotaExceeded { limit, used, .. }) = refusal
        else {
            panic!("{refusal}");
        };
        assert_eq!((limit, used), (500, full));
    }
    assert_sound(&*ledger).await;
}
