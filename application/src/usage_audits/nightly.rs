//! The audit of every night: at a time of day, on one node.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Days, FixedOffset, NaiveTime, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{AuditState, UsageAudit};
use crate::Application;
use crate::error::{Error, Refusal};
use crate::ports::Recorded;
use crate::ports::usage::Begun;

/// The longest sleep: bounds what a change of the wall clock can delay.
const SLEEP_MAX: Duration = Duration::from_secs(600);
/// The pause before a night's audit is tried again, because another one runs, the landlord's
/// database did not answer, or it was interrupted.
const PAUSE: Duration = Duration::from_secs(60);

/// A time of day, at a distance to UTC: `03:00`, `03:00+02:00`. It does not follow summer time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeOfDay {
    time: NaiveTime,
    offset: FixedOffset,
}

/// The text is no [`TimeOfDay`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be HH:MM, in UTC, or with an offset as in 03:00+02:00")]
pub struct InvalidTimeOfDay;

/// The night of an audit: the local date, `2026-01-31`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Night(String);

impl Night {
    /// As recorded.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TimeOfDay {
    type Err = InvalidTimeOfDay;

    fn from_str(text: &str) -> Result<Self, InvalidTimeOfDay> {
        let (time, offset) = match text.find(['+', '-']) {
            Some(sign) => text.split_at(sign),
            None => (text, "+00:00"),
        };
        // Chrono would take fewer digits.
        if time.len() != 5 || offset.len() != 6 {
            return Err(InvalidTimeOfDay);
        }
        Ok(Self {
            time: NaiveTime::parse_from_str(time, "%H:%M").map_err(|_| InvalidTimeOfDay)?,
            offset: offset.parse().map_err(|_| InvalidTimeOfDay)?,
        })
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.time.format("%H:%M"), self.offset)
    }
}

impl TimeOfDay {
    /// When it is this time next, after `now`, and which night that is.
    pub fn next_after(self, now: DateTime<Utc>) -> (DateTime<Utc>, Night) {
        let today = now.with_timezone(&self.offset).date_naive();
        let at = |date: chrono::NaiveDate| {
            let local = date.and_time(self.time);
            (local - self.offset).and_utc()
        };
        let date = match at(today) > now {
            true => today,
            // The last day that there is has no next one; nobody waits for it.
            false => today.checked_add_days(Days::new(1)).unwrap_or(today),
        };
        (at(date), Night(date.to_string()))
    }
}

/// Runs the audits that are asked for on this node, and that of every night, if there is a time for
/// it, until stopped.
pub async fn run_usage_audits(
    application: Arc<Application>,
    at: Option<TimeOfDay>,
    stop: CancellationToken,
) {
    let mut next = at.map(|at| at.next_after(application.clock.now()));
    let mut pause = Duration::ZERO;
    loop {
        let sleep_for = match &next {
            Some((due, _)) => {
                let ahead = (*due - application.clock.now())
                    .to_std()
                    .unwrap_or_default();
                ahead.max(pause).min(SLEEP_MAX)
            }
            None => SLEEP_MAX,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            audit = application.auditor.asked() => {
                application.run_usage_audit(audit, &stop).await;
            }
            () = sleep(sleep_for) => {}
        }
        let Some((at, (due, night))) = at.zip(next.as_ref()) else {
            continue;
        };
        if application.clock.now() < *due {
            continue;
        }
        pause = Duration::ZERO;
        match application.begin_night(night).await {
            Ok(Some(audit)) => match application.run_usage_audit(audit, &stop).await {
                AuditState::Interrupted => {
                    pause = PAUSE;
                    continue;
                }
                AuditState::Running | AuditState::Finished => {}
            },
            Ok(None) => {}
            Err(why) => {
                tracing::warn!(night = night.as_str(), error = %why, "the usage audit waits");
                pause = PAUSE;
                continue;
            }
        }
        next = Some(at.next_after((*due).max(application.clock.now())));
    }
}

impl Application {
    /// Begins the audit of a night, unless a node has done so.
    async fn begin_night(&self, night: &Night) -> Result<Option<UsageAudit>, Error> {
        let audit = self.new_audit(None);
        match self.record_audit(&audit, Some(night), None).await? {
            Begun::Recorded(Recorded::New) => Ok(Some(audit)),
            Begun::Recorded(Recorded::Replayed(_)) | Begun::Taken => Ok(None),
            Begun::Busy => Err(Refusal::AuditRunning.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(text: &str) -> TimeOfDay {
        text.parse().expect("a time of day")
    }

    fn next(at: &str, now: &str) -> (String, String) {
        let now = now.parse::<DateTime<Utc>>().expect("a time");
        let (due, night) = time(at).next_after(now);
        (due.to_rfc3339(), night.0)
    }

    #[test]
    fn the_next_night_is_the_next_time_that_the_clock_shows_it() {
        for (at, now, due, night) in [
            (
                "03:00",
                "2026-01-31T02:59:59Z",
                "2026-01-31T03:00:00+00:00",
                "2026-01-31",
            ),
            (
                "03:00",
                "2026-01-31T03:00:00Z",
                "2026-02-01T03:00:00+00:00",
                "2026-02-01",
            ),
            (
                "01:30+02:00",
                "2026-01-31T12:00:00Z",
                "2026-01-31T23:30:00+00:00",
                "2026-02-01",
            ),
            (
                "23:00-05:30",
                "2026-02-01T03:00:00Z",
                "2026-02-01T04:30:00+00:00",
                "2026-01-31",
            ),
        ] {
            assert_eq!(
                next(at, now),
                (due.to_owned(), night.to_owned()),
                "{at} at {now}"
            );
        }
    }

    #[test]
    fn a_time_of_day_has_two_digits_each_and_shows_its_offset() {
        assert_eq!(time("03:00").to_string(), "03:00+00:00");
        assert_eq!(time("03:00-05:30").to_string(), "03:00-05:30");
        for text in [
            "",
            "3:00",
            "24:00",
            "03:60",
            "03:00Z",
            "03:00+2",
            "03:00:00",
            "03:00+25:00",
        ] {
            assert!(text.parse::<TimeOfDay>().is_err(), "{text:?}");
        }
    }
}
