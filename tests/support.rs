//! What every test needs: the running service, clients of it, and names nobody has used yet.

pub mod biller;
pub mod billing_queue;
pub mod chance;
pub mod client;
pub mod clock;
#[path = "servers/postgres.rs"]
pub mod cluster;
pub mod messages;
pub mod proxy;
#[path = "servers/rabbitmq.rs"]
pub mod rabbitmq;
pub mod raw;
pub mod recount;
pub mod service;
pub mod store;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};

pub use self::chance::Chance;
pub use self::client::{Answer, Client};
pub use self::service::{Options, Service};
pub use self::store::Store;

/// How long anything that must happen may take before a test gives up on it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A word that no other test, and no other run on the same directory, has used.
pub fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let moment = now().timestamp_micros();
    format!("{prefix}-{moment:x}-{count:x}")
}

/// The wall clock, for what a test asks the service to do in the future.
#[expect(
    clippy::disallowed_methods,
    reason = "a client's clock is its own; the service's comes through its port"
)]
pub fn now() -> DateTime<Utc> {
    std::time::SystemTime::now().into()
}

/// So many seconds from now, as a client writes it.
pub fn in_seconds(seconds: i64) -> String {
    (now() + chrono::Duration::seconds(seconds)).to_rfc3339()
}

/// Asks again until the answer is there.
///
/// For what happens by itself some time after a request (an expiry, a counter): each question is
/// a real read, and the deadline makes a thing that never happens a failure with a name.
pub async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let mut rhythm = tokio::time::interval(Duration::from_millis(20));
    let wait = async {
        loop {
            rhythm.tick().await;
            if let Some(answer) = ask().await {
                return answer;
            }
        }
    };
    match tokio::time::timeout(DEADLINE, wait).await {
        Ok(answer) => answer,
        Err(_) => panic!("waited {DEADLINE:?} in vain: {what}"),
    }
}
