//! The audit of every night: at a time of day, on one node.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Days, FixedOffset, NaiveDate, NaiveTime, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::AuditState;
use crate::Application;
use crate::error::causes;
use crate::ports::Recorded;
use crate::ports::usage::Begun;

/// The longest sleep: bounds what a change of the wall clock can delay.
const SLEEP_MAX: Duration = Duration::from_secs(600);
/// The pause before a night's audit is tried again, because another one runs, the landlord's
/// database did not answer, or it was interrupted.
const PAUSE: Duration = Duration::from_secs(60);
/// The pause before a night that another node audits is looked at again: long enough for that
/// node to count as dead, if it is.
const ABANDONED_AFTER: Duration = Duration::from_secs(super::ABANDONED_AFTER.num_seconds() as u64);

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
        let today = self.date_of(now);
        match self.of(today) {
            (due, night) if due > now => (due, night),
            // The last day that there is has no next one; nobody waits for it.
            _ => self.of(today.checked_add_days(Days::new(1)).unwrap_or(today)),
        }
    }

    /// When it was this time last, by `now`, and which night that was.
    pub fn last_by(self, now: DateTime<Utc>) -> (DateTime<Utc>, Night) {
        let today = self.date_of(now);
        match self.of(today) {
            (due, night) if due <= now => (due, night),
            _ => self.of(today.checked_sub_days(Days::new(1)).unwrap_or(today)),
        }
    }

    /// The night to audit after that of `due`: the last one, if another has come meanwhile.
    fn following(self, due: DateTime<Utc>, now: DateTime<Utc>) -> (DateTime<Utc>, Night) {
        match self.last_by(now) {
            last if last.0 > due => last,
            _ => self.next_after(due.max(now)),
        }
    }

    fn date_of(self, now: DateTime<Utc>) -> NaiveDate {
        now.with_timezone(&self.offset).date_naive()
    }

    fn of(self, date: NaiveDate) -> (DateTime<Utc>, Night) {
        let local = date.and_time(self.time);
        ((local - self.offset).and_utc(), Night(date.to_string()))
    }
}

/// Runs the audits that are asked for on this node, and that of every night, if there is a time for
/// it, until stopped. A night whose audit another node has begun is looked at until that has
/// finished it: should the node die, this one takes over.
pub async fn run_usage_audits(
    application: Arc<Application>,
    at: Option<TimeOfDay>,
    stop: CancellationToken,
) {
    let mut next = at.map(|at| application.first_night(at));
    let mut pause = Duration::ZERO;
    loop {
        let now = application.clock.now();
        let sleep_for = next.as_ref().map_or(SLEEP_MAX, |(due, _)| {
            let ahead = (*due - now).to_std().unwrap_or_default();
            ahead.max(pause).min(SLEEP_MAX)
        });
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
        match application.run_night(night, &stop).await {
            Some(again) => pause = again,
            None => {
                pause = Duration::ZERO;
                next = Some(at.following(*due, application.clock.now()));
            }
        }
    }
}

impl Application {
    /// The night to begin with: the last one, whose audit may have been interrupted or missed, if
    /// there was anybody to audit then; else the next.
    fn first_night(&self, at: TimeOfDay) -> (DateTime<Utc>, Night) {
        let now = self.clock.now();
        let (due, night) = at.last_by(now);
        let tenants = self.directory.all();
        match tenants.iter().any(|tenant| tenant.created_at < due) {
            true => (due, night),
            false => at.next_after(now),
        }
    }

    /// Runs the audit of a night, unless another node has begun it. Nothing, if that night is over;
    /// else how long until it is to be looked at again.
    async fn run_night(&self, night: &Night, stop: &CancellationToken) -> Option<Duration> {
        let audit = self.new_audit(None);
        let ended = match self.record_audit(&audit, Some(night), None).await {
            Ok(Begun::Recorded(Recorded::New)) => self.run_usage_audit(audit, stop).await,
            // Nobody gives a night an idempotency key: there is nothing to answer again.
            Ok(Begun::Recorded(Recorded::Replayed(_))) => AuditState::Finished,
            Ok(Begun::Taken(AuditState::Running)) => return Some(ABANDONED_AFTER),
            Ok(Begun::Taken(state)) => state,
            Ok(Begun::Busy) => {
                let why = "another one is running";
                tracing::info!(night = night.as_str(), why, "the usage audit waits");
                AuditState::Interrupted
            }
            Err(error) => {
                let error = causes(&error);
                tracing::warn!(night = night.as_str(), error, "the usage audit waits");
                AuditState::Interrupted
            }
        };
        match ended {
            AuditState::Finished => None,
            AuditState::Running | AuditState::Interrupted => Some(PAUSE),
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
    fn the_last_night_is_the_one_before_the_next() {
        for (at, now, due, night) in [
            (
                "03:00",
                "2026-01-31T03:00:00Z",
                "2026-01-31T03:00:00+00:00",
                "2026-01-31",
            ),
            (
                "03:00",
                "2026-01-31T02:59:59Z",
                "2026-01-30T03:00:00+00:00",
                "2026-01-30",
            ),
            (
                "03:00+05:30",
                "2026-01-31T20:00:00Z",
                "2026-01-30T21:30:00+00:00",
                "2026-01-31",
            ),
        ] {
            let now = now.parse::<DateTime<Utc>>().expect("a time");
            let (last, found) = time(at).last_by(now);
            assert_eq!(
                (last.to_rfc3339(), found.0),
                (due.to_owned(), night.to_owned())
            );
            assert_eq!(
                time(at).next_after(now).0,
                last + chrono::TimeDelta::days(1)
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
