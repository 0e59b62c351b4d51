//! Tamper evidence: each event's hash covers the hash before it and the exact stored bytes.
//!
//! Whoever knows the last hash knows the whole history: changing, removing or inserting an event
//! anywhere changes every hash after it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{Position, Version};

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash before the first event.
    pub const GENESIS: Self = Self([0; 32]);

    /// The digest's bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The text is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be 64 hexadecimal digits")]
pub struct InvalidHash;

impl TryFrom<&[u8]> for Hash {
    type Error = InvalidHash;

    fn try_from(bytes: &[u8]) -> Result<Self, InvalidHash> {
        bytes.try_into().map(Self).map_err(|_| InvalidHash)
    }
}

impl FromStr for Hash {
    type Err = InvalidHash;

    fn from_str(text: &str) -> Result<Self, InvalidHash> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| InvalidHash)?;
        Ok(Self(digest))
    }
}

impl TryFrom<String> for Hash {
    type Error = InvalidHash;

    fn try_from(text: String) -> Result<Self, InvalidHash> {
        text.parse()
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hex::encode(hash.0)
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What is stored of one event, as far as its hash covers it: everything but the hash.
#[derive(Clone, Copy, Debug)]
pub struct Link<'a> {
    /// Its place in the ledger.
    pub position: Position,
    /// The kind of its aggregate: `DigitalCard`.
    pub aggregate_type: &'a str,
    /// Its aggregate.
    pub aggregate_id: &'a str,
    /// Its place among its aggregate's events, from 1.
    pub sequence: Version,
    /// Its name: `CardIssued`.
    pub event_type: &'a str,
    /// The version of its shape: `1.0.0`.
    pub event_version: &'a str,
    /// Its content, the exact stored text.
    pub payload: &'a str,
    /// Who, why and on whose request, the exact stored text.
    pub metadata: &'a str,
    /// When it was recorded, in microseconds since 1970-01-01 UTC.
    pub recorded_at_micros: i64,
}

impl Link<'_> {
    /// The event's hash, given the hash of the event before it.
    ///
    /// SHA-256 over the previous hash, then position, sequence and time as 8 bytes each, big
    /// endian, then each text preceded by its length in bytes as 8 bytes, big endian. The
    /// lengths keep two different events from having the same bytes.
    pub fn hash(&self, previous: &Hash) -> Hash {
        let mut digest = Sha256::new();
        digest.update(previous.0);
        digest.update(self.position.to_be_bytes());
        digest.update(self.sequence.to_be_bytes());
        digest.update(self.recorded_at_micros.to_be_bytes());
        for text in [
            self.aggregate_type,
            self.aggregate_id,
            self.event_type,
            self.event_version,
            self.payload,
            self.metadata,
        ] {
            digest.update((text.len() as u64).to_be_bytes());
            digest.update(text);
        }
        Hash(digest.finalize().into())
    }
}
