//! The doorbell between nodes: one connection to a shard that notifies, one that listens.
//!
//! What this node's writers ring is sent with `NOTIFY`, after and outside their transactions: in
//! them it would take a lock of the whole cluster at each commit. What other nodes send is rung
//! here. While the notifying connection is busy, rings gather, one a tenant.
//!
//! A notification that nobody listened to is gone. So whoever begins to listen, at the start or
//! after a lost connection (see `listener.rs`), rings for every tenant of the shard.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use application::doorbell::{Doorbell, Mailbox, gather};
use domain::ids::{Position, TenantId};
use futures::FutureExt;
use metrics::counter;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::listener::{HEARTBEAT, Heard, Lost, PATIENCE, PAUSE_MAX, PAUSE_MIN, listen};

const CHANNEL: &str = "digital_card";
/// How long it may take to send what was rung last before a doorbell is closed.
const LAST_RINGS_MAX: Duration = Duration::from_secs(1);

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
            doorbell: doorbell.clone(),
            node,
            residents,
        };
        tasks.spawn(sender.run_until(stop.clone()));
        let listening = listen(shard.clone(), CHANNEL, move |heard| listener.hear(heard));
        tasks.spawn(stop.clone().run_until_cancelled_owned(listening));
        tasks.close();
        Self {
            stop: stop.drop_guard(),
            tasks,
        }
    }

    /// Stops listening, and sending as soon as what was rung before is sent. What cannot be sent in a
    /// moment is found by the others' sweep.
    pub async fn close(self) {
        drop(self.stop);
        self.tasks.wait().await;
    }
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
    async fn run_until(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.run()).await;
        if let Some(rung) = self.mailbox.next().now_or_never() {
            self.take(rung);
        }
        if self.unsent.is_empty() {
            return;
        }
        let last = async { self.send(&mut self.connect().await?).await };
        if let Ok(Err(lost)) | Err(lost) = timeout(LAST_RINGS_MAX, last).await.map_err(Lost::from) {
            lost.complain("notifying", CHANNEL);
        }
    }

    async fn run(&mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            let lost = match self.connect().await {
                Ok(mut connection) => self.send_over(&mut connection, &mut pause).await,
                Err(lost) => lost,
            };
            lost.complain("notifying", CHANNEL);
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
            if let Ok(rung) = timeout(HEARTBEAT, self.mailbox.next()).await {
                self.take(rung);
            }
        }
    }

    /// Takes what is rung for tenants of this shard.
    fn take(&mut self, rung: HashMap<TenantId, Position>) {
        let here = rung.into_iter().filter(|it| self.residents.has(it.0));
        for (tenant, position) in here {
            gather(&mut self.unsent, tenant, position);
        }
    }

    /// Sends what is unsent; with nothing unsent, finds out whether the connection is there.
    async fn send(&mut self, connection: &mut PgConnection) -> Result<(), Lost> {
        let node = self.node;
        let rings = self.unsent.iter();
        let rings = rings.map(|(tenant, position)| format!("{node} {tenant} {position}"));
        let words: Vec<_> = rings.collect();
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
    doorbell: Doorbell,
    node: Uuid,
    residents: Arc<dyn Residents>,
}

impl Listener {
    fn hear(&self, heard: Heard<'_>) {
        match heard {
            Heard::Beginning => {
                for tenant in self.residents.all() {
                    self.doorbell.ring_here(tenant, 0);
                }
            }
            Heard::Word(word) => self.hear_word(word),
        }
    }

    fn hear_word(&self, word: &str) {
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
