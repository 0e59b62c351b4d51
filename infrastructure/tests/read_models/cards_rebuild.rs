//! Building the cards anew while they are in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use application::ports::Subscriber;

use crate::cards::all;
use crate::history::{Ask, History, issue_many};
use crate::store::{Engine, tenant_on};

const NOBODY: &(dyn Fn(u64) + Send + Sync) = &|_| {};

pub async fn what_is_built_anew_equals_the_one_in_use_row_for_row<E: Engine>() {
    let tenant = tenant_on::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..2_000);
    tenant.follow(&tenant.cards, 300).await;
    let live = tenant.engine.dump().await;
    assert_eq!(live.len(), 2_000);
    // Twice, because the second must not trip over the names of the first.
    for _ in 0..2 {
        let position = tenant.cards.rebuild(&tenant.store, NOBODY).await;
        assert_eq!(position.expect("a position"), history.position());
        assert_eq!(tenant.engine.dump().await, live);
    }
}

pub async fn rows_that_went_wrong_are_right_after_building_anew<E: Engine>() {
    let tenant = tenant_on::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..50);
    tenant.follow(&tenant.cards, 100).await;
    tenant
        .engine
        .change("update cards set status = 'revoked' where version = 1")
        .await;
    tenant
        .engine
        .change("delete from cards where version = 2")
        .await;
    tenant
        .cards
        .rebuild(&tenant.store, NOBODY)
        .await
        .expect("a position");
    assert_eq!(all(tenant.view()).await, history.expected());
}

pub async fn building_anew_under_traffic_loses_nothing_and_doubles_nothing<E: Engine>() {
    let tenant = Arc::new(tenant_on::<E>().await);
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

pub async fn building_anew_under_traffic_keeps_nothing_that_was_wrong<E: Engine>() {
    let tenant = Arc::new(tenant_on::<E>().await);
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..100);
    tenant.follow(&tenant.cards, 512).await;
    let over = Arc::new(AtomicBool::new(false));
    let traffic = tokio::spawn({
        let (tenant, over) = (Arc::clone(&tenant), Arc::clone(&over));
        async move {
            while !over.load(Ordering::Relaxed) {
                for n in (0..100).step_by(10) {
                    history.ask(&Ask::Suspend(n));
                    history.ask(&Ask::Reinstate(n));
                    tenant.follow(&tenant.cards, 1).await;
                }
            }
            history
        }
    });
    for _ in 0..20 {
        let spoil = "update cards set holder_name = 'Wrong'";
        tenant.engine.change(spoil).await;
        let rebuilt = tenant.cards.rebuild(&tenant.store, NOBODY).await;
        rebuilt.expect("a position");
        // What is written now follows from the new rows, not from those of the old table.
        for card in all(tenant.view()).await {
            assert_ne!(card.holder.name.as_str(), "Wrong");
        }
    }
    over.store(true, Ordering::Relaxed);
    let history = traffic.await.expect("no panic");
    assert_eq!(all(tenant.view()).await, history.expected());
}

pub async fn two_buildings_at_the_same_time_leave_the_cards_right<E: Engine>() {
    let tenant = Arc::new(tenant_on::<E>().await);
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

pub async fn a_building_that_was_cut_off_is_begun_again_from_the_first_event<E: Engine>() {
    let tenant = tenant_on::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..100);
    tenant.follow(&tenant.cards, 100).await;
    tenant
        .engine
        .change("create table cards_next (id text primary key)")
        .await;
    tenant
        .engine
        .change("insert into checkpoints values ('cards.next', 70)")
        .await;
    let position = tenant.cards.rebuild(&tenant.store, NOBODY).await;
    assert_eq!(position.expect("a position"), history.position());
    assert_eq!(all(tenant.view()).await, history.expected());
}
