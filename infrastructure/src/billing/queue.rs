//! The biller's queue at the broker, taken message by message into the journal.
//!
//! A queue has one biller: of two, each is given a part of the messages, and makes bills that are
//! too short and do not show it. So another consumer is looked for before, at the beginning, every ten
//! seconds and at the end, and refused. What cannot be seen is who takes messages one by one, and for
//! how long. How many dead letters there are is looked at as often, and kept in the journal.
//!
//! Recovery by the client library is off: on any failure the connection is dropped, and whoever
//! calls decides whether to take up a new one. Every step has a time limit. What is put in an
//! error or a log never holds the address, which may have a password in it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use application::billing::message::Message;
use application::billing::rejected::{ClaimedId, Rejected};
use application::messages::{BILLING_DEAD_LETTERS, BILLING_QUEUE};
use application::ports::Clock;
use futures::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Consumer, ErrorKind, Queue};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::journal::{Journal, Kept};
use crate::rabbitmq::address::Address;
use crate::rabbitmq::dial::{HangUp, dial};

/// The most messages that the broker hands out before they are acknowledged; also the most that
/// one transaction keeps.
const PREFETCH: u16 = 256;
/// How long one step of the conversation with the broker may take.
const STEP_MAX: Duration = Duration::from_secs(10);
/// How often a message may have been handed out in vain before it is put aside, whatever it breaks.
/// The broker's own limit, at which it would be buried without the biller knowing.
const ATTEMPTS_MAX: i64 = 20;
/// Where the broker counts attempts that failed: given back, or held by a biller that broke.
const ATTEMPTS: &str = "x-delivery-count";
/// How long another consumer is waited for to go: it may be this biller's, killed a moment ago.
const ALONE_MAX: Duration = Duration::from_secs(3);
/// How often it is looked for meanwhile.
const ALONE_AGAIN: Duration = Duration::from_millis(200);
/// How often it is looked around while messages are taken.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// How often a queue that has messages may give none before that is an error.
const WITHHELD_MAX: u32 = 10;
/// AMQP's code for what does not exist.
const NOT_FOUND: u16 = 404;

/// When to stop taking messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// When as many messages are taken as waited at the start, whatever else comes meanwhile; or,
    /// if there are fewer after all, when the queue is empty and has given nothing for so long.
    Taken(Duration),
    /// When told to.
    Told,
}

/// Why taking messages has ended early. What was taken is kept.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The broker did not do its part in time.
    #[error("the broker did not answer in time: {0}")]
    TooSlow(&'static str),
    /// The broker refused, or the connection broke.
    #[error("the broker: {what}")]
    Broker {
        /// In doing what.
        what: &'static str,
        /// Why.
        source: lapin::Error,
    },
    /// There is no such queue.
    #[error("the broker has no queue {0}: the service declares it when it first connects")]
    NoQueue(&'static str),
    /// Somebody else is given a part of the messages.
    #[error(
        "the queue {BILLING_QUEUE} has {0} other consumers: each is given a part of the messages, \
         and bills too little; stop them (one whose machine was lost goes within a minute)"
    )]
    Shared(u32),
    /// The queue was deleted, or this biller was sent away.
    #[error("the broker has ended the delivery")]
    Cancelled,
    /// Somebody else is given the messages, or they cannot be had.
    #[error("the broker has {0} messages which it does not hand out")]
    Withheld(u32),
    /// The journal did not keep them.
    #[error("the biller's file")]
    Journal(#[source] sqlx::Error),
}

impl QueueError {
    /// Whether a new connection may help.
    pub const fn is_the_brokers(&self) -> bool {
        match self {
            Self::TooSlow(_)
            | Self::Broker { .. }
            | Self::NoQueue(_)
            | Self::Shared(_)
            | Self::Cancelled
            | Self::Withheld(_) => true,
            Self::Journal(_) => false,
        }
    }
}

/// Takes messages from the queue into the journal, over one connection.
///
/// `kept` is called after each transaction.
///
/// # Errors
///
/// [`QueueError`]; what `kept` was told of is in the journal all the same.
pub async fn take(
    broker: &Address,
    journal: &Journal,
    clock: &Arc<dyn Clock>,
    until: Until,
    stop: &CancellationToken,
    kept: &mut (dyn FnMut(Kept) + Send),
) -> Result<(), QueueError> {
    // Whatever happens, the socket is closed when this ends.
    let hang_up = HangUp::default();
    let work = async {
        let dialled = dial(broker, &hang_up, "digital-card billing-report");
        let connection = step("connecting", dialled).await?;
        let channel = step("opening a channel", connection.create_channel()).await?;
        take_all(&channel, journal, clock, until, kept).await?;
        // It also waits for the acknowledgements.
        step("closing", connection.close(200, "done".into())).await
    };
    tokio::select! {
        taken = work => taken,
        // What was handed out and not acknowledged, the broker hands out again.
        () = stop.cancelled() => Ok(()),
    }
}

async fn take_all(
    channel: &Channel,
    journal: &Journal,
    clock: &Arc<dyn Clock>,
    until: Until,
    kept: &mut (dyn FnMut(Kept) + Send),
) -> Result<(), QueueError> {
    let waiting = alone(channel).await?;
    let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
    step("bounding what is handed out", qos).await?;
    let mut batches = consume(channel).await?.ready_chunks(PREFETCH.into());
    let (mut taken, mut withheld) = (0, 0);
    look_around(channel, journal).await?;
    let mut looked = Instant::now();
    while until == Until::Told || taken < waiting {
        let silence_max = match until {
            Until::Taken(idle) => idle,
            Until::Told => LOOK_AGAIN,
        };
        let Ok(batch) = timeout(silence_max, batches.next()).await else {
            // Silence alone is no proof: a connection may be dead.
            let left = look_around(channel, journal).await?;
            match until {
                Until::Told => {}
                Until::Taken(_) if left == 0 => return Ok(()),
                Until::Taken(_) if withheld == WITHHELD_MAX => {
                    return Err(QueueError::Withheld(left));
                }
                Until::Taken(_) => withheld += 1,
            }
            continue;
        };
        let batch: Result<Vec<_>, _> = batch.ok_or(QueueError::Cancelled)?.into_iter().collect();
        let batch = batch.map_err(of("taking messages"))?;
        kept(keep(journal, clock, &batch).await?);
        taken += u32::try_from(batch.len()).unwrap_or(u32::MAX);
        withheld = 0;
        if looked.elapsed() >= LOOK_AGAIN {
            look_around(channel, journal).await?;
            looked = Instant::now();
        }
    }
    look_around(channel, journal).await.map(drop)
}

/// Looks until the queue has no consumer; how many messages wait in it then.
async fn alone(channel: &Channel) -> Result<u32, QueueError> {
    let begun = Instant::now();
    loop {
        let queue = look(channel, BILLING_QUEUE).await?;
        match queue.consumer_count() {
            0 => return Ok(queue.message_count()),
            others if begun.elapsed() >= ALONE_MAX => return Err(QueueError::Shared(others)),
            _ => sleep(ALONE_AGAIN).await,
        }
    }
}

/// How many messages wait to be handed out, if this biller is the only consumer. Remembers how many are
/// among the dead letters.
async fn look_around(channel: &Channel, journal: &Journal) -> Result<u32, QueueError> {
    let dead = look(channel, BILLING_DEAD_LETTERS).await?.message_count();
    let counted = journal.count_dead(dead).await;
    counted.map_err(QueueError::Journal)?;
    let queue = look(channel, BILLING_QUEUE).await?;
    match queue.consumer_count() {
        0 | 1 => Ok(queue.message_count()),
        all => Err(QueueError::Shared(all - 1)),
    }
}

/// A queue as it is: its messages that wait to be handed out, and its consumers.
async fn look(channel: &Channel, queue: &'static str) -> Result<Queue, QueueError> {
    // Not made here: who publishes knows how it is to be.
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let asked = channel.queue_declare(queue.into(), passive, FieldTable::default());
    match step("looking for the queue", asked).await {
        Err(QueueError::Broker { source, .. }) if is_not_found(&source) => {
            Err(QueueError::NoQueue(queue))
        }
        looked => looked,
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error) if error.get_id() == NOT_FOUND)
}

async fn consume(channel: &Channel) -> Result<Consumer, QueueError> {
    let options = BasicConsumeOptions {
        // Acknowledged by hand, after the commit.
        no_ack: false,
        // A quorum queue knows no exclusive consumers.
        exclusive: false,
        ..BasicConsumeOptions::default()
    };
    // An empty tag: the broker makes one that nobody else has.
    let asked = channel.basic_consume(
        BILLING_QUEUE.into(),
        "".into(),
        options,
        FieldTable::default(),
    );
    step("asking for messages", asked).await
}

/// Keeps what was handed out, in one transaction; then tells the broker.
async fn keep(
    journal: &Journal,
    clock: &Arc<dyn Clock>,
    batch: &[Delivery],
) -> Result<Kept, QueueError> {
    let (mut messages, mut rejected, mut refused) = (Vec::new(), Vec::new(), Vec::new());
    let mut accepted = None;
    for delivery in batch {
        match read(delivery) {
            Ok(message) => {
                accepted = Some(delivery);
                messages.push(message);
            }
            Err(rejection) => {
                tracing::warn!("{rejection}; see the dead-letter queue");
                rejected.push(rejection);
                refused.push(delivery);
            }
        }
    }
    let kept = journal.keep(&messages, &rejected, clock.now()).await;
    let kept = kept.map_err(QueueError::Journal)?;
    for delivery in refused {
        // Not again: what cannot be read now cannot be read later. It goes to the dead letters.
        let options = BasicRejectOptions { requeue: false };
        step("rejecting", delivery.acker.reject(options)).await?;
    }
    if let Some(last) = accepted {
        // All up to this one; those that were rejected are settled already.
        let options = BasicAckOptions { multiple: true };
        step("acknowledging", last.acker.ack(options)).await?;
    }
    Ok(kept)
}

fn read(delivery: &Delivery) -> Result<Message, Rejected> {
    let id = delivery.properties.message_id().as_ref();
    let id = id.map(ShortString::as_str);
    let rejected = |reason| Rejected {
        id: id.and_then(ClaimedId::of),
        reason,
    };
    let attempts = attempts(delivery);
    if attempts >= ATTEMPTS_MAX {
        return Err(rejected(format!("handed out {attempts} times in vain")));
    }
    Message::parse(id, &delivery.data).map_err(|error| rejected(error.to_string()))
}

/// How often it was handed out in vain.
fn attempts(delivery: &Delivery) -> i64 {
    // One that somebody has put back from the dead letters still has the count of its first life.
    if !delivery.redelivered {
        return 0;
    }
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(ATTEMPTS)) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::LongUInt(count)) => i64::from(*count),
        _ => 0,
    }
}

/// One step of the conversation, with its time limit.
async fn step<T>(
    what: &'static str,
    work: impl Future<Output = Result<T, lapin::Error>>,
) -> Result<T, QueueError> {
    match timeout(STEP_MAX, work).await {
        Ok(done) => done.map_err(of(what)),
        Err(_) => Err(QueueError::TooSlow(what)),
    }
}

fn of(what: &'static str) -> impl FnOnce(lapin::Error) -> QueueError {
    move |source| QueueError::Broker { what, source }
}
