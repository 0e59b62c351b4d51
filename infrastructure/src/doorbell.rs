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
use tokio_util::sync::CancellationToken;
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

/// The tenants of a shard, as far as this node follows them.
pub type Residents = Arc<dyn Fn() -> Vec<TenantId> + Send + Sync>;

/// A shard's doorbell, at work until it is closed.
pub struct ShardDoorbell {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl ShardDoorbell {
    /// Sends what is rung on `doorbell` to the other nodes of the shard, and rings on it what they
    /// send. `node` is this process's own id.
    pub fn start(
        shard: &PgConnectOptions,
        doorbell: &Doorbell,
        node: Uuid,
        residents: Residents,
    ) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mailbox = Arc::new(doorbell.listen());
        let sender = Sender {
            shard: shard.clone().options([("synchronous_commit", "off")]),
            mailbox: Arc::clone(&mailbox),
            node,
            unsent: HashMap::new(),
        };
        let listener = Listener {
            shard: shard.clone(),
            doorbell: doorbell.clone(),
            mailbox,
            node,
            residents,
        };
        tasks.spawn(stop.clone().run_until_cancelled_owned(sender.run()));
        tasks.spawn(stop.clone().run_until_cancelled_owned(listener.run()));
        tasks.close();
        Self { stop, tasks }
    }

    /// Stops sending and listening. What was not sent is found by the others' sweep.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    #[error("nothing came for too long")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("the server closed it")]
    Closed,
}

struct Sender {
    shard: PgConnectOptions,
    mailbox: Arc<Mailbox>,
    node: Uuid,
    /// Taken from the mailbox, and not known to be sent.
    unsent: HashMap<TenantId, Position>,
}

impl Sender {
    async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let lost = match self.connect().await {
                Ok(mut connection) => {
                    pause = PAUSE_MIN;
                    self.send_over(&mut connection).await
                }
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

    /// Sends until it fails.
    async fn send_over(&mut self, connection: &mut PgConnection) -> Lost {
        loop {
            if let Err(lost) = self.send(connection).await {
                return lost;
            }
            if let Ok(rung) = timeout(HEARTBEAT, self.mailbox.next()).await {
                self.unsent = rung;
            }
        }
    }

    /// Sends what is unsent, and a word to itself.
    async fn send(&mut self, connection: &mut PgConnection) -> Result<(), Lost> {
        let node = self.node;
        let rings = self.unsent.iter();
        let rings = rings.map(|(tenant, position)| format!("{node} {tenant} {position}"));
        let words: Vec<_> = rings.chain([node.to_string()]).collect();
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
    /// The sender's, which does not hear what is rung here.
    mailbox: Arc<Mailbox>,
    node: Uuid,
    residents: Residents,
}

impl Listener {
    async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            let lost = match self.connect().await {
                Ok(listener) => {
                    pause = PAUSE_MIN;
                    self.listen_on(listener).await
                }
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
        timeout(PATIENCE, listener.listen(CHANNEL)).await??;
        Ok(listener)
    }

    /// Rings for all, then for what comes, until the connection is lost.
    async fn listen_on(&self, mut listener: PgListener) -> Lost {
        for tenant in (self.residents)() {
            self.doorbell.ring_others(&self.mailbox, tenant, 0);
        }
        loop {
            match timeout(SILENCE_MAX, listener.try_recv()).await {
                Ok(Ok(Some(notification))) => self.hear(notification.payload()),
                Ok(Ok(None)) => return Lost::Closed,
                Ok(Err(error)) => return error.into(),
                Err(silence) => return silence.into(),
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
            self.doorbell.ring_others(&self.mailbox, tenant, position);
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
