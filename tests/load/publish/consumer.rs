//! Whoever consumes, and notes how long each message took from the time that it says.

use anyhow::Context;
use chrono::{DateTime, Utc};
use futures::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use tokio::task::JoinHandle;

/// How many messages the consumer has unacknowledged at most, and acknowledges at a time.
const PREFETCH: u16 = 2_000;
const ACKNOWLEDGED_TOGETHER: usize = 100;
/// What the last message's key begins with.
pub const LAST: &str = "subscription.";

/// Somebody who consumes.
pub struct Consumer {
    consuming: JoinHandle<anyhow::Result<Vec<u32>>>,
}

impl Consumer {
    /// Consumes from now on what is published from now on, up to the first message of a subscription.
    pub async fn start(way: &lapin::Connection, queue: &str) -> anyhow::Result<Self> {
        let channel = way.create_channel().await?;
        let prefetch = BasicQosOptions::default();
        channel.basic_qos(PREFETCH, prefetch).await?;
        let (consume, none) = (BasicConsumeOptions::default(), FieldTable::default());
        let mut messages = channel
            .basic_consume(queue.into(), "load".into(), consume, none)
            .await?;
        let begun = now();
        let consuming = tokio::spawn(async move {
            let (mut latencies, mut count) = (Vec::new(), 0);
            while let Some(delivery) = messages.next().await {
                let (delivery, came) = (delivery?, now());
                let body: serde_json::Value = serde_json::from_slice(&delivery.data)?;
                let time: DateTime<Utc> = body["time"].as_str().context("a time")?.parse()?;
                count += 1;
                if count % ACKNOWLEDGED_TOGETHER == 0 {
                    let up_to_here = BasicAckOptions { multiple: true };
                    delivery.ack(up_to_here).await?;
                }
                if time < begun {
                    continue;
                }
                if delivery.routing_key.as_str().starts_with(LAST) {
                    break;
                }
                let took = (came - time).num_microseconds().unwrap_or(i64::MAX);
                latencies.push(u32::try_from(took.max(0)).unwrap_or(u32::MAX));
            }
            channel.close(200, "OK".into()).await?;
            Ok(latencies)
        });
        Ok(Self { consuming })
    }

    /// How long each message took, in microseconds, when the last one has come.
    pub async fn done(self) -> anyhow::Result<Vec<u32>> {
        self.consuming.await?
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a consumer's clock is its own; the service's comes through its port"
)]
pub fn now() -> DateTime<Utc> {
    std::time::SystemTime::now().into()
}
