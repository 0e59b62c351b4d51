//! The publisher to RabbitMQ: one more subscriber, whose effect is at the broker.
//!
//! ```text
//! handle -> Message::of -> Link::publish -> one channel -> confirms -> checkpoint
//! ```
//!
//! A batch is published as fast as the channel takes it and its confirms are waited for together;
//! the checkpoint moves only over what is confirmed, and is saved a moment later. Whoever publishes
//! begins behind a checkpoint and goes on without a gap on one channel. So whatever fails, and on
//! however many nodes, a tenant's messages come for the first time in ledger order, and may come
//! again. One exception, of a queue's owner's own making: a queue with a maximum length that rejects
//! may have refused a message before one that it took. Whoever's messages it refuses waits and tries
//! again; the others are published.
//!
//! No more than 8,192 messages wait for confirms, those of 16 full batches, and no more than 64
//! tenants have a batch there or wait for a place for it.

pub mod address;
mod confirmed;
pub(crate) mod dial;
mod link;
mod topology;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use application::messages::Message;
use application::ports::checkpoints::Turn;
use application::ports::{HandlerError, RecordedEvent, Subscriber, TenantStore, Unavailable};
use application::subscribers::BROKER;
use async_trait::async_trait;
use domain::event::Event;
use domain::ids::{Position, TenantId};
use domain::subscription::SubscriptionEvent;
use tokio_util::task::TaskTracker;

use self::address::Address;
use self::confirmed::Confirmed;
use self::link::Link;

/// How many events are read at a time to be published again.
const PAGE_EVENTS: usize = 512;

/// Publishes every tenant's messages.
pub struct BrokerPublisher {
    link: Arc<Link>,
    task: TaskTracker,
    confirmed: Confirmed,
    /// How far this node is where it publishes again. What is lost with it is published once more.
    again: Mutex<HashMap<TenantId, Again>>,
}

/// What was published again until now.
#[derive(Clone, Copy)]
struct Again {
    /// Where in the ledger that was asked for.
    request: Position,
    /// The last event that was.
    through: Position,
}

impl BrokerPublisher {
    /// A publisher to the broker at `address`, not connected yet.
    pub fn new(address: Address) -> Self {
        Self {
            link: Arc::new(Link::new(address)),
            task: TaskTracker::new(),
            confirmed: Confirmed::default(),
            again: Mutex::default(),
        }
    }

    /// Connects from now on, for as long as it takes.
    pub fn start(&self) {
        self.task.spawn(Arc::clone(&self.link).run());
        self.task.close();
    }

    /// Takes nothing more, and lets go of what waits. What is not confirmed is published again
    /// after the next start.
    pub fn stop(&self) {
        self.link.stop();
    }

    /// Saves how far it is and closes the connection; after [`Self::stop`], when nobody publishes any
    /// more.
    pub async fn close(&self) {
        self.confirmed.close().await;
        self.link.close();
        self.task.close();
        self.task.wait().await;
    }

    /// Publishes again the next page of what is at or after `from` and before the request; whether
    /// that was all. After a failure it goes on behind what was confirmed.
    async fn publish_again(
        &self,
        tenant: &TenantStore,
        from: Position,
        request: Position,
    ) -> Result<bool, Unavailable> {
        let before = self.again().get(&tenant.tenant).copied();
        let after = match before {
            Some(again) if again.request == request => again.through,
            Some(_) | None => from.saturating_sub(1),
        };
        let page = tenant.ledger.read(after, PAGE_EVENTS).await?;
        let page = page.iter().filter(|it| it.stored.position < request);
        let through = page.clone().next_back().map(|event| event.stored.position);
        let messages = page.filter_map(|event| Message::of(tenant.tenant, event));
        self.link.publish(messages.collect()).await?;
        match through {
            Some(through) if through + 1 < request => {
                let again = Again { request, through };
                self.again().insert(tenant.tenant, again);
                Ok(false)
            }
            Some(_) | None => {
                self.again().remove(&tenant.tenant);
                Ok(true)
            }
        }
    }

    /// What is confirmed, of which the last may not be saved yet.
    fn at_least(&self, tenant: &TenantStore, saved: Position) -> Position {
        self.confirmed
            .position(tenant.tenant)
            .map_or(saved, |noted| noted.max(saved))
    }

    fn again(&self) -> MutexGuard<'_, HashMap<TenantId, Again>> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Subscriber for BrokerPublisher {
    fn name(&self) -> &'static str {
        BROKER
    }

    fn is_read_model(&self) -> bool {
        false
    }

    fn waits_elsewhere(&self) -> bool {
        true
    }

    fn trouble(&self) -> Option<String> {
        self.link.trouble()
    }

    async fn turn(&self, tenant: &TenantStore) -> Result<Turn, Unavailable> {
        // A turn that is not taken, or not kept, is for a node that reaches the broker.
        self.link.connected().await?;
        let turn = tenant.checkpoints.turn(BROKER).await?;
        Ok(match turn {
            Turn::HereFrom(saved) => Turn::HereFrom(self.at_least(tenant, saved)),
            Turn::Here | Turn::Elsewhere { .. } => turn,
        })
    }

    async fn checkpoint(&self, tenant: &TenantStore) -> Result<Position, Unavailable> {
        let saved = tenant.checkpoints.position(BROKER).await?;
        Ok(self.at_least(tenant, saved))
    }

    async fn handle(
        &self,
        tenant: &TenantStore,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        let mut messages = Vec::with_capacity(events.len());
        for event in events {
            if let Event::Subscription(SubscriptionEvent::RepublishRequested { from, .. }) =
                event.event
            {
                self.link.publish(std::mem::take(&mut messages)).await?;
                let request = event.stored.position;
                if !self.publish_again(tenant, from, request).await? {
                    // It may take long: the rest when the other tenants have had their turn.
                    let before = request - 1;
                    self.confirmed.note(tenant, before);
                    return Ok(before);
                }
            }
            messages.extend(Message::of(tenant.tenant, event));
        }
        self.link.publish(messages).await?;
        let Some(last) = events.last() else {
            return Ok(self.checkpoint(tenant).await?);
        };
        let position = last.stored.position;
        self.confirmed.note(tenant, position);
        Ok(position)
    }
}
