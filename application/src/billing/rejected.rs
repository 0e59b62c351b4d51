//! A message that a biller has put aside, because it is not as documented.

use std::fmt;

use domain::ids::TenantId;

/// A message that was put aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// What it calls itself, if it has a name at all.
    pub id: Option<ClaimedId>,
    /// What is wrong with it.
    pub reason: String,
}

/// The property `message_id` of such a message, as far as it is remembered: it may be anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimedId(String);

impl Rejected {
    /// Whose message it says it is, if it says so.
    pub fn tenant(&self) -> Option<TenantId> {
        self.id.as_ref().and_then(ClaimedId::tenant)
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reason = &self.reason;
        match &self.id {
            Some(ClaimedId(id)) => write!(f, "message {id:?} was rejected: {reason}"),
            None => write!(f, "a message without an id was rejected: {reason}"),
        }
    }
}

impl ClaimedId {
    const CHARS_MAX: usize = 200;

    /// What is remembered of `text`; nothing if it is empty.
    pub fn of(text: &str) -> Option<Self> {
        let remembered: String = text.chars().take(Self::CHARS_MAX).collect();
        (!remembered.is_empty()).then_some(Self(remembered))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn tenant(&self) -> Option<TenantId> {
        let (tenant, _sequence) = self.0.split_once('/')?;
        tenant.parse().ok()
    }
}
