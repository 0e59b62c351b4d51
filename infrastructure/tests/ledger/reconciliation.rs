//! Counters that went wrong are put right, on each engine, while appends go on.

use application::ports::usage::Reconciliation;
use application::ports::{AppendError, Appended, Ledger};
use domain::event::{AggregateKind, Event};
use domain::ids::Position;
use domain::usage::{Usage, UsageEvent};
use futures::future::join_all;
use futures::poll;

use crate::world::*;

/// Makes each sentence a test of both engines.
macro_rules! on_both_engines {
    ($($sentence:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $sentence() {
                    super::$sentence::<crate::world::SqliteUnderTest>().await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $sentence() {
                    super::$sentence::<crate::postgres::PostgresUnderTest>().await;
                }
            )+
        }
    };
}

on_both_engines! {
    counters_that_went_wrong_are_put_right_under_traffic_and_it_is_recorded,
    a_repair_that_is_asked_for_again_is_answered_as_before,
    a_recount_of_another_history_is_not_put_in_place,
}

/// As if the events up to a position had been counted.
async fn counted(ledger: &dyn Ledger, position: Position) -> Reconciliation {
    let mut counted = Usage::default();
    for event in ledger.read(0, position as usize).await.expect("read") {
        if let Event::Card(event) = &event.event {
            counted.apply(event);
        }
    }
    Reconciliation {
        position,
        counted,
        metadata: r#"{"actor":"test"}"#.to_owned(),
        idempotency: None,
    }
}

async fn reconciled(ledger: &dyn Ledger, position: Position) -> (Usage, Usage) {
    let events = ledger.read(position - 1, 1).await.expect("read");
    match &events[0].event {
        Event::Usage(UsageEvent::UsageReconciled { before, after, .. }) => (*before, *after),
        other => panic!("{other:?}"),
    }
}

async fn counters_that_went_wrong_are_put_right_under_traffic_and_it_is_recorded<
    L: LedgerUnderTest,
>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    for answer in join_all((0..100).map(|_| ledger.append(issue()))).await {
        committed(answer);
    }
    world.miscount().await;
    // What was counted is behind by the time that it is put in place.
    let wanted = counted(&*ledger, 50).await;
    let held = world.hold().await;
    let mut before: Vec<_> = (0..40).map(|_| Box::pin(ledger.append(issue()))).collect();
    for answer in &mut before {
        assert!(poll!(answer).is_pending());
    }
    let mut repair = Box::pin(world.reconcile(wanted));
    assert!(poll!(&mut repair).is_pending());
    let mut after: Vec<_> = (0..40).map(|_| Box::pin(ledger.append(issue()))).collect();
    for answer in &mut after {
        assert!(poll!(answer).is_pending());
    }
    drop(held);
    let position = committed(repair.await);
    for answer in join_all(before.into_iter().chain(after)).await {
        committed(answer);
    }
    let (wrong, right) = reconciled(&*ledger, position).await;
    assert_eq!(
        right.issued_total() + 2,
        position,
        "all before it are counted"
    );
    assert_eq!(right.revoked, 0);
    assert_eq!((wrong.active, wrong.revoked), (300, 7));
    assert_eq!(ledger.head().usage.issued, 180);
    assert_sound(&*ledger).await;
}

async fn a_repair_that_is_asked_for_again_is_answered_as_before<L: LedgerUnderTest>() {
    let mut world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    committed(ledger.append(issue()).await);
    world.miscount().await;
    let wanted = Reconciliation {
        idempotency: issue_under("repair", 1).idempotency,
        ..counted(&*ledger, 2).await
    };
    let position = committed(world.reconcile(wanted.clone()).await);
    committed(ledger.append(issue()).await);
    let again = world.reconcile(wanted.clone()).await;
    assert!(matches!(again, Ok(Appended::Replayed(outcome)) if outcome.position == position));
    drop(ledger);
    world.reopen().await;
    let again = world.reconcile(wanted).await;
    assert!(matches!(again, Ok(Appended::Replayed(outcome)) if outcome.position == position));
    // A second one finds nothing wrong, and is on record all the same.
    let ledger = world.ledger();
    let wanted = counted(&*ledger, 1).await;
    let position = committed(world.reconcile(wanted).await);
    let (before, after) = reconciled(&*ledger, position).await;
    assert_eq!(before, after);
    let events = ledger
        .load(AggregateKind::Usage, &world.tenant().to_string())
        .await
        .expect("loaded");
    assert_eq!(events.len(), 2);
    assert_sound(&*ledger).await;
}

async fn a_recount_of_another_history_is_not_put_in_place<L: LedgerUnderTest>() {
    let world = on_plan::<L>("pro").await;
    let ledger = world.ledger();
    let wanted = Reconciliation {
        position: 9,
        ..counted(&*ledger, 1).await
    };
    let answer = world.reconcile(wanted).await;
    assert!(
        matches!(answer, Err(AppendError::Unavailable(_))),
        "{answer:?}"
    );
    committed(ledger.append(issue()).await);
    assert_sound(&*ledger).await;
}
