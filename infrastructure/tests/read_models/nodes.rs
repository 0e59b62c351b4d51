//! What many nodes can do to the landlord's database.

use std::sync::Arc;

use application::ports::agenda::Agenda as _;
use application::ports::{
    Landlord as _, LandlordError, LandlordView, Ledger as _, Recorded, Subscriber,
};
use domain::event::Event;
use domain::subscription::TenantSubscription;
use domain::usage::Usage;
use futures::FutureExt;
use futures::future::join_all;
use infrastructure::database::{Older, SchemaTooNew};
use infrastructure::landlord::connect;
use infrastructure::portable::{Statement, statement};

use crate::history::{Ask, History, issue_many};
use crate::landlords::{new_database, node, pool};
use crate::records::{key, tenant as record_of};
use crate::store::{tenant, tenant_id};

#[tokio::test(flavor = "multi_thread")]
async fn events_that_two_nodes_fold_at_once_are_counted_once() {
    let database = new_database().await;
    let nodes = [
        Arc::new(node(&database).await),
        Arc::new(node(&database).await),
    ];
    // Anew with each tenant: two nodes also make a row at once only once.
    for n in 0..20 {
        let record = record_of(n, "Acme", &format!("acme-{n}"));
        let added = nodes[0].records.add_tenant(&record, &key(n), None).await;
        added.expect("added");
        let mut tenant = tenant().await;
        tenant.store.tenant = tenant_id(n);
        let tenant = Arc::new(tenant);
        let mut history = History::begin(&tenant.ledger);
        issue_many(&mut history, 0..40);
        let handlers = nodes.iter().map(|node| {
            let (node, tenant) = (Arc::clone(node), Arc::clone(&tenant));
            tokio::spawn(async move { tenant.follow(&node.model, 7).await })
        });
        for reached in join_all(handlers).await {
            assert_eq!(reached.expect("no panic"), history.position());
        }
        for node in &nodes {
            let shown = node.model.tenant(tenant_id(n)).await.expect("an answer");
            let shown = shown.expect("a tenant");
            assert_eq!(shown.usage, history.usage);
            assert_eq!(shown.position, history.position());
            assert_eq!(shown.subscription, history.subscription);
        }
    }
}

/// The row is made while another node, which found none, has folded the first events.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_another_node_makes_meanwhile_is_folded_on_from() {
    let row = "insert into tenant_overviews \
               (tenant_id, position, plan, subscription, usage, recent_since) \
               values ($1, 3, null, $2, $3, 0)";
    let subscription = serde_json::to_string(&TenantSubscription::default()).expect("JSON");
    let row = statement(row)
        .bind(tenant_id(1).to_string())
        .bind(subscription)
        .bind(nothing_used());
    let (usage, expected) = folded_after(None, row).await;
    assert_eq!(usage, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_another_node_moves_meanwhile_is_folded_on_from() {
    let change = "update tenant_overviews set usage = $1, position = 3, revision = revision + 1";
    let change = statement(change).bind(nothing_used());
    let (usage, expected) = folded_after(Some(2), change).await;
    assert_eq!(usage, expected);
}

fn nothing_used() -> String {
    serde_json::to_string(&Usage::default()).expect("JSON")
}

/// The usage after a fold of six events that had to wait for another node, which stores that
/// nothing was used by the third of them; and the usage that the three after it make.
async fn folded_after(handled: Option<usize>, other: Statement) -> (Usage, Usage) {
    let database = new_database().await;
    let folding = Arc::new(node(&database).await);
    let record = record_of(1, "Acme", "acme");
    let first_key = key(1);
    let added = folding.records.add_tenant(&record, &first_key, None);
    added.await.expect("added");
    let tenant = Arc::new(tenant().await);
    issue_many(&mut History::begin(&tenant.ledger), 0..5);
    let events = tenant.ledger.read(0, 6).await.expect("events");
    if let Some(handled) = handled {
        let first = folding
            .model
            .handle(&tenant.store, &events[..handled])
            .await;
        first.expect("handled");
    }

    let another = node(&database).await;
    let mut storing = another.database.begin().await.expect("a transaction");
    storing.run(other).await.expect("stored");
    let handler = tokio::spawn({
        let (folding, tenant, events) = (Arc::clone(&folding), Arc::clone(&tenant), events.clone());
        async move { folding.model.handle(&tenant.store, &events).await }
    });
    let onlooker = pool(&database);
    let waits = "select exists (select from pg_stat_activity \
                 where datname = current_database() and wait_event_type = 'Lock')";
    while !handler.is_finished() {
        let waits = sqlx::query_scalar(waits).fetch_one(&onlooker).await;
        if waits.expect("an answer") {
            break;
        }
    }
    storing
        .commit(statement("select 1"))
        .await
        .expect("committed");
    let reached = handler.await.expect("no panic").expect("handled");
    assert_eq!(reached, 6);

    let mut expected = Usage::default();
    for event in &events[3..] {
        match &event.event {
            Event::Card(event) => expected.apply(event),
            Event::Subscription(_) | Event::Catalogue(_) | Event::Usage(_) => {}
        }
    }
    let shown = folding.model.tenant(tenant_id(1)).await.expect("an answer");
    (shown.expect("a tenant").usage, expected)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_has_folded_another_passes_over() {
    let database = new_database().await;
    let nodes = [node(&database).await, node(&database).await];
    let tenant = tenant().await;
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..4);
    let events = tenant.ledger.events.lock().expect("no panic").clone();
    for node in &nodes {
        let handled = node.model.handle(&tenant.store, &events).await;
        assert_eq!(handled.expect("handled"), history.position());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moment_that_one_node_has_noted_wakes_whoever_waits_on_another() {
    let database = new_database().await;
    let [faster, slower] = [node(&database).await, node(&database).await];
    let tenant = tenant().await;
    let mut history = History::begin(&tenant.ledger);
    tenant.follow(&slower.model, 100).await;
    assert_eq!(slower.model.next(&[]).await.expect("an answer"), None);
    history.ask(&Ask::Issue(1, "Ada".to_owned(), Some(5), false));
    let events = tenant.ledger.read(1, 100).await.expect("events");
    for (node, woken) in [(&faster, true), (&slower, true), (&slower, false)] {
        let handled = node.model.handle(&tenant.store, &events).await;
        handled.expect("handled");
        assert_eq!(node.model.changed().now_or_never().is_some(), woken);
        let next = node.model.next(&[]).await.expect("an answer");
        assert_eq!(next.map(|(tenant, _)| tenant), Some(tenant_id(1)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_tenants_that_race_for_a_slug_on_two_nodes_one_gets_it() {
    let database = new_database().await;
    let nodes = [node(&database).await, node(&database).await];
    let racers = (0..20)
        .zip(nodes.iter().cycle())
        .map(|(n, node)| async move {
            let racer = record_of(n, "Acme", "acme");
            node.records.add_tenant(&racer, &key(n), None).await
        });
    let answers = join_all(racers).await;
    let won = answers.iter().filter(|it| matches!(it, Ok(Recorded::New)));
    let lost = answers
        .iter()
        .filter(|it| matches!(it, Err(LandlordError::SlugTaken)));
    assert_eq!((won.count(), lost.count()), (1, 19), "{answers:?}");
    assert_eq!(nodes[0].records.keys().await.expect("keys").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_start_at_once_make_the_schema_once() {
    let database = new_database().await;
    let started = join_all((0..4).map(|_| connect(pool(&database), Older::Migrate))).await;
    for node in started {
        node.map(drop).expect("a database");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_a_newer_program_has_migrated_is_refused() {
    let database = new_database().await;
    drop(node(&database).await);
    let newer = "insert into _sqlx_migrations \
                 (version, description, success, checksum, execution_time) \
                 values (9999, 'newer', true, '', 0)";
    let migrated = sqlx::query(newer).execute(&pool(&database)).await;
    migrated.expect("migrated");
    let Err(sqlx::Error::Configuration(error)) =
        connect(pool(&database), Older::Migrate).await.map(drop)
    else {
        panic!("not refused");
    };
    let error = error.downcast::<SchemaTooNew>().expect("the reason");
    assert_eq!(error.found, 9999);
}
