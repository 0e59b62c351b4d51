//! Auditing: a history as it was stored, a tenant's or the landlord's own, with the hashes that
//! prove it.

use std::sync::Arc;

use domain::ids::{Position, TenantId};
use futures::stream::{self, Stream, StreamExt};

use crate::Application;
use crate::error::Error;
use crate::ports::{HistoryFilter, StoredEvent, TenantStore, Unavailable};
use crate::scope::{Role, Scope};

const READ: &[Role] = &[Role::Auditor, Role::Landlord, Role::Billing];

/// How many events are held in memory at a time while a whole history is streamed.
const STREAM_CHUNK_EVENTS: usize = 500;

impl Application {
    /// Up to `limit` events of a tenant that match, in ledger order, once the ledger is at
    /// `at_least` or after it.
    pub async fn history(
        &self,
        scope: &Scope,
        tenant: TenantId,
        filter: &HistoryFilter,
        limit: usize,
        at_least: Position,
    ) -> Result<Vec<StoredEvent>, Error> {
        scope.require(READ)?;
        let store = self.audited_store(tenant).await?;
        Self::head_at(&store, at_least).await?;
        Ok(store.ledger.history(filter, limit).await?)
    }

    /// Every event of a tenant that matches, in ledger order, read as fast as it is taken and
    /// no faster: memory stays flat however long the history is.
    pub async fn history_stream(
        &self,
        scope: &Scope,
        tenant: TenantId,
        filter: HistoryFilter,
        at_least: Position,
    ) -> Result<impl Stream<Item = Result<StoredEvent, Unavailable>> + Send + use<>, Error> {
        scope.require(READ)?;
        let store = self.audited_store(tenant).await?;
        Self::head_at(&store, at_least).await?;
        Ok(stored_events(store, filter))
    }

    /// A tenant's store, or the landlord's own, in which the catalogue is.
    async fn audited_store(&self, tenant: TenantId) -> Result<Arc<TenantStore>, Error> {
        match tenant == TenantId::LANDLORD {
            true => Ok(self.stores.open(tenant).await?),
            false => self.known_store(tenant).await,
        }
    }
}

/// Every event of a store that matches, in ledger order, read as fast as it is taken.
pub(crate) fn stored_events(
    store: Arc<TenantStore>,
    filter: HistoryFilter,
) -> impl Stream<Item = Result<StoredEvent, Unavailable>> + Send {
    let chunks = stream::try_unfold(Some((store, filter)), |rest| async move {
        let Some((store, mut filter)) = rest else {
            return Ok(None);
        };
        let events = Arc::clone(&store.ledger)
            .history(&filter, STREAM_CHUNK_EVENTS)
            .await?;
        let rest = match events.last() {
            Some(last) if events.len() == STREAM_CHUNK_EVENTS => {
                filter.after = last.position;
                Some((store, filter))
            }
            _ => None,
        };
        Ok::<_, Unavailable>(Some((events, rest)))
    });
    chunks.flat_map(|chunk| match chunk {
        Ok(events) => stream::iter(events.into_iter().map(Ok).collect::<Vec<_>>()),
        Err(error) => stream::iter(vec![Err(error)]),
    })
}
