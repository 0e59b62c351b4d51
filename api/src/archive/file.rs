//! The file of an exported tenant: one JSON object a line.
//!
//! ```text
//! {"format":"digital-card tenant","version":1,"tenant":{…},"keys":[…],"position":3,"hash":"…",…}
//! {"position":1,"aggregate_type":…}     every event, as an auditor downloads it
//! {"outcome":{"key":…}}                 what the ledger answered under an idempotency key
//! {"answer":{"key":…}}                  what the landlord answered to one of the tenant's keys
//! {"complete":{"events":3,…}}           the counts, and SHA-256 over the lines before
//! ```
//!
//! The chain of hashes shows that the events are what was stored; the last line shows that the
//! file is all of what was written, which says nothing against who rewrites it on purpose.

use std::borrow::Cow;
use std::io::{self, BufRead, Read, Write};

use application::archive::{Archive, Piece};
use application::keys::ApiKey;
use application::ports::restore::{LedgerEnd, StoredOutcome};
use application::scope::Role;
use application::tenants::{Isolation, Tenant};
use chrono::{DateTime, Utc};
use domain::catalogue::PlanKey;
use domain::chain::Hash;
use domain::ids::{KeyId, Position, Slug, TenantId};
use domain::text::DisplayName;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::audit::{EventBody, exact};
use crate::verify;

const FORMAT: &str = "digital-card tenant";
const VERSION: u32 = 1;
/// How every file begins.
const BEGINNING: &[u8] = br#"{"format":"digital-card "#;
/// The longest line, in bytes: far more than any event or tenant has.
const LINE_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Why a file is not a whole exported tenant.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It cannot be read.
    #[error("line {line} cannot be read")]
    Unreadable {
        /// From 1.
        line: u64,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("this is not an exported tenant: its first line is no header of one")]
    NoArchive,
    /// A later program has written it.
    #[error("the file's version is {0}; this program reads version {VERSION}")]
    Version(u32),
    /// A line is longer than any can be.
    #[error("line {0}: longer than {LINE_BYTES_MAX} bytes")]
    TooLong(u64),
    /// A line is not what must be there.
    #[error("line {line}: {detail}")]
    Malformed {
        /// From 1.
        line: u64,
        /// What is wrong.
        detail: String,
    },
    /// It was cut off.
    #[error("the file is cut off after line {0}")]
    CutOff(u64),
    /// Something follows on its last line.
    #[error("line {0}: there is more after the file's end")]
    Continued(u64),
    /// Its lines are not those that were written.
    #[error("the file was changed: its lines are not what its last line says")]
    Changed,
}

#[derive(Serialize, Deserialize)]
struct Header<'a> {
    format: Cow<'a, str>,
    version: u32,
    tenant: TenantLine,
    keys: Vec<KeyLine>,
    position: Position,
    hash: Hash,
    card_serials_reserved: u64,
}

/// The part of a header that every version has.
#[derive(Deserialize)]
struct Beginning<'a> {
    #[serde(borrow)]
    format: Cow<'a, str>,
    version: u32,
}

#[derive(Serialize, Deserialize)]
struct TenantLine {
    id: TenantId,
    name: DisplayName,
    slug: Slug,
    first_plan: PlanKey,
    isolation: Isolation,
    created_at: String,
}

#[derive(Serialize, Deserialize)]
struct KeyLine {
    id: KeyId,
    #[serde(with = "hex::serde")]
    hash: [u8; 32],
    role: Role,
    name: DisplayName,
    created_at: String,
}

#[derive(Serialize, Deserialize)]
struct OutcomeLine<'a> {
    key: Cow<'a, str>,
    #[serde(with = "hex::serde")]
    fingerprint: [u8; 32],
    /// The exact text.
    outcome: Cow<'a, str>,
    position: Position,
    recorded_at: String,
}

#[derive(Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
struct Complete {
    events: u64,
    outcomes: u64,
    answers: u64,
    #[serde(with = "hex::serde")]
    sha256: [u8; 32],
}

/// A line after the events.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    Outcome(OutcomeLine<'a>),
    Answer(OutcomeLine<'a>),
    Complete(Complete),
}

/// Whether a file that begins with this line is an exported tenant.
pub fn is_archive(first_line: &[u8]) -> bool {
    first_line.starts_with(BEGINNING)
}

/// Writes an exported tenant.
pub struct Writer<W> {
    out: W,
    digest: Sha256,
    written: Complete,
    text: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Begins with what is known before the history.
    ///
    /// # Errors
    ///
    /// What writing says.
    pub fn begin(out: W, archive: &Archive) -> io::Result<Self> {
        let mut writer = Self {
            out,
            digest: Sha256::new(),
            written: Complete::default(),
            text: Vec::new(),
        };
        writer.line(&Header::of(archive))?;
        Ok(writer)
    }

    /// Writes the next piece.
    ///
    /// # Errors
    ///
    /// What writing says; also if the texts of an event are not JSON on one line.
    pub fn piece(&mut self, piece: Piece) -> io::Result<()> {
        match piece {
            Piece::Event(event) => {
                self.written.events += 1;
                self.line(&EventBody::of(event)?)
            }
            Piece::Outcome(outcome) => {
                self.written.outcomes += 1;
                self.line(&Line::Outcome(OutcomeLine::of(&outcome)))
            }
            Piece::Answer(answer) => {
                self.written.answers += 1;
                self.line(&Line::Answer(OutcomeLine::of(&answer)))
            }
        }
    }

    /// Writes the last line; what was written to comes back.
    ///
    /// # Errors
    ///
    /// What writing says.
    pub fn complete(mut self) -> io::Result<W> {
        self.written.sha256 = self.digest.clone().finalize().into();
        let written = self.written;
        self.line(&Line::Complete(written))?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        self.text.clear();
        serde_json::to_writer(&mut self.text, line)?;
        if self.text.contains(&b'\n') {
            return Err(io::Error::other("an event's text has more than one line"));
        }
        self.text.push(b'\n');
        self.digest.update(&self.text);
        self.out.write_all(&self.text)
    }
}

/// Reads an exported tenant: its pieces, as an iterator that ends after the last line, or with
/// what is wrong.
pub struct Reader<R> {
    file: R,
    /// The line read last, from 1.
    line: u64,
    text: Vec<u8>,
    digest: Sha256,
    read: Complete,
    events: Position,
    over: bool,
}

impl<R: BufRead> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    ///
    /// [`Broken`].
    pub fn begin(file: R) -> Result<(Archive, Self), Broken> {
        let mut reader = Self {
            file,
            line: 0,
            text: Vec::new(),
            digest: Sha256::new(),
            read: Complete::default(),
            events: 0,
            over: false,
        };
        if !reader.next_line()? || !is_archive(&reader.text) {
            return Err(Broken::NoArchive);
        }
        let beginning: Beginning<'_> =
            serde_json::from_slice(&reader.text).map_err(|error| reader.malformed(&error))?;
        if beginning.format != FORMAT {
            return Err(Broken::NoArchive);
        }
        if beginning.version != VERSION {
            return Err(Broken::Version(beginning.version));
        }
        let header: Header<'_> =
            serde_json::from_slice(&reader.text).map_err(|error| reader.malformed(&error))?;
        let archive = header.archive().map_err(|error| reader.malformed(&error))?;
        reader.digest.update(&reader.text);
        reader.events = archive.end.position;
        Ok((archive, reader))
    }

    /// Reads a line; `false` at the end of the file.
    fn next_line(&mut self) -> Result<bool, Broken> {
        self.text.clear();
        let line = self.line + 1;
        let mut file = (&mut self.file).take(LINE_BYTES_MAX + 1);
        let read = file
            .read_until(b'\n', &mut self.text)
            .map_err(|source| Broken::Unreadable { line, source })?;
        if read as u64 > LINE_BYTES_MAX {
            return Err(Broken::TooLong(line));
        }
        self.line += u64::from(read > 0);
        Ok(read > 0)
    }

    fn next_piece(&mut self) -> Result<Option<Piece>, Broken> {
        if !self.next_line()? {
            return Err(Broken::CutOff(self.line));
        }
        if self.read.events < self.events {
            let event: verify::Line<'_> =
                serde_json::from_slice(&self.text).map_err(|error| self.malformed(&error))?;
            let event = event.stored().map_err(|error| self.malformed(&*error))?;
            self.digest.update(&self.text);
            self.read.events += 1;
            return Ok(Some(Piece::Event(event)));
        }
        let line: Line<'_> =
            serde_json::from_slice(&self.text).map_err(|error| self.malformed(&error))?;
        let piece = match line {
            Line::Outcome(line) if self.read.answers == 0 => {
                self.read.outcomes += 1;
                line.stored().map(Piece::Outcome)
            }
            Line::Outcome(_) => {
                return Err(self.malformed_because("an outcome after the answers"));
            }
            Line::Answer(line) => {
                self.read.answers += 1;
                line.stored().map(Piece::Answer)
            }
            Line::Complete(complete) => return self.check_end(complete).map(|()| None),
        };
        let piece = piece.map_err(|error| self.malformed(&error))?;
        self.digest.update(&self.text);
        Ok(Some(piece))
    }

    fn check_end(&mut self, complete: Complete) -> Result<(), Broken> {
        self.read.sha256 = self.digest.clone().finalize().into();
        if self.read != complete {
            return Err(Broken::Changed);
        }
        match self.next_line()? {
            true => Err(Broken::Continued(self.line)),
            false => Ok(()),
        }
    }

    fn malformed(&self, error: &dyn std::error::Error) -> Broken {
        self.malformed_because(&error.to_string())
    }

    fn malformed_because(&self, detail: &str) -> Broken {
        let line = self.line;
        match self.text.ends_with(b"\n") {
            true => Broken::Malformed {
                line,
                detail: detail.to_owned(),
            },
            false => Broken::CutOff(line - 1),
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Piece, Broken>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let piece = self.next_piece().transpose();
        self.over = !matches!(piece, Some(Ok(_)));
        piece
    }
}

impl Header<'static> {
    fn of(archive: &Archive) -> Self {
        let tenant = &archive.tenant;
        Self {
            format: FORMAT.into(),
            version: VERSION,
            tenant: TenantLine {
                id: tenant.id,
                name: tenant.name.clone(),
                slug: tenant.slug.clone(),
                first_plan: tenant.first_plan.clone(),
                isolation: tenant.isolation,
                created_at: exact(tenant.created_at),
            },
            keys: archive.keys.iter().map(KeyLine::of).collect(),
            position: archive.end.position,
            hash: archive.end.hash,
            card_serials_reserved: archive.end.card_serials_reserved,
        }
    }
}

impl Header<'_> {
    fn archive(self) -> Result<Archive, chrono::ParseError> {
        let id = self.tenant.id;
        let key = |line: KeyLine| {
            Ok(ApiKey {
                id: line.id,
                hash: line.hash,
                role: line.role,
                tenant: Some(id),
                name: line.name,
                created_at: time(&line.created_at)?,
            })
        };
        Ok(Archive {
            keys: self.keys.into_iter().map(key).collect::<Result<_, _>>()?,
            tenant: Tenant {
                id,
                name: self.tenant.name,
                slug: self.tenant.slug,
                first_plan: self.tenant.first_plan,
                isolation: self.tenant.isolation,
                // Where it is placed is for whoever imports it to say.
                shard: None,
                created_at: time(&self.tenant.created_at)?,
                ready: true,
            },
            end: LedgerEnd {
                position: self.position,
                hash: self.hash,
                card_serials_reserved: self.card_serials_reserved,
            },
        })
    }
}

impl KeyLine {
    fn of(key: &ApiKey) -> Self {
        Self {
            id: key.id,
            hash: key.hash,
            role: key.role,
            name: key.name.clone(),
            created_at: exact(key.created_at),
        }
    }
}

impl<'a> OutcomeLine<'a> {
    fn of(outcome: &'a StoredOutcome) -> Self {
        Self {
            key: outcome.key.as_str().into(),
            fingerprint: outcome.fingerprint,
            outcome: outcome.outcome.as_str().into(),
            position: outcome.position,
            recorded_at: exact(outcome.recorded_at),
        }
    }

    fn stored(self) -> Result<StoredOutcome, chrono::ParseError> {
        Ok(StoredOutcome {
            key: self.key.into_owned(),
            fingerprint: self.fingerprint,
            outcome: self.outcome.into_owned(),
            position: self.position,
            recorded_at: time(&self.recorded_at)?,
        })
    }
}

fn time(text: &str) -> Result<DateTime<Utc>, chrono::ParseError> {
    DateTime::parse_from_rfc3339(text).map(|time| time.to_utc())
}
