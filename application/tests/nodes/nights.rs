//! The audit of a night is finished, whichever node dies over it.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use application::Application;
use application::ports::usage::{Begun, UsageAuditRecords};
use application::ports::{
    Clock, IdempotencyRecord, LandlordError, LandlordView, Recorded, Unavailable,
};
use application::tenants::{TenantFilter, TenantOverview, TenantPage};
use application::usage_audits::nightly::run_usage_audits;
use application::usage_audits::{AuditState, Auditor, Night, UsageAudit};
use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};
use domain::ids::TenantId;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::node::{Absent, Records, application, tenant};

/// The records of audits as a database keeps them: one runs at a time, and one is of a night.
#[derive(Default)]
struct Reports(Mutex<Vec<(Option<String>, UsageAudit)>>);

impl Reports {
    fn of(&self, night: &str) -> Vec<UsageAudit> {
        let rows = self.0.lock().expect("not poisoned");
        let of_night = rows.iter().filter(|(of, _)| of.as_deref() == Some(night));
        of_night.map(|(_, audit)| audit.clone()).collect()
    }
}

#[async_trait]
impl UsageAuditRecords for Reports {
    async fn begin(
        &self,
        audit: &UsageAudit,
        night: Option<&Night>,
        abandoned: DateTime<Utc>,
        _: Option<&IdempotencyRecord>,
    ) -> Result<Begun, LandlordError> {
        let mut rows = self.0.lock().expect("not poisoned");
        let night = night.map(|night| night.as_str().to_owned());
        for (of, row) in rows.iter_mut() {
            if row.state == AuditState::Running && row.heard_at < abandoned {
                row.state = AuditState::Interrupted;
                *of = None;
            }
        }
        if let Some((_, row)) = rows.iter().find(|(of, _)| of.is_some() && *of == night) {
            return Ok(Begun::Taken(row.state));
        }
        if rows.iter().any(|(_, row)| row.state == AuditState::Running) {
            return Ok(Begun::Busy);
        }
        rows.push((night, audit.clone()));
        Ok(Begun::Recorded(Recorded::New))
    }

    async fn report(&self, audit: &UsageAudit) -> Result<(), Unavailable> {
        let mut rows = self.0.lock().expect("not poisoned");
        let row = rows.iter_mut().find(|(_, row)| row.id == audit.id);
        row.expect("begun").1 = audit.clone();
        Ok(())
    }

    async fn find(&self, _: Uuid) -> Result<Option<UsageAudit>, Unavailable> {
        Ok(None)
    }

    async fn list(&self, _: Option<Uuid>, _: usize) -> Result<Vec<UsageAudit>, Unavailable> {
        Ok(vec![])
    }
}

/// A landlord who has nobody to audit.
struct Nobody;

#[async_trait]
impl LandlordView for Nobody {
    async fn tenant(&self, _: TenantId) -> Result<Option<TenantOverview>, Unavailable> {
        Ok(None)
    }

    async fn list(&self, _: &TenantFilter) -> Result<TenantPage, Unavailable> {
        let (items, next) = (vec![], None);
        Ok(TenantPage { items, next })
    }
}

/// A clock that goes with tokio's, and shows this time first.
struct Going {
    first: DateTime<Utc>,
    since: Instant,
}

impl Going {
    fn from(first: DateTime<Utc>) -> Self {
        let since = Instant::now();
        Self { first, since }
    }
}

impl Clock for Going {
    fn now(&self) -> DateTime<Utc> {
        self.first + self.since.elapsed()
    }
}

fn time(text: &str) -> DateTime<Utc> {
    text.parse().expect("RFC 3339")
}

/// An audit that some node has begun and never reports of again.
fn left_alone(heard_at: DateTime<Utc>) -> UsageAudit {
    UsageAudit {
        id: Uuid::from_u128(1),
        state: AuditState::Running,
        tenant: None,
        started_at: heard_at,
        heard_at,
        tenants: 1,
        tenants_done: 0,
        events: 0,
        drifted_total: 0,
        drifted: vec![],
        failed_total: 0,
        failed: vec![],
    }
}

/// Runs a node that audits at three in the morning, for so long; what it has recorded.
async fn audits_at_three(reports: Reports, tenants: usize, from: &str, hours: u32) -> Arc<Reports> {
    let reports = Arc::new(reports);
    let records = Records {
        tenants: (0..tenants).map(|n| tenant(n as u64 + 1)).collect(),
        ..Records::default()
    };
    let node = Arc::new(Application {
        clock: Arc::new(Going::from(time(from))),
        overviews: Arc::new(Nobody),
        auditor: Auditor::new(Arc::clone(&reports) as _, Arc::new(Absent)),
        ..application(records).0
    });
    let stop = CancellationToken::new();
    let at = Some("03:00".parse().expect("a time of day"));
    let running = tokio::spawn(run_usage_audits(node, at, stop.clone()));
    sleep(Duration::from_secs(3_600) * hours).await;
    stop.cancel();
    running.await.expect("no panic");
    reports
}

#[tokio::test(start_paused = true)]
async fn a_night_whose_node_has_died_is_audited_by_another() {
    let died = time("2026-01-31T03:00:20Z");
    let taken = (Some("2026-01-31".to_owned()), left_alone(died));
    let reports = Reports(Mutex::new(vec![taken]));
    let reports = audits_at_three(reports, 0, "2026-01-31T02:00:00Z", 2).await;
    let audits = reports.of("2026-01-31");
    assert_eq!(audits.len(), 1, "{audits:?}");
    assert_eq!(audits[0].state, AuditState::Finished);
    assert!(
        audits[0].started_at < died + TimeDelta::minutes(2),
        "{audits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_night_that_was_interrupted_or_missed_is_audited_at_the_start() {
    let died = time("2026-01-31T03:00:20Z");
    let taken = (Some("2026-01-31".to_owned()), left_alone(died));
    for rows in [vec![taken], vec![]] {
        let reports = Reports(Mutex::new(rows));
        let reports = audits_at_three(reports, 1, "2026-01-31T09:00:00Z", 1).await;
        let audits = reports.of("2026-01-31");
        assert_eq!(audits.len(), 1, "{audits:?}");
        assert_eq!(audits[0].state, AuditState::Finished);
    }
}

#[tokio::test(start_paused = true)]
async fn a_night_is_audited_once_and_the_next_one_after_it() {
    let reports = audits_at_three(Reports::default(), 1, "2026-01-31T09:00:00Z", 40).await;
    for night in ["2026-01-31", "2026-02-01"] {
        let states: Vec<_> = reports.of(night).iter().map(|audit| audit.state).collect();
        assert_eq!(states, [AuditState::Finished], "{night}");
    }
    assert_eq!(reports.0.lock().expect("not poisoned").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_night_that_comes_while_the_one_before_waits_is_audited_too() {
    // What some node was asked for keeps both waiting.
    let died = time("2026-01-31T03:05:00Z");
    let reports = Reports(Mutex::new(vec![(None, left_alone(died))]));
    let reports = audits_at_three(reports, 1, "2026-01-31T02:55:00Z", 1).await;
    for night in ["2026-01-30", "2026-01-31"] {
        assert_eq!(reports.of(night).len(), 1, "{night}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_night_before_there_was_any_tenant_is_not_audited() {
    let reports = audits_at_three(Reports::default(), 0, "2026-01-31T09:00:00Z", 1).await;
    assert!(reports.0.lock().expect("not poisoned").is_empty());
}
