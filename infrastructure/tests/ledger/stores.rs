//! The open stores: opened once, closed when unused, never twice at a time.

use std::sync::Arc;
use std::task::Poll;

use application::doorbell::Doorbell;
use application::ports::usage::LedgerCounts;
use application::ports::{AppendError, Random, TenantStores, Unavailable};
use domain::ids::TenantId;
use futures::future::join_all;
use futures::poll;
use infrastructure::clock::SystemRandom;
use infrastructure::database::Older;
use infrastructure::tenants::EmbeddedStores;
use sqlx::Connection;
use tempfile::TempDir;

use crate::world::*;

fn stores(directory: &TempDir, open_max: usize) -> EmbeddedStores {
    let clock = Arc::<TestClock>::default();
    EmbeddedStores::new(
        directory.path().to_owned(),
        open_max,
        WAITING_MAX,
        Older::Migrate,
        clock,
        Doorbell::default(),
    )
}

async fn provisioned(stores: &EmbeddedStores, count: usize) -> Vec<TenantId> {
    let mut tenants = Vec::new();
    for _ in 0..count {
        let tenant = TenantId::new(SystemRandom.id());
        stores.create(tenant).await.expect("created");
        let store = stores.open(tenant).await.expect("open");
        let start = subscription(tenant, 0, vec![started("pro")]);
        committed(store.ledger.append(start).await);
        tenants.push(tenant);
    }
    tenants
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tenants_in_few_open_stores_lose_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let stores = stores(&directory, 3);
    let tenants = provisioned(&stores, 10).await;
    let user = |nth: usize| {
        let (stores, tenants) = (stores.clone(), tenants.clone());
        tokio::spawn(async move {
            for round in 0..20 {
                let tenant = tenants[(nth * 7 + round * 3) % tenants.len()];
                let store = stores.open(tenant).await.expect("open");
                committed(store.ledger.append(issue()).await);
            }
        })
    };
    for user in join_all((0..16).map(user)).await {
        user.expect("a user");
    }
    let mut issued = 0;
    for tenant in tenants {
        let store = stores.open(tenant).await.expect("open");
        assert_sound(&*store.ledger).await;
        issued += store.ledger.head().usage.issued;
    }
    assert_eq!(issued, 16 * 20);
    // Nobody uses any of them now, so the next opening brings them down to the bound.
    stores
        .create(TenantId::new(SystemRandom.id()))
        .await
        .expect("created");
    assert_eq!(stores.open_count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_use_is_never_closed() {
    let directory = tempfile::tempdir().expect("a directory");
    let stores = stores(&directory, 1);
    let tenants = provisioned(&stores, 3).await;
    let held = stores.open(tenants[0]).await.expect("open");
    for tenant in &tenants {
        stores.open(*tenant).await.expect("open");
    }
    committed(held.ledger.append(issue()).await);
    let again = stores.open(tenants[0]).await.expect("open");
    assert!(Arc::ptr_eq(&held, &again));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_opened_once_for_all_who_ask_at_the_same_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let tenant = provisioned(&stores(&directory, 1), 1).await[0];
    let stores = stores(&directory, 1);
    let asked = |_| {
        let stores = stores.clone();
        tokio::spawn(async move { stores.open(tenant).await.expect("open") })
    };
    let opened = join_all((0..32).map(asked)).await;
    let first = opened[0].as_ref().expect("an asker");
    assert!(
        opened
            .iter()
            .flatten()
            .all(|store| Arc::ptr_eq(store, first))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_is_an_error_and_stays_missing_until_it_is_created() {
    let directory = tempfile::tempdir().expect("a directory");
    let stores = stores(&directory, 1);
    let tenant = TenantId::new(SystemRandom.id());
    for _ in 0..2 {
        assert!(matches!(stores.open(tenant).await, Err(Unavailable { .. })));
    }
    let files = std::fs::read_dir(directory.path()).expect("listed");
    assert_eq!(files.count(), 0);
    for _ in 0..2 {
        stores.create(tenant).await.expect("created");
    }
    stores.open(tenant).await.expect("open");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_newer_program_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let tenant = {
        let stores = stores(&directory, 1);
        let tenant = provisioned(&stores, 1).await[0];
        stores.close_all().await;
        tenant
    };
    let path = directory.path().join(format!("{tenant}.db"));
    let url = format!("sqlite://{}", path.display());
    let mut file = sqlx::SqliteConnection::connect(&url).await.expect("open");
    sqlx::query("pragma user_version = 999")
        .execute(&mut file)
        .await
        .expect("set");
    file.close().await.expect("closed");
    let Err(error) = stores(&directory, 1).open(tenant).await else {
        panic!("it was opened");
    };
    let source = error.source.expect("a reason").to_string();
    assert!(source.contains("schema is version 999"), "{source}");
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_finishes_what_is_queued_and_refuses_what_comes_later() {
    let directory = tempfile::tempdir().expect("a directory");
    let first = stores(&directory, 4);
    let tenant = provisioned(&first, 1).await[0];
    let store = first.open(tenant).await.expect("open");
    let mut queued = Vec::new();
    for _ in 0..200 {
        let mut answer = store.ledger.append(issue());
        match poll!(&mut answer) {
            Poll::Ready(answer) => {
                committed(answer);
            }
            Poll::Pending => queued.push(answer),
        }
    }
    first.close_all().await;
    for answer in join_all(queued).await {
        committed(answer);
    }
    let late = store.ledger.append(issue()).await;
    assert!(matches!(late, Err(AppendError::Unavailable(_))));
    assert!(first.open(tenant).await.is_err());
    let second = stores(&directory, 4);
    let store = second.open(tenant).await.expect("open");
    assert_eq!(store.ledger.head().usage.issued, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_again_opens_no_store_and_leaves_no_file_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let stores = stores(&directory, 2);
    let tenants = provisioned(&stores, 6).await;
    for tenant in &tenants {
        let store = stores.open(*tenant).await.expect("open");
        let start = store.ledger.head().position;
        assert_eq!(start, 1);
        for answer in join_all((0..30).map(|_| store.ledger.append(issue()))).await {
            committed(answer);
        }
    }
    let held = stores.open(tenants[0]).await.expect("open");
    stores.open(tenants[1]).await.expect("open");
    let mut open = stores.open_tenants();
    open.sort_unstable();
    let files = || {
        let names = std::fs::read_dir(directory.path()).expect("listed");
        let mut names: Vec<_> = names.map(|it| it.expect("an entry").file_name()).collect();
        names.sort_unstable();
        names
    };
    let before = files();
    let counted = tenants.iter().map(|tenant| stores.recount(*tenant, 11));
    for recount in join_all(counted).await {
        let recount = recount.expect("counted");
        assert_eq!(recount.position, 31);
        assert_eq!(recount.counted.issued, 30);
        assert_eq!(recount.head, recount.counted);
        assert_eq!(recount.also.map(|usage| usage.issued), Some(10));
    }
    let beyond = stores.recount(tenants[5], 32).await.expect("counted");
    assert_eq!((beyond.also, beyond.counted.issued), (None, 30));
    let mut still = stores.open_tenants();
    still.sort_unstable();
    assert_eq!(still, open);
    assert_eq!(files(), before);
    let again = stores.open(tenants[0]).await.expect("open");
    assert!(Arc::ptr_eq(&held, &again));
}

#[tokio::test(flavor = "multi_thread")]
async fn counting_again_and_traffic_do_not_disturb_each_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let stores = stores(&directory, 1);
    let tenants = provisioned(&stores, 4).await;
    let traffic = tenants.iter().map(|tenant| {
        let (stores, tenant) = (stores.clone(), *tenant);
        tokio::spawn(async move {
            for _ in 0..40 {
                let store = stores.open(tenant).await.expect("open");
                committed(store.ledger.append(issue()).await);
            }
        })
    });
    let traffic = join_all(traffic);
    let counting = async {
        for _ in 0..40 {
            let counted = tenants.iter().map(|tenant| stores.recount(*tenant, 0));
            for recount in join_all(counted).await {
                let recount = recount.expect("counted");
                assert_eq!(recount.counted, recount.head);
            }
        }
    };
    let (traffic, ()) = tokio::join!(traffic, counting);
    for user in traffic {
        user.expect("a user");
    }
    for tenant in tenants {
        let recount = stores.recount(tenant, 0).await.expect("counted");
        assert_eq!(recount.counted.issued, 40);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_lacks_an_event_is_not_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let tenant = {
        let stores = stores(&directory, 1);
        let tenant = provisioned(&stores, 1).await[0];
        let store = stores.open(tenant).await.expect("open");
        for _ in 0..3 {
            committed(store.ledger.append(issue()).await);
        }
        stores.close_all().await;
        tenant
    };
    let path = directory.path().join(format!("{tenant}.db"));
    let url = format!("sqlite://{}", path.display());
    let mut file = sqlx::SqliteConnection::connect(&url).await.expect("open");
    let delete = sqlx::query("delete from events where position = 3");
    delete.execute(&mut file).await.expect("deleted");
    file.close().await.expect("closed");
    let error = stores(&directory, 1).recount(tenant, 0).await;
    let reason = error.expect_err("a gap").source.expect("a reason");
    assert_eq!(reason.to_string(), "event 3 is missing");
}
