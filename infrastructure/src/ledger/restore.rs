//! A ledger out of a history from elsewhere, on every engine: positions, hashes and texts stay what
//! they were; what can be counted is counted anew.
//!
//! Each event is checked before it is stored, and the whole before anybody can open it: it is
//! filled under a name that no ledger has, and given its own when all of it holds.

use std::future::Future;

use application::ports::restore::{
    LedgerEnd, RestoreError, RestoringStore, StoredOutcome, Unsound,
};
use application::ports::{StoredEvent, Unavailable};
use async_trait::async_trait;
use domain::chain::Hash;
use domain::event::{Decoder, Event};
use domain::ids::{Position, TenantId};
use domain::usage::Usage;
use sqlx::query_builder::QueryBuilder;
use sqlx::{Database, Encode, Type};

use super::column::to_i64;
use super::{HeadRow, StoreError};

const WHAT: &str = "the tenant's store";

/// How many rows a statement stores.
pub(super) const ROWS_MAX: usize = 256;

/// Finds an aggregate whose events are not numbered 1, 2, 3 … in the order of their positions.
pub(super) const IS_MISNUMBERED: &str = "select exists (select 1 from (select sequence, position, \
     row_number() over stream as nth, lag(position) over stream as previous from events \
     window stream as (partition by aggregate_id, aggregate_type order by sequence)) as numbered \
     where sequence <> nth or previous > position)";

/// Finds an idempotency key that has two outcomes.
pub(super) const IS_ANSWERED_TWICE: &str =
    "select exists (select 1 from idempotency group by key having count(*) > 1)";

/// One engine's way to fill a store under another name.
pub(super) trait Filling: Send + 'static {
    /// Stores events, all or none of them.
    fn events(
        &mut self,
        events: &[StoredEvent],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Stores outcomes, all or none of them.
    fn outcomes(
        &mut self,
        outcomes: &[StoredOutcome],
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Whether a query finds something.
    fn finds(&mut self, query: &str) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Stores the head.
    fn head(&mut self, head: &HeadRow) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Gives the store its name, on disk when it is answered; what was filled, if the name is
    /// taken.
    fn publish(self) -> impl Future<Output = Result<Result<(), Self>, StoreError>> + Send
    where
        Self: Sized;

    /// Whether the store that has the name has this event.
    fn is_there(
        &mut self,
        position: Position,
        hash: &Hash,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Clears away what was filled.
    fn discard(self) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A store being filled.
pub(super) struct Restoring<F> {
    filling: F,
    tenant: TenantId,
    decoder: Decoder,
    head: HeadRow,
    /// The latest position that an outcome is of.
    answered: u64,
}

impl<F: Filling> Restoring<F> {
    /// Nothing yet.
    pub(super) fn new(tenant: TenantId, filling: F) -> Self {
        Self {
            filling,
            tenant,
            decoder: Decoder::default(),
            head: HeadRow {
                position: 0,
                hash: Hash::GENESIS,
                usage: Usage::default(),
                subscription_version: 0,
                card_serials_reserved: 0,
            },
            answered: 0,
        }
    }

    /// Checks an event, and moves the head behind it.
    fn follow(&mut self, stored: &StoredEvent) -> Result<(), Unsound> {
        let position = stored.position;
        let expected = self.head.position + 1;
        if position != expected {
            let found = position;
            return Err(Unsound::Gap { expected, found });
        }
        if stored.link().hash(&self.head.hash) != stored.hash {
            return Err(Unsound::Changed(position));
        }
        let decoded = self.decoder.decode_text(
            &stored.aggregate_type,
            &stored.event_type,
            &stored.event_version,
            &stored.payload,
        );
        match decoded.map_err(|source| Unsound::Undecodable { position, source })? {
            Event::Card(event) => self.head.usage.apply(&event),
            Event::Subscription(_) | Event::Usage(_)
                if stored.aggregate_id != self.tenant.to_string() =>
            {
                return Err(Unsound::AnotherTenant(position));
            }
            // The landlord's own ledger is not a tenant's.
            Event::Catalogue(_) => return Err(Unsound::AnotherTenant(position)),
            Event::Subscription(_) => self.head.subscription_version += 1,
            Event::Usage(_) => {}
        }
        self.head.position = position;
        self.head.hash = stored.hash;
        Ok(())
    }

    /// Checks the whole, and stores the head.
    async fn seal(&mut self, end: &LedgerEnd) -> Result<(), RestoreError> {
        let head = &mut self.head;
        if head.position != end.position {
            let (expected, found) = (end.position, head.position);
            return Err(Unsound::Ends { expected, found }.into());
        }
        if head.hash != end.hash {
            return Err(Unsound::EndsOtherwise.into());
        }
        if head.subscription_version == 0 {
            return Err(Unsound::NoSubscription.into());
        }
        if self.answered > head.position {
            return Err(Unsound::OutcomeAfterEnd(self.answered).into());
        }
        if end.card_serials_reserved < head.usage.issued_total() {
            return Err(Unsound::SerialsReserved.into());
        }
        head.card_serials_reserved = end.card_serials_reserved;
        if self.filling.finds(IS_MISNUMBERED).await.map_err(failed)? {
            return Err(Unsound::Misnumbered.into());
        }
        let twice = self.filling.finds(IS_ANSWERED_TWICE).await;
        if twice.map_err(failed)? {
            return Err(Unsound::OutcomeTwice.into());
        }
        self.filling.head(head).await.map_err(failed)
    }
}

#[async_trait]
impl<F: Filling> RestoringStore for Restoring<F> {
    async fn add_events(&mut self, events: &[StoredEvent]) -> Result<(), RestoreError> {
        for event in events {
            self.follow(event)?;
        }
        self.filling.events(events).await.map_err(failed)
    }

    async fn add_outcomes(&mut self, outcomes: &[StoredOutcome]) -> Result<(), RestoreError> {
        let latest = outcomes.iter().map(|it| it.position).max().unwrap_or(0);
        self.answered = self.answered.max(latest);
        self.filling.outcomes(outcomes).await.map_err(failed)
    }

    async fn finish(mut self: Box<Self>, end: &LedgerEnd) -> Result<(), RestoreError> {
        if let Err(error) = self.seal(end).await {
            self.discard().await;
            return Err(error);
        }
        match self.filling.publish().await.map_err(failed)? {
            Ok(()) => Ok(()),
            Err(mut filling) => {
                let there = filling.is_there(end.position, &end.hash).await;
                clear_away(self.tenant, filling).await;
                match there.map_err(failed)? {
                    true => Ok(()),
                    false => Err(RestoreError::Exists),
                }
            }
        }
    }

    async fn discard(self: Box<Self>) {
        clear_away(self.tenant, self.filling).await;
    }
}

async fn clear_away(tenant: TenantId, filling: impl Filling) {
    if let Err(error) = filling.discard().await {
        // Nobody can open it, and the next restoring begins by clearing it away.
        tracing::warn!(%tenant, error = &error as &dyn std::error::Error, "a half restored store is left");
    }
}

/// The store did not answer.
pub(super) fn failed(error: impl Into<StoreError>) -> RestoreError {
    Unavailable::because(WHAT, error.into()).into()
}

/// The statement that stores events, at most [`ROWS_MAX`]; `json` makes a text JSON.
pub(super) fn insert_events<'e, D: Database>(
    events: &'e [StoredEvent],
    json: &str,
) -> QueryBuilder<'e, D>
where
    for<'q> i64: Encode<'q, D> + Type<D>,
    for<'q> &'q str: Encode<'q, D> + Type<D>,
    for<'q> &'q [u8]: Encode<'q, D> + Type<D>,
{
    let mut insert = QueryBuilder::new(
        "insert into events (position, aggregate_type, aggregate_id, sequence, event_type, \
         event_version, payload, metadata, recorded_at, hash) ",
    );
    insert.push_values(events, |mut row, event| {
        row.push_bind(to_i64(event.position))
            .push_bind(event.aggregate_type.as_str())
            .push_bind(event.aggregate_id.as_str())
            .push_bind(to_i64(event.sequence))
            .push_bind(event.event_type.as_str())
            .push_bind(event.event_version.as_str())
            .push_bind(event.payload.as_str())
            .push_unseparated(json)
            .push_bind(event.metadata.as_str())
            .push_unseparated(json)
            .push_bind(event.recorded_at.timestamp_micros())
            .push_bind(event.hash.as_bytes().as_slice());
    });
    insert
}

/// The statement that stores outcomes, at most [`ROWS_MAX`].
pub(super) fn insert_outcomes<D: Database>(outcomes: &[StoredOutcome]) -> QueryBuilder<'_, D>
where
    for<'q> i64: Encode<'q, D> + Type<D>,
    for<'q> &'q str: Encode<'q, D> + Type<D>,
    for<'q> &'q [u8]: Encode<'q, D> + Type<D>,
{
    let mut insert = QueryBuilder::new(
        "insert into idempotency (key, fingerprint, outcome, position, recorded_at) ",
    );
    insert.push_values(outcomes, |mut row, outcome| {
        row.push_bind(outcome.key.as_str())
            .push_bind(outcome.fingerprint.as_slice())
            .push_bind(outcome.outcome.as_str())
            .push_bind(to_i64(outcome.position))
            .push_bind(outcome.recorded_at.timestamp_micros());
    });
    insert
}

/// The statement that stores the head.
pub(super) fn update_head<D: Database>(head: &HeadRow) -> QueryBuilder<'_, D>
where
    for<'q> i64: Encode<'q, D> + Type<D>,
    for<'q> &'q [u8]: Encode<'q, D> + Type<D>,
{
    let mut update = QueryBuilder::new("update head set hash = ");
    update.push_bind(head.hash.as_bytes().as_slice());
    for (column, count) in [
        ("position", head.position),
        ("issued", head.usage.issued),
        ("active", head.usage.active),
        ("suspended", head.usage.suspended),
        ("revoked", head.usage.revoked),
        ("expired", head.usage.expired),
        ("replaced", head.usage.replaced),
        ("subscription_version", head.subscription_version),
        ("card_serials_reserved", head.card_serials_reserved),
    ] {
        update.push(", ").push(column).push(" = ");
        update.push_bind(to_i64(count));
    }
    update.push(" where id = 1");
    update
}
