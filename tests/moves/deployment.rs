//! What the tests of moves run on: shards on two servers, two nodes, and movers.

use std::io::Write;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::shards::{database, node};
use crate::support::cluster::Cluster;
use crate::support::service::{command, run};
use crate::support::{Client, Service, eventually, unique};

/// Another server than the one that every other test uses.
pub fn other_cluster() -> &'static Cluster {
    static OTHER: LazyLock<Cluster> = LazyLock::new(Cluster::start);
    &OTHER
}

/// Two shards on two servers, a third beside the first, and two nodes that serve from all.
pub struct Deployment {
    pub store: String,
    pub second: String,
    pub third: String,
    pub nodes: [Service; 2],
}

impl Deployment {
    pub async fn start() -> Self {
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
    pub async fn tenant(&self) -> Client {
        let tenant = self.nodes[0].tenant("pro").await;
        let elsewhere = tenant.clone().at(self.nodes[1].base());
        eventually("the other node knows the tenant", || async {
            (elsewhere.get("/v1/cards").await.status == 200).then_some(())
        })
        .await;
        tenant
    }

    /// A tenant that has a database to itself.
    pub async fn dedicated(&self) -> Client {
        let body = json!({
            "name": "A tenant", "slug": unique("t"), "plan": "pro", "isolation": "dedicated",
        });
        let landlord = self.nodes[0].landlord();
        let made = landlord.post("/v1/landlord/tenants", &body).await;
        made.expect(201);
        let tenant = self.nodes[0].client(made.text("api_key"));
        tenant.of_tenant(made.text("id"))
    }

    pub fn mover(&self, tenant: &Client, to: &str) -> Command {
        let mut mover = command();
        mover
            .args(["tenants", "move", tenant.id(), to])
            .env("STORE", &self.store)
            .env("SECOND", &self.second)
            .env("THIRD", &self.third);
        mover
    }

    pub fn move_to(&self, tenant: &Client, to: &str) -> (ExitStatus, String) {
        run(&mut self.mover(tenant, to))
    }

    #[track_caller]
    pub fn moves(&self, tenant: &Client, to: &str) -> String {
        let (status, said) = self.move_to(tenant, to);
        assert!(status.success(), "{said}");
        said
    }

    pub async fn shard_of(&self, tenant: &Client, node: usize) -> Value {
        let path = format!("/v1/landlord/tenants/{}", tenant.id());
        let seen = self.nodes[node].landlord().get(&path).await;
        seen.expect(200).json()["shard"].clone()
    }

    /// What is left of the tenant at the shard that it is not in.
    pub fn left_at(&self, shard: &str, tenant: &Client) -> String {
        let schema = schema(tenant);
        let left = format!("select nspname from pg_namespace where nspname like '{schema}%'");
        match shard {
            "main" => Cluster::shared().run(name(&self.store), &left),
            _ => other_cluster().run(name(&self.second), &left),
        }
    }

    /// Locks the tenant's head until the input of the session is dropped: whoever freezes the ledger
    /// waits for it.
    pub async fn hold_head(&self, tenant: &Client) -> (Child, ChildStdin) {
        let mut holder = psql(&self.store);
        let hold = format!("begin; select from {}.head for update;\n", schema(tenant));
        let mut statements = holder.stdin.take().expect("piped");
        statements.write_all(hold.as_bytes()).expect("written");
        let holds = "select count(*) from pg_stat_activity where application_name = 'psql' \
                     and state = 'idle in transaction' and datname = current_database()";
        is_one(self, holds).await;
        (holder, statements)
    }

    /// A process that moves the tenant, as soon as it waits for its head.
    pub async fn mover_that_waits_for_head(&self, tenant: &Client) -> Child {
        let mover = self.mover(tenant, "second").spawn().expect("a mover");
        let waits = "select count(*) from pg_stat_activity where query like 'update %set moved_to%' \
                     and wait_event_type = 'Lock' and datname = current_database()";
        is_one(self, waits).await;
        mover
    }
}

pub fn schema(tenant: &Client) -> String {
    format!("t_{}", tenant.id().replace('-', ""))
}

pub fn name(url: &str) -> &str {
    url.split(['/', '?']).nth(3).expect("a database")
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
