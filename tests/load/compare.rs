//! The comparison: this service, a stock service of the same libraries, and bare `pgbench`, on one
//! private PostgreSQL cluster in one run; or on the embedded store this service, a bare sketch of
//! its ledger, and bare HTTP. The ratios are what counts.
//!
//! `cargo run --release --example load -- compare --help`

mod embedded;
mod pgbench;
pub mod sketch;
pub mod stock;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;

use super::connection::Connection;
use super::service::{self, Service};
use super::store::{Engine, Store};

/// How many clients `pgbench` has.
const PGBENCH_CLIENTS: usize = 64;
/// How many rows it inserts at a time where it inserts many.
const PGBENCH_ROWS: usize = 64;

/// What is compared.
#[derive(Debug, Args)]
pub struct Options {
    /// On PostgreSQL, beside a stock service and pgbench; or on the embedded store, beside a bare
    /// sketch of the ledger (batches, chain and read model in one transaction each, nothing else)
    /// and a service that answers the same and stores nothing
    #[arg(long, value_enum, default_value = "postgres")]
    engine: Engine,
    /// Connections, one row each
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,256")]
    connections: Vec<usize>,
    /// Seconds that each figure is measured, after one second of warm-up
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How often everything is measured; the medians are printed
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Measures and prints; files go into `within`.
pub async fn compare(
    options: &Options,
    binary: &Path,
    within: Option<&Path>,
) -> anyhow::Result<()> {
    match options.engine {
        Engine::Embedded => embedded::compare(options, binary, within).await,
        Engine::Postgres => on_postgres(options, binary).await,
    }
}

async fn on_postgres(options: &Options, binary: &Path) -> anyhow::Result<()> {
    let this = std::env::current_exe()?;
    let mut ours = vec![Vec::new(); options.connections.len()];
    let mut stock = ours.clone();
    let (mut single, mut batched) = (Vec::new(), Vec::new());
    for round in 1..=options.rounds.max(1) {
        eprintln!("round {round} of {}", options.rounds);
        for (row, connections) in options.connections.iter().enumerate() {
            let store = Store::empty(Engine::Postgres, None).await?;
            let service = Service::start(binary, store)?;
            let key = provision(&service).await?;
            let issuing = issued(&service, &key, *connections, options.seconds);
            ours[row].push(issuing.await?.per_second);
            drop(service);
            let store = Store::empty(Engine::Postgres, None).await?;
            let service = Service::spawn(Command::new(&this).arg("stock"), store)?;
            let issuing = issued(&service, "", *connections, options.seconds);
            stock[row].push(issuing.await?.per_second);
        }
        single.push(pgbench::inserts_per_second(PGBENCH_CLIENTS, 1, options.seconds).await?);
        batched.push(
            pgbench::inserts_per_second(PGBENCH_CLIENTS, PGBENCH_ROWS, options.seconds).await?,
        );
    }
    let (single, batched) = (median(single), median(batched));
    println!(
        "Issuing cards on PostgreSQL with fsync on, {} cores shared by clients, services and \
         database; medians of {} rounds\n",
        std::thread::available_parallelism()?,
        options.rounds
    );
    println!(
        "pgbench with {PGBENCH_CLIENTS} clients inserts {single:.0} events/s, one a transaction; \
         {batched:.0} events/s, {PGBENCH_ROWS} a transaction\n"
    );
    println!(
        "| connections | cards/s | stock service | ratio | pgbench, one a transaction: ratio | \
         {PGBENCH_ROWS} a transaction: ratio |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: |");
    for (row, connections) in options.connections.iter().enumerate() {
        let (ours, stock) = (median(ours[row].clone()), median(stock[row].clone()));
        println!(
            "| {connections} | {ours:.0} | {stock:.0} | {:.1} | {:.2} | {:.2} |",
            ours / stock,
            ours / single,
            ours / batched
        );
    }
    Ok(())
}

/// A tenant without a quota: its key.
async fn provision(service: &Service) -> anyhow::Result<String> {
    let mut landlord = Connection::open(service.address()).await?;
    let body = r#"{"name":"Compared","slug":"compared","plan":"pro"}"#;
    let path = "/v1/landlord/tenants";
    landlord.write_post(path, service::LANDLORD_KEY, "compared", body);
    let answer = landlord.ask().await?;
    ensure!(answer.status == 201, "provisioning: {}", answer.body);
    let made: serde_json::Value = serde_json::from_str(answer.body)?;
    Ok(made["api_key"].as_str().context("no api_key")?.to_owned())
}

/// What one measurement says.
#[derive(Clone, Copy)]
struct Figures {
    per_second: f64,
    /// The service's processor time for each card.
    cpu_micros: f64,
}

/// Each connection asks as soon as it has its answer.
async fn issued(
    service: &Service,
    key: &str,
    connections: usize,
    seconds: f64,
) -> anyhow::Result<Figures> {
    let begin = Instant::now() + Duration::from_secs(1);
    let end = begin + Duration::from_secs_f64(seconds);
    let mut clients = Vec::with_capacity(connections);
    for number in 0..connections {
        let connection = Connection::open(service.address()).await?;
        clients.push(tokio::spawn(issue(
            connection,
            key.to_owned(),
            number,
            begin,
            end,
        )));
    }
    tokio::time::sleep_until(begin.into()).await; // a person would wait: the warm-up
    let cpu_before = service.cpu()?;
    let mut issued = 0_u64;
    for client in clients {
        issued += client.await??;
    }
    let cpu = service.cpu()? - cpu_before;
    Ok(Figures {
        per_second: issued as f64 / seconds,
        cpu_micros: cpu.as_secs_f64() * 1e6 / issued as f64,
    })
}

async fn issue(
    mut connection: Connection,
    key: String,
    number: usize,
    begin: Instant,
    end: Instant,
) -> anyhow::Result<u64> {
    let mut issued = 0;
    for index in 0_u64.. {
        let body = format!(
            r#"{{"holder":{{"name":"Holder {number} {index}","email":"h{number}.{index}@example.com"}}}}"#
        );
        connection.write_post("/v1/cards", &key, &format!("c-{number}-{index}"), &body);
        let answer = connection.ask().await?;
        ensure!(answer.status == 201, "{}: {}", answer.status, answer.body);
        let now = Instant::now();
        if now >= end {
            break;
        }
        issued += u64::from(now >= begin);
    }
    Ok(issued)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}
