//! What is recorded of a tenant's usage as a whole: the events, their stored names and the
//! versions of their shapes.
//!
//! They have a stream of their own, so that neither a card's nor the subscription's version moves
//! because of them. They change no count: that is what the cards' events are for.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::Usage;

/// What happened to a tenant's usage.
// The doc comments of this enum become the usage part of EVENTS.md.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum UsageEvent {
    /// The cards in circulation reached a part of the limit that they had been below.
    UsageThresholdReached {
        /// Which part of the limit, in percent: 80, 90 or 100.
        percent: u32,
        /// The cards in circulation then.
        used: u64,
        /// The most cards in circulation then.
        limit: u64,
        /// When it was reached.
        at: DateTime<Utc>,
    },
    /// The counters were put right by a command, after a recount from the first event; both are
    /// the same if nothing was wrong with them.
    UsageReconciled {
        /// What the counters said.
        before: Usage,
        /// What the recount says.
        after: Usage,
        /// When it happened.
        at: DateTime<Utc>,
    },
}

impl UsageEvent {
    /// The kind of aggregate that these are of, as stored.
    pub const AGGREGATE: &'static str = "TenantUsage";

    /// The event's name, as stored.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::UsageThresholdReached { .. } => "UsageThresholdReached",
            Self::UsageReconciled { .. } => "UsageReconciled",
        }
    }

    /// The version of the event's shape: the newest, the only one this code writes.
    pub const fn version(&self) -> &'static str {
        match self {
            Self::UsageThresholdReached { .. } | Self::UsageReconciled { .. } => "1.0.0",
        }
    }

    /// When it happened.
    pub const fn at(&self) -> DateTime<Utc> {
        match self {
            Self::UsageThresholdReached { at, .. } | Self::UsageReconciled { at, .. } => *at,
        }
    }
}
