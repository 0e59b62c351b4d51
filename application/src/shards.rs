//! Shards: the databases that tenants' ledgers are placed in. The embedded store has none.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use domain::ids::Slug;
use futures::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};

use crate::Application;
use crate::commands::Done;
use crate::error::{Error, Refusal};
use crate::ports::shards::{ShardDatabases, ShardUnreachable};
use crate::ports::{Recorded, Unavailable};
use crate::scope::{Command, Role, Scope};
use crate::tenants::{Directory, Isolation, landlord_record};

/// How many shards there may be: each node keeps connections to all of them.
pub const SHARDS_MAX: usize = 256;
/// How many shards are asked for a sign of life at a time.
const PROBES_AT_A_TIME: usize = 16;

const LANDLORD: &[Role] = &[Role::Landlord];

/// A database that tenants' ledgers are placed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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

impl TryFrom<String> for UrlReference {
    type Error = InvalidUrlReference;

    fn try_from(text: String) -> Result<Self, InvalidUrlReference> {
        text.parse()
    }
}

impl From<UrlReference> for String {
    fn from(url: UrlReference) -> Self {
        url.to_string()
    }
}

/// What the landlord sees of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardOverview {
    /// As recorded.
    pub shard: Shard,
    /// How many tenants are in it.
    pub tenants: usize,
    /// Whether this node reaches it.
    pub reachable: bool,
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

    /// This shard, instead of the one of its name before.
    fn put(&self, shard: Shard) {
        let mut shards = self.shards.write().unwrap_or_else(PoisonError::into_inner);
        shards.insert(shard.name.clone(), shard);
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

impl Application {
    /// Records a shard, once it is known that this node reaches it. One that is recorded as the
    /// same already is answered the same.
    pub async fn add_shard(&self, command: &Command, shard: Shard) -> Result<Done<Shard>, Error> {
        command.scope.require(LANDLORD)?;
        let databases = self.shard_databases()?;
        if let Some(done) = self.shard_recorded_before(command).await? {
            return Ok(done);
        }
        let is_new = self.shards.get(&shard.name).is_none();
        if is_new && self.shards.all().len() >= SHARDS_MAX {
            return Err(invalid(
                "name",
                "too_many_shards",
                "there are too many shards",
            ));
        }
        databases.probe(&shard.url).await.map_err(not_reached)?;
        if is_new
            && let Some(known) = databases.find(&shard.url).await.map_err(not_reached)?
            && known != shard.name
        {
            let detail = format!("leads to the database of the shard {}", known.as_str());
            return Err(invalid("url", "already_a_shard", detail));
        }
        let record = landlord_record(command, &shard)?;
        let recorded = self
            .landlord
            .add_shard(&shard, self.clock.now(), record.as_ref())
            .await?;
        self.shard_recorded(shard, recorded)
    }

    /// Opens a shard for new tenants, or closes it. Its tenants stay in it.
    pub async fn open_shard(
        &self,
        command: &Command,
        name: &Slug,
        open: bool,
    ) -> Result<Done<Shard>, Error> {
        command.scope.require(LANDLORD)?;
        self.shard_databases()?;
        if let Some(done) = self.shard_recorded_before(command).await? {
            return Ok(done);
        }
        let known = self.shards.get(name).ok_or(Error::NotFound("shard"))?;
        let shard = Shard { open, ..known };
        let record = landlord_record(command, &shard)?;
        let recorded = self
            .landlord
            .change_shard(&shard, self.clock.now(), record.as_ref())
            .await?;
        self.shard_recorded(shard, recorded)
    }

    /// Every shard, by name.
    pub async fn shard_overviews(&self, scope: &Scope) -> Result<Vec<ShardOverview>, Error> {
        scope.require(LANDLORD)?;
        let databases = self.shard_databases()?;
        let placed = self.directory.count_by_shard();
        let overviews = stream::iter(self.shards.all()).map(|shard| {
            let tenants = placed.get(&shard.name).copied().unwrap_or_default();
            async move {
                ShardOverview {
                    reachable: databases.probe(&shard.url).await.is_ok(),
                    tenants,
                    shard,
                }
            }
        });
        Ok(overviews.buffered(PROBES_AT_A_TIME).collect().await)
    }

    /// Where to place a new tenant; `None` if there are no shards.
    ///
    /// A database of its own is promised only where one can be made: the tenant is recorded before
    /// its store is.
    pub(crate) async fn place(&self, isolation: Isolation) -> Result<Option<Slug>, Error> {
        let Some(name) = self.shards.place(&self.directory)? else {
            return Ok(None);
        };
        if isolation == Isolation::Dedicated
            && let Some(shard) = self.shards.get(&name)
        {
            let login = self.shard_databases()?.probe(&shard.url).await;
            let login = login.map_err(|error| Unavailable::because("the tenant's shard", error))?;
            if !login.may_make_databases {
                return Err(Refusal::NoDedicatedDatabase(name.into()).into());
            }
        }
        Ok(Some(name))
    }

    /// This node's way to the shards' databases; none on the embedded store.
    pub(crate) fn shard_databases(&self) -> Result<&Arc<dyn ShardDatabases>, Error> {
        let databases = self.shard_databases.as_ref();
        databases.ok_or_else(|| Refusal::NoShards.into())
    }

    /// The answer to the same request, if it was given before. Asked before the rules, which may
    /// refuse today what was done then.
    async fn shard_recorded_before(&self, command: &Command) -> Result<Option<Done<Shard>>, Error> {
        let Some(record) = landlord_record(command, &())? else {
            return Ok(None);
        };
        match self.landlord.outcome(&record.key).await? {
            None => Ok(None),
            Some(before) if before.fingerprint != record.fingerprint => Err(Error::KeyReused),
            Some(before) => replayed(&before.outcome).map(Some),
        }
    }

    fn shard_recorded(&self, shard: Shard, recorded: Recorded) -> Result<Done<Shard>, Error> {
        match recorded {
            Recorded::New => {
                self.shards.put(shard.clone());
                Ok(done(shard, false))
            }
            Recorded::Replayed(before) => replayed(&before.outcome),
        }
    }
}

fn replayed(outcome: &str) -> Result<Done<Shard>, Error> {
    let shard = serde_json::from_str(outcome)
        .map_err(|error| Error::Internal(format!("a recorded outcome: {error}")))?;
    Ok(done(shard, true))
}

const fn done(shard: Shard, replayed: bool) -> Done<Shard> {
    Done {
        value: shard,
        version: 1,
        position: 0,
        replayed,
    }
}

fn not_reached(why: ShardUnreachable) -> Error {
    match why {
        ShardUnreachable::NoAddress(why) => invalid("url", "no_address", why),
        ShardUnreachable::NoAnswer(why) => Error::ShardUnreachable(why),
    }
}

fn invalid(field: &'static str, code: &'static str, detail: impl Into<String>) -> Error {
    Refusal::Invalid {
        field,
        code,
        detail: detail.into(),
    }
    .into()
}
