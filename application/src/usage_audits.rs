//! Usage audits: every night, and when asked, each ledger is counted again from its first event and
//! compared with what else says how many cards there are: the ledger's own counters, which the quota
//! rests on, and the landlord's read model, at the position that it is at.
//!
//! An audit changes nothing. What has drifted is in its report, in the log and in a metric; putting
//! it right is a command of its own, recorded in the ledger that it is about ([`repair`]).
//!
//! One audit runs at a time, on one node: its record in the landlord's database says which. One
//! that its node no longer speaks for was interrupted.

pub mod nightly;
pub mod repair;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::ids::{Position, TenantId};
use domain::usage::Usage;
use futures::stream::{self, StreamExt};
use metrics::counter;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use self::nightly::Night;
use crate::Application;
use crate::commands::Done;
use crate::error::{Error, Refusal, causes};
use crate::ports::usage::{Begun, LedgerCounts, Recount, UsageAuditRecords};
use crate::ports::{IdempotencyRecord, Recorded, Unavailable};
use crate::scope::{Command, Role, Scope};
use crate::tenants::{TenantFilter, TenantOverview, landlord_record};

/// How many reports are kept.
pub const REPORTS_MAX: usize = 100;
/// How many drifts, and how many failures, a report lists; it counts all.
pub const LISTED_MAX: usize = 100;
/// How long an audit may not be heard of before it counts as interrupted.
pub const ABANDONED_AFTER: TimeDelta = TimeDelta::seconds(30);

/// How many ledgers are counted at a time: on PostgreSQL as many of a shard's connections.
const AT_A_TIME: usize = 4;
/// How many tenants are looked up at a time.
const PAGE_TENANTS: usize = 256;
/// How often a running audit is heard of.
const REPORT_INTERVAL: Duration = Duration::from_secs(2);
/// How long the record of an end may take.
const LAST_WORD_MAX: Duration = Duration::from_secs(5);

const LANDLORD: &[Role] = &[Role::Landlord];

/// What an audit has found so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageAudit {
    /// Its id: later ones sort after earlier ones.
    pub id: Uuid,
    /// Whether it goes on.
    pub state: AuditState,
    /// The one tenant whom it is about; of all, if none.
    pub tenant: Option<TenantId>,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When it was last heard of.
    pub heard_at: DateTime<Utc>,
    /// How many tenants there were when it began.
    pub tenants: u64,
    /// How many of them were looked at.
    pub tenants_done: u64,
    /// How many events were counted.
    pub events: u64,
    /// How many tenants have drifted.
    pub drifted_total: u64,
    /// The first [`LISTED_MAX`] of them.
    pub drifted: Vec<Drift>,
    /// How many tenants could not be counted.
    pub failed_total: u64,
    /// The first [`LISTED_MAX`] of them.
    pub failed: Vec<Failure>,
}

/// Whether an audit goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuditState {
    /// It goes on.
    Running,
    /// Every tenant was looked at.
    Finished,
    /// Its process ended before that, or could not go on.
    Interrupted,
}

impl AuditState {
    /// As recorded.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A tenant of whom not everything says the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Whose ledger.
    pub tenant: TenantId,
    /// The ledger's position.
    pub position: Position,
    /// What its events say there.
    pub expected: Usage,
    /// What its counters say there.
    pub head: Usage,
    /// Where the landlord's read model was.
    pub read_model_position: Position,
    /// What the events say there; none if the ledger ends before it.
    pub read_model_expected: Option<Usage>,
    /// What the read model says.
    pub read_model: Usage,
}

/// A tenant who could not be counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Whose ledger.
    pub tenant: TenantId,
    /// Why.
    pub reason: String,
}

/// Who audits on this node.
pub struct Auditor {
    /// The reports.
    pub records: Arc<dyn UsageAuditRecords>,
    /// What counts.
    pub counts: Arc<dyn LedgerCounts>,
    /// The audit that is to run next: there is one at a time.
    asked: Mutex<Option<UsageAudit>>,
    wake: Notify,
}

impl Auditor {
    /// Nobody has asked for anything yet.
    pub fn new(records: Arc<dyn UsageAuditRecords>, counts: Arc<dyn LedgerCounts>) -> Self {
        Self {
            records,
            counts,
            asked: Mutex::default(),
            wake: Notify::new(),
        }
    }

    fn ask(&self, audit: UsageAudit) {
        *self.slot() = Some(audit);
        self.wake.notify_one();
    }

    async fn asked(&self) -> UsageAudit {
        loop {
            if let Some(audit) = self.slot().take() {
                return audit;
            }
            self.wake.notified().await;
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<UsageAudit>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Application {
    /// Begins an audit of every tenant, or of one; it runs in the background.
    ///
    /// # Errors
    ///
    /// [`Refusal::AuditRunning`] while another one runs, on any node.
    pub async fn start_usage_audit(
        &self,
        command: &Command,
        tenant: Option<TenantId>,
    ) -> Result<Done<UsageAudit>, Error> {
        command.scope.require(LANDLORD)?;
        if tenant.is_some_and(|id| self.directory.get(id).is_none()) {
            return Err(Error::NotFound("tenant"));
        }
        let audit = self.new_audit(tenant);
        let record = landlord_record(command, &audit)?;
        let done = |value, replayed| Done {
            value,
            version: 1,
            position: 0,
            replayed,
        };
        match self.record_audit(&audit, None, record.as_ref()).await? {
            Begun::Recorded(Recorded::New) => {
                self.auditor.ask(audit.clone());
                Ok(done(audit, false))
            }
            Begun::Recorded(Recorded::Replayed(before)) => {
                let audit = serde_json::from_str(&before.outcome)
                    .map_err(|error| Error::Internal(format!("a recorded outcome: {error}")))?;
                Ok(done(audit, true))
            }
            Begun::Busy | Begun::Taken(_) => Err(Refusal::AuditRunning.into()),
        }
    }

    /// The reports, the newest first: those before one, a page of them.
    pub async fn usage_audits(
        &self,
        scope: &Scope,
        before: Option<Uuid>,
        limit: usize,
    ) -> Result<Vec<UsageAudit>, Error> {
        scope.require(LANDLORD)?;
        let now = self.clock.now();
        let found = self.auditor.records.list(before, limit).await?;
        Ok(found.into_iter().map(|audit| audit.told_at(now)).collect())
    }

    /// One report; of an audit that goes on, how far it is.
    pub async fn usage_audit(&self, scope: &Scope, id: Uuid) -> Result<UsageAudit, Error> {
        scope.require(LANDLORD)?;
        let found = self.auditor.records.find(id).await?;
        let audit = found.ok_or(Error::NotFound("usage audit"))?;
        Ok(audit.told_at(self.clock.now()))
    }

    fn new_audit(&self, tenant: Option<TenantId>) -> UsageAudit {
        let now = self.clock.now();
        let tenants = match tenant {
            Some(_) => 1,
            None => self.directory.all().iter().filter(|it| it.ready).count(),
        };
        UsageAudit {
            id: self.random.id(),
            state: AuditState::Running,
            tenant,
            started_at: now,
            heard_at: now,
            tenants: tenants as u64,
            tenants_done: 0,
            events: 0,
            drifted_total: 0,
            drifted: vec![],
            failed_total: 0,
            failed: vec![],
        }
    }

    async fn record_audit(
        &self,
        audit: &UsageAudit,
        night: Option<&Night>,
        idempotency: Option<&IdempotencyRecord>,
    ) -> Result<Begun, Error> {
        let abandoned = audit.started_at - ABANDONED_AFTER;
        let records = &self.auditor.records;
        Ok(records.begin(audit, night, abandoned, idempotency).await?)
    }

    /// Runs an audit that was recorded, to its end or until it is told to stop; how it ended.
    async fn run_usage_audit(&self, audit: UsageAudit, stop: &CancellationToken) -> AuditState {
        let report = Mutex::new(audit);
        let telling = async {
            loop {
                sleep(REPORT_INTERVAL).await;
                self.tell(&report).await;
            }
        };
        // Counting goes on while its progress is told, however long that takes.
        let work = async {
            tokio::select! {
                ended = self.audit(&report) => ended,
                never = telling => never,
            }
        };
        let state = match stop.run_until_cancelled(work).await {
            Some(Ok(())) => AuditState::Finished,
            Some(Err(error)) => {
                tracing::error!(error = causes(&error), "the usage audit cannot go on");
                AuditState::Interrupted
            }
            None => AuditState::Interrupted,
        };
        locked(&report).state = state;
        // Without it, the audit counts as interrupted after a while.
        let _ = timeout(LAST_WORD_MAX, self.tell(&report)).await;
        let UsageAudit {
            id,
            tenants_done,
            events,
            drifted_total,
            failed_total,
            ..
        } = *locked(&report);
        let ended = state.as_str();
        tracing::info!(%id, ended, tenants_done, events, drifted_total, failed_total, "usage audit");
        state
    }

    /// Records how far an audit is.
    async fn tell(&self, report: &Mutex<UsageAudit>) {
        let audit = {
            let mut report = locked(report);
            report.heard_at = self.clock.now();
            report.clone()
        };
        if let Err(error) = self.auditor.records.report(&audit).await {
            tracing::warn!(
                error = causes(&error),
                "how far the usage audit is cannot be recorded"
            );
        }
    }

    async fn audit(&self, report: &Mutex<UsageAudit>) -> Result<(), Unavailable> {
        let one = locked(report).tenant;
        if let Some(tenant) = one {
            if let Some(overview) = self.overviews.tenant(tenant).await? {
                self.audit_tenant(report, overview).await;
            }
            return Ok(());
        }
        let mut filter = TenantFilter {
            plan: None,
            q: None,
            after: None,
            limit: PAGE_TENANTS,
        };
        loop {
            // What the read model says is looked up before the ledger is counted, which then has
            // everything that the read model has.
            let page = self.overviews.list(&filter).await?;
            let ready = page.items.into_iter().filter(|it| it.tenant.ready);
            stream::iter(ready)
                .for_each_concurrent(AT_A_TIME, |it| self.audit_tenant(report, it))
                .await;
            filter.after = page.next;
            if filter.after.is_none() {
                return Ok(());
            }
        }
    }

    async fn audit_tenant(&self, report: &Mutex<UsageAudit>, overview: TenantOverview) {
        let tenant = overview.tenant.id;
        let recount = self.auditor.counts.recount(tenant, overview.position).await;
        let mut report = locked(report);
        report.tenants_done += 1;
        match recount {
            Ok(recount) => report.add(&recount, &overview),
            Err(error) => report.add_failure(tenant, causes(&error)),
        }
    }
}

impl UsageAudit {
    /// As it is to be told at `now`: one that nobody speaks for any more was interrupted.
    fn told_at(mut self, now: DateTime<Utc>) -> Self {
        if self.state == AuditState::Running && self.heard_at + ABANDONED_AFTER < now {
            self.state = AuditState::Interrupted;
        }
        self
    }

    fn add(&mut self, recount: &Recount, overview: &TenantOverview) {
        self.events += recount.position;
        let of_head = recount.counted != recount.head;
        let of_read_model = recount.also != Some(overview.usage);
        for (drifted, of) in [(of_head, "head"), (of_read_model, "landlord")] {
            if drifted {
                counter!("usage_drift_total", "of" => of).increment(1);
            }
        }
        if !of_head && !of_read_model {
            return;
        }
        let drift = Drift {
            tenant: overview.tenant.id,
            position: recount.position,
            expected: recount.counted,
            head: recount.head,
            read_model_position: overview.position,
            read_model_expected: recount.also,
            read_model: overview.usage,
        };
        tracing::error!(tenant = %drift.tenant, ?drift, "usage has drifted: it can be repaired by command");
        self.drifted_total += 1;
        if self.drifted.len() < LISTED_MAX {
            self.drifted.push(drift);
        }
    }

    fn add_failure(&mut self, tenant: TenantId, reason: String) {
        tracing::error!(%tenant, reason, "usage cannot be counted again");
        counter!("usage_audit_failures_total").increment(1);
        self.failed_total += 1;
        if self.failed.len() < LISTED_MAX {
            self.failed.push(Failure { tenant, reason });
        }
    }
}

fn locked(report: &Mutex<UsageAudit>) -> MutexGuard<'_, UsageAudit> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}
