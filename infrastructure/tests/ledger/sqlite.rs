//! The SQLite ledger: every sentence of the conformance suite, and what only SQLite can do wrong.

use std::sync::Arc;

use application::doorbell::Doorbell;
use application::ports::checkpoints::Checkpoints;
use application::ports::{AppendError, Appended, Ledger, Random};
use domain::ids::TenantId;
use futures::future::join_all;
use infrastructure::checkpoints::FileCheckpoints;
use infrastructure::clock::SystemRandom;
use infrastructure::database::Database;
use infrastructure::ledger::sqlite::{MIGRATOR, SqliteLedger};
use sqlx::Executor;
use sqlx::migrate::Migrator;

use crate::sentences::conformance;
use crate::world::*;

conformance!(SqliteUnderTest);

/// As SQLite itself rolls back when the disk is full.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_recovers_from_a_transaction_that_sqlite_rolled_back_by_itself() {
    let world = on_plan::<SqliteUnderTest>("pro").await;
    let ledger = world.ledger();
    for action in ["rollback", "abort", "fail"] {
        let trigger = format!(
            "create trigger broken before insert on events \
             begin select raise({action}, 'disk full'); end"
        );
        execute(&world, &trigger).await;
        for answer in join_all((0..5).map(|_| ledger.append(issue()))).await {
            assert!(matches!(answer, Err(AppendError::Unavailable(_))));
        }
        execute(&world, "drop trigger broken").await;
        let before = ledger.head().position;
        assert_eq!(committed(ledger.append(issue()).await), before + 1);
    }
    assert_sound(&*ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_known_although_indexing_its_key_failed_for_a_while() {
    let world = on_plan::<SqliteUnderTest>("pro").await;
    let ledger = world.ledger();
    let broken = "create trigger broken before insert on idempotency_index \
         begin select raise(rollback, 'disk full'); end";
    execute(&world, broken).await;
    let request = |nth: usize| ledger.append(issue_under(&nth.to_string(), 1));
    let mut failed = 0;
    for first in (0..9_216).step_by(512) {
        let answers = join_all((first..first + 512).map(request)).await;
        failed += answers.iter().filter(|answer| answer.is_err()).count();
    }
    assert!(failed > 0, "indexing was never tried");
    execute(&world, "drop trigger broken").await;
    let mut done_now = 0;
    for first in (0..9_216).step_by(512) {
        for answer in join_all((first..first + 512).map(request)).await {
            match answer.expect("an answer") {
                Appended::Committed(_) => done_now += 1,
                Appended::Replayed(_) => {}
            }
        }
    }
    assert_eq!(done_now, failed);
    assert_sound(&*ledger).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_ledgers_on_one_database_share_positions_and_quota() {
    let world = on_plan::<SqliteUnderTest>("free").await;
    let (one, two) = (world.ledger(), world.another_node().await);
    let issuance = |nth: usize| {
        let ledger = if nth.is_multiple_of(2) { &one } else { &two };
        ledger.append(issue())
    };
    let answers = join_all((0..600).map(issuance)).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 500);
    let change = subscription(world.tenant(), 1, vec![upgraded("free", "pro")]);
    committed(one.append(change).await);
    committed(one.append(issue_under("a", 1)).await);
    for ledger in [&two, &one] {
        let again = ledger.append(issue_under("a", 1)).await;
        assert!(matches!(again, Ok(Appended::Replayed(_))), "{again:?}");
        assert!(ledger.outcome("a").await.expect("read").is_some());
    }
    committed(two.append(issue_under("b", 1)).await);
    assert!(one.outcome("b").await.expect("read").is_some());
    committed(two.append(issue()).await);
    assert_sound(&*two).await;
    let serials = join_all((0..100).map(|nth| match nth % 2 {
        0 => one.next_card_serial(),
        _ => two.next_card_serial(),
    }));
    let mut serials: Vec<_> = serials.await.into_iter().map(Result::unwrap).collect();
    serials.sort_unstable();
    serials.dedup();
    assert_eq!(serials.len(), 100);
    let mut all = Vec::new();
    while let Ok(events) = two.read(all.len() as u64, 64).await
        && !events.is_empty()
    {
        all.extend(events);
    }
    assert_eq!(all.len(), 505);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_is_on_disk_before_it_is_answered_whatever_was_written_before() {
    let world = on_plan::<SqliteUnderTest>("pro").await;
    let ledger = world.ledger();
    let checkpoints = FileCheckpoints::new(Arc::clone(&world.database));
    for (position, append) in (1..).zip([issue(), issue_under("a", 1)]) {
        checkpoints.advance("broker", position).await.expect("kept");
        assert_eq!(durability(&world).await, ("wal".to_owned(), NORMAL));
        committed(ledger.append(append).await);
        assert_eq!(durability(&world).await, ("wal".to_owned(), FULL));
    }
}

const NORMAL: i64 = 1;
const FULL: i64 = 2;

/// The mode of the journal, and the level of `synchronous` that the last commit was written at.
async fn durability(world: &SqliteUnderTest) -> (String, i64) {
    let mut writer = world.database.writer().await.expect("the writer");
    let mode = sqlx::query_scalar("pragma journal_mode");
    let mode = mode.fetch_one(&mut *writer).await.expect("a mode");
    let level = sqlx::query_scalar("pragma synchronous");
    (mode, level.fetch_one(&mut *writer).await.expect("a level"))
}

#[tokio::test(flavor = "multi_thread")]
async fn one_aggregates_history_is_found_through_its_index() {
    let world = on_plan::<SqliteUnderTest>("pro").await;
    let plan: (i64, i64, i64, String) = sqlx::query_as(
        "explain query plan select position from events \
         where position > 1 and aggregate_id = 'x' order by position limit 10",
    )
    .fetch_one(world.database.readers())
    .await
    .expect("a plan");
    assert!(plan.3.contains("events_stream"), "{}", plan.3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_first_version_is_brought_up_to_date_with_what_it_remembers() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tenant.db");
    let first = Migrator {
        migrations: MIGRATOR.iter().take(1).cloned().collect(),
        ..Migrator::DEFAULT
    };
    let old = Database::open(&path, &first).await.expect("a database");
    let mut writer = old.writer().await.expect("the writer");
    let remembered = "insert into idempotency values \
         ('b', zeroblob(32), '\"second\"', 2, 0), ('a', zeroblob(32), '\"first\"', 1, 0)";
    writer.execute(remembered).await.expect("executed");
    drop(writer);
    old.close().await.expect("closed");

    let database = Database::open(&path, &MIGRATOR).await.expect("a database");
    let clock = Arc::new(TestClock::default());
    let tenant = TenantId::new(SystemRandom.id());
    let doorbell = Doorbell::default();
    let ledger = SqliteLedger::open(tenant, Arc::new(database), clock, doorbell, WAITING_MAX);
    let ledger = ledger.await.expect("a ledger");
    for (key, outcome, position) in [("a", "\"first\"", 1), ("b", "\"second\"", 2)] {
        let found = ledger
            .outcome(key)
            .await
            .expect("read")
            .expect("remembered");
        assert_eq!(
            (found.outcome.as_str(), found.position),
            (outcome, position)
        );
    }
    assert!(ledger.outcome("c").await.expect("read").is_none());
}

async fn execute(world: &SqliteUnderTest, statement: &str) {
    let mut writer = world.database.writer().await.expect("the writer");
    writer.execute(statement).await.expect("executed");
}
