//! What is published, as somebody reads it who has nothing but the contract: each message is checked
//! against the schema of its type.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::Duration;

use futures::StreamExt;
use jsonschema::Validator;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use serde_json::Value;
use tokio::time::timeout;

use super::{DEADLINE, unique};
use crate::house::root;

const EXCHANGE: &str = "digital-card.events";
/// How many messages a reader may have in hand.
pub const IN_HAND_MAX: u16 = 500;

/// How long connecting or consuming may take.
const STEP_MAX: Duration = Duration::from_secs(8);

/// How long a queue must have been there; it is broken after 0.1 s and whole after 5 s.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// A queue and its only consumer.
pub struct Reader {
    url: String,
    queue: String,
    open: Open,
}

struct Open {
    messages: Consumer,
    channel: Channel,
    _connection: Connection,
}

/// A message that came.
#[derive(Clone, Debug)]
pub struct Message {
    /// Its property `message_id`.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Its place in its tenant's ledger.
    pub sequence: u64,
    /// Whose it is.
    pub tenant: String,
    /// Its body.
    pub body: Value,
}

impl Reader {
    /// A queue of its own that is there from now on, bound to these routing keys.
    pub async fn of(url: &str, keys: &[&str]) -> Self {
        let queue = collect(url, keys).await;
        Self::at(url, queue).await
    }

    /// Whoever takes what is in a queue.
    pub async fn at(url: &str, queue: String) -> Self {
        let (connection, channel) = connect(url).await.expect("the broker");
        let messages = Open::consuming(&channel, &queue).await;
        Self {
            url: url.to_owned(),
            open: Open {
                messages: messages.expect("a consumer"),
                channel,
                _connection: connection,
            },
            queue,
        }
    }

    /// Everything that is told of this tenant.
    pub async fn of_tenant(url: &str, tenant: &str) -> Self {
        Self::of(url, &[&format!("#.{tenant}")]).await
    }

    /// The next message, checked; acknowledged.
    pub async fn next(&mut self) -> Message {
        match timeout(DEADLINE, self.try_next()).await {
            Ok(message) => message,
            Err(_) => panic!("waited {DEADLINE:?} in vain for a message"),
        }
    }

    /// The same, for as long as it takes, also over a broker's restart.
    pub async fn try_next(&mut self) -> Message {
        loop {
            if let Some(Ok(delivery)) = self.open.messages.next().await {
                let message = Message::of(&delivery);
                if delivery.ack(BasicAckOptions::default()).await.is_ok() {
                    return message;
                }
                // Lost before it was acknowledged, so it comes again.
            }
            self.open = self.open_again().await;
        }
    }

    async fn open_again(&self) -> Open {
        let mut rhythm = tokio::time::interval(Duration::from_millis(100));
        loop {
            rhythm.tick().await;
            let Some((connection, channel)) = connect(&self.url).await else {
                continue;
            };
            let consuming = Open::consuming(&channel, &self.queue);
            if let Ok(Some(messages)) = timeout(STEP_MAX, consuming).await {
                return Open {
                    messages,
                    channel,
                    _connection: connection,
                };
            }
            // What it was sent all the same would wait for it for ever.
            let _ = timeout(STEP_MAX, connection.close(200, "OK".into())).await;
        }
    }

    /// Messages up to this place in the ledger.
    pub async fn up_to(&mut self, sequence: u64) -> Vec<Message> {
        let mut all: Vec<Message> = Vec::new();
        while all.last().is_none_or(|last| last.sequence < sequence) {
            all.push(self.next().await);
        }
        all
    }

    /// Its way to the broker.
    pub fn channel(&self) -> &Channel {
        &self.open.channel
    }
}

impl Open {
    async fn consuming(channel: &Channel, queue: &str) -> Option<Consumer> {
        let options = BasicQosOptions::default();
        channel.basic_qos(IN_HAND_MAX, options).await.ok()?;
        let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let messages = channel.basic_consume(queue.into(), "reader".into(), options, none);
        messages.await.ok()
    }
}

/// Waits until queues outlive a `kill -9` of the broker: RabbitMQ 3.10 never finds a leader again for
/// one that was made a moment before.
pub async fn settle() {
    let _ = timeout(SETTLED_AFTER, std::future::pending::<()>()).await;
}

/// A new queue, bound to these routing keys; its name.
pub async fn collect(url: &str, keys: &[&str]) -> String {
    let queue = unique("reader");
    let (_connection, channel) = connect(url).await.expect("the broker");
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let (name, topic) = (EXCHANGE.into(), ExchangeKind::Topic);
    let declared = channel.exchange_declare(name, topic, durable, FieldTable::default());
    declared.await.expect("the exchange");
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    let declared = channel.queue_declare(queue.as_str().into(), durable, arguments);
    declared.await.expect("a queue");
    for key in keys {
        let (options, none) = (QueueBindOptions::default(), FieldTable::default());
        let bound = channel.queue_bind(
            queue.as_str().into(),
            EXCHANGE.into(),
            (*key).into(),
            options,
            none,
        );
        bound.await.expect("bound");
    }
    queue
}

async fn connect(url: &str) -> Option<(Connection, Channel)> {
    let connecting = Connection::connect(url, ConnectionProperties::default());
    let connection = timeout(STEP_MAX, connecting).await.ok()?.ok()?;
    let channel = connection.create_channel().await.ok()?;
    Some((connection, channel))
}

impl Message {
    /// A message as the contract says it is, or a failure.
    fn of(delivery: &Delivery) -> Self {
        let body: Value = serde_json::from_slice(&delivery.data).expect("JSON");
        let properties = &delivery.properties;
        let text = |text: &Option<lapin::types::ShortString>| {
            text.as_ref().map(ToString::to_string).unwrap_or_default()
        };
        let (id, kind) = (text(properties.message_id()), text(properties.kind()));
        let wrong: Vec<_> = match SCHEMAS.get(&kind) {
            Some(schema) => schema.iter_errors(&body).map(|it| it.to_string()).collect(),
            None => vec!["its type is not in the contract".to_owned()],
        };
        assert!(wrong.is_empty(), "{kind}: {body}: {wrong:?}");
        let tenant = body["tenantid"].as_str().expect("a tenant").to_owned();
        let sequence = body["sequence"].as_u64().expect("a sequence");
        assert_eq!(id, format!("{tenant}/{sequence}"));
        assert_eq!(body["id"], id);
        assert_eq!(body["type"], kind);
        assert_eq!(delivery.routing_key.as_str(), format!("{kind}.{tenant}"));
        assert_eq!(properties.delivery_mode(), &Some(2), "persistent");
        let media_type = text(properties.content_type());
        assert_eq!(media_type, "application/cloudevents+json");
        Self {
            id,
            kind,
            sequence,
            tenant,
            body,
        }
    }
}

/// The places in the ledger, each where it came first.
///
/// # Panics
///
/// If one came for the first time after a later one.
pub fn in_order(messages: &[Message]) -> Vec<u64> {
    let mut seen = BTreeSet::new();
    let mut first = Vec::new();
    for message in messages {
        if seen.insert(message.sequence) {
            let before = first.last().copied().unwrap_or_default();
            assert!(message.sequence > before, "{} after {before}", message.id);
            first.push(message.sequence);
        }
    }
    first
}

/// The committed contract.
pub fn contract() -> Value {
    let file = root().join("api/asyncapi.json");
    let text = std::fs::read_to_string(file).expect("api/asyncapi.json");
    serde_json::from_str(&text).expect("JSON")
}

/// The schema of each type of message, from the committed contract.
pub static SCHEMAS: LazyLock<BTreeMap<String, Validator>> = LazyLock::new(|| {
    let contract = contract();
    let messages = contract["components"]["messages"].as_object();
    let messages = messages.expect("messages").iter();
    let schema = |(kind, message): (&String, &Value)| {
        let options = jsonschema::options().should_validate_formats(true);
        let schema = options.build(&message["payload"]);
        (kind.clone(), schema.expect("a schema"))
    };
    messages.map(schema).collect()
});
