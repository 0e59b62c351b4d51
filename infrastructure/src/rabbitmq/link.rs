//! The one connection to the broker: made, used by everybody who publishes, and made anew.
//!
//! The library's own recovery is off: whatever fails, the connection is dropped as a whole and
//! another one is made, with a time limit on each step. One task publishes on the one channel, in
//! the order in which batches come; who handed a batch over waits for its confirms.

mod connect;

use std::sync::{Arc, OnceLock};
use std::task::Poll;
use std::time::{Duration, Instant};

use application::messages::{CONTENT_TYPE, EXCHANGE, Message};
use application::ports::Unavailable;
use futures::future::{Either, ready, try_join_all};
use futures::{StreamExt, poll};
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event, PublisherConfirm};
use metrics::{counter, gauge};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use self::connect::{Lost, connect};
use super::address::Address;
use super::dial::HangUp;

/// How long whoever publishes waits for a connection before it says that there is none.
const CONNECTED_WAIT_MAX: Duration = Duration::from_secs(4);
/// How long a confirm may take: a broker under load syncs to disk and agrees with its replicas.
const CONFIRM_MAX: Duration = Duration::from_secs(30);
/// How long confirms, and then the broker's farewell, are waited for when the process is asked to stop.
const GRACE: Duration = Duration::from_secs(2);
/// The first pause before another connection; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a connection lasts that was a good one: after it the pauses begin anew, and what ended it
/// is news. What breaks each connection, a message that may not be published, say, breaks few then.
const GOOD_AFTER: Duration = Duration::from_secs(30);
/// The pause after a refusal, which will be the same until somebody changes something.
const PAUSE_REFUSED: Duration = Duration::from_secs(10);
/// How many messages wait for their confirms, from their hand-over on.
const UNCONFIRMED_MAX: usize = 16 * 512;
/// How many batches wait for the publishing task, which takes them all at once, beside those of who
/// waits to hand one over.
const BATCHES_WAITING_MAX: usize = 64;

const WHAT: &str = "the broker";

/// The connection, or why there is none.
pub struct Link {
    address: Address,
    /// Places for messages that wait for their confirms.
    places: Semaphore,
    state: watch::Sender<State>,
    /// Why the broker takes nothing at the moment, if it said so.
    blocked: watch::Sender<Option<String>>,
    stopping: CancellationToken,
    closing: CancellationToken,
}

enum State {
    Down(String),
    Up(Line),
}

/// Where to publish, for as long as the connection lasts.
#[derive(Clone)]
struct Line {
    queue: mpsc::Sender<Batch>,
    broken: Broken,
}

/// Whoever finds the connection broken says so, and why; everybody else hears it.
#[derive(Clone, Default)]
struct Broken {
    token: CancellationToken,
    why: Arc<OnceLock<String>>,
}

/// Why a batch is not published, or not as a whole.
enum Unpublished {
    /// Some queue does not take some of it. The connection is as good as before.
    Refused(String),
    /// The connection is of no use any more.
    Broken(String),
}

/// Messages to publish one after the other.
struct Batch {
    messages: Vec<Outgoing>,
    sent: oneshot::Sender<Vec<PublisherConfirm>>,
}

struct Outgoing {
    routing_key: ShortString,
    properties: BasicProperties,
    body: Vec<u8>,
}

impl Link {
    /// A link that [`Self::run`] connects.
    pub fn new(address: Address) -> Self {
        Self {
            address,
            places: Semaphore::new(UNCONFIRMED_MAX),
            state: watch::Sender::new(State::Down("not connected yet".to_owned())),
            blocked: watch::Sender::new(None),
            stopping: CancellationToken::new(),
            closing: CancellationToken::new(),
        }
    }

    /// Publishes messages in their order; done when the broker has confirmed them all.
    ///
    /// # Errors
    ///
    /// [`Unavailable`]: any number of them may have been published.
    pub async fn publish(&self, messages: Vec<Message>) -> Result<(), Unavailable> {
        if messages.is_empty() {
            return Ok(());
        }
        let count = messages.len() as u64;
        let line = self.line().await?;
        let messages = messages.iter().map(Outgoing::of).collect();
        match self.publish_on(&line, messages).await {
            Ok(()) => {
                counter!("broker_messages_published_total").increment(count);
                Ok(())
            }
            Err(unpublished) => {
                counter!("broker_batches_repeated_total").increment(1);
                let why = match unpublished {
                    Unpublished::Refused(why) => why,
                    Unpublished::Broken(why) => {
                        line.broken.say(&why);
                        why
                    }
                };
                Err(Unavailable::because(WHAT, why))
            }
        }
    }

    /// Waits a moment for the connection, if there is none.
    ///
    /// # Errors
    ///
    /// [`Unavailable`]: there still is none.
    pub async fn connected(&self) -> Result<(), Unavailable> {
        self.line().await.map(drop)
    }

    /// Why nothing is published at the moment, for people.
    pub fn trouble(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Down(why) => Some(why.clone()),
            State::Up(_) => {
                let blocked = self.blocked.borrow();
                blocked
                    .as_ref()
                    .map(|why| format!("the broker takes nothing: {why}"))
            }
        }
    }

    /// From now on nothing is published that is not being published already.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Ends [`Self::run`].
    pub fn close(&self) {
        self.stopping.cancel();
        self.closing.cancel();
    }

    /// The line, as soon as there is one.
    async fn line(&self) -> Result<Line, Unavailable> {
        if self.stopping.is_cancelled() {
            return Err(Unavailable::because(WHAT, "this process is stopping"));
        }
        let mut state = self.state.subscribe();
        let up = state.wait_for(|state| matches!(state, State::Up(_)));
        let waited = tokio::select! {
            () = self.stopping.cancelled() => None,
            up = timeout(CONNECTED_WAIT_MAX, up) => up.ok().and_then(Result::ok),
        };
        if let Some(up) = waited
            && let State::Up(line) = &*up
        {
            return Ok(line.clone());
        }
        match &*self.state.borrow() {
            State::Down(why) => Err(Unavailable::because(WHAT, why.clone())),
            State::Up(_) => Err(Unavailable::new(WHAT)),
        }
    }

    async fn publish_on(&self, line: &Line, messages: Vec<Outgoing>) -> Result<(), Unpublished> {
        let (all, mut refused) = (messages.len(), 0_usize);
        let wanted = u32::try_from(all.min(UNCONFIRMED_MAX)).unwrap_or(u32::MAX);
        // Whoever has places waits for no others, so they come free. Given back when this returns.
        let _places = tokio::select! {
            places = self.places.acquire_many(wanted) => places,
            () = line.broken.token.cancelled() => {
                return Err(Unpublished::Broken(line.broken.why()));
            }
            () = self.stopping.cancelled() => {
                return Err(Unpublished::Broken("this process is stopping".to_owned()));
            }
        };
        let (sent, confirms) = oneshot::channel();
        let batch = Batch { messages, sent };
        let sent = async {
            // An error of either means that the publishing task has ended.
            line.queue.send(batch).await.ok()?;
            confirms.await.ok()
        };
        let broken = |why: &str| Unpublished::Broken(why.to_owned());
        let confirms = self.patiently(line, sent).await?;
        // All of them, so that nothing is on its way any more when it is published again.
        for confirm in confirms.ok_or_else(|| broken("the connection was lost"))? {
            match self.patiently(line, confirm).await? {
                Ok(Confirmation::Ack(None)) => {}
                // Which confirm it comes with says nothing when many are on their way; what came
                // back says itself what it is.
                Ok(Confirmation::Ack(Some(returned))) => count_unroutable(&returned.properties),
                Ok(Confirmation::Nack(_)) => refused += 1,
                Ok(Confirmation::NotRequested) => return Err(broken("it confirms nothing")),
                Err(error) => return Err(broken(&error.to_string())),
            }
        }
        match refused {
            0 => Ok(()),
            refused => Err(Unpublished::Refused(format!(
                "it refused {refused} of {all} messages: a queue that they go to takes no more"
            ))),
        }
    }

    /// Waits for the broker: for long if it has said that it takes nothing, else not.
    async fn patiently<T>(
        &self,
        line: &Line,
        work: impl Future<Output = T> + Send,
    ) -> Result<T, Unpublished> {
        tokio::pin!(work);
        let stopped = async {
            self.stopping.cancelled().await;
            sleep(GRACE).await;
        };
        tokio::pin!(stopped);
        loop {
            let late = sleep(CONFIRM_MAX);
            tokio::select! {
                biased;
                done = &mut work => return Ok(done),
                () = line.broken.token.cancelled() => {
                    return Err(Unpublished::Broken(line.broken.why()));
                }
                () = &mut stopped => {
                    return Err(Unpublished::Broken("this process is stopping".to_owned()));
                }
                // A dead connection is told by its heartbeats also then.
                () = late => if self.blocked.borrow().is_none() {
                    let seconds = CONFIRM_MAX.as_secs();
                    let why = format!("it confirmed nothing for {seconds} s");
                    return Err(Unpublished::Broken(why));
                },
            }
        }
    }

    /// Connects, and connects anew, until [`Self::close`].
    pub async fn run(self: Arc<Self>) {
        let mut pause = PAUSE_MIN;
        let mut said = String::new();
        loop {
            let (lost, lasted) = self.one_connection().await;
            gauge!("broker_connected").set(0.0);
            self.block(None);
            if self.closing.is_cancelled() {
                return;
            }
            if lasted >= GOOD_AFTER {
                pause = PAUSE_MIN;
                said.clear();
            }
            let why = lost.to_string();
            self.state.send_replace(State::Down(why.clone()));
            // Once, however often it is tried.
            if said != why {
                let broker = self.address.place();
                match lost {
                    Lost::Broken(_) => tracing::warn!(broker, "{why}; connecting again"),
                    Lost::Refused(_) | Lost::Conflict(_) => {
                        tracing::error!(broker, "{why}; trying again every {PAUSE_REFUSED:?}");
                    }
                }
                said = why;
            }
            let rest = match lost {
                Lost::Broken(_) => pause,
                Lost::Refused(_) | Lost::Conflict(_) => PAUSE_REFUSED,
            };
            pause = PAUSE_MAX.min(pause * 2);
            tokio::select! {
                () = self.closing.cancelled() => return,
                () = sleep(rest) => {}
            }
        }
    }

    /// One connection, from its beginning to its end; how long it was there to publish on.
    async fn one_connection(&self) -> (Lost, Duration) {
        // Whatever happens, its socket is closed when this ends.
        let hang_up = HangUp::default();
        let connected = tokio::select! {
            () = self.closing.cancelled() => Err(Lost::Broken("closed".to_owned())),
            connected = connect(&self.address, &hang_up) => connected,
        };
        match connected {
            Ok((connection, channel)) => {
                let begun = Instant::now();
                let why = self.hold(&connection, &channel).await;
                (Lost::Broken(why), begun.elapsed())
            }
            Err(lost) => (lost, Duration::ZERO),
        }
    }

    /// Lets everybody publish on a connection, until its end; why it ended.
    async fn hold(&self, connection: &Connection, channel: &Channel) -> String {
        let (queue, batches) = mpsc::channel(BATCHES_WAITING_MAX);
        let broken = Broken::default();
        let line = Line {
            queue,
            broken: broken.clone(),
        };
        tracing::info!(broker = self.address.place(), "connected");
        gauge!("broker_connected").set(1.0);
        self.state.send_replace(State::Up(line));
        let why = tokio::select! {
            why = self.listen(connection) => why,
            why = publish_all(channel, batches) => why,
            () = broken.token.cancelled() => broken.why(),
            () = self.closing.cancelled() => {
                // So that the broker need not wonder; what goes wrong now is of no interest.
                let _ = timeout(GRACE, connection.close(200, "OK".into())).await;
                "closed".to_owned()
            }
        };
        counter!("broker_connections_lost_total").increment(1);
        broken.say(&why);
        why
    }

    /// Hears what the broker says beside confirms; why the connection ended.
    async fn listen(&self, connection: &Connection) -> String {
        let mut events = Box::pin(connection.events_listener());
        while let Some(event) = events.next().await {
            match event {
                Event::ConnectionBlocked(why) => {
                    tracing::warn!(why, "the broker takes no messages");
                    self.block(Some(why));
                }
                Event::ConnectionUnblocked => {
                    tracing::info!("the broker takes messages again");
                    self.block(None);
                }
                Event::Error(error) => return error.to_string(),
                _ => {}
            }
        }
        "the connection ended".to_owned()
    }

    fn block(&self, why: Option<String>) {
        gauge!("broker_blocked").set(f64::from(u8::from(why.is_some())));
        self.blocked.send_replace(why);
    }
}

/// Publishes what comes; why it cannot go on.
async fn publish_all(channel: &Channel, mut batches: mpsc::Receiver<Batch>) -> String {
    let options = BasicPublishOptions {
        // What no queue is bound to comes back, and is counted.
        mandatory: true,
        // RabbitMQ has none of it.
        immediate: false,
    };
    let mut waiting = Vec::with_capacity(BATCHES_WAITING_MAX);
    while batches.recv_many(&mut waiting, BATCHES_WAITING_MAX).await > 0 {
        // A message is queued when it is first polled, and done when it is written: so those of all
        // batches that are there are polled in their order and then waited for together, not each
        // for a hand-over of its own.
        let mut writing = Vec::new();
        for Outgoing {
            routing_key,
            properties,
            body,
        } in waiting.iter().flat_map(|batch| &batch.messages)
        {
            let (key, properties) = (routing_key.clone(), properties.clone());
            let published = channel.basic_publish(EXCHANGE.into(), key, options, body, properties);
            let mut published = Box::pin(published);
            writing.push(match poll!(&mut published) {
                Poll::Ready(written) => Either::Left(ready(written)),
                Poll::Pending => Either::Right(published),
            });
        }
        let mut confirms = match try_join_all(writing).await {
            Ok(confirms) => confirms.into_iter(),
            Err(error) => return error.to_string(),
        };
        for Batch { messages, sent } in waiting.drain(..) {
            // Nobody waits for them if the process is stopping.
            let _ = sent.send(confirms.by_ref().take(messages.len()).collect());
        }
    }
    "nobody publishes".to_owned()
}

fn count_unroutable(properties: &BasicProperties) {
    let kind = properties.kind().as_ref();
    let kind = kind.map_or_else(String::new, ToString::to_string);
    counter!("broker_messages_unroutable_total", "type" => kind).increment(1);
}

impl Outgoing {
    fn of(message: &Message) -> Self {
        let seconds = u64::try_from(message.time.timestamp()).unwrap_or_default();
        Self {
            routing_key: message.routing_key().into(),
            properties: BasicProperties::default()
                // Kept on disk.
                .with_delivery_mode(2)
                .with_content_type(CONTENT_TYPE.into())
                .with_message_id(message.id().into())
                .with_type(message.kind().into())
                .with_timestamp(seconds)
                .with_app_id("digital-card".into()),
            body: message.body(),
        }
    }
}

impl Broken {
    /// The first reason counts: the others follow from it.
    fn say(&self, why: &str) {
        let _ = self.why.set(why.to_owned());
        self.token.cancel();
    }

    fn why(&self) -> String {
        let why = self.why.get();
        why.map_or_else(|| "the connection was lost".to_owned(), Clone::clone)
    }
}
