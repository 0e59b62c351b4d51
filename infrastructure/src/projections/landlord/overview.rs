//! One tenant's row: its fold, and how it is loaded and stored.

use std::sync::Arc;

use application::ports::{HandlerError, RecordedEvent};
use chrono::{DateTime, Utc};
use domain::card::CardEvent;
use domain::event::Event;
use domain::ids::{Position, TenantId};
use domain::subscription::TenantSubscription;
use domain::usage::Usage;

use crate::portable::{Engine, Statement, Transaction, statement};
use crate::projections::{following, row};

/// What is known of a tenant at a position of its ledger. Times in microseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overview {
    pub position: Position,
    pub subscription: TenantSubscription,
    pub usage: Usage,
    /// The earliest moment of the subscription or end of any card that was issued or renewed: never
    /// too late, often too early.
    pub next_due_at: Option<i64>,
    /// The same, of the events after `recent_since` alone.
    pub recent_due_at: Option<i64>,
    pub recent_since: Position,
}

impl Overview {
    /// Folds the events after its position; those before it were folded already.
    pub fn fold(&mut self, events: &[Arc<RecordedEvent>]) -> Result<(), HandlerError> {
        for event in following(events, self.position)? {
            match &event.event {
                Event::Card(event) => self.fold_card(event),
                Event::Subscription(event) => {
                    self.subscription.evolve(event.clone());
                    self.note(self.subscription.next_due());
                }
                // In no tenant's ledger.
                Event::Catalogue(_) => {}
                // The cards' own events have all the counts.
                Event::Usage(_) => {}
            }
            self.position = event.stored.position;
        }
        Ok(())
    }

    fn fold_card(&mut self, event: &CardEvent) {
        self.usage.apply(event);
        let end = match event {
            CardEvent::CardIssued { expires_at, .. } => *expires_at,
            CardEvent::CardRenewed { expires_at, .. } => Some(*expires_at),
            CardEvent::CardActivated { .. }
            | CardEvent::CardSuspended { .. }
            | CardEvent::CardReinstated { .. }
            | CardEvent::CardRevoked { .. }
            | CardEvent::CardExpired { .. }
            | CardEvent::CardReplaced { .. }
            | CardEvent::CardHolderUpdated { .. } => None,
        };
        self.note(end);
    }

    fn note(&mut self, due: Option<DateTime<Utc>>) {
        let due = due.map(|due| due.timestamp_micros());
        self.next_due_at = earlier(self.next_due_at, due);
        self.recent_due_at = earlier(self.recent_due_at, due);
    }
}

/// The earlier of two moments, either of which may be none.
pub fn earlier(a: Option<i64>, b: Option<i64>) -> Option<i64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Up to where the tenant's row has it.
pub async fn position(database: &dyn Engine, tenant: TenantId) -> Result<Position, sqlx::Error> {
    let sql = "select position from tenant_overviews where tenant_id = $1";
    let found = database
        .read(statement(sql).bind(tenant.to_string()))
        .await?;
    found
        .first()
        .map_or(Ok(0), |found| row::position(found.get(0)?))
}

/// A row as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// How often it was stored before.
    revision: i64,
    pub overview: Overview,
}

/// Begins, and loads the tenant's row. Somebody else may store it or make it meanwhile; [`commit`]
/// notices.
pub async fn begin(
    database: &dyn Engine,
    tenant: TenantId,
) -> Result<(Box<dyn Transaction + '_>, Option<Stored>), sqlx::Error> {
    let sql = "select position, subscription, usage, next_due_at, recent_due_at, recent_since, \
               revision from tenant_overviews where tenant_id = $1";
    let select = statement(sql).bind(tenant.to_string());
    let (transaction, found) = database.revise(select).await?;
    let stored = found.first().map(|found| {
        Ok::<_, sqlx::Error>(Stored {
            overview: Overview {
                position: row::position(found.get(0)?)?,
                subscription: row::json(found.get(1)?)?,
                usage: row::json(found.get(2)?)?,
                next_due_at: found.get(3)?,
                recent_due_at: found.get(4)?,
                recent_since: row::position(found.get(5)?)?,
            },
            revision: found.get(6)?,
        })
    });
    Ok((transaction, stored.transpose()?))
}

/// Puts the row in the place of the one that was loaded, and commits; the row as it is stored then.
/// None, without an effect, if somebody has stored it meanwhile, or made it where there was none.
pub async fn commit(
    transaction: Box<dyn Transaction + '_>,
    tenant: TenantId,
    before: Option<&Stored>,
    after: Overview,
) -> Result<Option<Stored>, sqlx::Error> {
    let stored = transaction.commit(store(tenant, before, &after)?).await?;
    Ok(made(!stored.is_empty(), before, after))
}

/// As [`commit`], of a row that need not be loaded, because it is known how it was stored last.
pub async fn replace(
    database: &dyn Engine,
    tenant: TenantId,
    before: &Stored,
    after: Overview,
) -> Result<Option<Stored>, sqlx::Error> {
    let store = store(tenant, Some(before), &after)?;
    let stored = database.write_replayable(store).await?;
    Ok(made(!stored.is_empty(), Some(before), after))
}

fn made(stored: bool, before: Option<&Stored>, overview: Overview) -> Option<Stored> {
    stored.then(|| Stored {
        revision: next(before),
        overview,
    })
}

fn next(before: Option<&Stored>) -> i64 {
    before.map_or(0, |before| before.revision + 1)
}

fn store(
    tenant: TenantId,
    before: Option<&Stored>,
    after: &Overview,
) -> Result<Statement, sqlx::Error> {
    let sql = "insert into tenant_overviews (tenant_id, position, plan, subscription, usage, \
               next_due_at, recent_due_at, recent_since, revision) \
               values ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
               on conflict (tenant_id) do update set position = excluded.position, \
               plan = excluded.plan, subscription = excluded.subscription, \
               usage = excluded.usage, next_due_at = excluded.next_due_at, \
               recent_due_at = excluded.recent_due_at, recent_since = excluded.recent_since, \
               revision = excluded.revision \
               where tenant_overviews.revision = $10 and tenant_overviews.position = $11 \
               returning position";
    let plan = after.subscription.terms().map(|terms| &terms.plan.key);
    Ok(statement(sql)
        .bind(tenant.to_string())
        .bind(row::column(after.position))
        .bind(plan.map(|plan| plan.as_str()))
        .bind(row::to_json(&after.subscription)?)
        .bind(row::to_json(&after.usage)?)
        .bind(after.next_due_at)
        .bind(after.recent_due_at)
        .bind(row::column(after.recent_since))
        .bind(next(before))
        .bind(before.map(|before| before.revision))
        .bind(before.map(|before| row::column(before.overview.position))))
}
