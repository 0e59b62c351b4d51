//! How long a usage audit of many tenants takes and what memory, beside the time that it takes to
//! read their events at all.
//!
//! The tenants are made over HTTP, their cards by the ledgers themselves in this process, which is
//! quicker. Then the service audits, on its own. Events are read from the same files or schemas with
//! the same number of connections, every column of every event, and nothing is done with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use api::config::{CommandLine, Store as Configured};
use api::wiring::Service as Opened;
use application::ports::{Append, StreamAppend};
use application::subscribers::{CARDS, LANDLORD, THRESHOLDS};
use domain::card::{CardEvent, Holder};
use domain::event::{AggregateKind, Event};
use domain::ids::{CardId, CardNumber, TenantId};
use domain::text::{HolderName, Tier};
use futures::stream::{self, StreamExt, TryStreamExt};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection as _};

use crate::connection::Connection;
use crate::postgres::Cluster;
use crate::service::{LANDLORD_KEY, Service};
use crate::store::{Engine, Store};

/// As many as an audit counts at a time.
const AT_A_TIME: usize = 4;
/// How many tenants get their cards at a time.
const FILLED_AT_A_TIME: usize = 16;

/// What is audited.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Tenants
    #[arg(long, default_value_t = 10_000)]
    tenants: usize,
    /// Events of each tenant
    #[arg(long, default_value_t = 100)]
    events: usize,
    /// How often both are measured, in turn
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

/// Makes the tenants, then reads and audits in turn, and prints what each took.
pub async fn audit(
    options: &Options,
    engine: Engine,
    binary: &Path,
    within: Option<&Path>,
) -> anyhow::Result<()> {
    let service = Service::start(binary, Store::empty(engine, within).await?)?;
    crate::idle(&service, options.tenants).await?;
    let stopped = service.stopped()?;
    let tenants = fill(stopped.store(), options.events).await?;
    let service = stopped.started()?;
    settled(&service, tenants.len()).await?;
    println!("| round | events | read | audited | ratio | memory before | at its peak |");
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for round in 1..=options.rounds {
        let (events, read) = read(service.store(), &tenants).await?;
        let before = service.forget_peak()?;
        let (counted, audited) = audited(&service).await?;
        ensure!(
            counted == events,
            "{counted} of {events} events were counted"
        );
        println!(
            "| {round} | {events} | {:.2} s | {:.2} s | {:.2} | {before} MiB | {} MiB |",
            read.as_secs_f64(),
            audited.as_secs_f64(),
            audited.as_secs_f64() / read.as_secs_f64(),
            service.peak_mib()?,
        );
    }
    Ok(())
}

/// Issues cards until each tenant has so many events; answers the tenants.
async fn fill(store: &Store, events: usize) -> anyhow::Result<Vec<TenantId>> {
    let line = CommandLine::read(["digital-card", "--usage-audit-at", "off"])
        .map_err(|why| anyhow::anyhow!("{why:?}"))?;
    let at: Configured = store.url().parse().map_err(anyhow::Error::msg)?;
    let service = Opened::open(&at, &line.config.limits, true, None).await?;
    service.start();
    let application = &service.application;
    let tenants: Vec<_> = application.directory.all().iter().map(|it| it.id).collect();
    stream::iter(&tenants)
        .map(|tenant| async move {
            let store = application.stores.open(*tenant).await?;
            let streams = (1..events as u64).map(|serial| StreamAppend {
                kind: AggregateKind::Card,
                id: CardId::new(application.random.id()).to_string(),
                expected: 0,
                events: vec![issued(serial, application.clock.now())],
                metadata: r#"{"actor":"load","role":"tenant_admin","request_id":"","correlation_id":"","causation_id":""}"#.to_owned(),
            });
            let append = Append {
                streams: streams.collect(),
                idempotency: None,
            };
            store.ledger.append(append).await?;
            for subscriber in [CARDS, LANDLORD, THRESHOLDS] {
                application.subscribers.reached(subscriber, &store, 0).await?;
            }
            anyhow::Ok(())
        })
        .buffer_unordered(FILLED_AT_A_TIME)
        .try_collect::<()>()
        .await?;
    service.stop().await;
    Ok(tenants)
}

fn issued(serial: u64, at: chrono::DateTime<chrono::Utc>) -> Event {
    let name = HolderName::try_from(format!("Holder {serial}")).expect("a name");
    Event::Card(CardEvent::CardIssued {
        number: CardNumber::from_serial(serial),
        holder: Holder { name, email: None },
        external_ref: None,
        tier: Tier::default(),
        expires_at: None,
        replaces: None,
        at,
    })
}

/// Waits until the service has looked at every ledger after its start.
async fn settled(service: &Service, tenants: usize) -> anyhow::Result<()> {
    let mut connection = Connection::open(service.address()).await?;
    loop {
        connection.write_get("/metrics");
        let opened = connection.ask().await?.body.lines().find_map(|line| {
            let count = line.strip_prefix("tenant_stores_opened_total ")?;
            count.parse::<usize>().ok()
        });
        let before = service.cpu()?;
        tokio::time::sleep(Duration::from_secs(2)).await; // a person would wait: for it to rest
        let rests = service.cpu()? - before < Duration::from_millis(100);
        if opened.is_some_and(|opened| opened >= tenants) && rests {
            return Ok(());
        }
    }
}

/// Reads every event; how many there are, and how long that took.
async fn read(store: &Store, tenants: &[TenantId]) -> anyhow::Result<(usize, Duration)> {
    let begun = Instant::now();
    let read = stream::iter(tenants).map(|tenant| read_one(store, *tenant));
    let counts = read.buffer_unordered(AT_A_TIME);
    let events = counts.try_fold(0, |all, one| async move { Ok(all + one) });
    Ok((events.await?, begun.elapsed()))
}

async fn read_one(store: &Store, tenant: TenantId) -> anyhow::Result<usize> {
    match store {
        Store::Directory(directory) => {
            let file: PathBuf = directory.path().join(format!("tenants/{tenant}.db"));
            let file = SqliteConnectOptions::new().filename(file).read_only(true);
            let mut connection = file.connect().await?;
            let all = "select * from events order by position";
            let events = sqlx::query(all).fetch_all(&mut connection).await?.len();
            connection.close().await?;
            Ok(events)
        }
        Store::Database(name) => {
            let mut connection = Cluster::shared().options().database(name).connect().await?;
            let schema = tenant.to_string().replace('-', "");
            let all = format!("select * from t_{schema}.events order by position");
            let events = sqlx::query(&all).fetch_all(&mut connection).await?.len();
            connection.close().await?;
            Ok(events)
        }
    }
}

/// Audits; how many events were counted, and how long that took.
async fn audited(service: &Service) -> anyhow::Result<(usize, Duration)> {
    let mut landlord = Connection::open(service.address()).await?;
    let path = "/v1/landlord/usage-audits";
    let begun = Instant::now();
    let key = format!("audit-{:?}", begun);
    landlord.write_post(path, LANDLORD_KEY, &key.replace(' ', ""), "{}");
    let started = landlord.ask().await?;
    ensure!(started.status == 202, "{}", started.body);
    let started: serde_json::Value = serde_json::from_str(started.body)?;
    let path = format!("{path}/{}", started["id"].as_str().context("no id")?);
    loop {
        tokio::time::sleep(Duration::from_millis(20)).await; // a person would wait: for the report
        landlord.write_get_as(&path, LANDLORD_KEY);
        let report: serde_json::Value = serde_json::from_str(landlord.ask().await?.body)?;
        if report["state"] == "running" {
            continue;
        }
        let wrong = report["drifted_total"] != 0 || report["failed_total"] != 0;
        ensure!(report["state"] == "finished" && !wrong, "{report}");
        let events = report["events"].as_u64().context("no events")?;
        return Ok((usize::try_from(events)?, begun.elapsed()));
    }
}

/// A service that was stopped, to be started again on the same data.
pub struct Stopped {
    pub binary: PathBuf,
    pub store: Arc<Store>,
}

impl Stopped {
    fn store(&self) -> &Store {
        &self.store
    }

    fn started(self) -> anyhow::Result<Service> {
        Service::start_on(&self.binary, self.store)
    }
}
