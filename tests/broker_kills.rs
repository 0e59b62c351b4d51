//! The big run of the broker: tenants under load while the broker, nodes, or both are killed at
//! random; whoever reads misses nothing, and hears of each tenant in the order of its ledger. What is
//! billed from the queue equals the recount.
//!
//! `BROKER_SEED` repeats the draws of a run, which prints it, though not its timing;
//! `BROKER_EVENTS` and `BROKER_KILLS` say how much. The full one, on either engine:
//! `BROKER_EVENTS=50000 BROKER_KILLS=20 cargo test --workspace --test it broker_kills -- --nocapture`,
//! and the same with `TESTS_ON=postgres`, where there are two nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::biller::{Biller, recount, terminate};
use crate::support::client::try_send;
use crate::support::messages::{Reader, collect, settle};
use crate::support::rabbitmq::Broker;
use crate::support::recount::history;
use crate::support::{Chance, Client, Options, Service, Store};

/// How many events there are in a run unless it is said, and how many kills.
const EVENTS: u64 = 4_000;
const KILLS: u64 = 3;
const TENANTS: usize = 20;
/// Events of one request: a card is issued and activated.
const EVENTS_A_CARD: u64 = 2;
/// The pause before a request is tried again.
const PAUSE: Duration = Duration::from_millis(25);
/// How long the last messages may take after the last kill: a broker starts, queues are read back.
const REST_MAX: Duration = Duration::from_secs(180);

fn number(variable: &str, default: u64) -> u64 {
    let given = std::env::var(variable).ok();
    given.map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_everything_is_told_in_order() {
    let events = number("BROKER_EVENTS", EVENTS);
    let kills = number("BROKER_KILLS", KILLS);
    let mut chance = Chance::of("BROKER_SEED");
    let begun = Instant::now();
    let broker = Arc::new(Broker::start());
    // Nobody takes anything meanwhile: RabbitMQ gives what a lost consumer had in hand to the next one
    // after later messages. What is in the queue is in the order in which it was published.
    let queue = collect(&broker.url(), &["#"]).await;
    let mut world = World::new(&broker, events).await;
    // What a biller keeps has its order by itself, so it may live through all of it.
    let biller = Biller::of(&broker.url());
    let following = biller.command(&["--follow"]).spawn().expect("it starts");
    let clients = world.load();
    let mut tally: BTreeMap<&str, u64> = BTreeMap::new();
    let mut deck = Vec::new();
    for part in 1..=kills {
        // Somewhere in this part of the load, which goes no further until it has happened.
        let (from, to) = (events * (part - 1) / kills, events * part / kills);
        let _ = world.allowed.send(to);
        let moment = from + chance.below(to - from);
        world.reached(moment).await;
        let what = draw(&mut deck, &mut chance);
        *tally.entry(what).or_default() += 1;
        let node = usize::try_from(chance.below(world.nodes.len() as u64)).expect("small");
        world.kill(what, node).await;
    }
    for client in clients {
        client.await.expect("a client was always answered well");
    }
    let loaded = begun.elapsed();
    let heard = hear_everything(&broker, queue).await;
    world.everything_is_heard(&heard).await;
    world.is_billed_as_recounted(&biller, following).await;
    let heard = heard.lock().expect("what was heard");
    let (all, repeated) = (heard.messages, heard.messages - heard.places());
    println!(
        "{events} events of {TENANTS} tenants, {} nodes, kills {tally:?}: {all} messages, of which \
         {repeated} repeated; loaded in {loaded:.1?}, heard in {:.1?}",
        world.nodes.len(),
        begun.elapsed(),
    );
}

/// Who is killed next: each kind comes before any comes again.
fn draw(deck: &mut Vec<&'static str>, chance: &mut Chance) -> &'static str {
    if deck.is_empty() {
        deck.extend(["broker", "node", "both"]);
    }
    let card = chance.below(deck.len() as u64);
    deck.swap_remove(usize::try_from(card).expect("small"))
}

struct World {
    broker: Arc<Broker>,
    nodes: Vec<Service>,
    addresses: Arc<Mutex<Vec<String>>>,
    tenants: Vec<Client>,
    cards_a_tenant: u64,
    /// Events that may be there.
    allowed: watch::Sender<u64>,
    /// Events that are there.
    done: Arc<AtomicU64>,
}

/// Somebody who hears everything, for as long as the test.
async fn hear_everything(broker: &Broker, queue: String) -> Arc<Mutex<Heard>> {
    let mut reader = Reader::at(&broker.url(), queue).await;
    let heard = Arc::<Mutex<Heard>>::default();
    let hearing = Arc::clone(&heard);
    tokio::spawn(async move {
        loop {
            let message = reader.try_next().await;
            let mut heard = hearing.lock().expect("what was heard");
            heard.hear(message.tenant, message.sequence);
        }
    });
    heard
}

/// What came, by tenant.
#[derive(Default)]
struct Heard {
    seen: BTreeMap<String, BTreeSet<u64>>,
    messages: usize,
}

impl Heard {
    fn hear(&mut self, tenant: String, place: u64) {
        self.messages += 1;
        let seen = self.seen.entry(tenant).or_default();
        let last = seen.last().copied().unwrap_or_default();
        assert!(
            seen.contains(&place) || place == last + 1,
            "{place} came for the first time after {last}"
        );
        seen.insert(place);
    }

    fn places(&self) -> usize {
        self.seen.values().map(BTreeSet::len).sum()
    }
}

impl World {
    async fn new(broker: &Arc<Broker>, events: u64) -> Self {
        let store = Arc::new(Store::new());
        let nodes = match &*store {
            Store::Directory(_) => 1,
            Store::Database(_) => 2,
        };
        let options = || Options::default().with("AMQP_URL", broker.url());
        let mut founder = Service::node_of(&store, Options::default());
        let mut tenants = Vec::new();
        for _ in 0..TENANTS {
            tenants.push(founder.tenant("pro").await);
        }
        founder.terminate();
        founder.stopped();
        let nodes: Vec<_> = (0..nodes)
            .map(|_| Service::node_of(&store, options()))
            .collect();
        let addresses = nodes.iter().map(|node| node.base().to_owned()).collect();
        settle().await;
        Self {
            addresses: Arc::new(Mutex::new(addresses)),
            cards_a_tenant: events / EVENTS_A_CARD / TENANTS as u64,
            allowed: watch::Sender::new(0),
            done: Arc::default(),
            broker: Arc::clone(broker),
            nodes,
            tenants,
        }
    }

    /// A client of each tenant, at work.
    fn load(&self) -> Vec<tokio::task::JoinHandle<()>> {
        let clients = self.tenants.iter().map(|tenant| Issuing {
            tenant: tenant.clone(),
            addresses: Arc::clone(&self.addresses),
            allowed: self.allowed.subscribe(),
            done: Arc::clone(&self.done),
        });
        clients
            .map(|client| tokio::spawn(client.issue(self.cards_a_tenant)))
            .collect()
    }

    async fn reached(&self, events: u64) {
        let mut rhythm = tokio::time::interval(PAUSE);
        while self.done.load(Ordering::SeqCst) < events {
            rhythm.tick().await;
        }
    }

    /// `kill -9`, and starts again what was killed.
    async fn kill(&mut self, what: &str, node: usize) {
        let broker = Arc::clone(&self.broker);
        if what != "node" {
            broker.crash();
        }
        if what != "broker" {
            let service = &mut self.nodes[node];
            service.kill();
            service.restart();
            self.addresses.lock().expect("the addresses")[node] = service.base().to_owned();
        }
        if what != "node" {
            let again = tokio::task::spawn_blocking(move || broker.start_again());
            again.await.expect("it starts");
        }
    }

    /// Every event of every ledger has come, each at least once.
    async fn everything_is_heard(&self, heard: &Arc<Mutex<Heard>>) {
        let begun = Instant::now();
        let mut rhythm = tokio::time::interval(Duration::from_millis(200));
        for tenant in &self.tenants {
            let events = history(&self.nodes[0], tenant.id()).await;
            let places = (1..=events.len() as u64).collect();
            let all = || {
                let heard = heard.lock().expect("what was heard");
                heard.seen.get(tenant.id()) == Some(&places)
            };
            while !all() {
                assert!(
                    begun.elapsed() < REST_MAX,
                    "something of {} is missing",
                    tenant.id()
                );
                rhythm.tick().await;
            }
        }
    }

    /// The biller that has followed the queue through all the kills makes the same bill as the ledgers.
    async fn is_billed_as_recounted(&mut self, biller: &Biller, following: Child) {
        let begun = Instant::now();
        let mut rhythm = tokio::time::interval(Duration::from_millis(200));
        // The beginning of each subscription, and the issuance of each card.
        let all = TENANTS * (1 + usize::try_from(self.cards_a_tenant).expect("not so many"));
        while biller.kept().await < all {
            assert!(begun.elapsed() < REST_MAX, "the biller misses something");
            rhythm.tick().await;
        }
        terminate(following);
        let billed = biller.report(&["--report-only"]).done();
        for node in &mut self.nodes {
            node.terminate();
            node.stopped();
        }
        let recount = recount(&self.nodes[0]);
        assert_eq!(billed.lines, recount.lines, "{}", billed.notes);
    }
}

/// A tenant's client.
struct Issuing {
    tenant: Client,
    addresses: Arc<Mutex<Vec<String>>>,
    allowed: watch::Receiver<u64>,
    done: Arc<AtomicU64>,
}

impl Issuing {
    async fn issue(mut self, cards: u64) {
        for number in 0..cards {
            let done = Arc::clone(&self.done);
            let may = |allowed: &u64| done.load(Ordering::SeqCst) < *allowed;
            self.allowed.wait_for(may).await.expect("the test goes on");
            self.insist(number).await;
            self.done.fetch_add(EVENTS_A_CARD, Ordering::SeqCst);
        }
    }

    /// Tries on one node after the other, under one key, until it is done.
    async fn insist(&self, number: u64) {
        let key = format!("kills-{number}");
        let body = json!({ "holder": { "name": format!("Holder {number}") }, "activate": true });
        let mut rhythm = tokio::time::interval(PAUSE);
        for turn in 0.. {
            rhythm.tick().await;
            let node = {
                let addresses = self.addresses.lock().expect("the addresses");
                addresses[(turn + usize::try_from(number).expect("small")) % addresses.len()]
                    .clone()
            };
            let tenant = self.tenant.clone().at(&node);
            let request = tenant.command(Method::POST, "/v1/cards", &key, &body);
            let answer = timeout(Duration::from_secs(60), try_send(request)).await;
            // No answer at all is one of a node that was killed.
            if let Ok(answer) = answer.expect("the broker keeps nobody waiting") {
                if answer.status == 201 {
                    return;
                }
                assert_eq!(answer.status, 503, "{answer}");
            }
        }
    }
}
