//! Shards: the databases that tenants' ledgers are placed in. The embedded store has none.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{PoisonError, RwLock};

use domain::ids::Slug;

use crate::error::Refusal;
use crate::tenants::Directory;

/// A database that tenants' ledgers are placed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shard {
    /// Its name, unique.
    pub name: Slug,
    /// Where each node finds its address.
    pub url: UrlReference,
    /// Whether new tenants are placed there.
    pub open: bool,
}

/// Where a node finds a shard's address. The address itself has a password in it, and may differ
/// between nodes, so it is not recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlReference {
    /// The landlord's own database: `store`.
    Store,
    /// An environment variable: `env:SHARD_2_URL`.
    Environment(String),
    /// A file that has nothing else in it: `file:/run/secrets/shard-2`.
    File(String),
}

/// The text is not a [`UrlReference`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be store, env:NAME or file:/PATH, of at most 200 characters")]
pub struct InvalidUrlReference;

impl UrlReference {
    /// The longest reference, in bytes.
    pub const LENGTH_MAX: usize = 200;
}

impl FromStr for UrlReference {
    type Err = InvalidUrlReference;

    fn from_str(text: &str) -> Result<Self, InvalidUrlReference> {
        let name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if text.len() > Self::LENGTH_MAX || text.contains(char::is_control) {
            return Err(InvalidUrlReference);
        }
        match text.split_once(':') {
            None if text == "store" => Ok(Self::Store),
            Some(("env", variable)) if !variable.is_empty() && variable.bytes().all(name) => {
                Ok(Self::Environment(variable.to_owned()))
            }
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(path.to_owned())),
            _ => Err(InvalidUrlReference),
        }
    }
}

impl fmt::Display for UrlReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Store => f.write_str("store"),
            Self::Environment(variable) => write!(f, "env:{variable}"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

/// Which shards there are: all of them, in memory, as the landlord records them.
#[derive(Debug, Default)]
pub struct Shards {
    shards: RwLock<HashMap<Slug, Shard>>,
}

impl Shards {
    /// These shards.
    pub fn new(shards: Vec<Shard>) -> Self {
        let all = Self::default();
        all.replace(shards);
        all
    }

    /// These shards, instead of those before.
    pub fn replace(&self, shards: Vec<Shard>) {
        let by_name = shards
            .into_iter()
            .map(|shard| (shard.name.clone(), shard))
            .collect();
        *self.shards.write().unwrap_or_else(PoisonError::into_inner) = by_name;
    }

    /// The shard of this name.
    pub fn get(&self, name: &Slug) -> Option<Shard> {
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        shards.get(name).cloned()
    }

    /// Every shard, by name.
    pub fn all(&self) -> Vec<Shard> {
        let shards = self.shards.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = shards.values().cloned().collect();
        drop(shards);
        all.sort_by(|a, b| a.name.as_str().cmp(b.name.as_str()));
        all
    }

    /// Where to place a new tenant: the open shard with the fewest tenants. `None` if there are no
    /// shards at all, because every tenant has a file of its own.
    ///
    /// # Errors
    ///
    /// [`Refusal::NoOpenShard`] if there are shards, but none is open.
    pub fn place(&self, tenants: &Directory) -> Result<Option<Slug>, Refusal> {
        let all = self.all();
        if all.is_empty() {
            return Ok(None);
        }
        let placed = tenants.count_by_shard();
        let emptiest = all
            .into_iter()
            .filter(|shard| shard.open)
            .min_by_key(|shard| placed.get(&shard.name).copied().unwrap_or_default());
        match emptiest {
            Some(shard) => Ok(Some(shard.name)),
            None => Err(Refusal::NoOpenShard),
        }
    }
}
