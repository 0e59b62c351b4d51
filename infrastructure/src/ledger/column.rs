//! What a column of a ledger holds and what it stands for, on every engine.

use application::ports::RecordedOutcome;
use application::ports::restore::StoredOutcome;
use chrono::{DateTime, Utc};
use domain::chain::Hash;
use domain::event::{Decoder, Event};
use domain::subscription::TenantSubscription;
use serde_json::Value;

use super::StoreError;

/// A count as stored. Counts beyond [`i64::MAX`] exist only as "past every position".
pub(super) fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A count.
pub(super) fn from_i64(stored: i64) -> Result<u64, StoreError> {
    u64::try_from(stored).map_err(|_| StoreError::Malformed("count"))
}

/// A text of JSON.
pub(super) fn json(stored: &str) -> Result<Value, StoreError> {
    serde_json::from_str(stored).map_err(|_| StoreError::Malformed("JSON"))
}

/// A link of the chain.
pub(super) fn hash(stored: &[u8]) -> Result<Hash, StoreError> {
    Hash::try_from(stored).map_err(|_| StoreError::Malformed("hash"))
}

/// A time, stored in microseconds.
pub(super) fn time(stored: i64) -> Result<DateTime<Utc>, StoreError> {
    DateTime::from_timestamp_micros(stored).ok_or(StoreError::Malformed("time"))
}

/// What was answered.
pub(super) fn outcome(
    fingerprint: &[u8],
    outcome: String,
    position: i64,
) -> Result<RecordedOutcome, StoreError> {
    Ok(RecordedOutcome {
        fingerprint: fingerprint
            .try_into()
            .map_err(|_| StoreError::Malformed("fingerprint"))?,
        outcome,
        position: from_i64(position)?,
    })
}

/// What was answered under a key, and when.
pub(super) fn stored_outcome(
    key: String,
    answer: RecordedOutcome,
    recorded_at: i64,
) -> Result<StoredOutcome, StoreError> {
    Ok(StoredOutcome {
        key,
        fingerprint: answer.fingerprint,
        outcome: answer.outcome,
        position: answer.position,
        recorded_at: time(recorded_at)?,
    })
}

/// Applies a stored event of a subscription: its aggregate type, type, version and payload.
pub(super) fn evolve(
    subscription: &mut TenantSubscription,
    decoder: &Decoder,
    [aggregate, name, version, payload]: [&str; 4],
) -> Result<(), StoreError> {
    let event = decoder.decode_text(aggregate, name, version, payload)?;
    if let Event::Subscription(event) = event {
        subscription.evolve(event);
    }
    Ok(())
}
