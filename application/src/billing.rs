//! Billing: what a biller reads in messages, and the same counted again from the ledgers.
//!
//! Asked by whoever has the machine, not by a key, so no role is required.

pub mod message;
pub mod rejected;

use domain::billing::recount::Recount;
use domain::billing::{Bill, Period};
use domain::ids::{Position, TenantId};
use futures::{TryStreamExt, pin_mut};

use crate::Application;
use crate::audit::stored_events;
use crate::error::Error;
use crate::ports::HistoryFilter;

impl Application {
    /// What a tenant owes for a period, counted from its ledger. Memory stays flat however long
    /// the history is; `progress` is called with the position of each event.
    ///
    /// # Errors
    ///
    /// There is no such tenant, its store does not answer, or an event cannot be read.
    pub async fn recount_bill(
        &self,
        tenant: TenantId,
        period: Period,
        progress: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<Bill, Error> {
        let store = self.known_store(tenant).await?;
        let events = stored_events(store, HistoryFilter::default());
        pin_mut!(events);
        let mut recount = Recount::new(period);
        while let Some(stored) = events.try_next().await?
            && !recount.is_over()
        {
            let (name, version) = (&stored.event_type, &stored.event_version);
            let aggregate = &stored.aggregate_type;
            let decoded = self
                .decoder
                .decode_text(aggregate, name, version, &stored.payload);
            let event = decoded.map_err(|error| {
                Error::Internal(format!("position {}: {error}", stored.position))
            })?;
            recount.count(&event);
            progress(stored.position);
        }
        Ok(recount.close())
    }
}
