//! The published language: what other systems are told of a ledger's events.
//!
//! Messages are not the private events. Each type is mapped from one by hand and carries its
//! version (`card.issued.v1`), so an event may get a new shape without anybody outside noticing,
//! and a new shape of a message is a new type beside the old one. An event without a message is
//! private only.
//!
//! Form: CloudEvents 1.0, structured mode, JSON. No personal data leaves: no holder, no reference
//! of the tenant's own, no reason, and no actor. A test holds [`types`], and with it
//! `api/asyncapi.json`, to what is published.

mod content;
#[cfg(test)]
mod heard;
mod mapping;
mod types;

use chrono::{DateTime, Utc};
use domain::event::Event;
use domain::ids::{Position, TenantId};
use serde::Serialize;

pub use self::content::Content;
pub use self::types::{MessageType, types};
use crate::ports::RecordedEvent;

/// The media type of a message's body.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";
/// The topic exchange that every message is published to.
pub const EXCHANGE: &str = "digital-card.events";
/// The billing consumers' queue.
pub const BILLING_QUEUE: &str = "digital-card.billing";
/// What billing has rejected or failed on too often: an exchange, and the queue behind it.
pub const BILLING_DEAD_LETTERS: &str = "digital-card.billing.dead-letters";
/// The routing keys that the billing consumers' queue is bound to: what a biller needs.
pub const BILLED: [&str; 7] = [
    "card.issued.#",
    "card.revoked.#",
    "card.expired.#",
    "card.renewed.#",
    "card.replaced.#",
    "subscription.#",
    "usage.#",
];
/// Who publishes, as CloudEvents' `source`.
pub const SOURCE: &str = "/digital-card";

/// What is told of one event.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Whose ledger the event is in.
    pub tenant: TenantId,
    /// Where it is there.
    pub position: Position,
    /// When it happened.
    pub time: DateTime<Utc>,
    /// What the message is about: a card's id, or the tenant's for its subscription.
    pub subject: String,
    /// What it says.
    pub content: Content,
}

/// The form of a message's body.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: String,
    source: &'static str,
    #[serde(rename = "type")]
    kind: &'static str,
    subject: &'a str,
    time: DateTime<Utc>,
    datacontenttype: &'static str,
    tenantid: String,
    sequence: Position,
    data: &'a Content,
}

impl Message {
    /// What is told of an event; `None` if it is private.
    pub fn of(tenant: TenantId, recorded: &RecordedEvent) -> Option<Self> {
        let subject = &recorded.stored.aggregate_id;
        Some(Self {
            tenant,
            position: recorded.stored.position,
            time: recorded.event.at(),
            content: match &recorded.event {
                Event::Card(event) => Content::of_card(subject, event),
                Event::Subscription(event) => Content::of_subscription(event)?,
                Event::Usage(event) => Content::of_usage(event),
                // In no tenant's ledger.
                Event::Catalogue(_) => return None,
            },
            subject: subject.clone(),
        })
    }

    /// Its type, with the version: `card.issued.v1`.
    pub const fn kind(&self) -> &'static str {
        self.content.kind()
    }

    /// The key to tell repetitions by: `<tenant id>/<position>`.
    pub fn id(&self) -> String {
        format!("{}/{}", self.tenant, self.position)
    }

    /// `<type>.<tenant id>`
    pub fn routing_key(&self) -> String {
        format!("{}.{}", self.kind(), self.tenant)
    }

    /// Its body.
    pub fn body(&self) -> Vec<u8> {
        let event = CloudEvent {
            specversion: "1.0",
            id: self.id(),
            source: SOURCE,
            kind: self.kind(),
            subject: &self.subject,
            time: self.time,
            datacontenttype: "application/json",
            tenantid: self.tenant.to_string(),
            sequence: self.position,
            data: &self.content,
        };
        serde_json::to_vec(&event).expect("text under text keys")
    }
}
