//! Deciding a batch in memory, in arrival order: idempotency, versions, the quota, positions,
//! the chain. An append that is refused leaves no trace here, so the rest of its batch stands.
//!
//! Pure: the transaction that reads what is needed and stores what comes out is elsewhere.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use application::ports::usage::Reconciliation;
use application::ports::{
    Append, AppendError, Appended, IdempotencyRecord, RecordedEvent, RecordedOutcome, StoredEvent,
    Unavailable,
};
use chrono::{DateTime, Utc};
use domain::event::{AggregateKind, Event};
use domain::ids::{TenantId, Version};
use domain::subscription::TenantSubscription;
use domain::usage::{Usage, UsageEvent, admit};

use super::recount::Count;
use super::serials::Block;
use super::{Before, HeadRow};

/// An append with its texts made, so that the writer has less to do.
pub(super) struct Prepared {
    streams: Vec<PreparedStream>,
    idempotency: Option<IdempotencyRecord>,
    recount: Option<Count>,
}

struct PreparedStream {
    kind: AggregateKind,
    id: String,
    expected: Version,
    events: Vec<(Event, String)>,
    metadata: String,
}

impl Prepared {
    /// Makes the texts to store.
    ///
    /// # Errors
    ///
    /// As [`Event::to_payload`]: never for the domain's events.
    pub(super) fn of(append: Append) -> serde_json::Result<Self> {
        let mut streams = Vec::with_capacity(append.streams.len());
        for stream in append.streams {
            let mut events = Vec::with_capacity(stream.events.len());
            for event in stream.events {
                let payload = event.to_payload()?;
                events.push((event, payload));
            }
            streams.push(PreparedStream {
                kind: stream.kind,
                id: stream.id,
                expected: stream.expected,
                events,
                metadata: stream.metadata,
            });
        }
        Ok(Self {
            streams,
            idempotency: append.idempotency,
            recount: None,
        })
    }

    /// Puts a recount in place of the counters, and records that.
    pub(super) fn reconciling(tenant: TenantId, wanted: Reconciliation) -> Self {
        let stream = PreparedStream {
            kind: AggregateKind::Usage,
            id: tenant.to_string(),
            expected: 0,
            events: Vec::new(),
            metadata: wanted.metadata,
        };
        Self {
            streams: vec![stream],
            idempotency: wanted.idempotency,
            recount: Some(Count {
                position: wanted.position,
                usage: wanted.counted,
            }),
        }
    }

    /// The recount that it puts in place of the counters, as far as it was made before.
    pub(super) const fn recount(&self) -> Option<Count> {
        self.recount
    }

    /// How many bytes of text it would add, about.
    pub(super) fn bytes(&self) -> usize {
        let of_stream = |stream: &PreparedStream| -> usize {
            let payloads = stream.events.iter().map(|(_, payload)| payload.len());
            payloads.map(|bytes| bytes + stream.metadata.len()).sum()
        };
        let outcome = self.idempotency.as_ref().map_or(0, |it| it.outcome.len());
        outcome + self.streams.iter().map(of_stream).sum::<usize>()
    }

    /// Its idempotency key.
    pub(super) fn key(&self) -> Option<&str> {
        self.idempotency.as_ref().map(|it| it.key.as_str())
    }

    /// The aggregates whose versions it names.
    pub(super) fn ids(&self) -> impl Iterator<Item = &str> {
        self.streams.iter().map(|stream| stream.id.as_str())
    }

    /// The cards among them that were there before, as far as it knows.
    pub(super) fn known_cards(&self) -> impl Iterator<Item = &str> {
        let known =
            |stream: &&PreparedStream| stream.kind == AggregateKind::Card && stream.expected > 0;
        self.streams.iter().filter(known).map(|it| it.id.as_str())
    }

    fn card_events(&self) -> impl Iterator<Item = &domain::card::CardEvent> {
        let events = self.streams.iter().flat_map(|stream| &stream.events);
        events.filter_map(|(event, _)| match event {
            Event::Card(event) => Some(event),
            Event::Subscription(_) | Event::Catalogue(_) | Event::Usage(_) => None,
        })
    }
}

/// How many events each aggregate has; none, if it is not listed.
#[derive(Default)]
pub(super) struct Versions {
    cards: HashMap<String, Version>,
    subscriptions: HashMap<String, Version>,
    catalogues: HashMap<String, Version>,
    usages: HashMap<String, Version>,
}

impl Versions {
    pub(super) fn set(&mut self, kind: AggregateKind, id: String, version: Version) {
        match kind {
            AggregateKind::Card => self.cards.insert(id, version),
            AggregateKind::Subscription => self.subscriptions.insert(id, version),
            AggregateKind::Catalogue => self.catalogues.insert(id, version),
            AggregateKind::Usage => self.usages.insert(id, version),
        };
    }

    fn get(&self, kind: AggregateKind, id: &str) -> Version {
        let versions = match kind {
            AggregateKind::Card => &self.cards,
            AggregateKind::Subscription => &self.subscriptions,
            AggregateKind::Catalogue => &self.catalogues,
            AggregateKind::Usage => &self.usages,
        };
        versions.get(id).copied().unwrap_or(0)
    }
}

/// An idempotency key to store, and what was answered.
pub(super) type NewOutcome<'a> = (&'a str, &'a RecordedOutcome);

/// A batch being decided: the state of the ledger as of the appends admitted so far.
pub(super) struct Admission {
    /// The head to store.
    pub(super) head: HeadRow,
    /// The subscription, folded.
    pub(super) subscription: Arc<TenantSubscription>,
    /// The events to store, in order.
    pub(super) events: Vec<Arc<RecordedEvent>>,
    /// When the batch is decided and recorded.
    pub(super) now: DateTime<Utc>,
    /// What the events say that the head's counters should be, if somebody asks in this batch.
    recount: Option<Usage>,
    outcomes: HashMap<String, RecordedOutcome>,
    new_outcomes: Vec<String>,
    versions: Versions,
    serials_moved: bool,
}

impl Admission {
    pub(super) fn new(
        before: Before,
        subscription: Arc<TenantSubscription>,
        recount: Option<Usage>,
        now: DateTime<Utc>,
    ) -> Self {
        Self {
            head: before.head,
            subscription,
            outcomes: before.outcomes,
            versions: before.versions,
            now,
            recount,
            events: Vec::new(),
            new_outcomes: Vec::new(),
            serials_moved: false,
        }
    }

    /// Whether there is anything to store.
    pub(super) const fn has_changes(&self) -> bool {
        self.serials_moved || !self.events.is_empty() || !self.new_outcomes.is_empty()
    }

    /// The idempotency keys to store, and what was answered.
    pub(super) fn new_outcomes(&self) -> Vec<NewOutcome<'_>> {
        let of = |key: &String| self.outcomes.get_key_value(key);
        let new = self.new_outcomes.iter().filter_map(of);
        new.map(|(key, outcome)| (key.as_str(), outcome)).collect()
    }

    /// Takes serials out of the head, for good.
    pub(super) fn reserve_serials(&mut self, count: u64) -> Block {
        let first = self.head.card_serials_reserved + 1;
        self.head.card_serials_reserved += count;
        self.serials_moved = true;
        first..first + count
    }

    /// Decides one append; if it is admitted, everything after it stands on it.
    pub(super) fn decide(&mut self, append: &Prepared) -> Result<Appended, AppendError> {
        if let Some(record) = &append.idempotency
            && let Some(before) = self.outcomes.get(&record.key)
        {
            return match before.fingerprint == record.fingerprint {
                true => Ok(Appended::Replayed(before.clone())),
                false => Err(AppendError::KeyReused),
            };
        }
        if let (Some(_), Some(usage)) = (append.recount, self.recount) {
            return self
                .reconcile(append, usage)
                .map_err(AppendError::Unavailable);
        }
        self.check_versions(&append.streams)?;
        let usage = admit(
            self.head.usage,
            &self.subscription,
            append.card_events(),
            self.now,
        )
        .map_err(AppendError::NotAdmitted)?;
        if let Some(recount) = &mut self.recount {
            append.card_events().for_each(|event| recount.apply(event));
        }
        Ok(self.record(append, usage))
    }

    /// Puts a recount in place of the counters. Nobody has decided on a version of this stream.
    fn reconcile(&mut self, append: &Prepared, after: Usage) -> Result<Appended, Unavailable> {
        let event = Event::Usage(UsageEvent::UsageReconciled {
            before: self.head.usage,
            after,
            at: self.now,
        });
        let payload = event.to_payload();
        let payload =
            payload.map_err(|error| Unavailable::because("the tenant's ledger", error))?;
        let events = vec![(event, payload)];
        for stream in &append.streams {
            let expected = self.versions.get(stream.kind, &stream.id);
            self.record_stream(stream, expected, &events);
        }
        self.head.usage = after;
        Ok(self.answer(append))
    }

    fn check_versions(&self, streams: &[PreparedStream]) -> Result<(), AppendError> {
        let as_expected = streams
            .iter()
            .all(|stream| self.versions.get(stream.kind, &stream.id) == stream.expected);
        // A stream that is named twice would be at another version the second time.
        let each_once = streams.len() < 2 || {
            let mut seen = HashSet::with_capacity(streams.len());
            streams
                .iter()
                .all(|stream| seen.insert((stream.kind, &stream.id)))
        };
        match as_expected && each_once {
            true => Ok(()),
            false => Err(AppendError::VersionConflict),
        }
    }

    fn record(&mut self, append: &Prepared, usage: Usage) -> Appended {
        self.head.usage = usage;
        for stream in &append.streams {
            self.record_stream(stream, stream.expected, &stream.events);
        }
        self.answer(append)
    }

    /// Remembers what to answer if the same append comes again.
    fn answer(&mut self, append: &Prepared) -> Appended {
        if let Some(record) = &append.idempotency {
            let recorded = RecordedOutcome {
                fingerprint: record.fingerprint,
                outcome: record.outcome.clone(),
                position: self.head.position,
            };
            self.new_outcomes.push(record.key.clone());
            self.outcomes.insert(record.key.clone(), recorded);
        }
        Appended::Committed(self.head.position)
    }

    fn record_stream(
        &mut self,
        stream: &PreparedStream,
        version: Version,
        events: &[(Event, String)],
    ) {
        let mut sequence = version;
        for (event, payload) in events {
            sequence += 1;
            if let Event::Subscription(event) = event {
                Arc::make_mut(&mut self.subscription).evolve(event.clone());
                self.head.subscription_version += 1;
            }
            let mut stored = StoredEvent {
                position: self.head.position + 1,
                aggregate_type: stream.kind.as_str().to_owned(),
                aggregate_id: stream.id.clone(),
                sequence,
                event_type: event.name().to_owned(),
                event_version: event.version().to_owned(),
                payload: payload.clone(),
                metadata: stream.metadata.clone(),
                recorded_at: self.now,
                hash: self.head.hash,
            };
            stored.hash = stored.link().hash(&self.head.hash);
            self.head.position = stored.position;
            self.head.hash = stored.hash;
            self.events.push(Arc::new(RecordedEvent {
                stored,
                event: event.clone(),
            }));
        }
        self.versions.set(stream.kind, stream.id.clone(), sequence);
    }
}
