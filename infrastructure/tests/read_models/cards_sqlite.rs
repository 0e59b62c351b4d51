//! The cards in a SQLite file: every sentence, and what SQLite makes of the questions.

use crate::engines::conformance;
use crate::store::{InFile, tenant};

conformance!(InFile);

#[tokio::test]
async fn the_order_of_issue_and_what_is_due_are_read_from_an_index() {
    let tenant = tenant().await;
    for (query, index) in [
        (
            "select id from cards where (issued_at, id) > (1, 'a') order by issued_at, id limit 9",
            "cards_issued_at",
        ),
        (
            "select id from cards where expires_at is not null and status in ('issued', 'active', 'suspended') and expires_at <= 5 order by expires_at, id limit 9",
            "cards_due",
        ),
    ] {
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(&format!("explain query plan {query}"))
                .fetch_all(tenant.engine.database.readers())
                .await
                .expect("a plan");
        let [(.., step)] = plan.as_slice() else {
            panic!("{query} takes more than one step: {plan:?}");
        };
        assert!(
            step.starts_with("SEARCH") && step.contains(index),
            "{query}: {step}"
        );
    }
}
