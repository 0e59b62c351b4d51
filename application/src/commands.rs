//! How a command becomes an append: load, decide, commit, and answer the same request the same
//! way again.
//!
//! A command runs through the `cqrs-es` framework over `Staging`, an event store that loads
//! from the tenant's ledger and, instead of committing each aggregate on its own, stages its
//! events. `Application::commit` then gives all staged streams to the ledger in one append,
//! so that replacing a card (two aggregates) is atomic, and the idempotency record is part of
//! it. No `Query` is registered: what must happen after the commit are subscribers.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use cqrs_es::persist::SerializedEvent;
use cqrs_es::{
    Aggregate, AggregateContext, AggregateError, CqrsFramework, EventEnvelope, EventStore,
};
use domain::card::DigitalCard;
use domain::catalogue::Catalogue;
use domain::event::{AggregateKind, Decoder, Event, Metadata};
use domain::ids::{Position, Version};
use domain::subscription::{Attribution, TenantSubscription};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::Application;
use crate::error::Error;
use crate::ports::{
    Append, AppendError, Appended, IdempotencyRecord, Ledger, RecordedOutcome, StreamAppend,
    TenantStore, Unavailable,
};
use crate::scope::Command;

/// How often a command is decided anew because somebody else changed the aggregate meanwhile.
const ATTEMPTS_MAX: usize = 5;

/// What a command did.
#[derive(Clone, Debug, PartialEq)]
pub struct Done<T> {
    /// The result, for the asker.
    pub value: T,
    /// The version of the aggregate after it.
    pub version: Version,
    /// The ledger's position after it.
    pub position: Position,
    /// Whether this answer was given before, to the same request.
    pub replayed: bool,
}

/// What a command has decided to do.
pub(crate) struct Decided<T> {
    pub value: T,
    pub version: Version,
    pub streams: Vec<StreamAppend>,
}

impl<T> Decided<T> {
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Decided<U> {
        Decided {
            value: change(self.value),
            version: self.version,
            streams: self.streams,
        }
    }
}

impl Application {
    /// Decides with `attempt` and appends what it decided, once for each idempotency key.
    ///
    /// A refusal is not remembered: nothing was done, so the same request may be tried again.
    pub(crate) async fn commit<T, F, Fut>(
        &self,
        store: &TenantStore,
        command: &Command,
        attempt: F,
    ) -> Result<Done<T>, Error>
    where
        T: Serialize + DeserializeOwned,
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Decided<T>, Error>>,
    {
        for _ in 0..ATTEMPTS_MAX {
            let decided = match attempt().await {
                Ok(decided) => decided,
                Err(refusal) => return replay_instead(store, command, refusal).await,
            };
            let idempotency = idempotency_record(command, &decided)?;
            let untouched = decided
                .streams
                .iter()
                .all(|stream| stream.events.is_empty());
            if untouched && idempotency.is_none() {
                return Ok(Done {
                    value: decided.value,
                    version: decided.version,
                    position: store.ledger.head().position,
                    replayed: false,
                });
            }
            let append = Append {
                streams: decided.streams,
                idempotency,
            };
            return match store.ledger.append(append).await {
                Ok(Appended::Committed(position)) => Ok(Done {
                    value: decided.value,
                    version: decided.version,
                    position,
                    replayed: false,
                }),
                Ok(Appended::Replayed(outcome)) => replayed(&outcome),
                Err(AppendError::VersionConflict) => continue,
                Err(error) => Err(Error::of_append(store.tenant, error)),
            };
        }
        Err(Error::VersionConflict)
    }

    /// Runs `command` on an aggregate and stages its events.
    ///
    /// `known_new` skips loading: the id was made a moment ago, so there is nothing to load
    /// (the append refuses it all the same if there were).
    pub(crate) async fn stage<A: InLedger>(
        &self,
        store: &TenantStore,
        id: &str,
        known_new: bool,
        command: A::Command,
        metadata: Metadata,
        if_match: Option<Version>,
    ) -> Result<Staged<A>, Error>
    where
        Error: From<A::Error>,
    {
        let staging = Staging::<A> {
            ledger: store.ledger.as_ref(),
            decoder: &self.decoder,
            known_new,
            if_match,
            attribution: metadata.attribution(),
            staged: Mutex::new(None),
        };
        let framework = CqrsFramework::new(&staging, vec![], ());
        match framework
            .execute_with_metadata(id, command, metadata.into_map())
            .await
        {
            Ok(()) => {}
            Err(AggregateError::UserError(refusal)) => return Err(refusal.into()),
            Err(AggregateError::AggregateConflict) => return Err(Error::VersionConflict),
            Err(AggregateError::DatabaseConnectionError(source)) => {
                return Err(carried(source));
            }
            Err(
                AggregateError::DeserializationError(source)
                | AggregateError::UnexpectedError(source),
            ) => return Err(Error::Internal(source.to_string())),
        }
        staging
            .staged
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner)
            .ok_or_else(|| Error::Internal("the framework committed nothing".to_owned()))
    }

    /// An aggregate as it was at a version that it has had.
    pub(crate) async fn as_of<A: InLedger>(
        &self,
        store: &TenantStore,
        id: &str,
        version: Version,
    ) -> Result<A, Error> {
        let (mut aggregate, mut reached) = (A::default(), 0);
        for stored in store.ledger.load(A::KIND, id).await? {
            if reached == version {
                break;
            }
            let event: A::Event = decode::<A>(&self.decoder, stored)
                .map_err(|error| Error::Internal(error.to_string()))?;
            reached += Version::from(A::is_seen(&event));
            aggregate.apply(event);
        }
        match reached == version {
            true => Ok(aggregate),
            false => Err(Error::Internal(format!("{id} was never at {version}"))),
        }
    }
}

/// An aggregate after a command, with the events that brought it there.
pub(crate) struct Staged<A> {
    pub aggregate: A,
    pub version: Version,
    pub stream: StreamAppend,
}

/// The aggregates that live in a ledger.
pub(crate) trait InLedger: Aggregate<Services = (), Command: Send> + Clone {
    const KIND: AggregateKind;
    fn own(event: Event) -> Option<Self::Event>;
    fn wrap(event: Self::Event) -> Event;
    /// Whether the event counts in the version that clients see and name in `If-Match`.
    fn is_seen(_event: &Self::Event) -> bool {
        true
    }
    /// The event as asked for by somebody, where it says so itself.
    fn attributed(event: Self::Event, _asker: &Attribution) -> Self::Event {
        event
    }
}

impl InLedger for DigitalCard {
    const KIND: AggregateKind = AggregateKind::Card;

    fn own(event: Event) -> Option<Self::Event> {
        match event {
            Event::Card(event) => Some(event),
            Event::Subscription(_) | Event::Catalogue(_) | Event::Usage(_) => None,
        }
    }

    fn wrap(event: Self::Event) -> Event {
        Event::Card(event)
    }
}

impl InLedger for TenantSubscription {
    const KIND: AggregateKind = AggregateKind::Subscription;

    fn own(event: Event) -> Option<Self::Event> {
        match event {
            Event::Subscription(event) => Some(event),
            Event::Card(_) | Event::Catalogue(_) | Event::Usage(_) => None,
        }
    }

    fn wrap(event: Self::Event) -> Event {
        Event::Subscription(event)
    }

    fn attributed(event: Self::Event, asker: &Attribution) -> Self::Event {
        event.attributed_to(asker)
    }
}

impl InLedger for Catalogue {
    const KIND: AggregateKind = AggregateKind::Catalogue;

    fn own(event: Event) -> Option<Self::Event> {
        match event {
            Event::Catalogue(event) => Some(event),
            Event::Card(_) | Event::Subscription(_) | Event::Usage(_) => None,
        }
    }

    fn wrap(event: Self::Event) -> Event {
        Event::Catalogue(event)
    }

    fn is_seen(event: &Self::Event) -> bool {
        !event.is_progress()
    }
}

/// An event of the aggregate, as stored.
fn decode<A: InLedger>(
    decoder: &Decoder,
    stored: SerializedEvent,
) -> Result<A::Event, Box<dyn std::error::Error + Send + Sync>> {
    A::own(decoder.decode(stored)?).ok_or_else(|| "an event of another aggregate".into())
}

/// The framework's event store for one command on one aggregate.
struct Staging<'a, A> {
    ledger: &'a dyn Ledger,
    decoder: &'a Decoder,
    known_new: bool,
    if_match: Option<Version>,
    attribution: Attribution,
    staged: Mutex<Option<Staged<A>>>,
}

/// An aggregate as loaded.
struct Loaded<A> {
    id: String,
    aggregate: A,
    /// How many events it has.
    stored: Version,
    /// How many of them clients see.
    version: Version,
}

impl<A: Aggregate> AggregateContext<A> for Loaded<A> {
    fn aggregate(&mut self) -> &mut A {
        &mut self.aggregate
    }
}

impl<A: InLedger> EventStore<A> for &Staging<'_, A> {
    type AC = Loaded<A>;

    async fn load_events(
        &self,
        id: &str,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        if self.known_new {
            return Ok(vec![]);
        }
        let stored = self.ledger.load(A::KIND, id).await.map_err(carry)?;
        stored
            .into_iter()
            .map(|event| {
                let sequence = event.sequence;
                let payload = decode::<A>(self.decoder, event)
                    .map_err(AggregateError::DeserializationError)?;
                Ok(EventEnvelope {
                    aggregate_id: id.to_owned(),
                    sequence,
                    payload,
                    metadata: HashMap::new(),
                })
            })
            .collect()
    }

    async fn load_aggregate(&self, id: &str) -> Result<Loaded<A>, AggregateError<A::Error>> {
        let events = self.load_events(id).await?;
        let seen_of = |event: &EventEnvelope<A>| Version::from(A::is_seen(&event.payload));
        let version = events.iter().map(seen_of).sum();
        if let Some(seen) = self.if_match
            && version > 0
            && seen != version
        {
            return Err(carry(PreconditionFailed { current: version }));
        }
        let (mut aggregate, stored) = (A::default(), events.len() as Version);
        for event in events {
            aggregate.apply(event.payload);
        }
        Ok(Loaded {
            id: id.to_owned(),
            aggregate,
            stored,
            version,
        })
    }

    async fn commit(
        &self,
        events: Vec<A::Event>,
        loaded: Loaded<A>,
        metadata: HashMap<String, String>,
    ) -> Result<Vec<EventEnvelope<A>>, AggregateError<A::Error>> {
        let sorted: BTreeMap<_, _> = metadata.into_iter().collect();
        let metadata = serde_json::to_string(&sorted)
            .map_err(|error| AggregateError::UnexpectedError(Box::new(error)))?;
        let mut aggregate = loaded.aggregate;
        let attributed = |event| A::attributed(event, &self.attribution);
        let events: Vec<_> = events.into_iter().map(attributed).collect();
        for event in &events {
            aggregate.apply(event.clone());
        }
        let seen = events.iter().filter(|event| A::is_seen(event)).count();
        let staged = Staged {
            aggregate,
            version: loaded.version + seen as Version,
            stream: StreamAppend {
                kind: A::KIND,
                id: loaded.id,
                expected: loaded.stored,
                events: events.into_iter().map(A::wrap).collect(),
                metadata,
            },
        };
        *self.staged.lock().unwrap_or_else(PoisonError::into_inner) = Some(staged);
        Ok(vec![])
    }
}

/// `If-Match` failed; carried through the framework's error.
#[derive(Debug, thiserror::Error)]
#[error("the version is {current}")]
struct PreconditionFailed {
    current: Version,
}

/// The framework's errors have no room for ours: they travel boxed in the one that means "ask
/// the database", and [`carried`] unpacks them.
fn carry<E: std::error::Error>(
    error: impl std::error::Error + Send + Sync + 'static,
) -> AggregateError<E> {
    AggregateError::DatabaseConnectionError(Box::new(error))
}

fn carried(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    let source = match source.downcast::<PreconditionFailed>() {
        Ok(failed) => {
            return Error::PreconditionFailed {
                current: failed.current,
            };
        }
        Err(source) => source,
    };
    match source.downcast::<Unavailable>() {
        Ok(unavailable) => Error::Unavailable(*unavailable),
        Err(source) => Error::Unavailable(Unavailable::because("the tenant's store", source)),
    }
}

/// The recorded form of an answer.
#[derive(Serialize, serde::Deserialize)]
struct Answer<T> {
    value: T,
    version: Version,
}

fn idempotency_record<T: Serialize>(
    command: &Command,
    decided: &Decided<T>,
) -> Result<Option<IdempotencyRecord>, Error> {
    let (Some(key), Some(idempotency)) = (command.idempotency_key(), &command.idempotency) else {
        return Ok(None);
    };
    let answer = Answer {
        value: &decided.value,
        version: decided.version,
    };
    Ok(Some(IdempotencyRecord {
        key,
        fingerprint: idempotency.fingerprint,
        outcome: serde_json::to_string(&answer)
            .map_err(|error| Error::Internal(error.to_string()))?,
    }))
}

/// A request that is refused now may be one that was done before: then the first answer counts.
async fn replay_instead<T: DeserializeOwned>(
    store: &TenantStore,
    command: &Command,
    refusal: Error,
) -> Result<Done<T>, Error> {
    let (Some(key), Some(idempotency)) = (command.idempotency_key(), &command.idempotency) else {
        return Err(refusal);
    };
    match store.ledger.outcome(&key).await? {
        None => Err(refusal),
        Some(outcome) if outcome.fingerprint != idempotency.fingerprint => Err(Error::KeyReused),
        Some(outcome) => replayed(&outcome),
    }
}

fn replayed<T: DeserializeOwned>(outcome: &RecordedOutcome) -> Result<Done<T>, Error> {
    let answer: Answer<T> = serde_json::from_str(&outcome.outcome)
        .map_err(|error| Error::Internal(format!("a recorded outcome: {error}")))?;
    Ok(Done {
        value: answer.value,
        version: answer.version,
        position: outcome.position,
        replayed: true,
    })
}
