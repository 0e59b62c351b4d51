//! The cards are what the ledger's events make of them, however these are handed over.

use std::sync::Arc;

use application::cards::{Card, CardFilter, CardSort, DueCard};
use application::ports::{CardsView, HandlerError, Ledger, Subscriber};
use domain::card::Status;

use crate::history::{Ask, History, card_id, day, issue_many};
use crate::store::{Engine, tenant_on};

/// Every card, by id.
pub async fn all(view: &dyn CardsView) -> Vec<Card> {
    let filter = CardFilter {
        status: None,
        q: None,
        tier: None,
        sort: CardSort::IssuedAt,
        after: None,
        limit: 100_000,
    };
    let mut cards = view.list(&filter).await.expect("a page").items;
    cards.sort_by_key(|card| card.id);
    cards
}

pub fn run<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test)
}

pub async fn the_rows_are_the_aggregates_of_any_history<E: Engine>(
    asks: Vec<Ask>,
    at_a_time: usize,
) {
    let tenant = tenant_on::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    for ask in &asks {
        history.ask(ask);
    }
    let position = tenant.follow(&tenant.cards, at_a_time).await;
    assert_eq!(position, history.position());
    assert_eq!(all(tenant.view()).await, history.expected());
}

pub async fn events_handed_over_again_change_nothing<E: Engine>(asks: Vec<Ask>, overlap: u64) {
    let tenant = tenant_on::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    for ask in &asks {
        history.ask(ask);
        let position = tenant.cards.checkpoint(&tenant.store).await;
        let again = position.expect("a checkpoint").saturating_sub(overlap);
        let events = tenant.ledger.read(again, 100).await.expect("events");
        let handled = tenant.cards.handle(&tenant.store, &events).await;
        handled.expect("handled");
    }
    assert_eq!(all(tenant.view()).await, history.expected());
}

pub async fn of_two_handlers_at_the_same_time_one_has_the_effect<E: Engine>() {
    let tenant = Arc::new(tenant_on::<E>().await);
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..600);
    let handlers = (7..11).map(|at_a_time| {
        let tenant = Arc::clone(&tenant);
        tokio::spawn(async move { tenant.follow(&tenant.cards, at_a_time).await })
    });
    for handler in handlers.collect::<Vec<_>>() {
        assert_eq!(handler.await.expect("no panic"), history.position());
    }
    assert_eq!(all(tenant.view()).await, history.expected());
}

pub async fn a_gap_in_the_events_is_refused_and_changes_nothing<E: Engine>() {
    let tenant = tenant_on::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..4);
    let after_a_gap = tenant.ledger.read(2, 100).await.expect("events");
    let handled = tenant.cards.handle(&tenant.store, &after_a_gap).await;
    assert!(matches!(handled, Err(HandlerError::Failed(_))));
    assert_eq!(all(tenant.view()).await, vec![]);
    tenant.follow(&tenant.cards, 100).await;
    assert_eq!(all(tenant.view()).await, history.expected());
}

pub async fn an_effect_that_is_rolled_back_leaves_the_checkpoint_where_it_was<E: Engine>() {
    let tenant = tenant_on::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..4);
    let (away, back) = (
        "alter table cards rename to elsewhere",
        "alter table elsewhere rename to cards",
    );
    tenant.engine.change(away).await;
    let events = tenant.ledger.read(0, 100).await.expect("events");
    let handled = tenant.cards.handle(&tenant.store, &events).await;
    assert!(matches!(handled, Err(HandlerError::Unavailable(_))));
    tenant.engine.change(back).await;
    let checkpoint = tenant.cards.checkpoint(&tenant.store).await;
    assert_eq!(checkpoint.expect("a checkpoint"), 0);
    tenant.follow(&tenant.cards, 100).await;
    assert_eq!(all(tenant.view()).await, history.expected());
}

pub async fn a_card_is_due_from_the_moment_on_at_which_it_ends_unless_it_left_circulation<
    E: Engine,
>() {
    let tenant = tenant_on::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    let name = || "Ada".to_owned();
    history.ask(&Ask::Issue(1, name(), Some(5), true));
    history.ask(&Ask::Issue(2, name(), Some(3), false));
    history.ask(&Ask::Issue(3, name(), Some(2), true));
    history.ask(&Ask::Issue(4, name(), None, true));
    history.ask(&Ask::Revoke(3));
    tenant.follow(&tenant.cards, 100).await;
    let view = tenant.view();
    let first = view.next_due().await.expect("an answer").expect("a moment");
    assert_eq!(Some(first), history.expected()[1].expires_at);
    let just_before = first - chrono::TimeDelta::microseconds(1);
    let due = async |now, limit| view.due(now, limit).await.expect("cards");
    let expected = |id| {
        let card = view.get(card_id(id));
        async {
            let card = card.await.expect("an answer").expect("a card");
            DueCard {
                id: card.id,
                status: card.status,
                expires_at: card.expires_at.expect("an end"),
                version: card.version,
            }
        }
    };
    let (one, two) = (expected(1).await, expected(2).await);
    assert_eq!((one.status, one.version), (Status::Active, 2));
    assert_eq!((two.status, two.version), (Status::Issued, 1));
    assert_eq!(due(just_before, 9).await, vec![]);
    assert_eq!(due(first, 9).await, vec![two]);
    assert_eq!(due(day(30), 9).await, vec![two, one]);
    assert_eq!(due(day(30), 1).await, vec![two]);
}
