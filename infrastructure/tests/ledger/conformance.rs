//! The promises, each as a sentence, for any engine.

use std::collections::HashSet;

use application::ports::{AppendError, Appended, HistoryFilter, Ledger, RecordedOutcome};
use chrono::TimeDelta;
use domain::card::{CardEvent, Status};
use domain::catalogue::{FeatureValue, feature};
use domain::event::AggregateKind;
use domain::ids::Position;
use domain::subscription::{Attribution, Grant, GrantKind, SubscriptionEvent};
use futures::future::join_all;
use futures::poll;

use crate::world::*;

pub async fn positions_have_no_gaps_under_64_concurrent_appenders<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let appender = |_| {
        let ledger = world.ledger();
        tokio::spawn(async move {
            let mut last = 0;
            for _ in 0..20 {
                let position = committed(ledger.append(issue()).await);
                assert!(position > last, "an appender's own order is the ledger's");
                last = position;
            }
        })
    };
    for appender in join_all((0..64).map(appender)).await {
        appender.expect("an appender");
    }
    assert_eq!(world.ledger().head().position, 1 + 64 * 20);
    assert_sound(&*world.ledger()).await;
}

pub async fn a_refused_append_leaves_the_rest_of_its_batch_alone<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    let (good, wrong) = (new_id(), new_id());
    let held = world.hold().await;
    let mut answers = Box::pin(join_all([
        ledger.append(append(vec![card(good, 0, vec![issued()])])),
        ledger.append(append(vec![card(wrong, 3, vec![issued()])])),
        ledger.append(append(vec![card(
            good,
            1,
            vec![CardEvent::CardActivated { at: at() }],
        )])),
    ]));
    assert!(poll!(&mut answers).is_pending());
    drop(held);
    let answers = answers.await;
    assert!(matches!(answers[0], Ok(Appended::Committed(2))));
    assert!(matches!(answers[1], Err(AppendError::VersionConflict)));
    assert!(matches!(answers[2], Ok(Appended::Committed(3))));
    assert_sound(&*ledger).await;
}

pub async fn a_repeated_request_is_answered_as_before_also_after_a_restart<L: LedgerUnderTest>() {
    let mut world = on_plan::<L>("pro").await;
    let first = world.ledger().append(issue_under("a", 1)).await;
    assert_eq!(committed(first), 2);
    let before = RecordedOutcome {
        fingerprint: [1; 32],
        outcome: "\"a 1\"".to_owned(),
        position: 2,
    };
    for _ in 0..2 {
        let ledger = world.ledger();
        let again = ledger.append(issue_under("a", 1)).await;
        assert_eq!(
            again.expect("an answer"),
            Appended::Replayed(before.clone())
        );
        assert_eq!(
            ledger.outcome("a").await.expect("read"),
            Some(before.clone())
        );
        assert_eq!(ledger.outcome("b").await.expect("read"), None);
        assert_eq!(ledger.head().position, 2);
        drop(ledger);
        world.reopen().await;
    }
}

pub async fn a_request_is_still_known_after_many_others<L: LedgerUnderTest>() {
    const REQUESTS: usize = 17_000;
    let mut world = on_plan::<L>("pro").await;
    let key = |nth: usize| format!("{} {nth}", nth % 7);
    for restarted in [false, true] {
        let ledger = world.ledger();
        for first in (0..REQUESTS).step_by(512) {
            let requests = (first..REQUESTS.min(first + 512)).map(|nth| {
                let ledger = &ledger;
                async move { (nth, ledger.append(issue_under(&key(nth), 1)).await) }
            });
            for (nth, answer) in join_all(requests).await {
                match answer.expect("an answer") {
                    Appended::Committed(_) if !restarted => {}
                    Appended::Replayed(before) if restarted => {
                        assert_eq!(before.outcome, format!("\"{} 1\"", key(nth)));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert_eq!(ledger.head().position, 1 + REQUESTS as u64);
        for nth in [0, 1, 8_191, 8_192, 16_383, 16_384, REQUESTS - 1] {
            let before = ledger.outcome(&key(nth)).await.expect("read");
            assert_eq!(before.expect("known").position, 2 + nth as u64);
            let other = ledger.append(issue_under(&key(nth), 2)).await;
            assert!(matches!(other, Err(AppendError::KeyReused)), "{other:?}");
        }
        assert_eq!(ledger.outcome("another").await.expect("read"), None);
        drop(ledger);
        world.reopen().await;
    }
}

pub async fn a_request_repeated_within_a_batch_is_done_once<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    let held = world.hold().await;
    let mut answers = Box::pin(join_all([
        ledger.append(issue_under("a", 1)),
        ledger.append(issue_under("a", 1)),
        ledger.append(issue_under("a", 2)),
    ]));
    assert!(poll!(&mut answers).is_pending());
    drop(held);
    let answers = answers.await;
    assert!(matches!(answers[0], Ok(Appended::Committed(2))));
    assert!(matches!(&answers[1], Ok(Appended::Replayed(it)) if it.position == 2));
    assert!(matches!(answers[2], Err(AppendError::KeyReused)));
    assert_sound(&*ledger).await;
}

pub async fn a_key_used_for_another_request_is_refused<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    committed(ledger.append(issue_under("a", 1)).await);
    let reused = ledger.append(issue_under("a", 2)).await;
    assert!(matches!(reused, Err(AppendError::KeyReused)));
    assert_eq!(ledger.head().position, 2);
}

pub async fn a_refused_request_may_be_made_again<L: LedgerUnderTest>() {
    let world = L::start().await;
    let ledger = world.ledger();
    let refused = ledger.append(issue_under("a", 1)).await;
    assert!(matches!(refused, Err(AppendError::NotAdmitted(_))));
    let start = subscription(world.tenant(), 0, vec![started("free")]);
    committed(ledger.append(start).await);
    committed(ledger.append(issue_under("a", 1)).await);
}

pub async fn an_append_without_events_only_records_its_outcome<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    let mut nothing = issue_under("a", 1);
    nothing.streams.clear();
    assert_eq!(committed(ledger.append(nothing.clone()).await), 1);
    let again = ledger.append(nothing).await;
    assert!(matches!(again, Ok(Appended::Replayed(it)) if it.position == 1));
    assert_eq!(committed(ledger.append(append(vec![])).await), 1);
    assert_sound(&*ledger).await;
}

pub async fn an_append_at_another_version_is_refused<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    let id = new_id();
    committed(
        ledger
            .append(append(vec![card(id, 0, vec![issued()])]))
            .await,
    );
    for expected in [0, 2] {
        let activate = vec![CardEvent::CardActivated { at: at() }];
        let conflict = ledger
            .append(append(vec![card(id, expected, activate)]))
            .await;
        assert!(matches!(conflict, Err(AppendError::VersionConflict)));
    }
    let twice = vec![card(new_id(), 0, vec![issued()]); 2];
    let conflict = ledger.append(append(twice)).await;
    assert!(matches!(conflict, Err(AppendError::VersionConflict)));
    let loaded = ledger.load(AggregateKind::Card, &id.to_string()).await;
    assert_eq!(loaded.expect("loaded").len(), 1);
    assert_sound(&*ledger).await;
}

pub async fn a_plan_change_and_issuances_of_one_batch_have_an_order<L: LedgerUnderTest>() {
    let world = L::start().await;
    let ledger = world.ledger();
    let held = world.hold().await;
    let raise = SubscriptionEvent::AddOnGranted {
        feature: feature::MAX_CARDS.to_owned().try_into().expect("a slug"),
        grant: Grant {
            value: FeatureValue::Limit(1),
            kind: GrantKind::Override,
            expires_at: None,
        },
        attribution: Attribution::default(),
        at: at(),
    };
    let mut answers = Box::pin(join_all([
        ledger.append(issue()),
        ledger.append(subscription(world.tenant(), 0, vec![started("free")])),
        ledger.append(issue()),
        ledger.append(subscription(world.tenant(), 1, vec![raise])),
        ledger.append(issue()),
    ]));
    assert!(poll!(&mut answers).is_pending());
    drop(held);
    let admitted: Vec<_> = answers.await.iter().map(Result::is_ok).collect();
    assert_eq!(admitted, [false, true, true, true, false]);
    assert_eq!(ledger.head().subscription_version, 2);
    assert_sound(&*ledger).await;
}

pub async fn a_right_that_ends_by_itself_counts_at_the_moment_of_admission<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    let none = SubscriptionEvent::AddOnGranted {
        feature: feature::MAX_CARDS.to_owned().try_into().expect("a slug"),
        grant: Grant {
            value: FeatureValue::Limit(0),
            kind: GrantKind::Override,
            expires_at: Some(at() + TimeDelta::seconds(60)),
        },
        attribution: Attribution::default(),
        at: at(),
    };
    committed(
        ledger
            .append(subscription(world.tenant(), 1, vec![none]))
            .await,
    );
    assert!(ledger.append(issue()).await.is_err());
    world.clock().advance(TimeDelta::seconds(60));
    committed(ledger.append(issue()).await);
}

pub async fn a_full_queue_says_so_at_once_and_takes_no_more<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    let held = world.hold().await;
    let mut waiting = Vec::new();
    let mut busy = 0;
    for _ in 0..5_000 {
        let mut answer = Box::pin(ledger.append(issue()));
        match poll!(&mut answer) {
            std::task::Poll::Pending => waiting.push(answer),
            std::task::Poll::Ready(answer) => {
                assert!(matches!(answer, Err(AppendError::Busy)));
                busy += 1;
            }
        }
    }
    // The queue and the batch in hand.
    assert!(waiting.len() <= WAITING_MAX + 512, "{} wait", waiting.len());
    assert!(busy > 0);
    drop(held);
    let count = waiting.len() as Position;
    for answer in join_all(waiting).await {
        committed(answer);
    }
    assert_eq!(ledger.head().position, 1 + count);
    committed(ledger.append(issue()).await);
}

pub async fn looking_at_the_head_takes_no_appends_place<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    let held = world.hold().await;
    let mut first = Box::pin(ledger.append(issue()));
    assert!(poll!(&mut first).is_pending());
    tokio::task::yield_now().await;
    let mut looks: Vec<_> = (0..8).map(|_| ledger.heard(0)).collect();
    for look in &mut looks {
        let _ = poll!(look);
    }
    let mut waiting: Vec<_> = (0..WAITING_MAX).map(|_| ledger.append(issue())).collect();
    for append in &mut waiting {
        assert!(poll!(append).is_pending());
    }
    drop(held);
    committed(first.await);
    for append in waiting {
        committed(append.await);
    }
}

pub async fn an_append_whose_caller_is_gone_is_done_once<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    for _ in 0..300 {
        let mut answer = Box::pin(ledger.append(issue()));
        let _ = poll!(&mut answer);
    }
    assert_eq!(committed(ledger.append(issue()).await), 302);
    assert_sound(&*ledger).await;
}

pub async fn the_head_after_a_restart_is_the_head_before_it<L: LedgerUnderTest>() {
    let mut world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    let id = new_id();
    committed(
        ledger
            .append(append(vec![card(id, 0, vec![issued()])]))
            .await,
    );
    committed(ledger.append(issue()).await);
    committed(ledger.append(replace(id, 1, Status::Issued)).await);
    let before = ledger.head();
    drop(ledger);
    world.reopen().await;
    let after = world.ledger().head();
    assert_eq!(after.position, before.position);
    assert_eq!(after.hash, before.hash);
    assert_eq!(after.usage, before.usage);
    assert_eq!(after.subscription, before.subscription);
    assert_eq!(after.subscription_version, before.subscription_version);
    committed(world.ledger().append(issue()).await);
    assert_sound(&*world.ledger()).await;
}

pub async fn a_serial_is_never_handed_out_twice<L: LedgerUnderTest>() {
    let mut world = on_plan::<L>("pro").await;
    let mut seen = HashSet::new();
    for _ in 0..3 {
        let taker = |_| {
            let ledger = world.ledger();
            tokio::spawn(async move {
                let mut serials = Vec::new();
                for _ in 0..100 {
                    serials.push(ledger.next_card_serial().await.expect("a serial"));
                    if serials.len() % 10 == 0 {
                        committed(ledger.append(issue()).await);
                    }
                }
                serials
            })
        };
        for serials in join_all((0..30).map(taker)).await {
            for serial in serials.expect("a taker") {
                assert!(seen.insert(serial), "{serial} again");
            }
        }
        world.reopen().await;
    }
    let highest = seen.iter().max().copied().unwrap_or(0);
    assert!(highest < 20_000, "blocks are not wasted: {highest}");
}

pub async fn what_is_read_from_memory_is_what_is_stored<L: LedgerUnderTest>() {
    let mut world = on_plan::<L>("pro").await;
    for _ in 0..100 {
        let answers =
            join_all((0..20).map(|_| async { committed(world.ledger().append(issue()).await) }))
                .await;
        assert_eq!(answers.len(), 20);
    }
    let read_all = async |ledger: &dyn Ledger| {
        let mut all = Vec::new();
        while let after = all.len() as Position
            && let events = ledger.read(after, 64).await.expect("read")
            && !events.is_empty()
        {
            all.extend(events);
        }
        all
    };
    let warm = read_all(&*world.ledger()).await;
    world.reopen().await;
    let cold = read_all(&*world.ledger()).await;
    assert_eq!(warm.len(), 2_001);
    assert!(warm == cold, "memory and store differ");
    let newest = world.ledger().read(1_990, 5).await.expect("read");
    let positions: Vec<_> = newest.iter().map(|event| event.stored.position).collect();
    assert_eq!(positions, [1_991, 1_992, 1_993, 1_994, 1_995]);
    assert!(
        world
            .ledger()
            .read(2_001, 5)
            .await
            .expect("read")
            .is_empty()
    );
}

pub async fn the_history_is_filtered_by_all_that_is_asked<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    let id = new_id();
    committed(
        ledger
            .append(append(vec![card(id, 0, vec![issued()])]))
            .await,
    );
    committed(ledger.append(issue()).await);
    world.clock().advance(TimeDelta::seconds(1));
    let activate = vec![CardEvent::CardActivated { at: at() }];
    committed(ledger.append(append(vec![card(id, 1, activate)])).await);
    let positions = async |filter: HistoryFilter| {
        let found = ledger.history(&filter, 10).await.expect("the history");
        found.iter().map(|it| it.position).collect::<Vec<_>>()
    };
    let all = HistoryFilter::default();
    let of_card = HistoryFilter {
        aggregate_id: Some(id.to_string()),
        ..all.clone()
    };
    let of_subscription = HistoryFilter {
        kind: Some(AggregateKind::Subscription),
        ..all.clone()
    };
    let issuances = HistoryFilter {
        event_type: Some("CardIssued".to_owned()),
        ..all.clone()
    };
    let later = HistoryFilter {
        from: Some(at() + TimeDelta::seconds(1)),
        ..all.clone()
    };
    let earlier = HistoryFilter {
        to: Some(at() + TimeDelta::seconds(1)),
        after: 1,
        ..all.clone()
    };
    let of_card_later = HistoryFilter {
        from: later.from,
        ..of_card.clone()
    };
    assert_eq!(positions(all).await, [1, 2, 3, 4]);
    assert_eq!(positions(of_card).await, [2, 4]);
    assert_eq!(positions(of_subscription).await, [1]);
    assert_eq!(positions(issuances).await, [2, 3]);
    assert_eq!(positions(later).await, [4]);
    assert_eq!(positions(earlier).await, [2, 3]);
    assert_eq!(positions(of_card_later).await, [4]);
}

pub async fn a_commit_rings_once_it_can_be_read<L: LedgerUnderTest>() {
    let world = L::start().await;
    let mailbox = world.doorbell().listen();
    let start = subscription(world.tenant(), 0, vec![started("free")]);
    let position = committed(world.ledger().append(start).await);
    let rung = mailbox.next().await;
    assert_eq!(rung.get(&world.tenant()), Some(&position));
    let events = world.ledger().read(0, 10).await.expect("read");
    assert_eq!(events.len(), 1);
}

pub async fn a_batch_that_cannot_be_decided_fails_alone<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    world.clock().breaks(true);
    let failed = ledger.append(issue()).await;
    assert!(matches!(failed, Err(AppendError::Unavailable(_))));
    world.clock().breaks(false);
    assert_eq!(committed(ledger.append(issue()).await), 2);
    assert_sound(&*ledger).await;
}
