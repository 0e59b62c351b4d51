//! The torture run: several nodes and tenants under load, while nodes and PostgreSQL are killed,
//! connections are cut or fall silent, clocks jump, and a stranger's transaction stays open.
//!
//! `TORTURE_SEED` repeats the draws of a run, which prints it, though not its timing;
//! `TORTURE_SECONDS` says how long it lasts. An hour:
//! `TORTURE_SECONDS=3600 cargo test --workspace --test it torture -- --nocapture`.

mod load;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::{ConnectOptions, Connection, PgConnection};

use self::load::{Addresses, Load, Log, Part, repeat_everything};
use crate::support::clock::WallClock;
use crate::support::cluster::Cluster;
use crate::support::proxy::{Fate, Proxy, Which};
use crate::support::recount::{everything_agrees, history};
use crate::support::store::Database;
use crate::support::{Chance, Client, Options, Service, Store, eventually};

/// How long a run lasts unless it is said.
const SECONDS: u64 = 6;
const NODES: usize = 3;
/// The plans of the tenants.
const PLANS: [&str; 3] = ["pro", "free", "enterprise"];
/// The longest pause between two disruptions, in milliseconds.
const CALM_MS_MAX: u64 = 400;
/// How far a clock jumps at most, in seconds.
const CLOCK_APART_S_MAX: u64 = 3_600;
/// What falls silent is noticed within this time; a part of a run that is shorter has none of it.
const SILENCE_NOTICED_S: u64 = 40;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_every_acknowledged_event_is_there_once() {
    let seconds = std::env::var("TORTURE_SECONDS").ok();
    let seconds = seconds.map_or(SECONDS, |text| text.parse().expect("a number of seconds"));
    let half = Duration::from_secs(seconds) / 2;
    let mut chance = Chance::of("TORTURE_SEED");
    // How often a part draws is a matter of time.
    let [mut of_lives, mut of_deaths, mut of_repeats] = [(); 3].map(|()| chance.fork());
    let mut world = World::new().await;

    let lives = Part {
        name: "lives",
        brief_cards: false,
    };
    world.suffer(half, lives, SURVIVED, &mut of_lives).await;
    world.check().await;
    // Nobody died, so every ring was heard, or made up for by whoever listened anew.
    for node in &world.nodes {
        assert_eq!(
            node.service.counted("subscriber_sweep_finds_total").await,
            0
        );
    }

    let deaths = Part {
        name: "deaths",
        brief_cards: true,
    };
    world.suffer(half, deaths, ALL, &mut of_deaths).await;
    // What is due is recorded by a start, whatever the clocks were before.
    for number in 0..NODES {
        world.kill(number);
    }
    world.all_brief_cards_expire().await;
    for tenant in 0..PLANS.len() {
        let node = of_repeats.below(NODES as u64);
        let client = world.client(tenant, usize::try_from(node).expect("a few"));
        repeat_everything(&client, &world.tenants[tenant].1).await;
    }
    // A card that was not issued before the repetition is, and its time may be over any moment.
    world.all_brief_cards_expire().await;
    world.check().await;
    println!("{seconds} s: {:?}", world.tally);
}

/// What is done to the nodes and the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Disruption {
    ListenersCut,
    ConnectionsCut,
    ListenersSilent,
    ConnectionsSilent,
    ClockJumps,
    ServerStopped,
    ServerKilled,
    NodeKilled,
}

use Disruption::*;

const ALL: &[Disruption] = &[
    ListenersCut,
    ConnectionsCut,
    ListenersSilent,
    ConnectionsSilent,
    ClockJumps,
    ServerStopped,
    ServerKilled,
    NodeKilled,
    NodeKilled,
];
/// Those after which every node is still there.
const SURVIVED: &[Disruption] = ALL.split_at(7).0;

struct World {
    cluster: Arc<Cluster>,
    store: Arc<Store>,
    stranger: Stranger,
    nodes: Vec<Node>,
    addresses: Addresses,
    tenants: Vec<(Client, Log)>,
    tally: BTreeMap<Disruption, u64>,
}

/// A node, its own way to the server, and its own clock.
struct Node {
    service: Service,
    proxy: Proxy,
    clock: WallClock,
}

impl World {
    async fn new() -> Self {
        let cluster = Arc::new(Cluster::start_unsynced());
        let database = Database::within(&cluster);
        let name = database.name().to_owned();
        let store = Arc::new(Store::Database(database));
        let mut founder = Service::node_of(&store, Options::default());
        let mut tenants = Vec::new();
        for plan in PLANS {
            tenants.push((founder.tenant(plan).await, Log::default()));
        }
        founder.terminate();
        founder.stopped();
        let mut nodes = Vec::new();
        for _ in 0..NODES {
            let proxy = Proxy::before(cluster.socket()).await;
            let clock = WallClock::new();
            let options = Options::default().by_way_of(proxy.url(&name));
            let service = Service::node_of(&store, clock.of(options));
            nodes.push(Node {
                service,
                proxy,
                clock,
            });
        }
        let addresses = nodes.iter().map(|node| node.service.base().to_owned());
        Self {
            stranger: Stranger::in_a_transaction(&cluster, &name).await,
            addresses: Arc::new(Mutex::new(addresses.collect())),
            cluster,
            store,
            nodes,
            tenants,
            tally: BTreeMap::new(),
        }
    }

    /// Everything at once, for so long; then the load is over, and everything that can be is up.
    async fn suffer(&mut self, long: Duration, part: Part, of: &[Disruption], chance: &mut Chance) {
        let begun = Instant::now();
        let loads: Vec<_> = self
            .tenants
            .iter()
            .map(|(tenant, log)| Load::start(tenant, &self.addresses, log, part, chance))
            .collect();
        // Each kind, in any order, before any kind again.
        let mut deck = vec![];
        while begun.elapsed() < long {
            calm(chance).await;
            let left = long.saturating_sub(begun.elapsed());
            if deck.is_empty() {
                deck = of.to_vec();
            }
            let drawn = usize::try_from(chance.below(deck.len() as u64)).expect("a few");
            let drawn = deck.swap_remove(drawn);
            let node = usize::try_from(chance.below(NODES as u64)).expect("a few");
            self.disrupt(drawn, node, left, chance).await;
        }
        for load in loads {
            load.stop().await;
        }
        for node in &self.nodes {
            node.clock.set_apart(0);
        }
    }

    async fn disrupt(
        &mut self,
        what: Disruption,
        node: usize,
        left: Duration,
        chance: &mut Chance,
    ) {
        let silence = matches!(what, ListenersSilent | ConnectionsSilent);
        if silence && left < Duration::from_secs(SILENCE_NOTICED_S) {
            return;
        }
        *self.tally.entry(what).or_default() += 1;
        let Node { proxy, clock, .. } = &self.nodes[node];
        match what {
            ListenersCut => proxy.decide(Which::Listening, Fate::Cut),
            ConnectionsCut => proxy.decide(Which::All, Fate::Cut),
            ListenersSilent => proxy.decide(Which::Listening, Fate::Silent),
            ConnectionsSilent => proxy.decide(Which::All, Fate::Silent),
            ClockJumps => {
                let apart = i64::try_from(chance.below(2 * CLOCK_APART_S_MAX)).expect("small");
                clock.set_apart(apart - i64::try_from(CLOCK_APART_S_MAX).expect("small"));
            }
            ServerStopped => self.without_the_server(Cluster::stop, chance).await,
            ServerKilled => self.without_the_server(Cluster::crash, chance).await,
            NodeKilled => self.kill(node),
        }
    }

    async fn without_the_server(&mut self, goes: impl Fn(&Cluster), chance: &mut Chance) {
        self.stranger.is_still_there().await;
        goes(&self.cluster);
        calm(chance).await;
        self.cluster.start_again();
        let name = self.database();
        self.stranger = Stranger::in_a_transaction(&self.cluster, &name).await;
    }

    /// `kill -9`, and another process in its place.
    fn kill(&mut self, number: usize) {
        let service = &mut self.nodes[number].service;
        service.kill();
        service.restart();
        self.addresses.lock().expect("the addresses")[number] = service.base().to_owned();
    }

    fn database(&self) -> String {
        match &*self.store {
            Store::Database(database) => database.name().to_owned(),
            Store::Directory(_) => unreachable!("made as a database"),
        }
    }

    fn client(&self, tenant: usize, node: usize) -> Client {
        let client = self.tenants[tenant].0.clone();
        client.at(self.nodes[node].service.base())
    }

    async fn all_brief_cards_expire(&self) {
        for tenant in 0..PLANS.len() {
            let client = self.client(tenant, 0);
            eventually("all brief cards have expired", || async {
                let issued = client.all("/v1/cards?limit=500&status=issued").await;
                let brief = |card: &serde_json::Value| card["expires_at"].is_string();
                (!issued.iter().any(brief)).then_some(())
            })
            .await;
        }
    }

    /// Nothing acknowledged is lost, nothing is doubled, and every node says so.
    async fn check(&mut self) {
        self.stranger.is_still_there().await;
        for (tenant, plan) in PLANS.iter().enumerate() {
            let id = self.tenants[tenant].0.id().to_owned();
            let stored = history(&self.nodes[0].service, &id).await.len() as u64;
            let mut events = Vec::new();
            for (number, node) in self.nodes.iter().enumerate() {
                let client = self.client(tenant, number);
                eventually("every node has heard of everything", || async {
                    (client.usage().await["as_of"] == stored).then_some(())
                })
                .await;
                events = everything_agrees(&node.service, &client).await;
            }
            let issued = events.iter().filter(|it| it["type"] == "CardIssued");
            let issued: BTreeSet<_> = issued
                .filter_map(|it| it["aggregate_id"].as_str())
                .collect();
            let acknowledged = self.tenants[tenant].1.acknowledged_cards();
            for card in &acknowledged {
                assert!(issued.contains(card.as_str()), "card {card} is lost");
            }
            let usage = self.client(tenant, 0).usage().await;
            if let Some(limit) = usage["limit"].as_u64() {
                assert!(usage["in_circulation"].as_u64() <= Some(limit), "{usage}");
            }
            println!("{plan}: {} events, {} cards", events.len(), issued.len());
        }
    }
}

/// A transaction of somebody else, open for as long as the server runs: with a snapshot that holds
/// back the cleaning, and a number of its own.
struct Stranger(PgConnection);

impl Stranger {
    async fn in_a_transaction(cluster: &Cluster, database: &str) -> Self {
        let options = cluster.options().database(database);
        let mut connection = options.connect().await.expect("a connection");
        for statement in [
            "begin isolation level repeatable read",
            "select pg_current_xact_id(), count(*) from tenants",
        ] {
            let done = sqlx::query(statement).execute(&mut connection).await;
            done.expect("the transaction begins");
        }
        Self(connection)
    }

    async fn is_still_there(&mut self) {
        self.0.ping().await.expect("the transaction is open");
    }
}

/// A moment in which nothing is done to anybody.
async fn calm(chance: &mut Chance) {
    let calm = Duration::from_millis(chance.below(CALM_MS_MAX));
    let _ = tokio::time::timeout(calm, std::future::pending::<()>()).await;
}
