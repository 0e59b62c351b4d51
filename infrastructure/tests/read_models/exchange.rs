//! An exchange that is not carried through leaves nothing behind.

use infrastructure::database::{BEGIN, BEGIN_REPLAYABLE, Database};

use crate::store::tenant_database;

async fn count(database: &Database) -> i64 {
    let count = sqlx::query_scalar("select count(*) from checkpoints");
    count.fetch_one(database.readers()).await.expect("a count")
}

async fn add(database: &Database, subscriber: &str) {
    let mut exchange = database.exchange().await.expect("the connection");
    let text = format!("{BEGIN}insert into checkpoints values (?, 1); commit");
    let added = sqlx::query(&text).bind(subscriber);
    let added = added.execute(exchange.connection()).await;
    added.expect("added");
    exchange.done();
}

#[tokio::test]
async fn an_exchange_dropped_in_the_middle_has_no_effect_and_leaves_the_database_usable() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = tenant_database(&directory.path().join("tenant.db")).await;
    let mut exchange = database.exchange().await.expect("the connection");
    let text = format!("{BEGIN_REPLAYABLE}insert into checkpoints values ('lost', 1)");
    let begun = sqlx::query(&text).execute(exchange.connection()).await;
    begun.expect("begun");
    drop(exchange);
    assert_eq!(count(&database).await, 0);
    add(&database, "kept").await;
    assert_eq!(count(&database).await, 1);
}

#[tokio::test]
async fn a_text_that_fails_in_the_middle_has_no_effect_and_leaves_the_database_usable() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = tenant_database(&directory.path().join("tenant.db")).await;
    add(&database, "kept").await;
    let mut exchange = database.exchange().await.expect("the connection");
    let text = format!(
        "{BEGIN}insert into checkpoints values ('lost', 1); \
         insert into checkpoints values ('kept', 2); commit"
    );
    let failed = sqlx::query(&text).execute(exchange.connection()).await;
    failed.expect_err("it is there already");
    drop(exchange);
    assert_eq!(count(&database).await, 1);
    add(&database, "kept too").await;
    assert_eq!(count(&database).await, 2);
}

#[tokio::test]
async fn an_exchange_rolled_back_has_no_effect() {
    let directory = tempfile::tempdir().expect("a directory");
    let database = tenant_database(&directory.path().join("tenant.db")).await;
    let mut exchange = database.exchange().await.expect("the connection");
    let text = format!("{BEGIN}insert into checkpoints values ('lost', 1)");
    let begun = sqlx::query(&text).execute(exchange.connection()).await;
    begun.expect("begun");
    exchange.rollback().await.expect("rolled back");
    add(&database, "kept").await;
    assert_eq!(count(&database).await, 1);
}
