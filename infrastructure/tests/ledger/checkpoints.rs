//! Checkpoints of subscribers whose effect is elsewhere: on every engine, and whose turn it is where
//! there are several nodes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use application::ports::checkpoints::{Checkpoints, Turn};
use application::ports::{Clock, Random};
use chrono::{DateTime, Utc};
use domain::ids::TenantId;
use infrastructure::checkpoints::{FileCheckpoints, SchemaCheckpoints, TURN};
use infrastructure::clock::SystemRandom;
use infrastructure::database::Database;
use infrastructure::ledger::sqlite::MIGRATOR;
use infrastructure::shard::Shard;
use infrastructure::shard::schema::Schema;
use sqlx::ConnectOptions;

use crate::cluster::Cluster;

const NAME: &str = "broker";

/// A clock that a test sets.
struct Watch(Mutex<DateTime<Utc>>);

impl Clock for Watch {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().expect("the time")
    }
}

/// Two nodes' checkpoints of one tenant. Each has a clock of its own, and both are wrong.
struct Nodes {
    tenant: TenantId,
    clocks: [Arc<Watch>; 2],
    nodes: [SchemaCheckpoints; 2],
}

impl Nodes {
    async fn new() -> Self {
        let tenant = TenantId::new(SystemRandom.id());
        let options = Cluster::shared().shard();
        let migrated = Schema::of(tenant).migrate(&options).await;
        migrated.expect("a schema");
        let a_while = Duration::from_secs(30);
        let shard = Shard::new(options, 2, a_while, a_while);
        let clocks = [4_000_000_000, 0].map(|seconds| {
            let time = DateTime::from_timestamp(seconds, 0).expect("a time");
            Arc::new(Watch(Mutex::new(time)))
        });
        let nodes = clocks.each_ref().map(|clock| {
            let clock = Arc::clone(clock) as _;
            SchemaCheckpoints::new(shard.room(tenant), SystemRandom.id(), clock)
        });
        Self {
            tenant,
            clocks,
            nodes,
        }
    }

    /// Lets time pass, for both nodes and for what is stored by the server's clock.
    async fn pass(&self, time: Duration) {
        for clock in &self.clocks {
            *clock.0.lock().expect("the time") += time;
        }
        let schema = self.tenant.to_string().replace('-', "");
        let passed = format!("update t_{schema}.checkpoints set held_until = held_until - $1");
        let mut server = Cluster::shared().options().connect().await.expect("a way");
        sqlx::query(&passed)
            .bind(i64::try_from(time.as_micros()).expect("not for ever"))
            .execute(&mut server)
            .await
            .expect("passed");
    }
}

async fn never_goes_back(checkpoints: &dyn Checkpoints) {
    assert_eq!(checkpoints.position(NAME).await.expect("none yet"), 0);
    for (advanced, expected) in [(5, 5), (9, 9), (7, 9)] {
        checkpoints.advance(NAME, advanced).await.expect("advanced");
        assert_eq!(checkpoints.position(NAME).await.expect("there"), expected);
    }
    assert_eq!(checkpoints.position("another").await.expect("none"), 0);
}

#[tokio::test]
async fn a_checkpoint_in_a_file_never_goes_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("tenant.db");
    let database = Arc::new(Database::open(&path, &MIGRATOR).await.expect("a file"));
    let checkpoints = FileCheckpoints::new(Arc::clone(&database));
    never_goes_back(&checkpoints).await;
    assert_eq!(checkpoints.turn(NAME).await.expect("a turn"), Turn::Here);
    database.close().await.expect("closed");
    let database = Arc::new(Database::open(&path, &MIGRATOR).await.expect("the file"));
    let checkpoints = FileCheckpoints::new(database);
    assert_eq!(checkpoints.position(NAME).await.expect("kept"), 9);
}

#[tokio::test]
async fn a_checkpoint_in_a_schema_never_goes_back() {
    let [one, other] = Nodes::new().await.nodes;
    never_goes_back(&one).await;
    assert_eq!(other.position(NAME).await.expect("shared"), 9);
}

#[tokio::test]
async fn a_turn_is_one_nodes_until_it_has_not_been_kept_for_a_while() {
    let both = Nodes::new().await;
    let [one, other] = &both.nodes;
    assert_eq!(one.turn(NAME).await.expect("taken"), Turn::HereFrom(0));
    assert_eq!(one.turn(NAME).await.expect("kept"), Turn::Here);
    both.pass(TURN / 2).await;
    one.advance(NAME, 3).await.expect("kept by working");
    both.pass(TURN / 2).await;
    match other.turn(NAME).await.expect("an answer") {
        Turn::Elsewhere {
            checkpoint: 3,
            lapses_in,
        } => assert!(lapses_in <= TURN / 2, "{lapses_in:?}"),
        turn => panic!("{turn:?}"),
    }

    both.pass(TURN / 2).await;
    let taken = other.turn(NAME).await.expect("lapsed");
    assert_eq!(taken, Turn::HereFrom(3));
    let elsewhere = one.turn(NAME).await.expect("an answer");
    assert!(
        matches!(elsewhere, Turn::Elsewhere { checkpoint: 3, .. }),
        "{elsewhere:?}"
    );
}

#[tokio::test]
async fn a_node_whose_turn_is_over_advances_without_taking_it_back() {
    let both = Nodes::new().await;
    let [one, other] = &both.nodes;
    one.turn(NAME).await.expect("taken");
    both.pass(TURN * 2).await;
    other.turn(NAME).await.expect("taken over");
    one.advance(NAME, 5).await.expect("late, and true");
    assert_eq!(other.position(NAME).await.expect("there"), 5);
    assert_eq!(other.turn(NAME).await.expect("kept"), Turn::Here);
    let elsewhere = one.turn(NAME).await.expect("an answer");
    assert!(matches!(elsewhere, Turn::Elsewhere { .. }), "{elsewhere:?}");
}
