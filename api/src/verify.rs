//! Checks a downloaded history offline: every event is there, in order, and its hash covers the
//! hash before it and the exact stored bytes.
//!
//! Whoever also knows the last hash from elsewhere knows that nothing was changed since.

use std::borrow::Cow;
use std::io::{BufRead, Read};

use application::archive::Piece;
use application::ports::StoredEvent;
use chrono::DateTime;
use domain::chain::{Hash, Link};
use domain::ids::{Position, Version};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::archive::file::{Reader, is_archive};

/// How much of the first line tells what the file is: all of it, unless it is none of ours.
const FIRST_LINE_BYTES_MAX: u64 = 64 * 1024;

/// A history whose chain holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// How many events it has.
    pub events: u64,
    /// The hash of the last one.
    pub hash: Hash,
}

/// Why a history is not what was stored.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The file cannot be read.
    #[error("line {line}: {source}")]
    Unreadable {
        /// From 1.
        line: u64,
        /// Why.
        source: std::io::Error,
    },
    /// A line is not an event.
    #[error("line {line}: not an event: {detail}")]
    NotAnEvent {
        /// From 1.
        line: u64,
        /// Why.
        detail: String,
    },
    /// An event is missing, doubled or out of order.
    #[error("line {line}: position {found} where {expected} must be")]
    Gap {
        /// From 1.
        line: u64,
        /// The position that must be here.
        expected: Position,
        /// The position that is.
        found: Position,
    },
    /// There is no event: a ledger has at least that of its tenant's start.
    #[error("no event is in it: was the download cut off?")]
    Empty,
    /// An event, or one before it, was changed.
    #[error("line {line}: the hash of position {position} does not cover what is here")]
    Changed {
        /// From 1.
        line: u64,
        /// The event's.
        position: Position,
    },
    /// The exported tenant is not whole.
    #[error(transparent)]
    Archive(#[from] crate::archive::file::Broken),
    /// The exported tenant ends with another event than its first line says.
    #[error("the last hash is not the one that the first line says")]
    EndsOtherwise,
}

/// A line, as [`crate::audit::EventBody`] writes it.
#[derive(Deserialize)]
pub(crate) struct Line<'a> {
    position: Position,
    #[serde(borrow)]
    aggregate_type: Cow<'a, str>,
    #[serde(borrow)]
    aggregate_id: Cow<'a, str>,
    sequence: Version,
    #[serde(borrow, rename = "type")]
    event_type: Cow<'a, str>,
    #[serde(borrow)]
    version: Cow<'a, str>,
    #[serde(borrow)]
    payload: &'a RawValue,
    #[serde(borrow)]
    metadata: &'a RawValue,
    #[serde(borrow)]
    recorded_at: Cow<'a, str>,
    #[serde(borrow)]
    hash: Cow<'a, str>,
}

/// Checks a whole history, from its first event, as an auditor has downloaded it or as part of an
/// exported tenant.
///
/// # Errors
///
/// The first place where it is [`Broken`].
pub fn verify(mut file: impl BufRead) -> Result<Verified, Broken> {
    let mut first = Vec::new();
    (&mut file)
        .take(FIRST_LINE_BYTES_MAX)
        .read_until(b'\n', &mut first)
        .map_err(|source| Broken::Unreadable { line: 1, source })?;
    let whole = first.as_slice().chain(file);
    match is_archive(&first) {
        true => verify_archive(whole),
        false => verify_history(whole),
    }
}

/// The events of an exported tenant, which end where it says, and the rest of the file.
fn verify_archive(file: impl BufRead) -> Result<Verified, Broken> {
    let (archive, pieces) = Reader::begin(file)?;
    let mut verified = Verified {
        events: 0,
        hash: Hash::GENESIS,
    };
    for piece in pieces {
        let Piece::Event(event) = piece? else {
            continue;
        };
        let (expected, found) = (verified.events + 1, event.position);
        // The header is a line too.
        let line = expected + 1;
        if found != expected {
            return Err(Broken::Gap {
                line,
                expected,
                found,
            });
        }
        let hash = event.link().hash(&verified.hash);
        if event.hash != hash {
            let position = found;
            return Err(Broken::Changed { line, position });
        }
        verified = Verified {
            events: expected,
            hash,
        };
    }
    match verified.hash == archive.end.hash {
        true => Ok(verified),
        false => Err(Broken::EndsOtherwise),
    }
}

fn verify_history(mut file: impl BufRead) -> Result<Verified, Broken> {
    let mut verified = Verified {
        events: 0,
        hash: Hash::GENESIS,
    };
    let mut text = Vec::new();
    loop {
        let line = verified.events + 1;
        text.clear();
        let read = file
            .read_until(b'\n', &mut text)
            .map_err(|source| Broken::Unreadable { line, source })?;
        if read == 0 {
            return match verified.events {
                0 => Err(Broken::Empty),
                _ => Ok(verified),
            };
        }
        let event: Line<'_> = serde_json::from_slice(&text).map_err(|error| not(line, &error))?;
        if event.position != line {
            return Err(Broken::Gap {
                line,
                expected: line,
                found: event.position,
            });
        }
        let hash = event.hash_after(&verified.hash, line)?;
        if event.hash.parse() != Ok(hash) {
            let position = event.position;
            return Err(Broken::Changed { line, position });
        }
        verified = Verified { events: line, hash };
    }
}

impl Line<'_> {
    /// The event as stored.
    ///
    /// # Errors
    ///
    /// If its time or its hash is none.
    pub(crate) fn stored(self) -> Result<StoredEvent, Box<dyn std::error::Error>> {
        Ok(StoredEvent {
            position: self.position,
            aggregate_type: self.aggregate_type.into_owned(),
            aggregate_id: self.aggregate_id.into_owned(),
            sequence: self.sequence,
            event_type: self.event_type.into_owned(),
            event_version: self.version.into_owned(),
            payload: self.payload.get().to_owned(),
            metadata: self.metadata.get().to_owned(),
            recorded_at: DateTime::parse_from_rfc3339(&self.recorded_at)?.to_utc(),
            hash: self.hash.parse()?,
        })
    }

    fn hash_after(&self, previous: &Hash, line: u64) -> Result<Hash, Broken> {
        let recorded_at =
            DateTime::parse_from_rfc3339(&self.recorded_at).map_err(|error| not(line, &error))?;
        let link = Link {
            position: self.position,
            aggregate_type: &self.aggregate_type,
            aggregate_id: &self.aggregate_id,
            sequence: self.sequence,
            event_type: &self.event_type,
            event_version: &self.version,
            payload: self.payload.get(),
            metadata: self.metadata.get(),
            recorded_at_micros: recorded_at.timestamp_micros(),
        };
        Ok(link.hash(previous))
    }
}

fn not(line: u64, error: &dyn std::error::Error) -> Broken {
    Broken::NotAnEvent {
        line,
        detail: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::EventBody;

    /// Three events, with the spaces and escapes that only the exact text keeps.
    fn history() -> Vec<String> {
        let mut previous = Hash::GENESIS;
        (1..=3)
            .map(|position| {
                let mut stored = StoredEvent {
                    position,
                    aggregate_type: "DigitalCard".to_owned(),
                    aggregate_id: "a \"quoted\" id".to_owned(),
                    sequence: position,
                    event_type: "CardIssued".to_owned(),
                    event_version: "2.0.0".to_owned(),
                    payload: format!("{{ \"n\" : {position}.0, \"u\": \"\\u00e9 é\" }}"),
                    metadata: "{}".to_owned(),
                    recorded_at: DateTime::from_timestamp_micros(1_800_000_000_000_001)
                        .expect("a time"),
                    hash: previous,
                };
                stored.hash = stored.link().hash(&previous);
                previous = stored.hash;
                let body = EventBody::of(stored).expect("JSON");
                serde_json::to_string(&body).expect("JSON") + "\n"
            })
            .collect()
    }

    #[test]
    fn a_history_as_downloaded_holds() {
        let verified = verify(history().concat().as_bytes()).expect("a chain");
        assert_eq!(verified.events, 3);
    }

    #[test]
    fn a_download_of_nothing_holds_nothing() {
        assert!(matches!(verify(&b""[..]), Err(Broken::Empty)));
    }

    #[test]
    fn a_missing_event_is_found() {
        let text = [history()[0].clone(), history()[2].clone()].concat();
        assert!(matches!(
            verify(text.as_bytes()),
            Err(Broken::Gap {
                line: 2,
                expected: 2,
                found: 3
            })
        ));
    }

    #[test]
    fn any_change_is_found() {
        let whole = history().concat();
        for (from, to) in [
            ("2.0, ", "2.5, "),
            ("\"n\" : 2", "\"n\": 2"),
            ("\\u00e9", "é"),
            ("000001Z", "000002Z"),
            ("CardIssued", "CardRevoked"),
            ("\"metadata\":{}", "\"metadata\":{ }"),
        ] {
            let changed = whole.replacen(from, to, 1);
            assert_ne!(changed, whole, "{from}");
            assert!(
                matches!(verify(changed.as_bytes()), Err(Broken::Changed { .. })),
                "{from} -> {to}"
            );
        }
    }

    #[test]
    fn what_is_no_history_is_told_by_its_line() {
        let text = history()[0].clone() + "nonsense\n";
        assert!(matches!(
            verify(text.as_bytes()),
            Err(Broken::NotAnEvent { line: 2, .. })
        ));
    }
}
