//! From one node to another: how soon a change that one node has acknowledged is in force on the
//! other, of two nodes on one private PostgreSQL cluster.
//!
//! Each change is made on the first node. From the moment its answer is there, the second is asked
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

use super::connection::Connection;
use super::service::{LANDLORD_KEY, Service};
use super::store::{Engine, Store};
use super::{percentile, shown};

/// A change that takes longer is lost.
const PATIENCE: Duration = Duration::from_secs(10);

/// How much is changed.
#[derive(Debug, Args)]
pub struct Options {
    /// Changes of each kind
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    changes: u32,
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
    let tenant = pair.tenant().await?;
    let plans = pair.plans(&tenant, options.changes).await?;
    let keys = pair.keys(options.changes).await?;
    let cards = pair.cards(&tenant, options.changes).await?;
    println!(
        "From a change's answer on one node to the first answer of another that shows it; {} changes \
         of each kind, one at a time, {} cores shared by client, nodes and database\n",
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

/// A connection to each of two nodes.
struct Pair {
    /// To the node that changes something.
    here: Connection,
    /// To the node that is asked.
    there: Connection,
}

impl Pair {
    /// A tenant that both nodes know.
    async fn tenant(&mut self) -> anyhow::Result<Tenant> {
        let body = r#"{"name":"Enforced","slug":"enforced","plan":"pro"}"#;
        let made = self.change("POST", "/v1/landlord/tenants", LANDLORD_KEY, "tenant", body);
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
