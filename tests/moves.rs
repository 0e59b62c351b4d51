//! Tenants move between shards while they are served: nothing acknowledged is lost, whoever is
//! interrupted when.

use std::io::Write;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::shards::{database, node};
use crate::support::Chance;
use crate::support::client::{id, try_send};
use crate::support::cluster::Cluster;
use crate::support::recount::everything_agrees;
use crate::support::service::{command, run};
use crate::support::{Client, Options, Service, Store, eventually, unique};

const CLIENTS: usize = 8;
const ROUNDS: u64 = 16;

/// Another server than the one that every other test uses.
fn other_cluster() -> &'static Cluster {
    static OTHER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
    &OTHER
}

/// Two shards on two servers, a third beside the first, and two nodes that serve from all.
struct Deployment {
    store: String,
    second: String,
    third: String,
    nodes: [Service; 2],
}

impl Deployment {
    async fn start() -> Self {
        let store = database();
        let name = unique("d").replace('-', "_");
        other_cluster().run("postgres", &format!("create database {name}"));
        let (second, third) = (other_cluster().url(&name), database());
        let start = || {
            let mut node = node(&store);
            Service::started_by(node.env("SECOND", &second).env("THIRD", &third))
        };
        let nodes = [start(), start()];
        for (name, url) in [("second", "env:SECOND"), ("third", "env:THIRD")] {
            let shard = json!({ "name": name, "url": url, "open": false });
            let landlord = nodes[0].landlord();
            let added = landlord.post("/v1/landlord/shards", &shard).await;
            added.expect(201);
        }
        Self {
            store,
            second,
            third,
            nodes,
        }
    }

    /// A tenant that both nodes know.
    async fn tenant(&self) -> Client {
        let tenant = self.nodes[0].tenant("pro").await;
        let elsewhere = tenant.clone().at(self.nodes[1].base());
        eventually("the other node knows the tenant", || async {
            (elsewhere.get("/v1/cards").await.status == 200).then_some(())
        })
        .await;
        tenant
    }

    /// A tenant that has a database to itself.
    async fn dedicated(&self) -> Client {
        let body = json!({
            "name": "A tenant", "slug": unique("t"), "plan": "pro", "isolation": "dedicated",
        });
        let landlord = self.nodes[0].landlord();
        let made = landlord.post("/v1/landlord/tenants", &body).await;
        made.expect(201);
        let tenant = self.nodes[0].client(made.text("api_key"));
        tenant.of_tenant(made.text("id"))
    }

    fn mover(&self, tenant: &Client, to: &str) -> Command {
        let mut mover = command();
        mover
            .args(["tenants", "move", tenant.id(), to])
            .env("STORE", &self.store)
            .env("SECOND", &self.second)
            .env("THIRD", &self.third);
        mover
    }

    fn move_to(&self, tenant: &Client, to: &str) -> (ExitStatus, String) {
        run(&mut self.mover(tenant, to))
    }

    #[track_caller]
    fn moves(&self, tenant: &Client, to: &str) -> String {
        let (status, said) = self.move_to(tenant, to);
        assert!(status.success(), "{said}");
        said
    }

    async fn shard_of(&self, tenant: &Client, node: usize) -> Value {
        let path = format!("/v1/landlord/tenants/{}", tenant.id());
        let seen = self.nodes[node].landlord().get(&path).await;
        seen.expect(200).json()["shard"].clone()
    }

    /// What is left of the tenant at the shard that it is not in.
    fn left_at(&self, shard: &str, tenant: &Client) -> String {
        let schema = schema(tenant);
        let left = format!("select nspname from pg_namespace where nspname like '{schema}%'");
        match shard {
            "main" => Cluster::shared().run(name(&self.store), &left),
            _ => other_cluster().run(name(&self.second), &left),
        }
    }
}

fn schema(tenant: &Client) -> String {
    format!("t_{}", tenant.id().replace('-', ""))
}

fn name(url: &str) -> &str {
    url.split(['/', '?']).nth(3).expect("a database")
}

/// Clients that issue cards through all nodes, each again until it is acknowledged.
struct Load {
    over: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    fn begin(deployment: &Deployment, tenant: &Client) -> Self {
        let mut load = Self {
            over: Arc::default(),
            acknowledged: Arc::default(),
            refused: Arc::default(),
            clients: Vec::new(),
        };
        for nth in 0..CLIENTS {
            let base = deployment.nodes[nth % 2].base();
            let client = tenant.clone().at(base);
            let over = Arc::clone(&load.over);
            let (acknowledged, refused) =
                (Arc::clone(&load.acknowledged), Arc::clone(&load.refused));
            load.clients.push(tokio::spawn(async move {
                let mut issued = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    issued.push(issue(&client, &refused).await);
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
                issued
            }));
        }
        load
    }

    /// How often a client was answered.
    fn answers(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst) + self.refused.load(Ordering::SeqCst)
    }

    async fn answer_more(&self, count: u64) {
        let target = self.answers() + count;
        eventually("the nodes answer", || async {
            (self.answers() >= target).then_some(())
        })
        .await;
    }

    /// Waits until so many more are acknowledged.
    async fn more(&self, count: u64) {
        let target = self.acknowledged.load(Ordering::SeqCst) + count;
        eventually("the load makes progress", || async {
            (self.acknowledged.load(Ordering::SeqCst) >= target).then_some(())
        })
        .await;
    }

    /// The ids of all cards that were acknowledged.
    async fn end(self) -> Vec<String> {
        self.over.store(true, Ordering::SeqCst);
        let mut issued = Vec::new();
        for client in self.clients {
            issued.extend(client.await.expect("a client of the load"));
        }
        issued
    }
}

/// Issues a card; a 503 is asked again, under the same key, until it is not.
async fn issue(client: &Client, refused: &AtomicU64) -> String {
    let (path, key) = ("/v1/cards", unique("issue"));
    let body = json!({ "holder": { "name": key } });
    let mut rhythm = tokio::time::interval(Duration::from_millis(10));
    loop {
        rhythm.tick().await;
        let answer = try_send(client.command(Method::POST, path, &key, &body)).await;
        let answer = answer.expect("the nodes go on");
        if answer.status == 503 {
            assert!(answer.headers.contains_key("retry-after"), "{answer}");
            refused.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        answer.expect(201);
        return id(&answer.json()).to_owned();
    }
}

/// Every acknowledged card is there, once, at both nodes, and everything agrees.
async fn nothing_is_lost(deployment: &Deployment, tenant: &Client, issued: &[String]) {
    for node in &deployment.nodes {
        let tenant = tenant.clone().at(node.base());
        let events = eventually("the node has caught up", || async {
            let usage = tenant.get("/v1/usage").await;
            let listed = tenant.get("/v1/cards").await;
            (usage.status == 200 && listed.status == 200).then_some(())
        });
        events.await;
        let events = everything_agrees(node, &tenant).await;
        let cards: std::collections::BTreeSet<_> = events
            .iter()
            .filter(|event| event["type"] == "CardIssued")
            .map(|event| event["aggregate_id"].as_str().expect("a card"))
            .collect();
        for card in issued {
            assert!(
                cards.contains(&**card),
                "{card} was acknowledged and is lost"
            );
        }
        assert_eq!(cards.len(), issued.len(), "cards that nobody asked for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_moves_under_load_and_nothing_acknowledged_is_lost() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    let load = Load::begin(&deployment, &tenant);
    load.more(200).await;
    for (from, to) in [("main", "second"), ("second", "main")] {
        let moving = tokio::task::spawn_blocking({
            let mut mover = deployment.mover(&tenant, to);
            move || run(&mut mover)
        });
        let (status, said) = moving.await.expect("run");
        assert!(status.success(), "{said}");
        assert_eq!(deployment.left_at(from, &tenant), "", "{said}");
        load.more(200).await;
        for nth in [0, 1] {
            eventually("the node knows where the tenant is", || async {
                (deployment.shard_of(&tenant, nth).await == to).then_some(())
            })
            .await;
        }
    }
    println!(
        "{} were refused meanwhile",
        load.refused.load(Ordering::SeqCst)
    );
    let issued = load.end().await;
    nothing_is_lost(&deployment, &tenant, &issued).await;
    assert!(deployment.moves(&tenant, "main").contains("already"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_killed_at_any_moment_is_finished_or_undone() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    let mut chance = Chance::of("MOVES_SEED");
    let load = Load::begin(&deployment, &tenant);
    load.more(200).await;
    let begun = load.answers();
    deployment.moves(&tenant, "second");
    let whole = load.answers() - begun;
    for round in 1..=ROUNDS {
        let to = ["main", "second"][chance.below(2) as usize];
        let mut mover = deployment.mover(&tenant, to).spawn().expect("a mover");
        // The load is the clock; the larger part of a move is waiting after the switch.
        load.answer_more(chance.below(whole / (1 + round % 4)))
            .await;
        mover.kill().expect("killed");
        mover.wait().expect("gone");
    }
    // Whatever was left is finished or undone by asking for either.
    let (status, said) = deployment.move_to(&tenant, "main");
    if !status.success() {
        assert!(said.contains("asking for it again"), "{said}");
        deployment.moves(&tenant, "second");
        deployment.moves(&tenant, "main");
    }
    load.more(100).await;
    let issued = load.end().await;
    nothing_is_lost(&deployment, &tenant, &issued).await;
    assert_eq!(deployment.left_at("second", &tenant), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_tenant_is_read_and_takes_no_changes_until_the_move_is_undone() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    tenant.issue("Before").await;
    // As a mover leaves it that was killed right after it froze the ledger.
    let freeze = format!(
        "update {}.head set moved_to = 'second', revision = revision + 1; \
         insert into moves values ('{}', 'main', 'second', 'copying', \
         '018f0000-0000-7000-8000-000000000000')",
        schema(&tenant),
        tenant.id()
    );
    Cluster::shared().run(name(&deployment.store), &freeze);
    for node in &deployment.nodes {
        let tenant = tenant.clone().at(node.base());
        let body = json!({ "holder": { "name": "While frozen" } });
        let refused = tenant.post("/v1/cards", &body).await;
        refused.problem(503, "unavailable");
        assert!(refused.headers.contains_key("retry-after"), "{refused}");
        assert_eq!(tenant.all("/v1/cards").await.len(), 1);
        assert_eq!(tenant.usage().await["in_circulation"], 1);
    }
    let (status, said) = deployment.move_to(&tenant, "third");
    assert!(!status.success(), "{said}");
    assert!(said.contains("is being moved to second"), "{said}");
    assert!(deployment.moves(&tenant, "main").contains("again"));
    tenant.issue("After").await;
    assert_eq!(tenant.all("/v1/cards").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_told_to_stop_undoes_itself() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    for nth in 0..20 {
        tenant.issue(&format!("Card {nth}")).await;
    }
    // Whoever freezes the ledger waits for this lock.
    let schema = schema(&tenant);
    let mut holder = psql(&deployment.store);
    let hold = format!("begin; select from {schema}.head for update;\n");
    let mut statements = holder.stdin.take().expect("piped");
    statements.write_all(hold.as_bytes()).expect("written");
    let holds = "select count(*) from pg_stat_activity where application_name = 'psql' \
                 and state = 'idle in transaction' and datname = current_database()";
    is_one(&deployment, holds).await;
    let mut mover = deployment.mover(&tenant, "second");
    let mover = mover.spawn().expect("a mover");
    let waits = "select count(*) from pg_stat_activity where query like 'update %set moved_to%' \
                 and wait_event_type = 'Lock' and datname = current_database()";
    is_one(&deployment, waits).await;
    kill(Pid::from_raw(mover.id().cast_signed()), Signal::SIGTERM).expect("signalled");
    drop(statements);
    holder.wait().expect("gone");
    let ended = mover.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(
        said.contains("the move was undone: it was told to stop"),
        "{said}"
    );
    tenant.issue("After").await;
    assert_eq!(deployment.left_at("second", &tenant), "");
    deployment.moves(&tenant, "second");
    assert_eq!(tenant.all("/v1/cards").await.len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_stays_in_its_database_where_both_shards_lead_to_it() {
    let deployment = Deployment::start().await;
    let shared = deployment.tenant().await;
    let dedicated = deployment.dedicated().await;
    // The first shard once more, as it was not refused before.
    let twin = "insert into shards values ('twin', 'store', 0)";
    Cluster::shared().run(name(&deployment.store), twin);
    for (tenant, to) in [(&dedicated, "third"), (&shared, "twin")] {
        tenant.issue("Before").await;
        for to in [to, "main", to] {
            deployment.moves(tenant, to);
            for nth in [0, 1] {
                eventually("the node knows where the tenant is", || async {
                    (deployment.shard_of(tenant, nth).await == to).then_some(())
                })
                .await;
            }
        }
        // As a mover leaves it that was killed before, or right after, it switched.
        for stage in ["copying", "undoing"] {
            let row = format!(
                "insert into moves values ('{}', '{to}', 'main', '{stage}', \
                 '018f0000-0000-7000-8000-000000000000')",
                tenant.id()
            );
            Cluster::shared().run(name(&deployment.store), &row);
            deployment.moves(tenant, to);
        }
        tenant.issue("After").await;
        assert_eq!(tenant.all("/v1/cards").await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dedicated_tenant_takes_its_database_along() {
    let deployment = Deployment::start().await;
    let tenant = deployment.dedicated().await;
    let load = Load::begin(&deployment, &tenant);
    load.more(20).await;
    // Nodes that use the tenant let go of its old database.
    let moving = tokio::task::spawn_blocking({
        let mut mover = deployment.mover(&tenant, "second");
        move || run(&mut mover)
    });
    let (status, said) = moving.await.expect("run");
    assert!(status.success(), "{said}");
    let issued = load.end().await;
    nothing_is_lost(&deployment, &tenant, &issued).await;
    let schema = schema(&tenant);
    let there = format!("select count(*) from pg_database where datname = '{schema}'");
    assert_eq!(Cluster::shared().run("postgres", &there).trim(), "0");
    assert_eq!(other_cluster().run("postgres", &there).trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_is_told_in_one_line() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    for (tenant, to, why) in [
        (tenant.id(), "fourth", "there is no shard fourth"),
        (tenant.id(), "!", "must be 3 to 40 characters"),
        ("nobody", "second", "no tenant with the id or slug"),
    ] {
        let mut mover = command();
        let mover = mover
            .args(["tenants", "move", tenant, to])
            .env("STORE", &deployment.store)
            .env("SECOND", &deployment.second)
            .env("THIRD", &deployment.third);
        let (status, said) = run(mover);
        assert!(!status.success(), "{said}");
        assert!(said.contains(why), "{why}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let mut embedded = Service::node_of(&Arc::new(Store::files()), Options::default());
    let of_file = embedded.tenant("free").await;
    embedded.terminate();
    embedded.stopped();
    let mut mover = command();
    let mover = mover
        .args(["tenants", "move", of_file.id(), "main", "--store"])
        .arg(embedded.store().url());
    let (status, said) = run(mover);
    assert!(!status.success(), "{said}");
    assert!(said.contains("the embedded store has no shards"), "{said}");
}

/// Waits until a count in the landlord's database is 1.
async fn is_one(deployment: &Deployment, count: &str) {
    eventually(count, || async {
        let found = Cluster::shared().run(name(&deployment.store), count);
        (found.trim() == "1").then_some(())
    })
    .await;
}

/// A session for statements, which ends with its input.
fn psql(store: &str) -> Child {
    Command::new(Cluster::shared().program("psql"))
        .args(["--no-psqlrc", "--quiet", "--username=tests", "--dbname"])
        .arg(name(store))
        .arg("--host")
        .arg(Cluster::shared().directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("psql")
}
