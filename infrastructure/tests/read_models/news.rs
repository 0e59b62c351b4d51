//! What one node changes in the landlord's records, the others know.

use std::process::Command as Process;
use std::sync::Arc;
use std::time::Duration;

use application::Application;
use application::doorbell::Doorbell;
use application::error::Error;
use application::keys::{ApiKey, KeyRing, NewKey, Secret, Seed};
use application::news::{LandlordNews, follow_news};
use application::ports::{Clock, Landlord as _, LandlordError, Random as _, TenantStores};
use application::scope::{Command, Role, Scope};
use application::shards::{Shard, UrlReference};
use application::subscribers::Subscribers;
use application::tenants::{Isolation, NewTenant};
use application::usage_audits::Auditor;
use domain::catalogue::Catalogue;
use domain::event::Decoder;
use domain::ids::{KeyId, Slug};
use domain::text::DisplayName;
use infrastructure::clock::{SystemClock, SystemRandom};
use infrastructure::database::Older;
use infrastructure::landlord::{LandlordDatabase, connect};
use infrastructure::news::hear_news;
use infrastructure::projections::landlord::LandlordReadModel;
use infrastructure::tenants::EmbeddedStores;
use sqlx::postgres::{PgConnectOptions, PgListener, PgRow};
use sqlx::{ConnectOptions, Connection, Row as _};
use tempfile::TempDir;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cluster::Cluster;
use crate::history::day;
use crate::landlords::{self, new_database, new_database_in, pool};
use crate::records::{key, tenant};

/// How long news may take where nothing is wrong; it takes some milliseconds.
const SOON: Duration = Duration::from_secs(5);
/// How long it may take until a silent connection is found out and replaced.
const LATER: Duration = Duration::from_secs(30);

/// A node: everything it has but HTTP. Its tenants' stores are files.
struct Node {
    application: Arc<Application>,
    database: PgConnectOptions,
    name: String,
    _stop: DropGuard,
    _directory: TempDir,
}

impl Node {
    /// A node that remembers nothing but what it was told, and is listening.
    async fn start(database: &PgConnectOptions) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let (doorbell, clock) = (Doorbell::default(), Arc::new(SystemClock) as Arc<dyn Clock>);
        let files = directory.path().to_owned();
        let stores = EmbeddedStores::new(
            files,
            8,
            8,
            Older::Migrate,
            Arc::clone(&clock),
            doorbell.clone(),
        );
        let counts = Arc::new(stores.clone());
        let stores: Arc<dyn TenantStores> = Arc::new(stores);
        let records = Arc::new(
            connect(pool(database), Older::Migrate)
                .await
                .expect("a database"),
        );
        let overviews = Arc::new(LandlordReadModel::new(Arc::clone(&records)));
        let landlord = Arc::new(LandlordDatabase::new(records));
        let subscribers = Subscribers::new(
            vec![],
            Arc::clone(&stores),
            &clock,
            doorbell,
            Duration::from_secs(60),
        );
        let application = Arc::new(Application {
            clock,
            random: Arc::new(SystemRandom),
            stores,
            directory: Arc::default(),
            shards: Arc::default(),
            shard_databases: None,
            keys: KeyRing::default(),
            auditor: Auditor::new(Arc::clone(&landlord) as _, counts),
            landlord,
            agenda: Arc::clone(&overviews) as _,
            overviews,
            catalogue: Catalogue::standard().into(),
            decoder: Decoder::default(),
            subscribers: Arc::new(subscribers),
        });
        let first = ApiKey {
            id: KeyId::new(SystemRandom.id()),
            ..key(0)
        };
        let added = application.landlord.add_key(&first, None).await;
        added.expect("added");
        let (news, stop) = (LandlordNews::default(), CancellationToken::new());
        let name = format!("node {}", SystemRandom.id());
        let listening = database.clone().application_name(&name);
        tokio::spawn(hear_news(listening, news.clone(), stop.clone()));
        tokio::spawn(follow_news(Arc::clone(&application), news, stop.clone()));
        let node = Self {
            application,
            database: database.clone(),
            name,
            _stop: stop.drop_guard(),
            _directory: directory,
        };
        // It reads everything once it listens.
        node.soon(|node| node.opens(&secret(0))).await;
        node
    }

    async fn soon(&self, holds: impl Fn(&Self) -> bool) {
        self.within(SOON, holds).await;
    }

    async fn within(&self, patience: Duration, holds: impl Fn(&Self) -> bool) {
        let until = async {
            while !holds(self) {
                sleep(Duration::from_millis(1)).await; // a memory has nothing to be waited on
            }
        };
        timeout(patience, until).await.expect("in time");
    }

    fn opens(&self, secret: &Secret) -> bool {
        self.application.keys.authenticate(secret).is_some()
    }

    /// Makes a key, which opens here at once.
    async fn make_key(&self) -> (KeyId, Secret) {
        let new = NewKey {
            role: Role::Auditor,
            name: name("audit"),
            tenant: None,
        };
        let seed = Seed::new(Secret::new("the asker's"));
        let made = self.application.create_key(&command(), new, &seed).await;
        let made = made.expect("made").value;
        (made.key.id, made.secret)
    }

    async fn revoke_key(&self, id: KeyId) {
        let revoked = self.application.revoke_key(&command().scope, id).await;
        revoked.expect("revoked");
    }

    /// Changes the records without a word.
    async fn revoke_unnoticed(&self, id: KeyId) {
        let sql = "update api_keys set revoked_at = 0 where id = $1";
        self.ask(sql, &id.to_string()).await;
    }

    /// Cuts the connection that listens.
    async fn cut(&self) {
        let sql = "select pg_terminate_backend(pid) from pg_stat_activity \
                   where application_name = $1";
        self.ask(sql, &self.name).await;
    }

    async fn ask(&self, sql: &str, value: &str) -> Vec<PgRow> {
        let mut connection = self.database.connect().await.expect("a connection");
        let asked = sqlx::query(sql).bind(value).fetch_all(&mut connection);
        let answer = asked.await.expect("an answer");
        connection.close().await.expect("closed");
        answer
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_made_on_one_node_is_known_and_ready_on_the_other() {
    let database = new_database().await;
    let (one, other) = (Node::start(&database).await, Node::start(&database).await);
    let new = NewTenant {
        name: name("Acme"),
        slug: Slug::try_from("acme".to_owned()).expect("a slug"),
        plan: "free".to_owned().try_into().expect("a plan's key"),
        isolation: Isolation::Shared,
    };
    let seed = Seed::new(Secret::new("the asker's"));
    let command = command();
    let made = one.application.provision_tenant(&command, new, &seed);
    let made = made.await.expect("made").value;
    let known = |node: &Node| node.application.directory.get(made.tenant.id);
    other
        .soon(|node| known(node).is_some_and(|tenant| tenant.ready))
        .await;
    assert_eq!(known(&other).as_deref(), Some(&made.tenant));
    other.soon(|node| node.opens(&made.api_key)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_on_every_node_until_it_is_revoked_on_any() {
    let database = new_database().await;
    let (one, other) = (Node::start(&database).await, Node::start(&database).await);
    for _ in 0..20 {
        let (id, secret) = one.make_key().await;
        other.soon(|node| node.opens(&secret)).await;
        other.revoke_key(id).await;
        one.soon(|node| !node.opens(&secret)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_revoked_while_a_node_does_not_listen_opens_nothing_when_it_does_again() {
    let database = new_database().await;
    let (one, other) = (Node::start(&database).await, Node::start(&database).await);
    for _ in 0..5 {
        let (id, secret) = one.make_key().await;
        other.soon(|node| node.opens(&secret)).await;
        other.cut().await;
        one.revoke_key(id).await;
        other.soon(|node| !node.opens(&secret)).await;
        // Whatever comes at which moment: here, the word certainly does not.
        let (id, secret) = one.make_key().await;
        other.soon(|node| node.opens(&secret)).await;
        other.revoke_unnoticed(id).await;
        assert!(other.opens(&secret));
        other.cut().await;
        other.soon(|node| !node.opens(&secret)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_follow_each_other_again_after_the_database_was_down() {
    let cluster = tokio::task::spawn_blocking(Cluster::start)
        .await
        .expect("a cluster");
    let database = new_database_in(&cluster).await;
    let (one, other) = (Node::start(&database).await, Node::start(&database).await);
    let (before, secret) = one.make_key().await;
    other.soon(|node| node.opens(&secret)).await;
    cluster.stop();
    let scope = command().scope;
    let refused = one.application.revoke_key(&scope, before).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert!(other.opens(&secret), "who may come in is in memory");
    cluster.start_again();
    one.revoke_key(before).await;
    other.within(LATER, |node| !node.opens(&secret)).await;
    let (_, secret) = other.make_key().await;
    one.within(LATER, |node| node.opens(&secret)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_lost_without_a_word_is_found_out() {
    let database = new_database().await;
    let (one, other) = (Node::start(&database).await, Node::start(&database).await);
    let (id, secret) = one.make_key().await;
    other.soon(|node| node.opens(&secret)).await;
    let sql = "select pid from pg_stat_activity where application_name = $1";
    let backend: i32 = other.ask(sql, &other.name).await[0].get(0);
    let _frozen = Frozen::process(backend);
    one.revoke_key(id).await;
    other.within(LATER, |node| !node.opens(&secret)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_a_newer_program_says_is_taken_for_everything() {
    let database = new_database().await;
    let node = Node::start(&database).await;
    let (id, secret) = node.make_key().await;
    node.revoke_unnoticed(id).await;
    assert!(node.opens(&secret));
    let sql = "select pg_notify('digital_card_landlord', $1)";
    node.ask(sql, "unheard of").await;
    node.soon(|node| !node.opens(&secret)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_committed_is_told_and_nothing_else() {
    let database = new_database().await;
    let records = landlords::node(&database).await.records;
    let mut wire = PgListener::connect_with(&pool(&database))
        .await
        .expect("a listener");
    wire.listen("digital_card_landlord").await.expect("listens");
    let (acme, first) = (tenant(1, "Acme", "acme"), key(1));
    let added = records.add_tenant(&acme, &first, None).await;
    added.expect("added");
    let (late, lates_key) = (tenant(2, "Other", "acme"), key(2));
    let taken = records.add_tenant(&late, &lates_key, None).await;
    assert!(matches!(taken, Err(LandlordError::SlugTaken)));
    records.mark_ready(acme.id).await.expect("marked");
    let unknown = records.revoke_key(key(9).id, day(1)).await;
    assert!(!unknown.expect("an answer"));
    records.add_key(&key(3), None).await.expect("added");
    let shard = Shard {
        name: acme.slug.clone(),
        url: UrlReference::Store,
        open: true,
    };
    records
        .add_shard(&shard, day(1), None)
        .await
        .expect("added");
    let another = Shard {
        open: false,
        ..shard.clone()
    };
    let taken = records.add_shard(&another, day(1), None).await;
    assert!(matches!(taken, Err(LandlordError::ShardExists)));
    let changed = records.change_shard(&another, day(1), None).await;
    changed.expect("changed");
    let revoked = records.revoke_key(first.id, day(1)).await;
    assert!(revoked.expect("an answer"));
    let expected = [
        format!("tenant {}", acme.id),
        format!("key {}", first.id),
        format!("tenant {}", acme.id),
        format!("key {}", key(3).id),
        "shards".to_owned(),
        "shards".to_owned(),
        format!("key {}", first.id),
    ];
    for expected in expected {
        let word = timeout(SOON, wire.recv()).await.expect("in time");
        assert_eq!(word.expect("a word").payload(), expected);
    }
}

/// A process that stands still until this is dropped.
struct Frozen(String);

impl Frozen {
    fn process(id: i32) -> Self {
        let id = id.to_string();
        signal("-STOP", &id);
        Self(id)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        signal("-CONT", &self.0);
    }
}

fn signal(signal: &str, process: &str) {
    let sent = Process::new("kill").args([signal, process]).status();
    assert!(sent.expect("kill").success());
}

fn secret(n: u64) -> Secret {
    Secret::new(format!("secret {n}"))
}

fn name(text: &str) -> DisplayName {
    DisplayName::try_from(text.to_owned()).expect("a name")
}

fn command() -> Command {
    Command {
        scope: Scope {
            key: key(0).id,
            role: Role::Landlord,
            tenant: None,
            request_id: String::new(),
            correlation_id: String::new(),
        },
        reason: None,
        idempotency: None,
        if_match: None,
    }
}
