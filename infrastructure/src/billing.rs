//! A biller's side: it takes messages from the broker, keeps them in a file of its own, and makes
//! bills of what it has kept.
//!
//! A message is acknowledged after it is in the file, and is in the file once however often it
//! comes: a biller that is killed at any moment bills nothing twice and forgets nothing. A bill is
//! made of what is in the file when it is asked for, so a message that comes late heals the bill.
//!
//! Not everything that is missing is seen. A history without its beginning is, and one that does not
//! fit together. A gap in the middle is not: the queue is bound to some types only, so the
//! sequences that come to it are never without gaps. That nothing is taken elsewhere is therefore
//! the queue's owner's to see to ([`queue`]), and each bill says up to where its messages go.

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
/// broker gives them up. Or somebody else takes them from the beginning on; later it may be this
/// biller itself, on a connection whose loss the broker has yet to notice.
pub async fn follow(
    broker: &Address,
    journal: &Journal,
    clock: &Arc<dyn Clock>,
    stop: &CancellationToken,
    kept: &mut (dyn FnMut(Kept) + Send),
) -> Result<(), QueueError> {
    let mut wait = AGAIN_AFTER_MIN;
    let mut first = true;
    while !stop.is_cancelled() {
        let mut any = false;
        let mut count = |some| {
            any = true;
            kept(some);
        };
        match take(broker, journal, clock, Until::Told, stop, &mut count).await {
            Ok(()) => {}
            Err(error @ QueueError::Shared(_)) if first => return Err(error),
            Err(error) if error.is_the_brokers() => {
                if any {
                    wait = AGAIN_AFTER_MIN;
                }
                let causes = causes(&error);
                tracing::warn!(
                    causes,
                    again_after_s = wait.as_secs_f64(),
                    "no messages are taken"
                );
                let _ = tokio::time::timeout(wait, stop.cancelled()).await;
                wait = AGAIN_AFTER_MAX.min(wait * 2);
            }
            Err(error) => return Err(error),
        }
        first = false;
    }
    Ok(())
}
