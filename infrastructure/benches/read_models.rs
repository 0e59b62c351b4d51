//! How fast the read models follow a ledger and are built anew.
//!
//! `cargo bench -p infrastructure --bench read_models` prints the table. The ledger is in memory,
//! so what is measured is the read models alone: fold, rows, indexes, commits. Every line says
//! what it counts.

#[path = "../tests/read_models/history.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod history;
#[path = "../tests/read_models/store.rs"]
#[expect(dead_code, reason = "the tests use the rest")]
mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use application::cards::{CardFilter, CardSort};
use application::ports::Subscriber;
use application::ports::agenda::Agenda;
use chrono::TimeDelta;
use domain::card::Issue;
use domain::ids::CardId;

use crate::history::{History, day, issue};
use crate::store::{Tenant, landlord, tenant};

/// Cards in the large runs; every second one is put to use, so there are half as many events
/// again.
const CARDS: u64 = 100_000;

#[tokio::main]
async fn main() {
    let tenant = Arc::new(tenant().await);
    let mut history = History::begin(&tenant.ledger);
    for n in 0..CARDS {
        history.issue(card(n), particulars(n));
    }
    let events = history.position();
    for at_a_time in [512, 64, 16] {
        let tenant = self::tenant_with(&tenant).await;
        let started = Instant::now();
        tenant.follow(&tenant.cards, at_a_time).await;
        let what = format!("cards: following, {at_a_time} events at a time");
        report(&what, events, started.elapsed());
        if at_a_time == 512 {
            rebuild(&tenant, events).await;
            list(&tenant).await;
        }
    }
    overviews().await;
}

/// A new tenant with the events of another.
async fn tenant_with(other: &Tenant) -> Tenant {
    let tenant = tenant().await;
    let events = other.ledger.events.lock().expect("a ledger").clone();
    *tenant.ledger.events.lock().expect("a ledger") = events;
    tenant
}

async fn rebuild(tenant: &Tenant, events: u64) {
    let started = Instant::now();
    let cpu = cpu_time();
    let rebuilt = tenant.cards.rebuild(&tenant.store, &|_| {}).await;
    rebuilt.expect("a position");
    report("cards: building anew", events, started.elapsed());
    report("cards: building anew, CPU time", events, cpu_time() - cpu);

    let landlord = landlord().await;
    let started = Instant::now();
    let rebuilt = landlord.model.rebuild(&tenant.store, &|_| {}).await;
    rebuilt.expect("a position");
    report("overview: building anew", events, started.elapsed());
}

async fn list(tenant: &Tenant) {
    for (what, q) in [
        ("a page", None),
        ("a search that finds nothing", Some("xyzzy")),
    ] {
        let filter = CardFilter {
            status: None,
            q: q.map(str::to_owned),
            tier: None,
            sort: CardSort::Name,
            after: None,
            limit: 50,
        };
        let started = Instant::now();
        for _ in 0..20 {
            tenant.view().list(&filter).await.expect("a page");
        }
        report(&format!("cards: {what}, of {CARDS}"), 20, started.elapsed());
    }
}

/// A hundred busy tenants, each handing over one event at a time.
async fn overviews() {
    let landlord = Arc::new(landlord().await);
    let mut busy = Vec::new();
    for n in 0..100 {
        let mut tenant = tenant().await;
        tenant.store.tenant = store::tenant_id(n);
        let mut history = History::begin(&tenant.ledger);
        for n in 0..99 {
            history.issue(card(n), particulars(n));
        }
        busy.push(tenant);
    }
    let started = Instant::now();
    let handlers = busy.into_iter().map(|tenant| {
        let landlord = Arc::clone(&landlord);
        tokio::spawn(async move { tenant.follow(&landlord.model, 1).await })
    });
    for handler in handlers.collect::<Vec<_>>() {
        handler.await.expect("no panic");
    }
    report(
        "overviews: commits of 100 tenants",
        10_000,
        started.elapsed(),
    );
    landlord.model.next(&[]).await.expect("an answer");
}

fn card(n: u64) -> CardId {
    format!("0199aaaa-0000-7000-8000-{n:012}")
        .parse()
        .expect("a UUID")
}

fn particulars(n: u64) -> Issue {
    let names = [
        "Ada Lovelace",
        "Grace Hopper",
        "Émilie du Châtelet",
        "Mary Somerville",
    ];
    let name = format!(
        "{} {}",
        names[(n % 4) as usize],
        n.wrapping_mul(2_654_435_761) % 100_000
    );
    let at = day(0) + TimeDelta::milliseconds(n as i64);
    Issue {
        expires_at: Some(at + TimeDelta::days(365)),
        ..issue((n % 65_000) as u16, &name, at)
    }
}

fn report(what: &str, count: u64, took: Duration) {
    let rate = count as f64 / took.as_secs_f64();
    println!("{what:<50} {count:>8} in {took:>10.1?} {rate:>10.0}/s");
}

/// What this process has spent on all cores.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u64>().ok())
        .sum();
    Duration::from_millis(ticks * 10)
}
