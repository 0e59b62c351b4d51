//! Under which idempotency keys outcomes are stored.
//!
//! Clients' keys come in no order. An index that is kept current would have to change a page of
//! its own for each of them: seven in ten of all pages that a busy ledger wrote, measured. So
//! outcomes are numbered and stored as they come, and the entries of the index gather in memory
//! until there are enough of them to be stored together, in order, many to a page. That is done in
//! slices, each in the transaction of a batch, so that no batch waits for the whole.
//!
//! Every question also covers what memory has not seen, the outcomes after `last`, whatever has
//! happened to it: a batch whose commit failed half way, or another writer of the same file.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use application::ports::RecordedOutcome;
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, SqliteConnection, SqlitePool};

use super::super::writer::BATCH_APPENDS_MAX;
use super::super::{StoreError, column};
use super::Bound;

/// How many keys are indexed together.
const TOGETHER: usize = 8_192;
/// How many of them a batch takes along: as many as it can add, so that memory is bounded.
const SLICE: usize = BATCH_APPENDS_MAX;
/// The low bits of an entry of the index are the outcome's number: up to 34 billion.
const NUMBER_BITS: u32 = 35;
/// Those bits.
const NUMBER: i64 = (1 << NUMBER_BITS) - 1;

/// Finds the outcomes stored under any of the keys that [`Keys::bind`] binds, and possibly others.
pub(super) const FIND: &str = "\
     select key, fingerprint, outcome, position from idempotency where number in \
     (select value from json_each(?) union all \
     select entry & 0x7ffffffff from json_each(?) hash cross join idempotency_index \
     on entry between hash.value and hash.value | 0x7ffffffff) \
     union all select key, fingerprint, outcome, position from idempotency \
     where number > ? and key in (select value from json_each(?))";

/// The number of the latest outcome.
pub(super) const LAST: &str = "select coalesce(max(number), 0) from idempotency";

/// Puts a [`Slice`] into the index.
pub(super) const INDEX: &str = "insert or ignore into idempotency_index (entry) \
     select value from json_each(?); \
     update checkpoints set position = ? where subscriber = 'idempotency_index' and position < ?; ";

/// Which keys were used.
#[derive(Default)]
pub(super) struct Keys {
    recent: Mutex<Recent>,
}

/// The entries of the outcomes between the index's end and `last`.
#[derive(Default)]
struct Recent {
    /// Not on their way yet.
    entries: BTreeSet<i64>,
    /// On their way into the index.
    indexing: BTreeSet<i64>,
    /// How far the index is when none of these is left.
    end: i64,
    last: i64,
}

/// What a batch takes along into the index; often nothing.
pub(super) struct Slice {
    entries: Vec<i64>,
    /// How far the index is with them, if that changes.
    indexed: i64,
}

impl Keys {
    /// Learns of the outcomes that are stored and neither known of nor indexed.
    pub(super) async fn catch_up(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<(), StoreError> {
        let stored: i64 = sqlx::query_scalar(LAST).fetch_one(&mut *connection).await?;
        let rows = sqlx::query(
            "select number, key from idempotency where number > max(?, \
             (select position from checkpoints where subscriber = 'idempotency_index'))",
        )
        .bind(self.last())
        .fetch_all(connection)
        .await?;
        let mut recent = self.lock();
        for row in rows {
            recent
                .entries
                .insert(entry(row.try_get(1)?, row.try_get(0)?));
        }
        recent.last = stored;
        Ok(())
    }

    /// The number of the latest outcome that is known of.
    pub(super) fn last(&self) -> i64 {
        self.lock().last
    }

    /// What the next batch is to take along.
    pub(super) fn slice(&self) -> Slice {
        let recent = self.lock();
        let indexing = &recent.indexing;
        let is_the_last = !indexing.is_empty() && indexing.len() <= SLICE;
        Slice {
            entries: indexing.iter().take(SLICE).copied().collect(),
            indexed: if is_the_last { recent.end } else { 0 },
        }
    }

    /// A batch is committed: outcomes with the next numbers, under these keys, and the slice that
    /// it took along.
    pub(super) fn committed<'a>(&self, keys: impl Iterator<Item = &'a str>, slice: &Slice) {
        let recent = &mut *self.lock();
        for (number, key) in (recent.last + 1..).zip(keys) {
            recent.entries.insert(entry(key, number));
            recent.last = number;
        }
        for entry in &slice.entries {
            recent.indexing.remove(entry);
        }
        if recent.indexing.is_empty() && recent.entries.len() >= TOGETHER {
            recent.indexing = std::mem::take(&mut recent.entries);
            recent.end = recent.last;
        }
    }

    /// Binds the values of [`FIND`].
    pub(super) fn bind<'q>(
        &self,
        query: Bound<'q>,
        keys: &[&str],
    ) -> Result<Bound<'q>, StoreError> {
        let recent = self.lock();
        let firsts: Vec<_> = keys.iter().map(|key| entry(key, 0)).collect();
        let in_memory = |first: &i64| {
            let range = *first..=*first | NUMBER;
            let sets = [&recent.entries, &recent.indexing];
            let entries = sets.map(|set| set.range(range.clone()));
            entries.into_iter().flatten().map(|entry| entry & NUMBER)
        };
        let numbers: Vec<_> = firsts.iter().flat_map(in_memory).collect();
        Ok(query
            .bind(json(&numbers)?)
            .bind(json(&firsts)?)
            .bind(recent.last)
            .bind(json(keys)?))
    }

    /// What was answered under a key.
    pub(super) async fn outcome(
        &self,
        readers: &SqlitePool,
        key: &str,
    ) -> Result<Option<RecordedOutcome>, StoreError> {
        let query = self.bind(sqlx::query(FIND), &[key])?;
        let rows = query.fetch_all(readers).await?;
        Ok(outcomes(&rows)?.remove(key))
    }

    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slice {
    /// Binds the values of [`INDEX`].
    pub(super) fn bind<'q>(&self, query: Bound<'q>) -> Result<Bound<'q>, StoreError> {
        Ok(query
            .bind(json(&self.entries)?)
            .bind(self.indexed)
            .bind(self.indexed))
    }
}

/// Rows of [`FIND`], by key.
pub(super) fn outcomes(rows: &[SqliteRow]) -> Result<HashMap<String, RecordedOutcome>, StoreError> {
    let by_key = |row: &SqliteRow| {
        let outcome = column::outcome(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)?;
        Ok((row.try_get(0)?, outcome))
    };
    rows.iter().map(by_key).collect()
}

/// What the index holds for a key: 28 bits of its hash, then the number. Another key may have the
/// same hash, which costs the reading of a row and nothing else.
pub(super) fn entry(key: &str, number: i64) -> i64 {
    let [a, b, c, d, ..] = <[u8; 32]>::from(Sha256::digest(key));
    i64::from(u32::from_be_bytes([a, b, c, d]) >> 4) << NUMBER_BITS | number
}

/// A list to be bound as one value, so that the text is the same however many there are.
pub(super) fn json(list: &(impl serde::Serialize + ?Sized)) -> Result<String, sqlx::Error> {
    serde_json::to_string(list).map_err(|error| sqlx::Error::Encode(error.into()))
}
