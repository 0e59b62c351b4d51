//! A ledger, open: what it is on every engine.

use std::future::Future;
use std::sync::Arc;

use application::doorbell::Doorbell;
use application::ports::restore::OutcomePage;
use application::ports::usage::Reconciliation;
use application::ports::{
    Append, AppendError, Appended, Clock, Head, HistoryFilter, Ledger, RecordedEvent,
    RecordedOutcome, StoredEvent, Unavailable,
};
use async_trait::async_trait;
use cqrs_es::persist::SerializedEvent;
use domain::event::{AggregateKind, Decoder};
use domain::ids::{Position, TenantId};

use sqlx::query_builder::QueryBuilder;
use sqlx::{Database, Encode, Type};

use super::admission::Prepared;
use super::column::to_i64;
use super::writer::Writer;
use super::{Engine, Memory, StoreError};
use crate::lost::read_again;

const WHAT: &str = "the tenant's ledger";

/// A tenant's ledger, open.
pub struct StoredLedger<R> {
    memory: Arc<Memory>,
    writer: Writer,
    pub(super) reader: R,
}

/// One database's way to read a ledger back.
pub(super) trait Reader: Send + Sync + 'static {
    /// Whether only this process writes: then nothing is newer than its memory.
    const ALONE: bool;

    /// An aggregate's events.
    fn load(
        &self,
        kind: AggregateKind,
        id: &str,
    ) -> impl Future<Output = Result<Vec<SerializedEvent>, StoreError>> + Send;

    /// What was answered under a key.
    fn outcome(
        &self,
        key: &str,
    ) -> impl Future<Output = Result<Option<RecordedOutcome>, StoreError>> + Send;

    /// Events as stored, in order.
    fn history(
        &self,
        filter: &HistoryFilter,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<StoredEvent>, StoreError>> + Send;

    /// Outcomes as stored, a page of them.
    fn outcomes(
        &self,
        from: Option<&str>,
        limit: usize,
    ) -> impl Future<Output = Result<OutcomePage, StoreError>> + Send;

    /// How many serials the head has reserved.
    fn card_serials_reserved(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;
}

impl<R> StoredLedger<R> {
    /// Reads the head and starts the writer, before which at most `waiting_max` appends may wait.
    pub(super) async fn start(
        tenant: TenantId,
        engine: impl Engine,
        reader: R,
        clock: Arc<dyn Clock>,
        doorbell: Doorbell,
        waiting_max: usize,
    ) -> Result<Self, Unavailable> {
        let decoder = Decoder::default();
        let state = engine.load(&decoder).await.map_err(unavailable)?;
        let memory = Arc::new(Memory::new(tenant, state, clock, doorbell, decoder));
        Ok(Self {
            writer: Writer::spawn(engine, Arc::clone(&memory), waiting_max),
            memory,
            reader,
        })
    }

    /// Puts a recount in place of the counters, and records that.
    ///
    /// # Errors
    ///
    /// As [`Ledger::append`].
    pub async fn reconcile(&self, wanted: Reconciliation) -> Result<Appended, AppendError> {
        let tenant = self.memory.tenant;
        let append = Prepared::reconciling(tenant, wanted);
        self.writer.queue(append).await
    }

    /// Finishes what is queued; every later append is refused. The database stays open.
    pub async fn close(&self) {
        self.writer.close().await;
    }
}

#[async_trait]
impl<R: Reader> Ledger for StoredLedger<R> {
    fn head(&self) -> Arc<Head> {
        self.memory.head.load_full()
    }

    async fn heard(&self, position: Position) -> Result<(), Unavailable> {
        let known = position > 0 && self.memory.head.load().position >= position;
        match R::ALONE || known {
            true => Ok(()),
            false => self.writer.look(position).await,
        }
    }

    async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        self.writer.append(append).await
    }

    async fn load(
        &self,
        kind: AggregateKind,
        id: &str,
    ) -> Result<Vec<SerializedEvent>, Unavailable> {
        read_again(|| self.reader.load(kind, id))
            .await
            .map_err(unavailable)
    }

    async fn outcome(&self, key: &str) -> Result<Option<RecordedOutcome>, Unavailable> {
        read_again(|| self.reader.outcome(key))
            .await
            .map_err(unavailable)
    }

    async fn next_card_serial(&self) -> Result<u64, Unavailable> {
        self.writer.next_serial().await
    }

    async fn read(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Arc<RecordedEvent>>, Unavailable> {
        if R::ALONE && after >= self.memory.head.load().position {
            return Ok(vec![]);
        }
        if let Some(events) = self.memory.tail.read(after, limit) {
            return Ok(events);
        }
        let filter = HistoryFilter {
            after,
            ..HistoryFilter::default()
        };
        let stored = self.history(&filter, limit).await?;
        let decoder = &self.memory.decoder;
        let decode = |stored: StoredEvent| {
            let event = decoder.decode_text(
                &stored.aggregate_type,
                &stored.event_type,
                &stored.event_version,
                &stored.payload,
            )?;
            Ok(Arc::new(RecordedEvent { stored, event }))
        };
        let events: Result<_, StoreError> = stored.into_iter().map(decode).collect();
        events.map_err(unavailable)
    }

    async fn history(
        &self,
        filter: &HistoryFilter,
        limit: usize,
    ) -> Result<Vec<StoredEvent>, Unavailable> {
        let history = read_again(|| self.reader.history(filter, limit)).await;
        history.map_err(unavailable)
    }

    async fn outcomes(&self, from: Option<&str>, limit: usize) -> Result<OutcomePage, Unavailable> {
        let page = read_again(|| self.reader.outcomes(from, limit)).await;
        page.map_err(unavailable)
    }

    async fn card_serials_reserved(&self) -> Result<u64, Unavailable> {
        let reserved = read_again(|| self.reader.card_serials_reserved()).await;
        reserved.map_err(unavailable)
    }
}

/// Ends the statement of [`Reader::history`]. Conditions that are not asked for are left out, so
/// that the index of an aggregate is used, and otherwise the table is read on from the position.
pub(super) fn push_conditions<'q, D: Database>(
    query: &mut QueryBuilder<'q, D>,
    filter: &'q HistoryFilter,
    limit: usize,
) where
    i64: Encode<'q, D> + Type<D>,
    &'q str: Encode<'q, D> + Type<D>,
{
    query
        .push(" where position > ")
        .push_bind(to_i64(filter.after));
    let texts = [
        (" and aggregate_id = ", filter.aggregate_id.as_deref()),
        (
            " and aggregate_type = ",
            filter.kind.map(AggregateKind::as_str),
        ),
        (" and event_type = ", filter.event_type.as_deref()),
    ];
    for (condition, text) in texts {
        if let Some(text) = text {
            query.push(condition).push_bind(text);
        }
    }
    let times = [
        (" and recorded_at >= ", filter.from),
        (" and recorded_at < ", filter.to),
    ];
    for (condition, time) in times {
        if let Some(time) = time {
            query.push(condition).push_bind(time.timestamp_micros());
        }
    }
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    query.push(" order by position limit ").push_bind(limit);
}

fn unavailable(error: StoreError) -> Unavailable {
    Unavailable::because(WHAT, error)
}
