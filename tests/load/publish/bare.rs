//! The bare publisher: messages like the service's from nowhere, on one channel, in one task.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use anyhow::ensure;
use chrono::SecondsFormat;
use futures::future::ready;
use futures::poll;
use futures::stream::{FuturesUnordered, StreamExt};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};

use super::consumer::{LAST, now};
use super::{EXCHANGE, Pace};

/// How many messages wait for their confirms at most: as many as the service's.
const UNCONFIRMED_MAX: usize = 16 * 512;

/// A connection with nothing around it.
pub struct Bare<'a> {
    // Closed when it is dropped.
    _way: Connection,
    channel: Channel,
    tenants: &'a [String],
}

type Confirming<'a> = Pin<Box<dyn Future<Output = lapin::Result<Confirmation>> + Send + 'a>>;

impl<'a> Bare<'a> {
    /// A publisher of messages that say they are of these tenants.
    pub async fn new(url: &str, tenants: &'a [String]) -> anyhow::Result<Self> {
        let way = Connection::connect(url, ConnectionProperties::default()).await?;
        let channel = way.create_channel().await?;
        let confirm = ConfirmSelectOptions::default();
        channel.confirm_select(confirm).await?;
        Ok(Self {
            _way: way,
            channel,
            tenants,
        })
    }

    /// As many as it can, with so many waiting for their confirms: how many a second.
    pub async fn per_second(&self, messages: usize) -> anyhow::Result<f64> {
        let mut unconfirmed = VecDeque::with_capacity(UNCONFIRMED_MAX);
        let begun = Instant::now();
        for number in 0..messages {
            unconfirmed.push_back(queued(self.message(number, "card.issued.v1")).await);
            if unconfirmed.len() == UNCONFIRMED_MAX
                && let Some(oldest) = unconfirmed.pop_front()
            {
                ensure!(oldest.await?.is_ack(), "refused");
            }
        }
        for confirm in unconfirmed {
            ensure!(confirm.await?.is_ack(), "refused");
        }
        Ok(messages as f64 / begun.elapsed().as_secs_f64())
    }

    /// One by one, so many a second, and the last one.
    pub async fn publish(&self, rate: f64, seconds: f64) -> anyhow::Result<()> {
        let mut pace = Pace::of(rate, 0, 1);
        let mut unconfirmed = FuturesUnordered::<Confirming<'_>>::new();
        for number in 0..(rate * seconds) as usize {
            let mut due = std::pin::pin!(pace.wait());
            loop {
                tokio::select! {
                    biased;
                    _ = &mut due => break,
                    Some(confirm) = unconfirmed.next() => {
                        ensure!(confirm?.is_ack(), "refused");
                    }
                }
            }
            unconfirmed.push(queued(self.message(number, "card.issued.v1")).await);
        }
        while let Some(confirm) = unconfirmed.next().await {
            ensure!(confirm?.is_ack(), "refused");
        }
        let last = self.message(0, &format!("{LAST}cancelled.v1"));
        ensure!(last.await?.is_ack(), "refused");
        Ok(())
    }

    fn message(&self, number: usize, kind: &str) -> Confirming<'_> {
        let tenant = &self.tenants[number % self.tenants.len()];
        let id = format!("{tenant}/{number}");
        let time = now().to_rfc3339_opts(SecondsFormat::Micros, true);
        let body = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/digital-card","type":"{kind}","subject":"{tenant}","time":"{time}","datacontenttype":"application/json","tenantid":"{tenant}","sequence":{number},"data":{{"card_id":"{tenant}","tier":"standard"}}}}"#
        );
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/cloudevents+json".into())
            .with_message_id(id.into())
            .with_type(kind.into())
            .with_timestamp(1_767_225_600)
            .with_app_id("digital-card".into());
        let key = format!("{kind}.{tenant}").into();
        let options = BasicPublishOptions {
            mandatory: true,
            ..BasicPublishOptions::default()
        };
        Box::pin(async move {
            let body = body.as_bytes();
            let written =
                self.channel
                    .basic_publish(EXCHANGE.into(), key, options, body, properties);
            written.await?.await
        })
    }
}

/// A message is queued when it is first polled, as the service's are.
async fn queued(mut published: Confirming<'_>) -> Confirming<'_> {
    match poll!(&mut published) {
        Poll::Ready(done) => Box::pin(ready(done)),
        Poll::Pending => published,
    }
}
