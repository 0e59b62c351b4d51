//! When which tenant next needs attention because time has passed.
//!
//! The row's `next_due_at` is a hint that is never too late. Whoever has looked at what is really
//! due replaces it, as of a position. If the row is past that position, events may have brought
//! in earlier moments meanwhile; a tenant that is always busy would then never get rid of a
//! moment that is over, and be looked at without end. So the row also keeps the earliest moment
//! of the events after a mark, which each look moves: at the second look at the latest, what came
//! in meanwhile is known apart from what was there before.

use std::sync::atomic::Ordering;

use application::ports::Unavailable;
use application::ports::agenda::Agenda;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{Position, TenantId};

use super::LandlordReadModel;
use super::overview::{self, Overview, earlier};
use crate::database::unavailable;
use crate::landlord::THE_DATABASE;
use crate::portable::statement;
use crate::projections::row;

#[async_trait]
impl Agenda for LandlordReadModel {
    async fn next(
        &self,
        except: &[TenantId],
    ) -> Result<Option<(TenantId, DateTime<Utc>)>, Unavailable> {
        let first = self.first(except).await;
        first.map_err(unavailable(THE_DATABASE))
    }

    async fn replace(
        &self,
        tenant: TenantId,
        as_of: Position,
        next: Option<DateTime<Utc>>,
    ) -> Result<(), Unavailable> {
        let next = next.map(|moment| moment.timestamp_micros());
        self.looked(tenant, as_of, next)
            .await
            .map_err(unavailable(THE_DATABASE))
    }

    async fn changed(&self) {
        self.earlier.notified().await;
    }
}

impl LandlordReadModel {
    async fn first(
        &self,
        except: &[TenantId],
    ) -> Result<Option<(TenantId, DateTime<Utc>)>, sqlx::Error> {
        let others = match except.len() {
            0 => String::new(),
            count => {
                let ids: Vec<_> = (1..=count).map(|nth| format!("${nth}")).collect();
                format!("and tenant_id not in ({})", ids.join(", "))
            }
        };
        let sql = format!(
            "select tenant_id, next_due_at from tenant_overviews \
             where next_due_at is not null {others} order by next_due_at, tenant_id limit 1"
        );
        let select = except
            .iter()
            .fold(statement(sql), |select, id| select.bind(id.to_string()));
        // What another node commits from here on may be missing from the answer.
        self.known.store(i64::MAX, Ordering::SeqCst);
        let found = self.database.read(select).await?;
        let Some(found) = found.first() else {
            return Ok(None);
        };
        let due = found.get(1)?;
        self.known.store(due, Ordering::SeqCst);
        Ok(Some((row::id(found.get(0)?)?, row::time(due)?)))
    }

    async fn looked(
        &self,
        tenant: TenantId,
        as_of: Position,
        next: Option<i64>,
    ) -> Result<(), sqlx::Error> {
        loop {
            let (transaction, before) = overview::begin(&*self.database, tenant).await?;
            let Some(before) = before else {
                return transaction.rollback().await;
            };
            let after = before.overview.clone().looked(as_of, next);
            // A tenant with much to do moves its row all the time. Were its moment left for that, it
            // would come first again and again.
            let stored = overview::commit(transaction, tenant, Some(&before), after).await?;
            if let Some(stored) = stored {
                self.stored(tenant, Some(&before.overview), stored);
                return Ok(());
            }
        }
    }
}

impl Overview {
    /// The row after somebody found `next` to be due next, as of a position.
    fn looked(mut self, as_of: Position, next: Option<i64>) -> Self {
        if self.position <= as_of {
            self.next_due_at = next;
        } else if self.recent_since <= as_of {
            self.next_due_at = earlier(next, self.recent_due_at);
        }
        self.recent_due_at = None;
        self.recent_since = self.position;
        self
    }
}
