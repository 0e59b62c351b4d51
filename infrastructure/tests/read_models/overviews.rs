//! What the landlord sees of its tenants.

use std::sync::Arc;

use application::ports::{HandlerError, Landlord as _, LandlordView, Ledger, Subscriber};
use application::tenants::{TenantFilter, TenantOverview};
use domain::subscription::TenantSubscription;
use domain::usage::Usage;
use infrastructure::portable::statement;
use proptest::prelude::*;

use crate::history::{Ask, History, asks, issue_many};
use crate::landlords::{LandlordUnderTest, Postgres, Sqlite, on_both_engines};
use crate::records::{key, tenant as record_of};
use crate::store::{Landlord, Tenant, tenant, tenant_id};

const NOBODY: &(dyn Fn(u64) + Send + Sync) = &|_| {};

on_both_engines! {
    handlers_at_the_same_time_count_every_event_once,
    a_gap_in_the_events_is_refused_and_changes_nothing,
    an_overview_built_anew_under_traffic_is_right_although_the_old_one_was_wrong,
    a_tenant_that_has_just_been_recorded_is_shown_with_nothing,
    tenants_are_listed_page_by_page_and_found_by_part_of_their_name_or_slug,
    tenants_are_filtered_by_the_plan_they_are_on_now,
}

/// A landlord with one recorded tenant, and that tenant's store.
async fn landlord_and_tenant<E: LandlordUnderTest>() -> (Landlord, Tenant) {
    let (landlord, tenant) = (E::landlord().await, tenant().await);
    let record = record_of(1, "Acme", "acme");
    let added = landlord.records.add_tenant(&record, &key(1), None).await;
    added.expect("added");
    (landlord, tenant)
}

async fn shown(landlord: &Landlord) -> TenantOverview {
    let overview = landlord.model.tenant(tenant_id(1)).await;
    overview.expect("an answer").expect("a tenant")
}

fn assert_shows(overview: &TenantOverview, history: &History) {
    assert_eq!(overview.position, history.position());
    assert_eq!(overview.usage, history.usage);
    assert_eq!(overview.subscription, history.subscription);
}

fn everything() -> TenantFilter {
    TenantFilter {
        plan: None,
        q: None,
        after: None,
        limit: 1_000,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn an_overview_is_the_fold_of_any_history_however_often_it_is_handed_over(
        asks in asks(),
        at_a_time in 1..40_usize,
        overlap in 0..20_u64,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            assert_folds::<Sqlite>(&asks, at_a_time, overlap).await;
            assert_folds::<Postgres>(&asks, at_a_time, overlap).await;
        });
    }
}

async fn assert_folds<E: LandlordUnderTest>(asks: &[Ask], at_a_time: usize, overlap: u64) {
    let (landlord, tenant) = landlord_and_tenant::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    for ask in asks {
        history.ask(ask);
    }
    let position = tenant.follow(&landlord.model, at_a_time).await;
    let again = tenant
        .ledger
        .read(position.saturating_sub(overlap), 100)
        .await;
    let again = again.expect("events");
    let handled = landlord.model.handle(&tenant.store, &again).await;
    assert_eq!(handled.expect("handled"), position);
    assert_shows(&shown(&landlord).await, &history);
}

async fn handlers_at_the_same_time_count_every_event_once<E: LandlordUnderTest>() {
    let (landlord, tenant) = landlord_and_tenant::<E>().await;
    let (landlord, tenant) = (Arc::new(landlord), Arc::new(tenant));
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..400);
    let handlers: Vec<_> = (5..9)
        .map(|at_a_time| {
            let (landlord, tenant) = (Arc::clone(&landlord), Arc::clone(&tenant));
            tokio::spawn(async move { tenant.follow(&landlord.model, at_a_time).await })
        })
        .collect();
    for handler in handlers {
        assert_eq!(handler.await.expect("no panic"), history.position());
    }
    assert_shows(&shown(&landlord).await, &history);
}

async fn a_gap_in_the_events_is_refused_and_changes_nothing<E: LandlordUnderTest>() {
    let (landlord, tenant) = landlord_and_tenant::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..4);
    let after_a_gap = tenant.ledger.read(2, 100).await.expect("events");
    let handled = landlord.model.handle(&tenant.store, &after_a_gap).await;
    assert!(matches!(handled, Err(HandlerError::Failed(_))));
    assert_eq!(shown(&landlord).await.position, 0);
}

async fn an_overview_built_anew_under_traffic_is_right_although_the_old_one_was_wrong<
    E: LandlordUnderTest,
>() {
    let (landlord, tenant) = landlord_and_tenant::<E>().await;
    let (landlord, tenant) = (Arc::new(landlord), Arc::new(tenant));
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..3_000);
    tenant.follow(&landlord.model, 512).await;
    spoil(&landlord).await;
    let traffic = tokio::spawn({
        let (landlord, tenant) = (Arc::clone(&landlord), Arc::clone(&tenant));
        async move {
            for n in 0..200 {
                issue_many(&mut history, 3_000 + n * 5..3_005 + n * 5);
                tenant.follow(&landlord.model, 512).await;
            }
            history
        }
    });
    let mut rebuilt = landlord.model.rebuild(&tenant.store, NOBODY).await;
    while !traffic.is_finished() {
        rebuilt = landlord.model.rebuild(&tenant.store, NOBODY).await;
    }
    rebuilt.expect("a position");
    let history = traffic.await.expect("no panic");
    tenant.follow(&landlord.model, 512).await;
    assert_shows(&shown(&landlord).await, &history);
}

async fn a_tenant_that_has_just_been_recorded_is_shown_with_nothing<E: LandlordUnderTest>() {
    let (landlord, _) = landlord_and_tenant::<E>().await;
    let overview = shown(&landlord).await;
    assert_eq!(overview.tenant, record_of(1, "Acme", "acme"));
    assert_eq!(overview.subscription, TenantSubscription::default());
    assert_eq!((overview.usage, overview.position), (Usage::default(), 0));
    let page = landlord.model.list(&everything()).await.expect("a page");
    assert_eq!((page.items, page.next), (vec![overview], None));
    let nobody = landlord.model.tenant(tenant_id(9)).await;
    assert_eq!(nobody.expect("an answer"), None);
}

async fn tenants_are_listed_page_by_page_and_found_by_part_of_their_name_or_slug<
    E: LandlordUnderTest,
>() {
    let landlord = E::landlord().await;
    for (n, name) in (0_u64..).zip(["Ärzte", "Bäcker 100%", "Chor", "Dorfladen", "Chöre"]) {
        let record = record_of(n, name, &format!("slug-{n}"));
        let added = landlord.records.add_tenant(&record, &key(n), None).await;
        added.expect("added");
    }
    let mut seen = Vec::new();
    let mut filter = TenantFilter {
        limit: 2,
        ..everything()
    };
    loop {
        let page = landlord.model.list(&filter).await.expect("a page");
        seen.extend(page.items.iter().map(|item| item.tenant.id));
        filter.after = page.next;
        if filter.after.is_none() {
            break;
        }
    }
    assert_eq!(seen, (0..5).map(tenant_id).collect::<Vec<_>>());
    for (q, expected) in [
        ("ÄRZ", vec![0]),
        ("100%", vec![1]),
        ("%", vec![1]),
        ("SLUG-3", vec![3]),
        ("cho", vec![2]),
        ("slug", vec![0, 1, 2, 3, 4]),
    ] {
        let filter = TenantFilter {
            q: Some(q.to_owned()),
            ..everything()
        };
        let page = landlord.model.list(&filter).await.expect("a page");
        let ids: Vec<_> = page.items.iter().map(|item| item.tenant.id).collect();
        let expected: Vec<_> = expected.into_iter().map(tenant_id).collect();
        assert_eq!(ids, expected, "{q}");
    }
}

async fn tenants_are_filtered_by_the_plan_they_are_on_now<E: LandlordUnderTest>() {
    let (landlord, tenant) = landlord_and_tenant::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    history.ask(&Ask::ChangePlan("pro"));
    tenant.follow(&landlord.model, 100).await;
    for (plan, expected) in [("free", 0), ("pro", 1)] {
        let filter = TenantFilter {
            plan: Some(plan.to_owned().try_into().expect("a plan's key")),
            ..everything()
        };
        let page = landlord.model.list(&filter).await.expect("a page");
        assert_eq!(page.items.len(), expected, "{plan}");
    }
}

/// Makes the row wrong behind the read model's back.
async fn spoil(landlord: &Landlord) {
    let usage = serde_json::to_string(&Usage::default()).expect("JSON");
    let wrong = statement("update tenant_overviews set usage = $1").bind(usage);
    landlord.database.write(wrong).await.expect("a change");
}
