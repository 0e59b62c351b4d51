//! The stages of a card's life by name, for whoever counts, stores or shows them.

use serde::{Deserialize, Serialize};

/// Where a card is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// In circulation, not yet in use.
    Issued,
    /// In circulation and in use.
    Active,
    /// In circulation, out of use for a while.
    Suspended,
    /// Ended for good.
    Revoked,
    /// Its time is over; may be renewed.
    Expired,
    /// Another card took its place.
    Replaced,
}

impl Status {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 6] = [
        Self::Issued,
        Self::Active,
        Self::Suspended,
        Self::Revoked,
        Self::Expired,
        Self::Replaced,
    ];

    /// Whether a card of this status takes a place of the tenant's quota.
    pub const fn in_circulation(self) -> bool {
        match self {
            Self::Issued | Self::Active | Self::Suspended => true,
            Self::Revoked | Self::Expired | Self::Replaced => false,
        }
    }

    /// The status as clients see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Issued => "issued",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
        }
    }
}
