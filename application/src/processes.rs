//! Processes: what happens because time has passed.
//!
//! One timer sleeps until the next due moment of any tenant (no polling) and then records what
//! was due, with the moment it was due: ends of trials, add-ons, grace and subscriptions, scheduled
//! plan changes, and cards whose time is over. What was missed while the process was down is
//! recorded at the next start. Rights that depend on time do not wait for this: they are evaluated
//! against the clock. Every node has its timer; what one has recorded, no other records again. Several
//! tenants are attended to at a time, so that a store that does not answer keeps only its own waiting.
//!
//! Tenants that were left half made, by a crash or because a store did not answer, are finished
//! here too: slowly, as whoever makes one now needs no help.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::card::DigitalCard;
use domain::event::{AggregateKind, Metadata};
use domain::ids::{Position, TenantId};
use futures::stream::{self, FuturesUnordered, StreamExt};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::Application;
use crate::cards::DueCard;
use crate::error::{Error, causes};
use crate::ports::{Append, AppendError, StreamAppend, TenantStore, Unavailable};
use crate::subscribers::CARDS;
use crate::tenants::Tenant;

/// How many cards expire before other tenants have their turn.
const EXPIRED_IN_A_TURN: usize = 1_000;
/// How many cards expire in one append: few enough that traffic between them does not wait long.
const EXPIRED_AT_A_TIME: usize = 200;
/// The longest sleep: bounds what a change of the wall clock can delay.
const SLEEP_MAX: Duration = Duration::from_secs(600);
/// The pause after the agenda itself could not be read or written.
const PAUSE: Duration = Duration::from_secs(1);
/// How many tenants are attended to at a time.
const TENANTS_AT_A_TIME: usize = 8;
/// How long one may take before it is postponed.
const TENANT_MAX: Duration = Duration::from_secs(30);
/// How long a tenant of whom nothing could be recorded is left alone.
const POSTPONEMENT: TimeDelta = TimeDelta::minutes(1);
/// How many half-made tenants are finished at a time.
const HALF_MADE_AT_A_TIME: usize = 8;
/// How long finishing one may take before it is left for later.
const FINISHING_MAX: Duration = Duration::from_secs(30);

/// Records what is due, when it is due, until stopped.
pub async fn run_timer(application: Arc<Application>, stop: CancellationToken) {
    let record = async {
        let (mut attended, mut work) = (Vec::new(), FuturesUnordered::new());
        loop {
            let mut done = Vec::new();
            let next = {
                let mut next = pin!(application.next_due(&attended));
                loop {
                    // What is under way goes on while the agenda is read.
                    tokio::select! {
                        Some(tenant) = work.next() => done.push(tenant),
                        next = &mut next => break next,
                    }
                }
            };
            match next {
                Next::Due(tenant) => {
                    attended.push(tenant);
                    work.push(application.attend_to(tenant));
                }
                // They may be due again.
                Next::In(_) if !done.is_empty() => {}
                Next::In(ahead) => tokio::select! {
                    Some(tenant) = work.next() => done.push(tenant),
                    () = application.agenda.changed() => {}
                    () = sleep(ahead) => {}
                },
            }
            attended.retain(|tenant| !done.contains(tenant));
        }
    };
    // What is appended is appended whole, and what is left is due again at the next start.
    stop.run_until_cancelled(record).await;
}

/// What the timer has to do next.
enum Next {
    /// Attend to this tenant.
    Due(TenantId),
    /// Nothing for so long, unless the agenda changes or somebody is done with.
    In(Duration),
}

/// Finishes tenants that were left half made: at once those that are there at the start, and then
/// every `interval` those that are older than that, until stopped.
pub async fn finish_half_made(
    application: Arc<Application>,
    interval: Duration,
    stop: CancellationToken,
) {
    let finish = async {
        let mut older_than = Duration::ZERO;
        loop {
            application.finish_older_than(older_than).await;
            older_than = interval;
            sleep(interval).await;
        }
    };
    stop.run_until_cancelled(finish).await;
}

impl Application {
    async fn finish_older_than(&self, age: Duration) {
        let now = self.clock.now();
        let all = self.directory.all();
        let is_left = |tenant: &Arc<Tenant>| {
            !tenant.ready && (now - tenant.created_at).to_std().unwrap_or_default() >= age
        };
        stream::iter(all.into_iter().filter(is_left))
            .for_each_concurrent(HALF_MADE_AT_A_TIME, |tenant| async move {
                let metadata = self.metadata_of("provisioning");
                let finishing = self.finish_provisioning(Tenant::clone(&tenant), metadata);
                let finished = timeout(FINISHING_MAX, finishing).await;
                let late = |late| Unavailable::because("the tenant's store", late).into();
                if let Err(error) = finished.map_err(late).flatten() {
                    let error = &error as &dyn std::error::Error;
                    tracing::error!(tenant = %tenant.id, error, "cannot finish provisioning; trying again later");
                }
            })
            .await;
    }

    pub(crate) fn metadata_of(&self, process: &str) -> Metadata {
        let cause = self.random.id().to_string();
        Metadata {
            actor: process.to_owned(),
            role: "process".to_owned(),
            reason: None,
            request_id: cause.clone(),
            correlation_id: cause.clone(),
            causation_id: cause,
        }
    }

    /// Whom to attend to next, beside those who are `attended` to: as many as may be at a time.
    async fn next_due(&self, attended: &[TenantId]) -> Next {
        if attended.len() >= TENANTS_AT_A_TIME {
            return Next::In(SLEEP_MAX);
        }
        let (tenant, due) = match self.agenda.next(attended).await {
            Ok(Some(next)) => next,
            Ok(None) => return Next::In(SLEEP_MAX),
            Err(error) => {
                tracing::warn!(error = causes(&error), "the timer tries again");
                return Next::In(PAUSE);
            }
        };
        match (due - self.clock.now()).to_std() {
            Ok(ahead) if !ahead.is_zero() => Next::In(ahead.min(SLEEP_MAX)),
            Ok(_) | Err(_) => Next::Due(tenant),
        }
    }

    /// Records what is due of a tenant, or postpones it: its trouble must not hold up the others.
    async fn attend_to(&self, tenant: TenantId) -> TenantId {
        let late = |late| Unavailable::because("the tenant's store", late).into();
        let recorded = timeout(TENANT_MAX, self.record_due(tenant)).await;
        let Err(error) = recorded.map_err(late).flatten() else {
            return tenant;
        };
        tracing::warn!(%tenant, error = causes(&error), "postponed");
        let (regardless, later) = (Position::MAX, self.clock.now() + POSTPONEMENT);
        let postponed = self.agenda.replace(tenant, regardless, Some(later)).await;
        if let Err(error) = postponed {
            tracing::warn!(%tenant, error = causes(&error), "the timer tries again");
            sleep(PAUSE).await;
        }
        tenant
    }

    /// Records what is due of a tenant: of its subscription, and of [`EXPIRED_IN_A_TURN`] cards.
    /// With more of them it comes again, after those that wait longer by then.
    async fn record_due(&self, tenant: TenantId) -> Result<(), Error> {
        let store = self.known_store(tenant).await?;
        // Another node may have changed the subscription a moment ago.
        store.ledger.heard(0).await?;
        self.record_due_of_subscription(&store).await?;
        let head = store.ledger.head();
        let as_of = head.position;
        self.subscribers.reached(CARDS, &store, as_of).await?;
        let now = self.clock.now();
        let due = store.cards.due(now, EXPIRED_IN_A_TURN).await?;
        for cards in due.chunks(EXPIRED_AT_A_TIME) {
            self.expire(&store, cards, now).await?;
        }
        let next = match due.is_empty() {
            false => Some(now),
            true => {
                let of_cards = store.cards.next_due().await?;
                let of_subscription = head.subscription.next_due();
                of_cards.into_iter().chain(of_subscription).min()
            }
        };
        Ok(self.agenda.replace(tenant, as_of, next).await?)
    }

    /// Expires cards without loading each: its version in the read model tells whether anything
    /// has happened to it since.
    async fn expire(
        &self,
        store: &TenantStore,
        due: &[DueCard],
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let metadata = serde_json::to_string(&self.metadata_of("card-expiry"))
            .map_err(|error| Error::Internal(error.to_string()))?;
        let expiry = |card: &DueCard| {
            let expired = DigitalCard::expiry(card.status, card.expires_at, now)?;
            Some(StreamAppend {
                kind: AggregateKind::Card,
                id: card.id.to_string(),
                expected: card.version,
                events: vec![expired.into()],
                metadata: metadata.clone(),
            })
        };
        let streams = due.iter().filter_map(expiry).collect();
        self.append_unless_moved(store, streams).await
    }

    /// Records what time has done, unless somebody else has changed the same meanwhile: then what
    /// is due is looked for again.
    pub(crate) async fn append_unless_moved(
        &self,
        store: &TenantStore,
        streams: Vec<StreamAppend>,
    ) -> Result<(), Error> {
        let append = Append {
            streams,
            idempotency: None,
        };
        match store.ledger.append(append).await {
            Ok(_) | Err(AppendError::VersionConflict) => Ok(()),
            Err(error) => Err(Error::of_append(store.tenant, error)),
        }
    }
}
