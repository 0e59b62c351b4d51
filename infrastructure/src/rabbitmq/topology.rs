//! What is declared at the broker: the exchange that everything is published to, and the queue of
//! the billing consumers with its dead letters.
//!
//! Declaring also checks: the broker refuses what is there with other arguments (406), and nothing
//! of ours changes it. Other queues are their owners' to declare and bind.

use application::messages::{
    BILLED, BILLING_DEAD_LETTERS as DEAD_LETTERS, BILLING_QUEUE as BILLING, EXCHANGE,
};
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};

/// How often a message may be given back before it is a dead letter. Enough for a consumer that
/// restarts, few enough that a message that breaks it does not block the others for long.
const DELIVERY_LIMIT: i64 = 20;
/// The same for dead letters, which have nowhere to go from there: as good as never.
const DEAD_DELIVERY_LIMIT: i64 = 1_000_000;

/// Declares everything that is not there.
///
/// # Errors
///
/// What the broker says; the channel is closed by it then.
pub async fn declare(channel: &Channel) -> lapin::Result<()> {
    let exchange = ExchangeDeclareOptions {
        // Look, and make it if it is not there.
        passive: false,
        // It is there after a restart of the broker.
        durable: true,
        // It stays when its last queue goes: publishing to none that is there is an error.
        auto_delete: false,
        // It is published to from outside.
        internal: false,
        // The answer is what tells that something else is there.
        nowait: false,
    };
    let none = FieldTable::default;
    let topic = ExchangeKind::Topic;
    channel
        .exchange_declare(EXCHANGE.into(), topic, exchange, none())
        .await?;
    // It has one queue, whatever the routing key was.
    let fanout = ExchangeKind::Fanout;
    channel
        .exchange_declare(DEAD_LETTERS.into(), fanout, exchange, none())
        .await?;
    let dead = arguments(&[
        // From RabbitMQ 4 on it is 20 unless one is set, and a dead letter that somebody has looked at
        // and put back so often would be gone.
        (
            "x-delivery-limit",
            AMQPValue::LongLongInt(DEAD_DELIVERY_LIMIT),
        ),
    ]);
    declare_queue(channel, DEAD_LETTERS, dead).await?;
    bind(channel, DEAD_LETTERS, DEAD_LETTERS, "").await?;

    let text = |text: &str| AMQPValue::LongString(text.into());
    let billing = arguments(&[
        // 3.10 has no limit unless one is set, and gives a message that breaks its consumer for ever.
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", text(DEAD_LETTERS)),
        // By default a dead letter is lost if the other queue cannot take it at that moment …
        ("x-dead-letter-strategy", text("at-least-once")),
        // … which is possible only with a queue that would refuse rather than drop its oldest. It has
        // no maximum length, so it refuses nothing.
        ("x-overflow", text("reject-publish")),
    ]);
    declare_queue(channel, BILLING, billing).await?;
    for pattern in BILLED {
        bind(channel, BILLING, EXCHANGE, pattern).await?;
    }
    Ok(())
}

/// A quorum queue: the only kind that keeps what it has confirmed through a power loss. On a
/// cluster its replicas are as many as the broker's own default says, for which no argument is set.
fn arguments(others: &[(&str, AMQPValue)]) -> FieldTable {
    let mut arguments = FieldTable::default();
    let quorum = AMQPValue::LongString("quorum".into());
    arguments.insert("x-queue-type".into(), quorum);
    for (name, value) in others {
        arguments.insert((*name).into(), value.clone());
    }
    arguments
}

async fn declare_queue(channel: &Channel, name: &str, arguments: FieldTable) -> lapin::Result<()> {
    let options = QueueDeclareOptions {
        // As the exchange's.
        passive: false,
        durable: true,
        nowait: false,
        // Any number of consumers, on any connection, may take turns.
        exclusive: false,
        // It goes on collecting while no consumer is there.
        auto_delete: false,
    };
    let declared = channel.queue_declare(name.into(), options, arguments);
    declared.await.map(drop)
}

async fn bind(channel: &Channel, queue: &str, exchange: &str, pattern: &str) -> lapin::Result<()> {
    let options = QueueBindOptions { nowait: false };
    let (queue, exchange, pattern) = (queue.into(), exchange.into(), pattern.into());
    channel
        .queue_bind(queue, exchange, pattern, options, FieldTable::default())
        .await
}
