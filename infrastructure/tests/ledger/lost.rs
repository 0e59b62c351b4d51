//! Connections that are lost, or should not be: what a node does without being told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use application::doorbell::Doorbell;
use application::ports::{AppendError, CardsView, Ledger, Random};
use domain::ids::TenantId;
use infrastructure::clock::SystemRandom;
use infrastructure::doorbell::{Residents, ShardDoorbell};
use infrastructure::projections::cards::postgres::PostgresCards;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{pause, timeout};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::postgres::PostgresUnderTest;
use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_is_refused_costs_no_connection() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let name = format!("refused-{}", world.tenant());
    let (_shard, ledger) = world.connected_once(&name).await;
    let before = world.processes_of(&name).await;
    assert_eq!(before.len(), 1);
    let head = world.table("head");
    let freeze = format!("update {head} set moved_to = 'second', revision = revision + 1");
    world.run(&freeze).await;
    for _ in 0..3 {
        let refused = ledger.append(issue()).await;
        assert!(matches!(refused, Err(AppendError::Unavailable(_))));
    }
    assert_eq!(world.processes_of(&name).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_on_a_connection_that_was_lost_are_answered_all_the_same() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let name = format!("lost-{}", world.tenant());
    let (shard, ledger) = world.connected_once(&name).await;
    let cards = PostgresCards::open(world.tenant(), &shard).await;
    let cards = cards.expect("the cards");
    cut(&world, &name).await;
    ledger.outcome("a key").await.expect("read on another");
    cut(&world, &name).await;
    cards.next_due().await.expect("read on another");
    cut(&world, &name).await;
    shard.answer().await.expect("asked on another");
}

/// Cuts the connections under a name.
async fn cut(world: &PostgresUnderTest, name: &str) {
    let cut = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where application_name = '{name}'"
    );
    world.run(&cut).await;
    while !world.processes_of(name).await.is_empty() {}
}

/// It has no key, so nobody could find out later what became of it.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_without_a_key_is_resolved_when_the_server_is_started_again() {
    let cluster = Cluster::start_unsynced();
    let world = PostgresUnderTest::within(&cluster).await;
    let start = subscription(world.tenant(), 0, vec![started("pro")]);
    committed(world.ledger().append(start).await);
    let held = world.locked().await;
    let ledger = world.ledger();
    let append = tokio::spawn(async move { ledger.append(issue()).await });
    world.waiting(&append).await.expect("it waits for the head");
    cluster.stop();
    cluster.start_again();
    committed(append.await.expect("a task"));
    drop(held);
    assert_sound(&*world.ledger()).await;
    assert_eq!(everything(&*world.ledger()).await.len(), 2);
}

#[tokio::test]
async fn connections_of_a_doorbell_that_fall_silent_are_closed() {
    let mut relay = Relay::start().await;
    let (doorbell, node) = (Doorbell::default(), SystemRandom.id());
    let heard = doorbell.listen();
    let resident = Resident(TenantId::new(SystemRandom.id()));
    let _shard = ShardDoorbell::start(&relay.options, &doorbell, node, Arc::new(resident));
    heard.next().await;
    relay.silence.cancel();
    // What it waits for passes at once.
    pause();
    for _ in 0..relay.carried.load(Ordering::SeqCst) {
        let closed = timeout(Duration::from_secs(120), relay.closed.recv()).await;
        closed.expect("given up and closed").expect("a connection");
    }
}

struct Resident(TenantId);

impl Residents for Resident {
    fn all(&self) -> Vec<TenantId> {
        vec![self.0]
    }

    fn has(&self, tenant: TenantId) -> bool {
        tenant == self.0
    }
}

/// What stands before the server, and falls silent when it is told.
struct Relay {
    options: PgConnectOptions,
    silence: CancellationToken,
    carried: Arc<AtomicUsize>,
    /// A word for each connection that the client has closed.
    closed: mpsc::UnboundedReceiver<()>,
}

impl Relay {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (tell, closed) = mpsc::unbounded_channel();
        let silence = CancellationToken::new();
        let carried = Arc::<AtomicUsize>::default();
        tokio::spawn(accept(
            listener,
            silence.clone(),
            Arc::clone(&carried),
            tell,
        ));
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port);
        let options = options.username("tests").database("postgres");
        Self {
            options,
            silence,
            carried,
            closed,
        }
    }
}

async fn accept(
    listener: TcpListener,
    silence: CancellationToken,
    carried: Arc<AtomicUsize>,
    closed: mpsc::UnboundedSender<()>,
) {
    while let Some(accepted) = silence.run_until_cancelled(listener.accept()).await {
        let (client, _) = accepted.expect("a connection");
        let server = UnixStream::connect(Cluster::shared().socket()).await;
        carried.fetch_add(1, Ordering::SeqCst);
        let server = server.expect("the server");
        tokio::spawn(carry(client, server, silence.clone(), closed.clone()));
    }
    // The system still takes connections for it.
    std::future::pending::<()>().await;
}

async fn carry(
    mut client: TcpStream,
    mut server: UnixStream,
    silence: CancellationToken,
    closed: mpsc::UnboundedSender<()>,
) {
    let carry = copy_bidirectional(&mut client, &mut server);
    let _ = silence.run_until_cancelled(carry).await;
    let mut unheard = Vec::new();
    let _ = client.read_to_end(&mut unheard).await;
    let _ = closed.send(());
}
