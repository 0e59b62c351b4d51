//! How far a migration of a plan's tenants is.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::event::MigrationFailure;
use crate::ids::TenantId;

/// How many failures of a migration are remembered; all are counted.
pub const FAILURES_KEPT_MAX: usize = 100;

/// How far the tenants on a plan are brought to one of its versions. Whoever goes on with it
/// begins after the last tenant that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanMigration {
    /// The version.
    pub version: u32,
    /// The API key that asked.
    pub by: String,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// When somebody last said how far it is.
    pub progressed_at: DateTime<Utc>,
    /// The last tenant that was looked at, in the order of ids.
    pub after: Option<TenantId>,
    /// How many tenants were brought to the version.
    pub migrated: u64,
    /// How many had nothing to be changed.
    pub unchanged: u64,
    /// How many failed.
    pub failed: u64,
    /// The first of those, and why.
    pub failures: Vec<MigrationFailure>,
    /// When the last tenant was looked at, or the plan got its next version.
    pub finished_at: Option<DateTime<Utc>>,
    /// Whether it went no further because the plan got its next version.
    #[serde(default)]
    pub superseded: bool,
}

/// What became of the tenants that were looked at together.
#[derive(Clone, Debug, PartialEq)]
pub struct MigratedPage {
    /// The last of them.
    pub after: TenantId,
    /// How many were brought to the version.
    pub migrated: u64,
    /// How many had nothing to be changed.
    pub unchanged: u64,
    /// Those that failed.
    pub failed: Vec<MigrationFailure>,
}

impl PlanMigration {
    pub(super) const fn begun(version: u32, by: String, at: DateTime<Utc>) -> Self {
        Self {
            version,
            by,
            started_at: at,
            progressed_at: at,
            after: None,
            migrated: 0,
            unchanged: 0,
            failed: 0,
            failures: Vec::new(),
            finished_at: None,
            superseded: false,
        }
    }

    /// The plan has got its next version: nobody is brought to this one any more.
    pub(super) const fn supersede(&mut self, at: DateTime<Utc>) {
        if self.finished_at.is_none() {
            self.finished_at = Some(at);
            self.superseded = true;
        }
    }

    pub(super) fn progress(&mut self, page: MigratedPage, at: DateTime<Utc>) {
        self.progressed_at = at;
        self.after = Some(page.after);
        self.migrated += page.migrated;
        self.unchanged += page.unchanged;
        self.failed += page.failed.len() as u64;
        let room = FAILURES_KEPT_MAX.saturating_sub(self.failures.len());
        self.failures.extend(page.failed.into_iter().take(room));
    }
}
