//! The knobs of `billing-report`.

use std::path::PathBuf;
use std::time::Duration;

use chrono::NaiveDate;
use clap::Args;
use domain::billing::Period;
use domain::ids::TenantId;

use super::Broker;

/// What is billed, from what, and how it is shown.
#[derive(Clone, Debug, Args)]
pub struct BillingReport {
    /// The first day of the period, in UTC: 2026-01-01
    #[arg(long, value_name = "DATE", required_unless_present = "follow")]
    from: Option<NaiveDate>,

    /// The day after the last, in UTC: tomorrow at the latest
    #[arg(long, value_name = "DATE", required_unless_present = "follow")]
    to: Option<NaiveDate>,

    /// Only of this tenant
    #[arg(long)]
    pub tenant: Option<TenantId>,

    /// The lines as CSV instead of text
    #[arg(long)]
    pub csv: bool,

    /// The biller's own file: what it has received, each message once
    #[arg(
        long,
        env = "BILLING_FILE",
        value_name = "FILE",
        default_value = "./billing.db"
    )]
    pub file: PathBuf,

    /// Seconds without any message after which the queue is taken to be empty, if fewer come than
    /// waited at the start
    #[arg(long = "idle-s", env = "BILLING_IDLE_S", value_name = "BILLING_IDLE_S", default_value = "3", value_parser = super::seconds)]
    pub idle: Duration,

    /// Go on taking messages until told to stop; without a report unless a period is given
    #[arg(long, conflicts_with_all = ["report_only", "from_ledgers"])]
    follow: bool,

    /// Report on what was received before; nothing is asked of the broker
    #[arg(long, conflicts_with = "from_ledgers")]
    report_only: bool,

    /// First forget the messages that were rejected until now, which make every report end with an
    /// error: for when somebody has seen to them. The dead-letter queue is emptied at the broker
    #[arg(long, conflicts_with = "from_ledgers")]
    pub forget_rejected: bool,

    /// Count again from the ledgers in STORE instead: what an auditor compares a bill with
    #[arg(long)]
    from_ledgers: bool,
}

/// Where a bill comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// What waits at the broker, and what was received before.
    Queue,
    /// What arrives at the broker until the process is told to stop, and what was received before.
    QueueForEver,
    /// What was received before.
    File,
    /// The ledgers.
    Ledgers,
}

impl BillingReport {
    /// What is billed; nothing, if messages are only to be taken.
    ///
    /// # Errors
    ///
    /// One line that says what is wrong with the dates.
    pub fn period(&self) -> Result<Option<Period>, String> {
        match (self.from, self.to) {
            (None, None) => Ok(None),
            (Some(from), Some(to)) => Period::try_new(from, to)
                .map(Some)
                .map_err(|error| format!("--from, --to: {error}")),
            _ => Err("--from, --to: a period needs both".to_owned()),
        }
    }

    /// Where the bill comes from.
    pub const fn source(&self) -> Source {
        match (self.report_only, self.from_ledgers, self.follow) {
            (true, _, _) => Source::File,
            (_, true, _) => Source::Ledgers,
            (_, _, true) => Source::QueueForEver,
            (false, false, false) => Source::Queue,
        }
    }

    pub(super) fn check(&self, broker: &Broker) -> Result<(), String> {
        self.period()?;
        match self.source() {
            Source::Queue | Source::QueueForEver if broker.address().is_none() => Err(
                "AMQP_URL: needed to take messages; or --report-only, or --from-ledgers".to_owned(),
            ),
            _ => Ok(()),
        }
    }
}
