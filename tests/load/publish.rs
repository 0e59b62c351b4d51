//! Publishing: how long a message takes from the decision, which is before the commit, to whoever
//! consumes it; and how fast a backlog is published. Beside a bare publisher of the library with the
//! same messages to the same exchange and queues, confirmed too, in one run: what it takes, the broker
//! and the machine take.
//!
//! `cargo run --release --example load -- publish --help`

mod bare;
mod consumer;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use lapin::options::{
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ConnectionProperties, ExchangeKind};
use tokio::task::JoinSet;

use self::bare::Bare;
use self::consumer::Consumer;
use super::connection::Connection;
use super::cores::Cores;
use super::rabbitmq::Broker;
use super::service::Service;
use super::store::{Engine, Store};
use super::{Pace, Turns, issue, percentile, provision, shown};

const EXCHANGE: &str = "digital-card.events";
const BILLING: &str = "digital-card.billing";
/// The queue of whoever consumes here; a quorum queue, as the billing queue is.
const QUEUE: &str = "load";
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
    /// Seconds that the full load, and then each share of it lasts
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// The shares of the full load at which the time to the delivery is measured
    #[arg(long, value_delimiter = ',', default_value = "0.5")]
    shares: Vec<f64>,
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
    delivery(options, binary, &url, &way, &channel).await?;
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

/// From the decision to the delivery at shares of the load that there can be.
async fn delivery(
    options: &Options,
    binary: &Path,
    url: &str,
    way: &lapin::Connection,
    channel: &Channel,
) -> anyhow::Result<()> {
    let store = Arc::new(Store::empty(options.engine, None).await?);
    let service = Service::start_publishing(binary, &store, Some(url))?;
    let keys = tenants(&service, options.tenants).await?;
    let full = load(&service, &keys, "full", options.seconds, None).await?;
    published(&service, full.len() + options.tenants).await?;
    let full = full.len() as f64 / options.seconds;
    println!(
        "From the decision to the delivery, {:?} store, {} tenants, {full:.0} cards/s at most:\n",
        options.engine, options.tenants,
    );
    println!("| cards/s | | answered p50 | p99 | delivered p50 | p99 | cores busy | waiting |");
    println!("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |");
    let ids = ids(&mut Connection::open(service.address()).await?).await?;
    let mut ours = Vec::new();
    for (number, share) in options.shares.iter().enumerate() {
        purge(channel).await?;
        let consumer = Consumer::start(way, QUEUE).await?;
        let cores = Cores::read()?;
        let name = format!("share-{number}");
        let answered = load(&service, &keys, &name, options.seconds, Some(full * share)).await?;
        let cores = Cores::read()?.since(cores);
        // The last message: nothing else happens to a subscription.
        let mut landlord = Connection::open(service.address()).await?;
        provision(&mut landlord, &format!("last-{number}")).await?;
        let delivered = consumer.done().await?;
        ensure!(delivered.len() > answered.len() / 2, "few messages came");
        ours.push(Row {
            who: "the service",
            answered,
            delivered,
            cores,
        });
    }
    drop(service);
    let bare = Bare::new(url, &ids).await?;
    for (share, ours) in options.shares.iter().zip(ours) {
        let rate = full * share;
        ours.print(rate);
        purge(channel).await?;
        let consumer = Consumer::start(way, QUEUE).await?;
        let cores = Cores::read()?;
        bare.publish(rate, options.seconds).await?;
        let cores = Cores::read()?.since(cores);
        let delivered = consumer.done().await?;
        Row {
            who: "a bare publisher",
            answered: Vec::new(),
            delivered,
            cores,
        }
        .print(rate);

        purge(channel).await?;
        let consumer = Consumer::start(way, QUEUE).await?;
        let silent = Arc::new(Store::empty(options.engine, None).await?);
        let silent = Service::start_publishing(binary, &silent, None)?;
        let keys = tenants(&silent, options.tenants).await?;
        let cores = Cores::read()?;
        let (answered, published) = tokio::join!(
            load(&silent, &keys, "silent", options.seconds, Some(rate)),
            bare.publish(rate, options.seconds),
        );
        let cores = Cores::read()?.since(cores);
        published?;
        let delivered = consumer.done().await?;
        let who = "a bare publisher beside a service that publishes nothing";
        Row {
            who,
            answered: answered?,
            delivered,
            cores,
        }
        .print(rate);
    }
    println!();
    Ok(())
}

/// What one line says.
struct Row {
    who: &'static str,
    answered: Vec<u32>,
    delivered: Vec<u32>,
    cores: Cores,
}

impl Row {
    fn print(mut self, rate: f64) {
        let [answered, delivered] = [&mut self.answered, &mut self.delivered].map(|latencies| {
            latencies.sort_unstable();
            let at = |percent| match latencies.is_empty() {
                true => "-".to_owned(),
                false => shown(percentile(latencies, percent)),
            };
            format!("{} | {}", at(50), at(99))
        });
        let (busy, waiting) = (self.cores.busy() * 100.0, self.cores.waiting() * 100.0);
        let who = self.who;
        println!("| {rate:.0} | {who} | {answered} | {delivered} | {busy:.0} % | {waiting:.0} % |");
    }
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
        let publisher = Bare::new(url, &ids).await?;
        bare.push(publisher.per_second(events).await?);
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
    let keys = keys.into();
    for number in 0..CONNECTIONS {
        let turns = Turns::of(&keys, number, CONNECTIONS);
        let connection = Connection::open(service.address()).await?;
        let pace = rate.map(|rate| Pace::of(rate, number, CONNECTIONS));
        let name = format!("{name}-{number}");
        clients.spawn(issue(connection, turns, name, pace, begin, end));
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

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
