//! The doorbell between nodes: one connection to a shard that notifies, one that listens.
//!
//! What this node's writers ring is sent with `NOTIFY`, after and outside their transactions: in
//! them it would take a lock of the whole cluster at each commit. What other nodes send is rung
//! here. While the notifying connection is busy, rings gather, one a tenant.
//!
//! A notification that nobody listened to is gone. So whoever begins to listen, at the start or
//! after a lost connection, rings for every tenant of the shard. A connection that is lost without
//! a word is told by silence: every node also notifies itself now and then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use application::doorbell::{Doorbell, Mailbox};
use domain::ids::{Position, TenantId};
use metrics::counter;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

const CHANNEL: &str = "digital_card";
/// How often a node notifies itself.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A listening connection on which nothing came for so long is lost.
const SILENCE_MAX: Duration = Duration::from_secs(25);
/// How long a connection or a statement may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The first pause before another connection; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The tenants of a shard.
pub trait Residents: Send + Sync {
    /// All of them, as far as this node knows them.
    fn all(&self) -> Vec<TenantId>;
    /// Whether this is one of them.
    fn has(&self, tenant: TenantId) -> bool;
}

/// A shard's doorbell, at work until it is closed or dropped.
pub struct ShardDoorbell {
    stop: DropGuard,
    tasks: TaskTracker,
}

impl ShardDoorbell {
    /// Sends what is rung on `doorbell` to the other nodes of the shard, and rings on it what they
    /// send. `node` is this process's own id.
    pub fn start(
        shard: &PgConnectOptions,
        doorbell: &Doorbell,
        node: Uuid,
        residents: Arc<dyn Residents>,
    ) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let sender = Sender {
            shard: shard.clone().options([("synchronous_commit", "off")]),
            mailbox: doorbell.relay(),
            residents: Arc::clone(&residents),
            node,
            unsent: HashMap::new(),
        };
        let listener = Listener {
            shard: shard.clone(),
            doorbell: doorbell.clone(),
            node,
            residents,
        };
        tasks.spawn(stop.clone().run_until_cancelled_owned(sender.run()));
        tasks.spawn(stop.clone().run_until_cancelled_owned(listener.run()));
        tasks.close();
        Self {
            stop: stop.drop_guard(),
            tasks,
        }
    }

    /// Stops sending and listening. What was not sent is found by the others' sweep.
    pub async fn close(self) {
        drop(self.stop);
        self.tasks.wait().await;
    }
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("no answer in time")]
    Slow(#[from] tokio::time::error::Elapsed),
    #[error("nothing came for too long")]
    Silent,
    #[error("the server closed it")]
    Closed,
}

struct Sender {
    shard: PgConnectOptions,
    mailbox: Mailbox,
    residents: Arc<dyn Residents>,
    node: Uuid,
    /// Taken from the mailbox, and not known to be sent.
    unsent: HashMap<TenantId, Position>,
}

impl Sender {
    async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let lost = match self.connect().await {
                Ok(mut connection) => self.send_over(&mut connection, &mut pause).await,
                Err(lost) => lost,
            };
            complain("notifying", &lost);
            tokio::time::sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    async fn connect(&self) -> Result<PgConnection, Lost> {
        Ok(timeout(PATIENCE, self.shard.connect()).await??)
    }

    /// Sends until it fails; the pause is short again once it has succeeded.
    async fn send_over(&mut self, connection: &mut PgConnection, pause: &mut Duration) -> Lost {
        loop {
            if let Err(lost) = self.send(connection).await {
                return lost;
            }
            *pause = PAUSE_MIN;
            if let Ok(mut rung) = timeout(HEARTBEAT, self.mailbox.next()).await {
                rung.retain(|tenant, _| self.residents.has(*tenant));
                self.unsent = rung;
            }
        }
    }

    /// Sends what is unsent, or else a word to itself.
    async fn send(&mut self, connection: &mut PgConnection) -> Result<(), Lost> {
        let node = self.node;
        let rings = self.unsent.iter();
        let rings = rings.map(|(tenant, position)| format!("{node} {tenant} {position}"));
        let mut words: Vec<_> = rings.collect();
        if words.is_empty() {
            words.push(node.to_string());
        }
        let notify = sqlx::query("select pg_notify($1, word) from unnest($2::text[]) word")
            .bind(CHANNEL)
            .bind(&words)
            .execute(connection);
        timeout(PATIENCE, notify).await??;
        self.unsent.clear();
        Ok(())
    }
}

struct Listener {
    shard: PgConnectOptions,
    doorbell: Doorbell,
    node: Uuid,
    residents: Arc<dyn Residents>,
}

impl Listener {
    async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let lost = match self.connect().await {
                Ok(listener) => self.listen_on(listener, &mut pause).await,
                Err(lost) => lost,
            };
            complain("listening", &lost);
            tokio::time::sleep(pause).await;
            pause = PAUSE_MAX.min(pause * 2);
        }
    }

    async fn connect(&self) -> Result<PgListener, Lost> {
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(PATIENCE)
            .connect_lazy_with(self.shard.clone());
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.eager_reconnect(false);
        timeout(PATIENCE, listener.listen(CHANNEL)).await??;
        Ok(listener)
    }

    /// Rings for all, then for what comes, until the connection is lost; the pause is short again
    /// once something has come.
    async fn listen_on(&self, mut listener: PgListener, pause: &mut Duration) -> Lost {
        for tenant in self.residents.all() {
            self.doorbell.ring_here(tenant, 0);
        }
        loop {
            match timeout(SILENCE_MAX, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => {
                    *pause = PAUSE_MIN;
                    self.hear(notification.payload());
                }
                Ok(Ok(None)) => return Lost::Closed,
                Ok(Err(error)) => return error.into(),
                Err(_silence) => return Lost::Silent,
            }
        }
    }

    fn hear(&self, word: &str) {
        let mut parts = word.split(' ');
        let node = parts.next().and_then(|it| it.parse().ok());
        if node == Some(self.node) {
            return;
        }
        let ring = (
            parts.next().and_then(|it| it.parse().ok()),
            parts.next().and_then(|it| it.parse().ok()),
        );
        if let (Some(tenant), Some(position)) = ring {
            counter!("doorbell_rings_heard_total").increment(1);
            self.doorbell.ring_here(tenant, position);
        }
    }
}

fn complain(what: &'static str, lost: &Lost) {
    counter!("doorbell_connections_lost_total").increment(1);
    tracing::warn!(
        error = lost as &dyn std::error::Error,
        "the connection for {what} is lost; connecting again"
    );
}
