//! This node's connections to the shards: for each, a pool that its tenants share, and a doorbell.
//!
//! A shard is connected to when it is first needed, and stays so. Which shard a tenant is in, and
//! where a shard is, is known from memory: no tenant's request asks the landlord's database.

mod dedicated;
pub mod places;
mod same;

use std::collections::HashMap;
use std::fs::File;
use std::future::ready;
use std::io::{self, Read};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use application::doorbell::Doorbell;
use application::ports::shards::{ShardDatabases, ShardLogin, ShardUnreachable};
use application::ports::{Landlord, Unavailable};
use application::shards::{Shards, UrlReference};
use application::tenants::{Directory, Isolation, Tenant};
use async_trait::async_trait;
use domain::ids::{Slug, TenantId};
use futures::stream::{self, StreamExt};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use tokio::time::timeout;
use uuid::Uuid;

use self::same::Marked;
use crate::doorbell::{Residents, ShardDoorbell};
use crate::shard::Shard;
use crate::shard::schema::check_login;

/// How long somebody waits for a connection.
const CONNECTION_WAIT_MAX: Duration = Duration::from_secs(3);
/// How long a connection stays open unused.
const CONNECTION_IDLE: Duration = Duration::from_secs(300);
/// A connection that was unused for longer is asked whether it still is one before it is used
/// again: a server takes longer to restart.
const TRUSTED_FOR: Duration = Duration::from_millis(500);
/// How long a tenant's own database keeps a connection that is unused: there are as many of them
/// as tenants, and a server has connections for few.
const DEDICATED_CONNECTION_IDLE: Duration = Duration::from_secs(30);
/// The most bytes of a file with an address.
const ADDRESS_BYTES_MAX: u64 = 4_096;
/// How long the server lets a statement run, wait for a lock, and leave a transaction idle: so long
/// is kept locked what a node was changing when its connection was lost without a word.
const LIMITS: [(&str, &str); 3] = [
    ("statement_timeout", "60s"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "10s"),
];
/// How long it has to answer then; less than [`CONNECTION_WAIT_MAX`], so that there is time for
/// another.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How many shards are asked at a time whether they are a certain database.
const LOOKS_AT_A_TIME: usize = 32;
/// Whose fault it is when it cannot be had.
const WHAT: &str = "the tenant's shard";

/// The address in a `postgres://` URL, if it is one. What is wrong with it is not said: the parser's
/// words may quote a password.
pub fn address(url: &str) -> Option<PgConnectOptions> {
    // The parser takes any scheme.
    let (scheme, _) = url.split_once("://")?;
    if !["postgres", "postgresql"].contains(&scheme) {
        return None;
    }
    let options = url.parse::<PgConnectOptions>().ok()?;
    Some(
        options
            .application_name("digital-card")
            .disable_statement_logging(),
    )
}

/// Whether a database can be connected to, and else why not: a pool says only that it waited.
///
/// # Errors
///
/// What PostgreSQL, or the way to it, says.
pub async fn reach(database: &PgConnectOptions) -> Result<(), sqlx::Error> {
    let late = |_| sqlx::Error::Io(io::ErrorKind::TimedOut.into());
    let connection = timeout(CONNECTION_WAIT_MAX, database.connect()).await;
    connection.map_err(late)??.close().await
}

/// A pool of at most `connections_max` connections, made when they are needed.
pub fn pool(database: &PgConnectOptions, connections_max: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(connections_max)
        .acquire_timeout(CONNECTION_WAIT_MAX)
        .idle_timeout(CONNECTION_IDLE)
        .test_before_acquire(false)
        .before_acquire(|connection, state| {
            Box::pin(async move {
                if state.idle_for > TRUSTED_FOR {
                    answers(connection).await?;
                }
                Ok(true)
            })
        })
        // sqlx asks again, and would wait for ever: the place would be lost with the connection.
        .after_release(|connection, _| {
            Box::pin(async move {
                answers(connection).await?;
                Ok(true)
            })
        })
        .connect_lazy_with(tuned(database))
}

/// What every connection to a database with tenants' tables is told.
///
/// Statements never read a whole table where an index would do: they find their rows by keys,
/// and PostgreSQL keeps the plan that it made of a statement while the tenant's tables were small;
/// when they have grown, that plan reads all of them for every card (a quarter of the issuances/s
/// at 64 connections: `cargo run --release --example load -- --engine postgres`, with this line and
/// without). Nor are they planned anew for their values, which never ask for another plan: with 1,000
/// tenants that was a quarter of the server's work.
fn tuned(database: &PgConnectOptions) -> PgConnectOptions {
    database
        .clone()
        .options([
            ("enable_seqscan", "off"),
            ("plan_cache_mode", "force_generic_plan"),
        ])
        .options(LIMITS)
}

fn connections(database: &PgConnectOptions, connections_max: u32, idle_max: Duration) -> Shard {
    let connections_max = connections_max as usize;
    Shard::new(
        tuned(database),
        connections_max,
        CONNECTION_WAIT_MAX,
        idle_max,
    )
}

/// Asks a connection for a sign of life.
async fn answers(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    let late = |_| sqlx::Error::Io(io::ErrorKind::TimedOut.into());
    timeout(ANSWER_MAX, connection.ping()).await.map_err(late)?
}

/// The shards that this node is connected to.
pub struct ConnectedShards {
    node: Node,
    landlord: Arc<dyn Landlord>,
    records: Arc<Shards>,
    directory: Arc<Directory>,
    connected: Mutex<HashMap<Slug, Connected>>,
    /// The databases of their own that tenants in use have.
    dedicated: Mutex<HashMap<(Slug, TenantId), Weak<Place>>>,
}

/// What is this node's own in every shard.
#[derive(Clone)]
pub struct Node {
    /// The process's own id.
    pub id: Uuid,
    /// The landlord's database: the address of [`UrlReference::Store`].
    pub store: PgConnectOptions,
    /// What rings on this node.
    pub doorbell: Doorbell,
    /// How many connections to a shard its tenants share. The doorbell has two more.
    pub connections_max: u32,
    /// How many connections a tenant has to a database of its own, while it is in use.
    pub dedicated_connections_max: u32,
}

/// The database that a tenant's schema is in.
pub struct Place {
    /// Where it is.
    pub options: PgConnectOptions,
    /// The connections to it: shared by the shard's tenants, unless it is one tenant's own.
    pub shard: Shard,
    /// The shard's address, if this is a tenant's own database beside it.
    beside: Option<PgConnectOptions>,
}

/// Where a schema is.
pub(crate) struct Home {
    /// In which shard; `None` if it is in none.
    pub(crate) shard: Option<Slug>,
    /// How it is kept apart there.
    isolation: Isolation,
}

impl Home {
    fn of(tenant: &Tenant) -> Self {
        Self {
            shard: tenant.shard.clone(),
            isolation: tenant.isolation,
        }
    }
}

struct Connected {
    shard: Arc<Place>,
    doorbell: ShardDoorbell,
}

impl ConnectedShards {
    /// Connections to shards as they are recorded, for tenants as they are known.
    pub fn new(
        node: Node,
        landlord: Arc<dyn Landlord>,
        records: Arc<Shards>,
        directory: Arc<Directory>,
    ) -> Self {
        Self {
            node,
            landlord,
            records,
            directory,
            connected: Mutex::default(),
            dedicated: Mutex::default(),
        }
    }

    /// The same, on connections of its own, as if this tenant were the only one.
    fn for_one(&self, tenant: &Tenant) -> Self {
        Self::new(
            self.node.clone(),
            Arc::clone(&self.landlord),
            Arc::clone(&self.records),
            Arc::new(Directory::new(vec![tenant.clone()])),
        )
    }

    /// This process's own id.
    pub(crate) const fn node(&self) -> Uuid {
        self.node.id
    }

    /// The database that a tenant's schema is in. Connections to one of the tenant's own are there
    /// for as long as anybody holds it.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if this node does not know the tenant, or the address of its shard.
    pub async fn of(&self, tenant: TenantId) -> Result<Arc<Place>, Unavailable> {
        let home = self.home(tenant)?;
        self.at_home(tenant, &home).await
    }

    /// Where a tenant's schema is, as this node knows it. The landlord's own is in the landlord's
    /// database, which is a shard as well.
    pub(crate) fn home(&self, tenant: TenantId) -> Result<Home, Unavailable> {
        let nowhere = || Unavailable::because(WHAT, "the tenant is in none");
        if tenant == TenantId::LANDLORD {
            let mut shards = self.records.all().into_iter();
            let store = shards.find(|shard| shard.url == UrlReference::Store);
            return Ok(Home {
                shard: Some(store.ok_or_else(nowhere)?.name),
                isolation: Isolation::Shared,
            });
        }
        let known = self.directory.get(tenant).ok_or_else(nowhere)?;
        Ok(Home::of(&known))
    }

    /// The database for the schema of a tenant as it is recorded, or will be.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] if it is in none, or the shard's address is not known on this node.
    pub async fn of_record(&self, tenant: &Tenant) -> Result<Arc<Place>, Unavailable> {
        self.at_home(tenant.id, &Home::of(tenant)).await
    }

    pub(crate) async fn at_home(
        &self,
        tenant: TenantId,
        home: &Home,
    ) -> Result<Arc<Place>, Unavailable> {
        let Some(name) = &home.shard else {
            return Err(Unavailable::because(WHAT, "the tenant is in none"));
        };
        let shard = self.named(name).await?;
        Ok(match home.isolation {
            Isolation::Shared => shard,
            Isolation::Dedicated => self.dedicated(name, tenant, &shard),
        })
    }

    /// Connects to every shard there is; one whose address is not known here is told and left.
    pub fn connect_all(&self) {
        for shard in self.records.all() {
            if let Err(error) = self.connect(&shard.name) {
                let error = &error as &dyn std::error::Error;
                tracing::error!(shard = shard.name.as_str(), error, "cannot be connected to");
            }
        }
    }

    /// Asks every shard for a sign of life: those that give none in time, and how many were asked.
    pub async fn silent(&self, patience: Duration) -> (Vec<Slug>, usize) {
        let all = self.records.all();
        let asked = all.iter().map(|shard| async {
            let answer = async {
                let place = self.named(&shard.name).await.ok()?;
                place.shard.answer().await.ok()
            };
            let answered = timeout(patience, answer).await.ok().flatten();
            answered.is_none().then(|| shard.name.clone())
        });
        let silent = futures::future::join_all(asked).await;
        (silent.into_iter().flatten().collect(), all.len())
    }

    /// Closes all connections, each as soon as nobody uses it.
    pub async fn close(&self) {
        let all: Vec<_> = self.lock().drain().map(|(_, it)| it).collect();
        let closing = all.into_iter().map(|connected| async move {
            connected.shard.shard.close().await;
            connected.doorbell.close().await;
        });
        futures::future::join_all(closing).await;
    }

    async fn named(&self, name: &Slug) -> Result<Arc<Place>, Unavailable> {
        if self.records.get(name).is_none() {
            // Another node may have added it a moment ago.
            self.records.replace(self.landlord.shards().await?);
        }
        self.connect(name)
    }

    fn connect(&self, name: &Slug) -> Result<Arc<Place>, Unavailable> {
        let mut connected = self.lock();
        if let Some(found) = connected.get(name) {
            return Ok(Arc::clone(&found.shard));
        }
        let record = self.records.get(name);
        let record = record.ok_or_else(|| {
            Unavailable::because(WHAT, format!("there is no shard {}", name.as_str()))
        })?;
        let options = self.address(&record.url);
        let options = options.map_err(|error| Unavailable::because(WHAT, error))?;
        let residents = ResidentsOf {
            shard: name.clone(),
            has_landlord: record.url == UrlReference::Store,
            directory: Arc::clone(&self.directory),
        };
        let Node { id, doorbell, .. } = &self.node;
        let doorbell = ShardDoorbell::start(&options, doorbell, *id, Arc::new(residents));
        let shard = Arc::new(Place {
            shard: connections(&options, self.node.connections_max, CONNECTION_IDLE),
            options,
            beside: None,
        });
        let new = Connected {
            shard: Arc::clone(&shard),
            doorbell,
        };
        connected.insert(name.clone(), new);
        Ok(shard)
    }

    fn address(&self, url: &UrlReference) -> Result<PgConnectOptions, AddressError> {
        let text = match url {
            UrlReference::Store => return Ok(self.node.store.clone()),
            UrlReference::Environment(variable) => {
                std::env::var(variable).map_err(|_| AddressError::NotSet(variable.clone()))?
            }
            UrlReference::File(path) => {
                read(path).map_err(|error| AddressError::NotRead(path.clone(), error))?
            }
        };
        address(text.trim()).ok_or_else(|| AddressError::Malformed(url.to_string()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Slug, Connected>> {
        self.connected
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl ShardDatabases for ConnectedShards {
    async fn find(&self, url: &UrlReference) -> Result<Option<Slug>, ShardUnreachable> {
        let options = self.address(url);
        let options = options.map_err(|why| ShardUnreachable::NoAddress(why.to_string()))?;
        let found = self.recorded_as(&options).await;
        found.map_err(|error| ShardUnreachable::NoAnswer(Unavailable::because("a shard", error)))
    }

    /// On a connection of its own: the shard need not be recorded yet.
    async fn probe(&self, url: &UrlReference) -> Result<ShardLogin, ShardUnreachable> {
        let options = self.address(url);
        let options = options.map_err(|why| ShardUnreachable::NoAddress(why.to_string()))?;
        let asked = timeout(CONNECTION_WAIT_MAX, login_of(&options)).await;
        let answered = match asked {
            Ok(answered) => answered.map_err(|error| Unavailable::because("a shard", error)),
            Err(late) => Err(Unavailable::because("a shard", late)),
        };
        answered.map_err(ShardUnreachable::NoAnswer)
    }
}

impl ConnectedShards {
    async fn recorded_as(&self, database: &PgConnectOptions) -> Result<Option<Slug>, sqlx::Error> {
        let Some(marked) = Marked::connect(database).await? else {
            return Ok(None);
        };
        let all = self.records.all().into_iter().map(|shard| {
            let marked = &marked;
            async move {
                let address = self.address(&shard.url).ok()?;
                marked.is(&address).await.ok()?.then_some(shard.name)
            }
        });
        let found = stream::iter(all).buffer_unordered(LOOKS_AT_A_TIME);
        let found = pin!(found.filter_map(ready)).next().await;
        marked.end().await;
        Ok(found)
    }
}

async fn login_of(shard: &PgConnectOptions) -> Result<ShardLogin, sqlx::Error> {
    let mut connection = shard.connect().await?;
    check_login(&mut connection).await?;
    let sql = "select rolcreatedb or rolsuper from pg_roles where rolname = current_user";
    let may_make_databases = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(ShardLogin { may_make_databases })
}

/// The text of a small file.
fn read(path: &str) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(ADDRESS_BYTES_MAX)
        .read_to_string(&mut text)?;
    Ok(text)
}

/// Why the address of a shard is not known on this node.
#[derive(Debug, thiserror::Error)]
enum AddressError {
    #[error("the variable {0} is not set")]
    NotSet(String),
    #[error("the file {0} cannot be read")]
    NotRead(String, #[source] io::Error),
    #[error("{0} holds no postgres:// address")]
    Malformed(String),
}

/// The tenants of a shard, as this node knows them, and the landlord where its own ledger is.
struct ResidentsOf {
    shard: Slug,
    has_landlord: bool,
    directory: Arc<Directory>,
}

impl Residents for ResidentsOf {
    fn all(&self) -> Vec<TenantId> {
        let all = self.directory.all();
        let here = all
            .iter()
            .filter(|it| it.shard.as_ref() == Some(&self.shard));
        let landlord = self.has_landlord.then_some(TenantId::LANDLORD);
        here.map(|tenant| tenant.id).chain(landlord).collect()
    }

    fn has(&self, tenant: TenantId) -> bool {
        if tenant == TenantId::LANDLORD {
            return self.has_landlord;
        }
        let known = self.directory.get(tenant);
        known.is_some_and(|it| it.shard.as_ref() == Some(&self.shard))
    }
}
