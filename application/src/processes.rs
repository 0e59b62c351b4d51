//! Processes: what happens because time has passed.
//!
//! One timer sleeps until the next due moment of any tenant (no polling) and then records what
//! was due: cards whose time is over expire, with the moment they were due. What was missed while
//! the process was down is recorded at the next start. Rights that depend on time do not wait for
//! this: they are evaluated against the clock.
//!
//! Tenants that were left half made, by a crash or because a store did not answer, are finished
//! here too: slowly, as whoever makes one now needs no help.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use domain::card::{CardCommand, DigitalCard};
use domain::event::Metadata;
use domain::ids::{CardId, Position, TenantId};
use futures::stream::{self, StreamExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::Application;
use crate::error::Error;
use crate::ports::{Append, AppendError, TenantStore, Unavailable};
use crate::subscribers::CARDS;
use crate::tenants::Tenant;

/// How many cards expire in one append.
const EXPIRED_AT_A_TIME: usize = 200;
/// The longest sleep: bounds what a change of the wall clock can delay.
const SLEEP_MAX: Duration = Duration::from_secs(600);
/// The pause after the agenda itself could not be read.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a tenant whose cards could not be expired is left alone.
const POSTPONEMENT: TimeDelta = TimeDelta::minutes(1);
/// How many half-made tenants are finished at a time.
const HALF_MADE_AT_A_TIME: usize = 8;
/// How long finishing one may take before it is left for later.
const FINISHING_MAX: Duration = Duration::from_secs(30);

/// Records what is due, when it is due, until stopped.
pub async fn run_timer(application: Arc<Application>, stop: CancellationToken) {
    loop {
        let sleep = match application.record_next_due().await {
            Ok(sleep) => sleep,
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the timer tries again"
                );
                PAUSE
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = application.agenda.changed() => {}
            () = tokio::time::sleep(sleep) => {}
        }
    }
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
            tokio::time::sleep(interval).await;
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

    /// Records what is due by now; how long nothing more will be.
    async fn record_next_due(&self) -> Result<Duration, Error> {
        while let Some((tenant, due)) = self.agenda.next().await? {
            if let Ok(ahead) = (due - self.clock.now()).to_std()
                && !ahead.is_zero()
            {
                return Ok(ahead.min(SLEEP_MAX));
            }
            if let Err(error) = self.expire_due_cards(tenant).await {
                // One tenant's trouble must not hold up the others.
                tracing::warn!(%tenant, error = &error as &dyn std::error::Error, "postponed");
                let later = self.clock.now() + POSTPONEMENT;
                let regardless = Position::MAX;
                self.agenda.replace(tenant, regardless, Some(later)).await?;
            }
        }
        Ok(SLEEP_MAX)
    }

    /// Expires every card of a tenant whose time is over.
    pub async fn expire_due_cards(&self, tenant: TenantId) -> Result<(), Error> {
        let store = self.known_store(tenant).await?;
        loop {
            let as_of = store.ledger.head().position;
            self.subscribers.reached(CARDS, &store, as_of).await?;
            let due = store.cards.due(self.clock.now(), EXPIRED_AT_A_TIME).await?;
            if due.is_empty() {
                let next = store.cards.next_due().await?;
                self.agenda.replace(tenant, as_of, next).await?;
                return Ok(());
            }
            self.expire(&store, &due).await?;
        }
    }

    async fn expire(&self, store: &TenantStore, due: &[CardId]) -> Result<(), Error> {
        let metadata = self.metadata_of("card-expiry");
        let mut append = Append::default();
        for id in due {
            let command = CardCommand::Expire {
                at: self.clock.now(),
            };
            let id = id.to_string();
            let staged = self
                .stage::<DigitalCard>(store, &id, false, command, metadata.clone(), None)
                .await;
            match staged {
                Ok(staged) => append.streams.push(staged.stream),
                // Renewed or ended meanwhile: nothing is due any more.
                Err(Error::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        match store.ledger.append(append).await {
            Ok(_) => Ok(()),
            // One of the cards changed meanwhile: look again at what is due.
            Err(AppendError::VersionConflict) => Ok(()),
            Err(error) => Err(Error::of_append(store.tenant, error)),
        }
    }
}
