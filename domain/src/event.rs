//! Every event a ledger can hold: their sum, what travels with them, and how stored ones are
//! read, whatever version they were written in.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use cqrs_es::persist::{EventUpcaster, SemanticVersionEventUpcaster, SerializedEvent};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::card::{CardEvent, DigitalCard};
use crate::catalogue::{Catalogue, CatalogueEvent};
use crate::subscription::{Attribution, SubscriptionEvent, TenantSubscription};
use crate::text::Reason;
use crate::usage::UsageEvent;

/// The kinds of aggregate that share a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AggregateKind {
    /// [`DigitalCard`].
    Card,
    /// [`TenantSubscription`].
    Subscription,
    /// [`Catalogue`]: only in the landlord's own ledger.
    Catalogue,
    /// The tenant's usage as a whole: [`UsageEvent`].
    Usage,
}

impl AggregateKind {
    /// The kind as stored.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Card => DigitalCard::TYPE,
            Self::Subscription => TenantSubscription::TYPE,
            Self::Catalogue => Catalogue::TYPE,
            Self::Usage => UsageEvent::AGGREGATE,
        }
    }

    /// The kind stored as `text`.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Card, Self::Subscription, Self::Catalogue, Self::Usage]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

/// Any event of a tenant's ledger, or of the landlord's.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Of a card.
    Card(CardEvent),
    /// Of the subscription.
    Subscription(SubscriptionEvent),
    /// Of the catalogue.
    Catalogue(CatalogueEvent),
    /// Of the usage as a whole.
    Usage(UsageEvent),
}

impl Event {
    /// The kind of aggregate it belongs to.
    pub const fn kind(&self) -> AggregateKind {
        match self {
            Self::Card(_) => AggregateKind::Card,
            Self::Subscription(_) => AggregateKind::Subscription,
            Self::Catalogue(_) => AggregateKind::Catalogue,
            Self::Usage(_) => AggregateKind::Usage,
        }
    }

    /// Its name, as stored.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Card(event) => event.name(),
            Self::Subscription(event) => event.name(),
            Self::Catalogue(event) => event.name(),
            Self::Usage(event) => event.name(),
        }
    }

    /// The version of its shape.
    pub const fn version(&self) -> &'static str {
        match self {
            Self::Card(event) => event.version(),
            Self::Subscription(event) => event.version(),
            Self::Catalogue(event) => event.version(),
            Self::Usage(event) => event.version(),
        }
    }

    /// When it happened.
    pub const fn at(&self) -> DateTime<Utc> {
        match self {
            Self::Card(event) => event.at(),
            Self::Subscription(event) => event.at(),
            Self::Catalogue(event) => event.at(),
            Self::Usage(event) => event.at(),
        }
    }

    /// Its content as the text to store.
    ///
    /// # Errors
    ///
    /// Never for the events of this crate: their maps have text keys.
    pub fn to_payload(&self) -> serde_json::Result<String> {
        match self {
            Self::Card(event) => serde_json::to_string(event),
            Self::Subscription(event) => serde_json::to_string(event),
            Self::Catalogue(event) => serde_json::to_string(event),
            Self::Usage(event) => serde_json::to_string(event),
        }
    }
}

impl From<CardEvent> for Event {
    fn from(event: CardEvent) -> Self {
        Self::Card(event)
    }
}

impl From<SubscriptionEvent> for Event {
    fn from(event: SubscriptionEvent) -> Self {
        Self::Subscription(event)
    }
}

impl From<CatalogueEvent> for Event {
    fn from(event: CatalogueEvent) -> Self {
        Self::Catalogue(event)
    }
}

impl From<UsageEvent> for Event {
    fn from(event: UsageEvent) -> Self {
        Self::Usage(event)
    }
}

/// Who did it, why, and on whose request: what travels with an event beside its content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// The API key that asked, or the name of the process that did.
    pub actor: String,
    /// The role in which it asked.
    pub role: String,
    /// Why, as the asker said: may hold personal data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The HTTP request it came with.
    pub request_id: String,
    /// What belongs together across requests and messages; the request itself if nothing else
    /// was said.
    pub correlation_id: String,
    /// The command or event that led to it directly.
    pub causation_id: String,
}

impl Metadata {
    /// Who and why, as far as a tenant's rights say it of where they come from.
    pub fn attribution(&self) -> Attribution {
        let reason = self.reason.clone();
        Attribution {
            by: Some(self.actor.clone()),
            why: reason.and_then(|reason| Reason::try_from(reason).ok()),
        }
    }

    /// In the framework's form.
    pub fn into_map(self) -> HashMap<String, String> {
        let mut map = HashMap::from([
            ("actor".to_owned(), self.actor),
            ("role".to_owned(), self.role),
            ("request_id".to_owned(), self.request_id),
            ("correlation_id".to_owned(), self.correlation_id),
            ("causation_id".to_owned(), self.causation_id),
        ]);
        if let Some(reason) = self.reason {
            map.insert("reason".to_owned(), reason);
        }
        map
    }
}

/// A stored event cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum UndecodableEvent {
    /// No aggregate of this kind is known.
    #[error("unknown aggregate type {0:?}")]
    UnknownAggregate(String),
    /// The content does not have the shape that its name and version promise.
    #[error("event {name} {version}: {source}")]
    Malformed {
        /// Its name, as stored.
        name: String,
        /// Its version, as stored.
        version: String,
        /// What is wrong.
        source: serde_json::Error,
    },
}

/// Reads stored events of any version.
pub struct Decoder {
    upcasters: Vec<Box<dyn EventUpcaster>>,
}

impl Default for Decoder {
    fn default() -> Self {
        let attributed = [
            "SubscriptionStarted",
            "PlanUpgraded",
            "PlanDowngraded",
            "AddOnGranted",
        ];
        let mut upcasters = vec![
            second("CardIssued", card_issued_2),
            second("SubscriptionSuspended", subscription_suspended_2),
        ];
        upcasters.extend(attributed.map(|name| second(name, attributed_2)));
        Self { upcasters }
    }
}

impl Decoder {
    /// Brings a stored event to its newest shape.
    pub fn upcast(&self, event: SerializedEvent) -> SerializedEvent {
        self.upcasters.iter().fold(event, |event, upcaster| {
            match upcaster.can_upcast(&event.event_type, &event.event_version) {
                true => upcaster.upcast(event),
                false => event,
            }
        })
    }

    /// Reads a stored event.
    ///
    /// # Errors
    ///
    /// [`UndecodableEvent`] if its aggregate is unknown, its content has another shape than its
    /// name and version promise, or its version is newer than this code.
    pub fn decode(&self, event: SerializedEvent) -> Result<Event, UndecodableEvent> {
        let kind = AggregateKind::parse(&event.aggregate_type)
            .ok_or_else(|| UndecodableEvent::UnknownAggregate(event.aggregate_type.clone()))?;
        let (name, version) = (event.event_type.clone(), event.event_version.clone());
        let newest = self.upcast(event);
        match kind {
            AggregateKind::Card => serde_json::from_value(newest.payload).map(Event::Card),
            AggregateKind::Subscription => {
                serde_json::from_value(newest.payload).map(Event::Subscription)
            }
            AggregateKind::Catalogue => {
                serde_json::from_value(newest.payload).map(Event::Catalogue)
            }
            AggregateKind::Usage => serde_json::from_value(newest.payload).map(Event::Usage),
        }
        .and_then(|event| as_promised(event, &newest.event_type, &newest.event_version))
        .map_err(|source| UndecodableEvent::Malformed {
            name,
            version,
            source,
        })
    }

    /// Reads stored text; the short way when the shape is the newest.
    ///
    /// # Errors
    ///
    /// As [`Self::decode`].
    pub fn decode_text(
        &self,
        aggregate_type: &str,
        name: &str,
        version: &str,
        payload: &str,
    ) -> Result<Event, UndecodableEvent> {
        let malformed = |source| UndecodableEvent::Malformed {
            name: name.to_owned(),
            version: version.to_owned(),
            source,
        };
        let newest = !self
            .upcasters
            .iter()
            .any(|upcaster| upcaster.can_upcast(name, version));
        match AggregateKind::parse(aggregate_type) {
            None => Err(UndecodableEvent::UnknownAggregate(
                aggregate_type.to_owned(),
            )),
            Some(AggregateKind::Card) if newest => serde_json::from_str(payload)
                .map(Event::Card)
                .and_then(|event| as_promised(event, name, version))
                .map_err(malformed),
            Some(AggregateKind::Subscription) if newest => serde_json::from_str(payload)
                .map(Event::Subscription)
                .and_then(|event| as_promised(event, name, version))
                .map_err(malformed),
            Some(AggregateKind::Catalogue) if newest => serde_json::from_str(payload)
                .map(Event::Catalogue)
                .and_then(|event| as_promised(event, name, version))
                .map_err(malformed),
            Some(AggregateKind::Usage) if newest => serde_json::from_str(payload)
                .map(Event::Usage)
                .and_then(|event| as_promised(event, name, version))
                .map_err(malformed),
            Some(_) => self.decode(SerializedEvent::new(
                String::new(),
                0,
                aggregate_type.to_owned(),
                name.to_owned(),
                version.to_owned(),
                serde_json::from_str(payload).map_err(malformed)?,
                Value::Null,
            )),
        }
    }
}

/// Refuses an event stored under another event's name, and one of a version this code does not
/// know: reading it as if it were known would drop what the newer shape added.
fn as_promised(event: Event, name: &str, version: &str) -> serde_json::Result<Event> {
    use serde::de::Error;

    if event.name() != name {
        let held = event.name();
        return Err(Error::custom(format_args!("the content is a {held}")));
    }
    if event.version() != version {
        let known = event.version();
        return Err(Error::custom(format_args!(
            "the newest version known here is {known}"
        )));
    }
    Ok(event)
}

/// Brings an event of version 1 to version 2.
fn second(name: &str, change: fn(Value) -> Value) -> Box<dyn EventUpcaster> {
    let upcaster = SemanticVersionEventUpcaster::new(name, "2.0.0", Box::new(change));
    Box::new(upcaster)
}

/// Version 1 did not say who and why; in 2 both may be absent.
const fn attributed_2(payload: Value) -> Value {
    payload
}

/// `SubscriptionSuspended` 1 had no cause: there was none but the landlord.
fn subscription_suspended_2(mut payload: Value) -> Value {
    if let Some(fields) = payload
        .get_mut("SubscriptionSuspended")
        .and_then(Value::as_object_mut)
    {
        fields.insert("cause".to_owned(), json!("landlord"));
    }
    payload
}

/// `CardIssued` 1 had the holder's name and e-mail address beside the other fields; 2 has them
/// in one object of their own, so that personal data can be sealed apart.
fn card_issued_2(mut payload: Value) -> Value {
    if let Some(fields) = payload.get_mut("CardIssued").and_then(Value::as_object_mut) {
        let name = fields.remove("holder_name").unwrap_or(Value::Null);
        let mut holder = json!({ "name": name });
        if let Some(email) = fields.remove("holder_email") {
            holder["email"] = email;
        }
        fields.insert("holder".to_owned(), holder);
        fields.entry("tier").or_insert_with(|| json!("standard"));
    }
    payload
}
