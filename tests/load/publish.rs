//! Publishing: how long a message takes from the decision, which is before the commit, to whoever
//! consumes it; and how fast a backlog is published, beside a bare publisher of the library with the
//! same messages to the same exchange and queues, confirmed too, in one run. The ratio is what counts.
//!
//! `cargo run --release --example load -- publish --help`

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use chrono::{DateTime, Utc};
use clap::Args;
use futures::{StreamExt, poll};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
    QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, ConnectionProperties, ExchangeKind};
use tokio::task::JoinSet;

use super::connection::Connection;
use super::rabbitmq::Broker;
use super::service::Service;
use super::store::{Engine, Store};
use super::{Pace, issue, percentile, provision, shown};

const EXCHANGE: &str = "digital-card.events";
const BILLING: &str = "digital-card.billing";
/// The queue of whoever consumes here; a quorum queue, as the billing queue is.
const QUEUE: &str = "load";
/// How many messages of the bare publisher wait for their confirms at most: as many as the service's.
const UNCONFIRMED_MAX: usize = 16 * 512;
/// How many messages the consumer has unacknowledged at most, and acknowledges at a time.
const PREFETCH: u16 = 2_000;
const ACKNOWLEDGED_TOGETHER: usize = 100;
const CONNECTIONS: usize = 64;

/// What is measured.
#[derive(Debug, Args)]
pub struct Options {
    /// Which engine keeps the data
    #[arg(long, value_enum, default_value = "embedded")]
    engine: Engine,
    /// Tenants
    #[arg(long, default_value_t = 20)]
    tenants: usize,
    /// Seconds that the full, and then the half load lasts
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// How often the backlog and the bare publisher are measured; the medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Measures and prints.
pub async fn publish(options: &Options, binary: &Path) -> anyhow::Result<()> {
    let broker = tokio::task::spawn_blocking(Broker::start).await?;
    let url = broker.url();
    let way = lapin::Connection::connect(&url, ConnectionProperties::default()).await?;
    let channel = way.create_channel().await?;
    declare(&channel).await?;
    delivery(options, binary, &url, &channel).await?;
    throughput(options, binary, &url, &channel).await
}

async fn declare(channel: &Channel) -> anyhow::Result<()> {
    let durable = ExchangeDeclareOptions {
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let none = FieldTable::default;
    let topic = ExchangeKind::Topic;
    channel
        .exchange_declare(EXCHANGE.into(), topic, durable, none())
        .await?;
    let durable = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let mut quorum = FieldTable::default();
    let kind = AMQPValue::LongString("quorum".into());
    quorum.insert("x-queue-type".into(), kind);
    channel.queue_declare(QUEUE.into(), durable, quorum).await?;
    let bound = QueueBindOptions::default();
    channel
        .queue_bind(QUEUE.into(), EXCHANGE.into(), "#".into(), bound, none())
        .await?;
    Ok(())
}

/// Commit to delivery at half of the load that there can be.
async fn delivery(
    options: &Options,
    binary: &Path,
    url: &str,
    channel: &Channel,
) -> anyhow::Result<()> {
    let store = Arc::new(Store::empty(options.engine, None).await?);
    let service = Service::start_publishing(binary, &store, Some(url))?;
    let keys = tenants(&service, options.tenants).await?;
    let full = load(&service, &keys, "full", options.seconds, None).await?;
    published(&service, full.len() + options.tenants).await?;

    let half = full.len() as f64 / options.seconds / 2.0;
    let begun = now();
    let prefetch = BasicQosOptions::default();
    channel.basic_qos(PREFETCH, prefetch).await?;
    let consume = BasicConsumeOptions::default();
    channel
        .queue_purge(QUEUE.into(), QueuePurgeOptions::default())
        .await?;
    let mut messages = channel
        .basic_consume(QUEUE.into(), "load".into(), consume, FieldTable::default())
        .await?;
    let consuming = tokio::spawn(async move {
        let (mut latencies, mut count) = (Vec::new(), 0);
        while let Some(Ok(delivery)) = messages.next().await {
            let came = now();
            let body: serde_json::Value = serde_json::from_slice(&delivery.data)?;
            let time: DateTime<Utc> = body["time"].as_str().context("a time")?.parse()?;
            count += 1;
            if count % ACKNOWLEDGED_TOGETHER == 0 {
                let up_to_here = BasicAckOptions { multiple: true };
                delivery.ack(up_to_here).await?;
            }
            if time >= begun {
                let took = (came - time).num_microseconds().unwrap_or(i64::MAX);
                latencies.push(u32::try_from(took.max(0)).unwrap_or(u32::MAX));
            }
            if delivery
                .routing_key
                .as_str()
                .starts_with("subscription.cancelled")
            {
                break;
            }
        }
        anyhow::Ok(latencies)
    });
    let answered = load(&service, &keys, "half", options.seconds, Some(half)).await?;
    cancel_one(&service).await?;
    let mut latencies = consuming.await??;
    latencies.sort_unstable();
    ensure!(latencies.len() > answered.len() / 2, "few messages came");
    println!(
        "From the decision to the delivery, {:?} store, {} tenants, at half load ({half:.0} cards/s of \
         {:.0}): p50 {}, p99 {} of {} messages",
        options.engine,
        options.tenants,
        half * 2.0,
        shown(percentile(&latencies, 50)),
        shown(percentile(&latencies, 99)),
        latencies.len(),
    );
    Ok(())
}

/// A backlog, and as many bare messages.
async fn throughput(
    options: &Options,
    binary: &Path,
    url: &str,
    channel: &Channel,
) -> anyhow::Result<()> {
    let store = Arc::new(Store::empty(options.engine, None).await?);
    let service = Service::start_publishing(binary, &store, None)?;
    let keys = tenants(&service, options.tenants).await?;
    let issued = load(&service, &keys, "backlog", options.seconds, None).await?;
    let events = issued.len();
    let mut landlord = Connection::open(service.address()).await?;
    let ids = ids(&mut landlord).await?;
    drop((landlord, service));
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds.max(1) {
        // The first finds the backlog as it is; each later one asks for all of it again.
        let service = Service::start_publishing(binary, &store, Some(url))?;
        if round > 1 {
            republish(&service, &ids).await?;
        }
        ours.push(backlog_per_second(&service, events).await?);
        drop(service);
        purge(channel).await?;
        bare.push(bare_per_second(url, &ids, events).await?);
        purge(channel).await?;
    }
    let (ours, bare) = (median(&mut ours), median(&mut bare));
    println!(
        "Publishing a backlog of {events} events with confirms: {ours:.0} events/s; a bare publisher: \
         {bare:.0} messages/s; ratio {:.2}",
        ours / bare
    );
    Ok(())
}

async fn purge(channel: &Channel) -> anyhow::Result<()> {
    for queue in [QUEUE, BILLING] {
        let purge = QueuePurgeOptions::default();
        channel.queue_purge(queue.into(), purge).await?;
    }
    Ok(())
}

/// From the first to the last confirm, as the service counts them.
async fn backlog_per_second(service: &Service, events: usize) -> anyhow::Result<f64> {
    let (first, begun) = published(service, 1).await?;
    let (last, end) = published(service, events).await?;
    Ok((last - first) as f64 / (end - begun).as_secs_f64())
}

/// Waits until so many messages are confirmed; how many are, and when.
async fn published(service: &Service, messages: usize) -> anyhow::Result<(usize, Instant)> {
    let mut connection = Connection::open(service.address()).await?;
    let mut rhythm = tokio::time::interval(Duration::from_millis(10));
    loop {
        rhythm.tick().await;
        connection.write_get("/metrics");
        let answer = connection.ask().await?;
        let line = answer
            .body
            .lines()
            .find_map(|line| line.strip_prefix("broker_messages_published_total "));
        let count = line.map_or(Ok(0), str::parse)?;
        if count >= messages {
            return Ok((count, Instant::now()));
        }
    }
}

/// The same messages from nowhere, on one channel, in one task.
async fn bare_per_second(url: &str, ids: &[String], messages: usize) -> anyhow::Result<f64> {
    let way = lapin::Connection::connect(url, ConnectionProperties::default()).await?;
    let channel = way.create_channel().await?;
    let confirm = ConfirmSelectOptions::default();
    channel.confirm_select(confirm).await?;
    let options = BasicPublishOptions {
        mandatory: true,
        ..BasicPublishOptions::default()
    };
    let mut unconfirmed = VecDeque::with_capacity(UNCONFIRMED_MAX);
    let begun = Instant::now();
    for number in 0..messages {
        let tenant = &ids[number % ids.len()];
        let id = format!("{tenant}/{number}");
        let body = format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/digital-card","type":"card.issued.v1","subject":"{tenant}","time":"2026-01-01T00:00:00.000000Z","datacontenttype":"application/json","tenantid":"{tenant}","sequence":{number},"data":{{"card_id":"{tenant}","tier":"standard"}}}}"#
        );
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/cloudevents+json".into())
            .with_message_id(id.into())
            .with_type("card.issued.v1".into())
            .with_timestamp(1_767_225_600)
            .with_app_id("digital-card".into());
        let key = format!("card.issued.v1.{tenant}").into();
        let channel = &channel;
        let mut published = Box::pin(async move {
            let body = body.as_bytes();
            let written = channel.basic_publish(EXCHANGE.into(), key, options, body, properties);
            written.await?.await
        });
        // Queued when it is first polled, as the service's are.
        ensure!(poll!(&mut published).is_pending(), "not published");
        unconfirmed.push_back(published);
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

async fn tenants(service: &Service, count: usize) -> anyhow::Result<Vec<String>> {
    let mut landlord = Connection::open(service.address()).await?;
    let mut keys = Vec::with_capacity(count);
    for number in 0..count {
        keys.push(provision(&mut landlord, &format!("tenant-{number}")).await?);
    }
    Ok(keys)
}

/// Issues cards; the latencies.
async fn load(
    service: &Service,
    keys: &[String],
    name: &str,
    seconds: f64,
    rate: Option<f64>,
) -> anyhow::Result<Vec<u32>> {
    let begin = Instant::now();
    let end = begin + Duration::from_secs_f64(seconds);
    let mut clients = JoinSet::new();
    for number in 0..CONNECTIONS {
        let key = keys[number % keys.len()].clone();
        let connection = Connection::open(service.address()).await?;
        let pace = rate.map(|rate| Pace::of(rate, number, CONNECTIONS));
        let name = format!("{name}-{number}");
        clients.spawn(issue(connection, key, name, pace, begin, end));
    }
    let mut latencies = Vec::new();
    while let Some(client) = clients.join_next().await {
        latencies.extend(client??);
    }
    Ok(latencies)
}

/// The tenants' ids.
async fn ids(landlord: &mut Connection) -> anyhow::Result<Vec<String>> {
    landlord.write_get_as(
        "/v1/landlord/tenants?limit=500",
        super::service::LANDLORD_KEY,
    );
    let answer = landlord.ask().await?;
    ensure!(answer.status == 200, "tenants: {}", answer.body);
    let listed: serde_json::Value = serde_json::from_str(answer.body)?;
    let items = listed["items"].as_array().context("items")?.iter();
    items
        .map(|item| Ok(item["id"].as_str().context("an id")?.to_owned()))
        .collect()
}

/// Ends a subscription: the last message.
async fn cancel_one(service: &Service) -> anyhow::Result<()> {
    let mut landlord = Connection::open(service.address()).await?;
    let ids = ids(&mut landlord).await?;
    let id = ids.first().context("a tenant")?;
    let path = format!("/v1/landlord/tenants/{id}/subscription/cancel");
    landlord.write_command("PUT", &path, super::service::LANDLORD_KEY, "cancel", "{}");
    let answer = landlord.ask().await?;
    ensure!(answer.status == 200, "cancelling: {}", answer.body);
    Ok(())
}

async fn republish(service: &Service, ids: &[String]) -> anyhow::Result<()> {
    let mut landlord = Connection::open(service.address()).await?;
    for id in ids {
        let path = format!("/v1/landlord/tenants/{id}/republish");
        let key = super::service::LANDLORD_KEY;
        landlord.write_command("POST", &path, key, service.address(), r#"{"from":1}"#);
        let answer = landlord.ask().await?;
        ensure!(answer.status == 200, "republishing: {}", answer.body);
    }
    Ok(())
}

#[expect(
    clippy::disallowed_methods,
    reason = "a consumer's clock is its own; the service's comes through its port"
)]
fn now() -> DateTime<Utc> {
    std::time::SystemTime::now().into()
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
