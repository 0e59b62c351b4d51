//! A biller's side: it takes messages from the broker, keeps them in a file of its own, and makes
//! bills of what it has kept.
//!
//! A message is acknowledged after it is in the file, and is in the file once however often it
//! comes: a biller that is killed at any moment bills nothing twice and forgets nothing. What is
//! missing is seen when the bill is made, so a message that comes late heals the bill.

pub mod journal;
pub mod queue;

use std::sync::Arc;
use std::time::Duration;

use application::error::causes;
use application::ports::Clock;
use tokio_util::sync::CancellationToken;

use self::journal::{Journal, Kept};
use self::queue::{QueueError, Until, take};
use crate::rabbitmq::address::Address;

/// How long to wait before the second attempt to reach the broker; twice as long before each
/// further one.
const AGAIN_AFTER_MIN: Duration = Duration::from_millis(500);
/// How long to wait at most.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);

/// Takes messages until told to stop, over as many connections as it takes.
///
/// # Errors
///
/// The journal does not keep them: going on would only have them handed out again, until the
/// broker gives them up.
pub async fn follow(
    broker: &Address,
    journal: &Journal,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
    kept: &mut (dyn FnMut(Kept) + Send),
) -> Result<(), QueueError> {
    let mut wait = AGAIN_AFTER_MIN;
    while !stop.is_cancelled() {
        let mut any = false;
        let mut count = |some| {
            any = true;
            kept(some);
        };
        match take(broker, journal, clock, Until::Told, stop, &mut count).await {
            Ok(_) => {}
            Err(error) if error.is_the_brokers() => {
                if any {
                    wait = AGAIN_AFTER_MIN;
                }
                let causes = causes(&error);
                tracing::warn!(causes, again_after_s = wait.as_secs_f64(), "no broker");
                let _ = tokio::time::timeout(wait, stop.cancelled()).await;
                wait = AGAIN_AFTER_MAX.min(wait * 2);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
