//! The load command: issues cards over HTTP and prints what that took as a Markdown table.
//!
//! `cargo run --release --example load -- --help`
//!
//! Each row has a fresh service on an empty directory. A connection asks as soon as it has its
//! answer (a closed loop), or at a given rate, every request under an `Idempotency-Key` of its
//! own. Client and service share the machine's cores, so the client is as lean as it can be: bytes
//! over a kept connection, nothing parsed but status and length.

mod audit;
mod compare;
mod connection;
mod cores;
mod delays;
mod enforce;
mod publish;
mod service;
mod store;

#[path = "../servers/postgres.rs"]
mod postgres;
#[path = "../servers/rabbitmq.rs"]
#[expect(dead_code, reason = "nothing is killed here")]
mod rabbitmq;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use self::connection::Connection;
use self::delays::Delays;
use self::service::Service;
use self::store::{Engine, Store};

/// Issues cards over HTTP and prints requests/s, latency, the service's processor time, and the time from
/// commit to read model.
#[derive(Debug, Parser)]
#[command(name = "load", max_term_width = 100)]
struct Options {
    /// Which engine keeps the data
    #[arg(long, value_enum, default_value = "embedded")]
    engine: Engine,
    /// Connections, one row each
    #[arg(long, value_delimiter = ',', default_value = "1,8,64,256")]
    connections: Vec<usize>,
    /// Tenants that cards are issued for, one block of rows each; each connection asks for the next
    /// with each request
    #[arg(long, value_delimiter = ',', default_value = "1,100")]
    tenants: Vec<usize>,
    /// Seconds that each row is measured
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Seconds before that, not measured
    #[arg(long, default_value_t = 2.0)]
    warm_up_seconds: f64,
    /// Requests a second over all connections; without it, each connection asks as soon as it has
    /// its answer. Latency then counts from when a request was due
    #[arg(long, value_parser = positive)]
    rate: Option<f64>,
    /// Tenants that are there and do nothing; the service is killed and started again behind them
    #[arg(long, default_value_t = 0)]
    idle_tenants: usize,
    /// The service's program; without it, the release build of this repository is made and used
    #[arg(long)]
    binary: Option<PathBuf>,
    /// Where the embedded store's data goes (a directory on the disk to be measured); PostgreSQL's
    /// goes where TMPDIR says [default: the system's temporary directory]
    #[arg(long)]
    directory: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Issue cards on PostgreSQL on this service and on a stock one of the same libraries, and
    /// insert events with pgbench, in turn; or with `--engine embedded` on this service, on a bare
    /// sketch of its ledger and on one that stores nothing, in turn; print the ratios
    Compare(compare::Options),
    /// Audit the usage of many tenants, and read their events without doing anything with them, in
    /// turn; print what each took
    Audit(audit::Options),
    /// Change plans, revoke keys and issue cards on one of two nodes; print how soon the other one acts
    /// on it
    Enforce(enforce::Options),
    /// Publish to a private RabbitMQ node: the time to the delivery at half load, and events/s, both
    /// beside a bare publisher
    Publish(publish::Options),
    /// Be the stock service, on an empty database
    #[command(hide = true)]
    Stock,
    /// Be the bare sketch, on an empty directory
    #[command(hide = true)]
    Sketch {
        /// Be bare HTTP
        #[arg(long)]
        store_nothing: bool,
    },
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_normal() && number > 0.0 => Ok(number),
        _ => Err("a number above 0".to_owned()),
    }
}

/// What one row says.
struct Row {
    tenants: usize,
    connections: usize,
    per_second: f64,
    p50: Duration,
    p99: Duration,
    cpu: Duration,
    server_cpu: Duration,
    round_trips: f64,
    visible_p50: String,
    visible_p99: String,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let binary = match (&options.binary, &options.command) {
        (Some(binary), _) => binary.clone(),
        (None, Some(Command::Stock | Command::Sketch { .. })) => PathBuf::new(),
        (None, _) => service::build()?,
    };
    let runtime = tokio::runtime::Runtime::new()?;
    match &options.command {
        None => issuances(&options, &binary, &runtime),
        Some(Command::Compare(wanted)) => {
            let within = options.directory.as_deref();
            runtime.block_on(compare::compare(wanted, &binary, within))
        }
        Some(Command::Audit(wanted)) => {
            let within = options.directory.as_deref();
            runtime.block_on(audit::audit(wanted, options.engine, &binary, within))
        }
        Some(Command::Enforce(options)) => runtime.block_on(enforce::enforce(options, &binary)),
        Some(Command::Publish(options)) => runtime.block_on(publish::publish(options, &binary)),
        Some(Command::Stock) => runtime.block_on(compare::stock::serve(&std::env::var("STORE")?)),
        Some(Command::Sketch { store_nothing }) => {
            let store = std::env::var("STORE")?;
            let store = (!store_nothing).then_some(store.as_str());
            runtime.block_on(compare::sketch::serve(store))
        }
    }
}

fn issuances(options: &Options, binary: &Path, runtime: &Runtime) -> anyhow::Result<()> {
    let cores = std::thread::available_parallelism()?;
    println!(
        "Issuing cards, {:?} store, {} s a row, client, service and database on {cores} cores\n",
        options.engine, options.seconds
    );
    println!(
        "| tenants | connections | requests/s | p50 | p99 | CPU a request | of the database | its transactions | to read model p50 | p99 |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut notes = Vec::new();
    for tenants in &options.tenants {
        for connections in &options.connections {
            let store = Store::empty(options.engine, options.directory.as_deref());
            let mut service = Service::start(binary, runtime.block_on(store)?)?;
            if options.idle_tenants > 0 {
                runtime.block_on(idle(&service, options.idle_tenants))?;
                service = service.killed_and_started()?;
            }
            let (start, at_start) = (service.started_in(), service.memory_mib()?);
            let measured = measure(&service, options, *tenants, *connections);
            print(&runtime.block_on(measured)?);
            notes.push(format!(
                "{tenants} tenants, {connections} connections: started in {} with {at_start} MiB, \
                 {} MiB at the end",
                shown(start),
                service.memory_mib()?
            ));
        }
    }
    println!("\n{} idle tenants beside them", options.idle_tenants);
    for note in notes {
        println!("- {note}");
    }
    Ok(())
}

/// Makes tenants that do nothing, over a few connections.
async fn idle(service: &Service, tenants: usize) -> anyhow::Result<()> {
    const AT_A_TIME: usize = 16;
    let mut makers = JoinSet::new();
    for maker in 0..AT_A_TIME {
        let mut landlord = Connection::open(service.address()).await?;
        makers.spawn(async move {
            for number in (maker..tenants).step_by(AT_A_TIME) {
                provision(&mut landlord, &format!("idle-{number}")).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(made) = makers.join_next().await {
        made??;
    }
    Ok(())
}

fn print(row: &Row) {
    println!(
        "| {} | {} | {:.0} | {} | {} | {} µs | {} µs | {:.2} | {} | {} |",
        row.tenants,
        row.connections,
        row.per_second,
        shown(row.p50),
        shown(row.p99),
        row.cpu.as_micros(),
        row.server_cpu.as_micros(),
        row.round_trips,
        row.visible_p50,
        row.visible_p99,
    );
}

async fn measure(
    service: &Service,
    options: &Options,
    tenants: usize,
    connections: usize,
) -> anyhow::Result<Row> {
    let mut landlord = Connection::open(service.address()).await?;
    let mut keys = Vec::with_capacity(tenants);
    for number in 0..tenants {
        keys.push(provision(&mut landlord, &format!("tenant-{number}")).await?);
    }
    let keys: Arc<[_]> = keys.into();

    let begin = Instant::now() + Duration::from_secs_f64(options.warm_up_seconds);
    let end = begin + Duration::from_secs_f64(options.seconds);
    let mut clients = Vec::with_capacity(connections);
    for number in 0..connections {
        let connection = Connection::open(service.address()).await?;
        let pace = options.rate.map(|rate| Pace::of(rate, number, connections));
        let turns = Turns::of(&keys, number, connections);
        let name = number.to_string();
        clients.push(tokio::spawn(issue(
            connection, turns, name, pace, begin, end,
        )));
    }
    tokio::time::sleep_until(begin.into()).await; // a person would wait: the warm-up
    let before = Delays::read(&mut landlord).await?;
    let cpu_before = service.cpu()?;
    let work_before = service.store().work().await?;
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await??);
    }
    let cpu = service.cpu()? - cpu_before;
    let work = service.store().work().await?.since(work_before);
    let visible = Delays::read(&mut landlord).await?.since(&before);

    ensure!(
        !latencies.is_empty(),
        "nothing was answered in {} s",
        options.seconds
    );
    latencies.sort_unstable();
    let requests = u32::try_from(latencies.len())?;
    Ok(Row {
        tenants,
        connections,
        per_second: latencies.len() as f64 / options.seconds,
        p50: percentile(&latencies, 50),
        p99: percentile(&latencies, 99),
        cpu: cpu / requests,
        server_cpu: work.cpu / requests,
        round_trips: work.transactions as f64 / f64::from(requests),
        visible_p50: visible.percentile(0.50),
        visible_p99: visible.percentile(0.99),
    })
}

/// A new tenant without a quota: its key.
async fn provision(landlord: &mut Connection, slug: &str) -> anyhow::Result<String> {
    let body = format!(r#"{{"name":"{slug}","slug":"{slug}","plan":"pro"}}"#);
    let path = "/v1/landlord/tenants";
    landlord.write_post(path, service::LANDLORD_KEY, slug, &body);
    let answer = landlord.ask().await?;
    ensure!(answer.status == 201, "provisioning: {}", answer.body);
    let made: serde_json::Value = serde_json::from_str(answer.body)?;
    let key = made["api_key"].as_str().context("no api_key")?;
    Ok(key.to_owned())
}

/// For whom a connection asks: for one tenant after the other, so that all have their turn however few
/// connections there are.
struct Turns {
    keys: Arc<[String]>,
    next: usize,
    step: usize,
}

impl Turns {
    /// The connection's part of so many connections.
    fn of(keys: &Arc<[String]>, connection: usize, connections: usize) -> Self {
        Self {
            keys: Arc::clone(keys),
            next: connection,
            step: connections,
        }
    }

    /// The next tenant's key.
    fn key(&mut self) -> &str {
        let key = &self.keys[self.next % self.keys.len()];
        self.next += self.step;
        key
    }
}

/// When a connection's requests are due.
struct Pace {
    next: Instant,
    period: Duration,
}

impl Pace {
    /// The connection's part of so many requests a second, evenly spread.
    fn of(rate: f64, connection: usize, connections: usize) -> Self {
        let apart = Duration::from_secs_f64(1.0 / rate);
        Self {
            next: Instant::now() + apart.mul_f64(connection as f64),
            period: apart.mul_f64(connections as f64),
        }
    }

    /// Waits until the next request is due; since when it is.
    async fn wait(&mut self) -> Instant {
        let due = self.next;
        tokio::time::sleep_until(due.into()).await;
        self.next += self.period;
        due
    }
}

/// One connection: issues cards until the end; the latencies of those begun in between, in
/// microseconds.
async fn issue(
    mut connection: Connection,
    mut turns: Turns,
    name: String,
    mut pace: Option<Pace>,
    begin: Instant,
    end: Instant,
) -> anyhow::Result<Vec<u32>> {
    let mut latencies = Vec::with_capacity(1 << 16);
    for index in 0_u64.. {
        let body = format!(
            r#"{{"holder":{{"name":"Holder {name} {index}","email":"h{name}.{index}@example.com"}}}}"#
        );
        let idempotency = format!("load-{name}-{index}");
        connection.write_post("/v1/cards", turns.key(), &idempotency, &body);
        let asked = match &mut pace {
            Some(pace) => pace.wait().await,
            None => Instant::now(),
        };
        let answer = connection.ask().await?;
        ensure!(answer.status == 201, "{}: {}", answer.status, answer.body);
        let answered = Instant::now();
        if asked >= begin && answered < end {
            let took = (answered - asked).as_micros();
            latencies.push(u32::try_from(took).unwrap_or(u32::MAX));
        }
        if answered >= end {
            break;
        }
    }
    Ok(latencies)
}

/// Of sorted microseconds.
fn percentile(sorted: &[u32], percent: usize) -> Duration {
    let index = (sorted.len() * percent / 100).min(sorted.len() - 1);
    Duration::from_micros(sorted[index].into())
}

fn shown(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1e3)
}
