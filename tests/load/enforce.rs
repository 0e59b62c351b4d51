//! From one node to another: how soon a change that one node has acknowledged is in force on the
//! other, of two nodes on one private PostgreSQL cluster.
//!
//! Each change is made on the first node, which issues another tenant's cards meanwhile if it is told to. From the moment its answer is there, the second is asked
//! over a kept connection, as soon as it has answered, until its answer shows the change: so each
//! figure includes one answer at least, and is the time within which no tenant sees the old state.
//!
//! `cargo run --release --example load -- enforce --help`

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use serde_json::Value;
use tokio::task::JoinSet;

use super::connection::Connection;
use super::service::{LANDLORD_KEY, Service};
use super::store::{Engine, Store};
use super::{Pace, Turns, issue, percentile, shown};

/// A change that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Over how many connections cards are issued meanwhile, and how long at most.
const CONNECTIONS: usize = 64;
const FOR_EVER: Duration = Duration::from_secs(24 * 60 * 60);

/// How much is changed.
#[derive(Debug, Args)]
pub struct Options {
    /// Changes of each kind
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
    /// Cards a second that the first node issues for another tenant meanwhile, over 64 connections
    #[arg(long, value_parser = super::positive)]
    rate: Option<f64>,
}

/// Measures and prints.
pub async fn enforce(options: &Options, binary: &Path) -> anyhow::Result<()> {
    let store = Arc::new(Store::empty(Engine::Postgres, None).await?);
    let nodes = [
        Service::start_on(binary, Arc::clone(&store))?,
        Service::start_on(binary, store)?,
    ];
    let mut pair = Pair {
        here: Connection::open(nodes[0].address()).await?,
        there: Connection::open(nodes[1].address()).await?,
    };
    let tenant = pair.tenant("enforced").await?;
    let load = match options.rate {
        Some(rate) => Some(Load::begin(&nodes[0], rate, pair.tenant("beside").await?).await?),
        None => None,
    };
    let plans = pair.plans(&tenant, options.changes).await?;
    let keys = pair.keys(options.changes).await?;
    let cards = pair.cards(&tenant, options.changes).await?;
    let beside = match load {
        Some(load) => load.per_second(&mut pair).await?,
        None => 0.0,
    };
    println!(
        "From a change's answer on one node to the first answer of another that shows it; {} changes \
         of each kind, one at a time, beside {beside:.0} cards/s; {} cores shared by client, nodes and \
         database\n",
        options.changes,
        std::thread::available_parallelism()?
    );
    println!("| in force on the other node | p50 | p99 | max |");
    println!("| --- | ---: | ---: | ---: |");
    for (what, mut latencies) in [
        ("a tenant's plan", plans),
        ("a key's revocation", keys),
        ("an issued card, in the usage", cards),
    ] {
        latencies.sort_unstable();
        println!(
            "| {what} | {} | {} | {} |",
            shown(percentile(&latencies, 50)),
            shown(percentile(&latencies, 99)),
            shown(percentile(&latencies, 100)),
        );
    }
    Ok(())
}

/// A tenant, and a key of its own.
struct Tenant {
    id: String,
    key: String,
}

/// Cards that are issued until this is dropped.
struct Load {
    clients: JoinSet<anyhow::Result<Vec<u32>>>,
    tenant: Tenant,
    begun: Instant,
}

impl Load {
    async fn begin(node: &Service, rate: f64, tenant: Tenant) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let keys = [tenant.key.clone()].into();
        let mut clients = JoinSet::new();
        for number in 0..CONNECTIONS {
            let turns = Turns::of(&keys, number, CONNECTIONS);
            let pace = Some(Pace::of(rate, number, CONNECTIONS));
            let connection = Connection::open(node.address()).await?;
            let name = number.to_string();
            clients.spawn(issue(
                connection,
                turns,
                name,
                pace,
                begun,
                begun + FOR_EVER,
            ));
        }
        Ok(Self {
            clients,
            tenant,
            begun,
        })
    }

    /// How many a second there were, if none has failed.
    async fn per_second(mut self, pair: &mut Pair) -> anyhow::Result<f64> {
        if let Some(ended) = self.clients.try_join_next() {
            ended??;
        }
        pair.there.write_get_as("/v1/usage", &self.tenant.key);
        let usage: Value = serde_json::from_str(pair.there.ask().await?.body)?;
        let issued = usage["issued_total"].as_f64().context("issued_total")?;
        Ok(issued / self.begun.elapsed().as_secs_f64())
    }
}

/// A connection to each of two nodes.
struct Pair {
    /// To the node that changes something.
    here: Connection,
    /// To the node that is asked.
    there: Connection,
}

impl Pair {
    /// A tenant that both nodes know.
    async fn tenant(&mut self, slug: &str) -> anyhow::Result<Tenant> {
        let body = format!(r#"{{"name":"{slug}","slug":"{slug}","plan":"pro"}}"#);
        let made = self.change("POST", "/v1/landlord/tenants", LANDLORD_KEY, slug, &body);
        let made = made.await?;
        let tenant = Tenant {
            id: text(&made, "id")?,
            key: text(&made, "api_key")?,
        };
        let known = |status, _: &str| status == 200;
        self.until("/v1/usage", &tenant.key, known).await?;
        Ok(tenant)
    }

    /// Changes the tenant's plan up and down.
    async fn plans(&mut self, tenant: &Tenant, changes: u32) -> anyhow::Result<Vec<u32>> {
        let path = format!("/v1/landlord/tenants/{}/subscription/plan", tenant.id);
        let mut latencies = Vec::new();
        for number in 0..changes {
            let plan = ["enterprise", "pro"][number as usize % 2];
            let body = format!(r#"{{"plan":"{plan}"}}"#);
            let under = format!("plan-{number}");
            let changed = self.change("PUT", &path, LANDLORD_KEY, &under, &body);
            changed.await?;
            let shows = format!(r#""plan":"{plan}""#);
            let shows = |status, body: &str| status == 200 && body.contains(&shows);
            let took = self.until("/v1/entitlements", &tenant.key, shows).await?;
            latencies.push(took);
        }
        Ok(latencies)
    }

    /// Makes keys that both nodes know, and revokes them.
    async fn keys(&mut self, changes: u32) -> anyhow::Result<Vec<u32>> {
        let path = "/v1/landlord/api-keys";
        let asked = "/v1/landlord/plans/pro";
        let mut latencies = Vec::new();
        for number in 0..changes {
            let body = r#"{"name":"To be revoked","role":"landlord"}"#;
            let under = format!("key-{number}");
            let made = self.change("POST", path, LANDLORD_KEY, &under, body);
            let made = made.await?;
            let key = text(&made, "api_key")?;
            self.until(asked, &key, |status, _| status == 200).await?;
            let revoked = format!("{path}/{}", text(&made, "id")?);
            let under = format!("revoked-{number}");
            let revoked = self.change("DELETE", &revoked, LANDLORD_KEY, &under, "");
            revoked.await?;
            let refused = |status, _: &str| status == 401;
            latencies.push(self.until(asked, &key, refused).await?);
        }
        Ok(latencies)
    }

    /// Issues cards.
    async fn cards(&mut self, tenant: &Tenant, changes: u32) -> anyhow::Result<Vec<u32>> {
        let mut latencies = Vec::new();
        for number in 1..=changes {
            let body = format!(r#"{{"holder":{{"name":"Holder {number}"}}}}"#);
            let under = format!("card-{number}");
            let issued = self.change("POST", "/v1/cards", &tenant.key, &under, &body);
            issued.await?;
            let shows = format!(r#""issued_total":{number},"#);
            let shows = |status, body: &str| status == 200 && body.contains(&shows);
            latencies.push(self.until("/v1/usage", &tenant.key, shows).await?);
        }
        Ok(latencies)
    }

    /// Changes something on the first node; what it answers.
    async fn change(
        &mut self,
        method: &str,
        path: &str,
        key: &str,
        under: &str,
        body: &str,
    ) -> anyhow::Result<Value> {
        self.here.write_command(method, path, key, under, body);
        let answer = self.here.ask().await?;
        let done = (200..300).contains(&answer.status);
        ensure!(done, "{method} {path}: {} {}", answer.status, answer.body);
        match answer.body {
            "" => Ok(Value::Null),
            body => Ok(serde_json::from_str(body)?),
        }
    }

    /// Asks the second node until its answer shows the change; how long that took, in microseconds.
    async fn until(
        &mut self,
        path: &str,
        key: &str,
        shows: impl Fn(u16, &str) -> bool,
    ) -> anyhow::Result<u32> {
        let begun = Instant::now();
        self.there.write_get_as(path, key);
        loop {
            let answer = self.there.ask().await?;
            if shows(answer.status, answer.body) {
                return Ok(u32::try_from(begun.elapsed().as_micros())?);
            }
            ensure!(
                begun.elapsed() < PATIENCE,
                "{path}: not in force on the other node after {PATIENCE:?}: {} {}",
                answer.status,
                answer.body
            );
        }
    }
}

fn text(answer: &Value, field: &'static str) -> anyhow::Result<String> {
    let found = answer[field].as_str();
    Ok(found.context(field)?.to_owned())
}
