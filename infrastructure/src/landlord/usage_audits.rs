//! The reports of usage audits, and which one is running.

use application::ports::usage::{Begun, UsageAuditRecords};
use application::ports::{IdempotencyRecord, LandlordError, Recorded, Unavailable};
use application::usage_audits::{AuditState, Night, REPORTS_MAX, UsageAudit};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{LandlordDatabase, THE_DATABASE, begin_adding, failed};
use crate::database::unavailable;
use crate::portable::{Row, Statement, Transaction, statement};
use crate::projections::row;

impl LandlordDatabase {
    /// Records every audit that is running as interrupted: for a process that is the only one.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if the database does not answer.
    pub async fn interrupt_usage_audits(&self) -> Result<(), Unavailable> {
        let interrupted = self.database.write(interrupt(i64::MAX)).await;
        interrupted.map(drop).map_err(unavailable(THE_DATABASE))
    }

    async fn reported(&self, audit: &UsageAudit) -> Result<(), sqlx::Error> {
        let sql = "update usage_audits set state = $2, heard_at = $3, report = $4, \
                   night = case when $2 = 'interrupted' then null else night end \
                   where id = $1 returning id";
        let update = statement(sql)
            .bind(audit.id.to_string())
            .bind(audit.state.as_str())
            .bind(audit.heard_at.timestamp_micros())
            .bind(row::to_json(audit)?);
        self.database.write(update).await.map(drop)
    }
}

#[async_trait]
impl UsageAuditRecords for LandlordDatabase {
    async fn begin(
        &self,
        audit: &UsageAudit,
        night: Option<&Night>,
        abandoned: DateTime<Utc>,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Begun, LandlordError> {
        let mut transaction = self.database.begin().await.map_err(failed)?;
        match begin_adding(&mut *transaction, None, audit.started_at, idempotency).await {
            Ok(Recorded::New) => {}
            Ok(replayed) => {
                transaction.rollback().await.map_err(failed)?;
                return Ok(Begun::Recorded(replayed));
            }
            Err(LandlordError::Unavailable(error)) => return Err(error.into()),
            Err(refused) => {
                transaction.rollback().await.map_err(failed)?;
                return Err(refused);
            }
        }
        let added = add(&mut *transaction, audit, night, abandoned).await;
        match added.map_err(failed)? {
            true => {
                transaction.commit(prune()).await.map_err(failed)?;
                Ok(Begun::Recorded(Recorded::New))
            }
            false => {
                let taken = taken(&mut *transaction, night).await.map_err(failed)?;
                transaction.rollback().await.map_err(failed)?;
                Ok(taken.map_or(Begun::Busy, Begun::Taken))
            }
        }
    }

    async fn report(&self, audit: &UsageAudit) -> Result<(), Unavailable> {
        let reported = self.reported(audit).await;
        reported.map_err(unavailable(THE_DATABASE))
    }

    async fn find(&self, id: Uuid) -> Result<Option<UsageAudit>, Unavailable> {
        let select = statement("select state, report from usage_audits where id = $1");
        let found = self.found(select.bind(id.to_string()), read);
        Ok(found.await?.pop())
    }

    async fn list(
        &self,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<UsageAudit>, Unavailable> {
        let sql = "select state, report from usage_audits \
                   where $1 is null or id < $1 order by id desc limit $2";
        let select = statement(sql)
            .bind(before.map(|id| id.to_string()))
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        self.found(select, read).await
    }
}

/// Adds an audit; `false` if another one is running, or has been that of the same night.
async fn add(
    transaction: &mut dyn Transaction,
    audit: &UsageAudit,
    night: Option<&Night>,
    abandoned: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    transaction
        .run(interrupt(abandoned.timestamp_micros()))
        .await?;
    let insert = "insert into usage_audits (id, night, state, heard_at, report) \
                  values ($1, $2, $3, $4, $5) on conflict do nothing returning id";
    let insert = statement(insert)
        .bind(audit.id.to_string())
        .bind(night.map(Night::as_str))
        .bind(audit.state.as_str())
        .bind(audit.heard_at.timestamp_micros())
        .bind(row::to_json(audit)?);
    Ok(!transaction.run(insert).await?.is_empty())
}

/// Records those as interrupted that were not heard of since a time in microseconds. Their night is
/// free for another one.
fn interrupt(since: i64) -> Statement {
    let sql = "update usage_audits set state = 'interrupted', night = null \
               where state = 'running' and heard_at < $1 returning id";
    statement(sql).bind(since)
}

/// How the audit of a night is, if there is one.
async fn taken(
    transaction: &mut dyn Transaction,
    night: Option<&Night>,
) -> Result<Option<AuditState>, sqlx::Error> {
    let select = statement("select state from usage_audits where night = $1");
    let select = select.bind(night.map(Night::as_str));
    let found = transaction.run(select).await?;
    found.first().map(|row| row::word(row.get(0)?)).transpose()
}

/// Lets go of the oldest reports.
fn prune() -> Statement {
    let sql = "delete from usage_audits where id not in \
               (select id from usage_audits order by id desc limit $1)";
    statement(sql).bind(i64::try_from(REPORTS_MAX).unwrap_or(i64::MAX))
}

/// What the column says of the state counts: others may have changed it.
fn read(found: &Row) -> Result<UsageAudit, sqlx::Error> {
    let report: UsageAudit = row::json(found.get(1)?)?;
    Ok(UsageAudit {
        state: row::word(found.get(0)?)?,
        ..report
    })
}
