//! Servers that take a connection and say nothing: nobody waits for them for ever.

use application::ports::Random;
use domain::ids::TenantId;
use infrastructure::clock::SystemRandom;
use infrastructure::ledger::postgres::restore;
use infrastructure::shard::schema::Schema;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpListener;
use tokio::time::{Duration, timeout};

/// Longer than anybody may wait. The clock is paused, so it passes at once.
const LONG: Duration = Duration::from_secs(120);

/// A server that hangs: the system takes connections for it.
async fn silent() -> (TcpListener, PgConnectOptions) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let options = PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(port);
    (listener, options.username("shards"))
}

#[tokio::test(start_paused = true)]
async fn making_a_schema_at_a_silent_server_is_given_up() {
    let (_listener, options) = silent().await;
    let schema = Schema::of(TenantId::new(SystemRandom.id()));
    let made = timeout(LONG, schema.migrate(&options)).await;
    made.expect("in time").expect_err("nobody answers");
}

#[tokio::test(start_paused = true)]
async fn restoring_at_a_silent_server_is_given_up() {
    let (_listener, options) = silent().await;
    let begun = restore(TenantId::new(SystemRandom.id()), &options);
    let begun = timeout(LONG, begun).await.expect("in time");
    begun.map(drop).expect_err("nobody answers");
}
