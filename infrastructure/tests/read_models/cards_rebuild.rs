//! Building the cards anew while they are in use.

use std::sync::Arc;

use application::ports::Subscriber;

use crate::cards::{all, change, dump};
use crate::history::{History, issue_many};
use crate::store::tenant;

const NOBODY: &(dyn Fn(u64) + Send + Sync) = &|_| {};

#[tokio::test]
async fn what_is_built_anew_equals_the_one_in_use_row_for_row() {
    let tenant = tenant().await;
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..2_000);
    tenant.follow(&tenant.cards, 300).await;
    let live = dump(&tenant).await;
    assert_eq!(live.len(), 2_000);
    // Twice, because the second must not trip over the names of the first.
    for _ in 0..2 {
        let position = tenant.cards.rebuild(&tenant.store, NOBODY).await;
        assert_eq!(position.expect("a position"), history.position());
        assert_eq!(dump(&tenant).await, live);
    }
}

#[tokio::test]
async fn rows_that_went_wrong_are_right_after_building_anew() {
    let tenant = tenant().await;
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..50);
    tenant.follow(&tenant.cards, 100).await;
    change(
        &tenant,
        "update cards set status = 'revoked' where version = 1",
    )
    .await;
    change(&tenant, "delete from cards where version = 2").await;
    tenant
        .cards
        .rebuild(&tenant.store, NOBODY)
        .await
        .expect("a position");
    assert_eq!(all(tenant.view()).await, history.expected());
}

#[tokio::test(flavor = "multi_thread")]
async fn building_anew_under_traffic_loses_nothing_and_doubles_nothing() {
    let tenant = Arc::new(tenant().await);
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..3_000);
    tenant.follow(&tenant.cards, 512).await;
    let traffic = tokio::spawn({
        let tenant = Arc::clone(&tenant);
        async move {
            for n in 0..300 {
                issue_many(&mut history, 3_000 + n * 5..3_005 + n * 5);
                tenant.follow(&tenant.cards, 512).await;
            }
            history
        }
    });
    while !traffic.is_finished() {
        tenant
            .cards
            .rebuild(&tenant.store, NOBODY)
            .await
            .expect("a position");
    }
    let history = traffic.await.expect("no panic");
    let position = tenant.follow(&tenant.cards, 512).await;
    assert_eq!(position, history.position());
    assert_eq!(all(tenant.view()).await, history.expected());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_buildings_at_the_same_time_leave_the_cards_right() {
    let tenant = Arc::new(tenant().await);
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..3_000);
    tenant.follow(&tenant.cards, 512).await;
    let buildings: Vec<_> = (0..3)
        .map(|_| {
            let tenant = Arc::clone(&tenant);
            tokio::spawn(async move { tenant.cards.rebuild(&tenant.store, NOBODY).await.is_ok() })
        })
        .collect();
    let mut succeeded = 0;
    for building in buildings {
        succeeded += u32::from(building.await.expect("no panic"));
    }
    assert!(succeeded > 0);
    assert_eq!(all(tenant.view()).await, history.expected());
}

#[tokio::test]
async fn a_building_that_was_cut_off_is_begun_again_from_the_first_event() {
    let tenant = tenant().await;
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..100);
    tenant.follow(&tenant.cards, 100).await;
    change(&tenant, "create table cards_next (id text primary key)").await;
    change(&tenant, "insert into checkpoints values ('cards.next', 70)").await;
    let position = tenant.cards.rebuild(&tenant.store, NOBODY).await;
    assert_eq!(position.expect("a position"), history.position());
    assert_eq!(all(tenant.view()).await, history.expected());
}
