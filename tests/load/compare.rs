//! The comparison: this service, a stock service of the same libraries, and bare `pgbench`, on one
//! private PostgreSQL cluster in one run. The ratios are what counts.
//!
//! `cargo run --release --example load -- compare --help`

mod pgbench;
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

/// Measures and prints.
pub async fn compare(options: &Options, binary: &Path) -> anyhow::Result<()> {
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
            ours[row].push(issued_per_second(&service, &key, *connections, options.seconds).await?);
            drop(service);
            let store = Store::empty(Engine::Postgres, None).await?;
            let service = Service::spawn(Command::new(&this).arg("stock"), store)?;
            stock[row].push(issued_per_second(&service, "", *connections, options.seconds).await?);
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

/// Each connection asks as soon as it has its answer.
async fn issued_per_second(
    service: &Service,
    key: &str,
    connections: usize,
    seconds: f64,
) -> anyhow::Result<f64> {
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
    let mut issued = 0_u64;
    for client in clients {
        issued += client.await??;
    }
    Ok(issued as f64 / seconds)
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
