//! The process that tells when a tenant comes near its limit: events in, an event out, by
//! [`domain::usage::thresholds`].
//!
//! Everything follows from the ledger, and what an event has led to is appended under an
//! idempotency key made from its position. So a crash, or another node that follows the same
//! ledger, leads to nothing twice, and the checkpoint need not move with every event: it is kept
//! when something was told and now and then, and what came after it is followed again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use domain::event::{AggregateKind, Event, Metadata};
use domain::ids::{Position, TenantId, Version};
use domain::usage::thresholds::Thresholds;

use crate::ports::usage::{ProcessStates, Remembered};
use crate::ports::{
    Append, AppendError, HandlerError, IdempotencyRecord, RecordedEvent, StreamAppend, Subscriber,
    TenantStore, Unavailable,
};
use crate::subscribers::THRESHOLDS;

/// How many events are followed before that is remembered.
const FOLLOWED_MAX: u64 = 256;
/// How many tenants' states are in memory.
const KNOWN_MAX: usize = 1_024;
/// How many events are read at a time.
const PAGE_EVENTS: usize = 512;
/// How often an append is tried while others append to the same stream.
const ATTEMPTS_MAX: usize = 5;

/// Tells when tenants come near their limits.
pub struct ThresholdProcess {
    states: Arc<dyn ProcessStates>,
    known: Mutex<HashMap<TenantId, Followed>>,
}

/// How far a ledger was followed, and what that led to.
#[derive(Clone, Default)]
struct Followed {
    position: Position,
    /// Up to where that is remembered in the tenant's store.
    remembered: Position,
    thresholds: Thresholds,
}

impl ThresholdProcess {
    /// The process; what it knows of a tenant is kept in `states`.
    pub fn new(states: Arc<dyn ProcessStates>) -> Self {
        Self {
            states,
            known: Mutex::default(),
        }
    }

    fn take(&self, tenant: TenantId) -> Option<Followed> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.remove(&tenant)
    }

    fn keep(&self, tenant: TenantId, followed: Followed) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX
            && let Some(any) = known.keys().next().copied()
        {
            // It can be had from its store again.
            known.remove(&any);
        }
        known.insert(tenant, followed);
    }

    /// What is remembered of a tenant. A state that cannot be read is made again from the first
    /// event, and what it has led to is not told again.
    async fn recall(&self, store: &TenantStore) -> Result<Followed, HandlerError> {
        let Remembered { position, state } = self.states.load(store.tenant, THRESHOLDS).await?;
        match serde_json::from_str(&state) {
            Ok(thresholds) => Ok(Followed {
                position,
                remembered: position,
                thresholds,
            }),
            Err(_) => followed_quietly(store, position).await,
        }
    }

    async fn remember(
        &self,
        tenant: TenantId,
        followed: &mut Followed,
    ) -> Result<(), HandlerError> {
        let state = serde_json::to_string(&followed.thresholds)
            .map_err(|error| HandlerError::Failed(error.to_string()))?;
        let remembered = Remembered {
            position: followed.position,
            state,
        };
        self.states.store(tenant, THRESHOLDS, &remembered).await?;
        followed.remembered = followed.position;
        Ok(())
    }

    /// Follows events and tells what they have led to.
    async fn follow(
        &self,
        store: &TenantStore,
        followed: &mut Followed,
        events: &[Arc<RecordedEvent>],
    ) -> Result<(), HandlerError> {
        for event in events {
            if event.stored.position <= followed.position {
                continue;
            }
            let level = followed.thresholds.level();
            followed.evolve(event)?;
            let told = followed.thresholds.decide();
            if !told.is_empty() {
                let told = told.into_iter().map(Event::Usage).collect();
                tell(store, event, told).await?;
            }
            let moved = level != followed.thresholds.level();
            if moved || followed.position - followed.remembered >= FOLLOWED_MAX {
                self.remember(store.tenant, followed).await?;
            }
        }
        Ok(())
    }
}

impl Followed {
    fn evolve(&mut self, event: &RecordedEvent) -> Result<(), HandlerError> {
        let expected = self.position + 1;
        if event.stored.position != expected {
            let found = event.stored.position;
            return Err(HandlerError::Failed(format!(
                "event {expected} is missing, {found} came instead"
            )));
        }
        self.thresholds
            .evolve(&event.event, event.stored.recorded_at);
        self.position = expected;
        Ok(())
    }
}

/// Follows a ledger from its first event up to a position, and tells nothing.
async fn followed_quietly(store: &TenantStore, up_to: Position) -> Result<Followed, HandlerError> {
    let mut followed = Followed::default();
    while followed.position < up_to {
        let events = store.ledger.read(followed.position, PAGE_EVENTS).await?;
        if events.is_empty() {
            let end = followed.position;
            return Err(HandlerError::Failed(format!(
                "the ledger ends at {end}, it was followed up to {up_to}"
            )));
        }
        for event in events.iter().filter(|it| it.stored.position <= up_to) {
            followed.evolve(event)?;
        }
    }
    Ok(followed)
}

/// Appends what an event has led to, unless that was done before.
async fn tell(
    store: &TenantStore,
    cause: &RecordedEvent,
    told: Vec<Event>,
) -> Result<(), HandlerError> {
    let id = store.tenant.to_string();
    let metadata = metadata(cause)?;
    for _ in 0..ATTEMPTS_MAX {
        let version = store.ledger.load(AggregateKind::Usage, &id).await?.len();
        let stream = StreamAppend {
            kind: AggregateKind::Usage,
            id: id.clone(),
            expected: version as Version,
            events: told.clone(),
            metadata: metadata.clone(),
        };
        let append = Append {
            streams: vec![stream],
            idempotency: Some(IdempotencyRecord {
                key: format!("process:{THRESHOLDS}:{}", cause.stored.position),
                fingerprint: [0; 32],
                outcome: "null".to_owned(),
            }),
        };
        return match store.ledger.append(append).await {
            Ok(_) => Ok(()),
            Err(AppendError::VersionConflict) => continue,
            Err(AppendError::Unavailable(error)) => Err(error.into()),
            Err(AppendError::Busy) => Err(Unavailable::new("a place in the ledger's queue").into()),
            Err(error @ (AppendError::NotAdmitted(_) | AppendError::KeyReused)) => {
                Err(HandlerError::Failed(error.to_string()))
            }
        };
    }
    Err(Unavailable::new("the stream of usage events, which others are appending to").into())
}

/// What is known of the cause, and who made this of it.
fn metadata(cause: &RecordedEvent) -> Result<String, HandlerError> {
    let of_cause: Metadata = serde_json::from_str(&cause.stored.metadata).unwrap_or_default();
    let metadata = Metadata {
        actor: THRESHOLDS.to_owned(),
        role: "process".to_owned(),
        reason: None,
        causation_id: of_cause.request_id.clone(),
        ..of_cause
    };
    serde_json::to_string(&metadata).map_err(|error| HandlerError::Failed(error.to_string()))
}

#[async_trait]
impl Subscriber for ThresholdProcess {
    fn name(&self) -> &'static str {
        THRESHOLDS
    }

    async fn checkpoint(&self, tenant: &TenantStore) -> Result<Position, Unavailable> {
        let remembered = self.states.load(tenant.tenant, THRESHOLDS).await?;
        Ok(remembered.position)
    }

    async fn handle(
        &self,
        tenant: &TenantStore,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        let mut followed = match self.take(tenant.tenant) {
            Some(followed) => followed,
            None => self.recall(tenant).await?,
        };
        // It may be remembered less far than it was followed.
        let first = events.first().map_or(0, |first| first.stored.position);
        while followed.position + 1 < first {
            let between = tenant.ledger.read(followed.position, PAGE_EVENTS).await?;
            let end = followed.position;
            self.follow(tenant, &mut followed, &between).await?;
            if followed.position == end {
                return Err(HandlerError::Failed(format!("the ledger ends at {end}")));
            }
        }
        self.follow(tenant, &mut followed, events).await?;
        let position = followed.position;
        self.keep(tenant.tenant, followed);
        Ok(position)
    }

    /// Makes its state anew, and tells nothing: what was told stays told.
    async fn rebuild(
        &self,
        tenant: &TenantStore,
        progress: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<Position, HandlerError> {
        let up_to = match self.take(tenant.tenant) {
            Some(followed) => followed.position,
            None => self.checkpoint(tenant).await?,
        };
        let mut followed = followed_quietly(tenant, up_to).await?;
        self.remember(tenant.tenant, &mut followed).await?;
        let position = followed.position;
        self.keep(tenant.tenant, followed);
        progress(position);
        Ok(position)
    }
}
