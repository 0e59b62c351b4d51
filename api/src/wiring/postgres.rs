//! The engine for production: the landlord in a PostgreSQL database, tenants in shards. Any number
//! of nodes may use the same ones.

use std::sync::Arc;
use std::time::Duration;

use application::doorbell::Doorbell;
use application::moves::Mover;
use application::news::LandlordNews;
use application::ports::shards::ShardDatabases;
use application::ports::{Clock, Landlord, LandlordError, Random, Unavailable};
use application::shards::{Shard, Shards, UrlReference};
use application::tenants::Directory;
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::Slug;
use infrastructure::clock::SystemRandom;
use infrastructure::database::Older;
use infrastructure::landlord::{self, LandlordDatabase};
use infrastructure::news::hear_news;
use infrastructure::portable::postgres::PostgresDatabase;
use infrastructure::processes::SchemaProcesses;
use infrastructure::projections::cards::postgres::PostgresCardsProjection;
use infrastructure::projections::landlord::LandlordReadModel;
use infrastructure::shards::places::ShardPlaces;
use infrastructure::shards::{self, ConnectedShards, Node};
use infrastructure::tenants::SchemaStores;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Adapters, Engine};
use crate::config::{Limits, PostgresUrl};

/// The shard in the landlord's own database.
const FIRST_SHARD: &str = "main";

struct Shared {
    landlord: Arc<PostgresDatabase>,
    shards: Arc<ConnectedShards>,
    stores: SchemaStores,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Connects to the landlord's database and to the shards that are recorded in it.
pub(super) async fn open(
    url: &PostgresUrl,
    limits: &Limits,
    older: Older,
    clock: &Arc<dyn Clock>,
    doorbell: &Doorbell,
) -> Result<Adapters, Unavailable> {
    let of_landlord = "the landlord's database";
    let store = shards::address(url.reveal())
        .ok_or_else(|| Unavailable::because(of_landlord, "this is no postgres:// address"))?;
    let unreachable = |error| Unavailable::because(of_landlord, error);
    shards::reach(&store).await.map_err(unreachable)?;
    let pool = shards::pool(&store, limits.landlord_connections_max);
    let database = landlord::connect(pool, older)
        .await
        .map_err(|error| Unavailable::because(of_landlord, error))?;
    let database = Arc::new(database);
    let landlord = Arc::new(LandlordDatabase::new(Arc::clone(&database)));
    let shards = record_first_shard(&*landlord, clock.now()).await?;

    let directory = Arc::new(Directory::new(landlord.tenants().await?));
    let shards = Arc::new(Shards::new(shards));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let news = LandlordNews::default();
    tasks.spawn(hear_news(store.clone(), news.clone(), stop.clone()));
    let node = Node {
        id: SystemRandom.id(),
        store,
        doorbell: doorbell.clone(),
        connections_max: limits.shard_connections_max,
        dedicated_connections_max: limits.dedicated_connections_max,
    };
    let connected = Arc::new(ConnectedShards::new(
        node,
        Arc::clone(&landlord) as _,
        Arc::clone(&shards),
        Arc::clone(&directory),
    ));
    let takes_tenants = |shard: &Shard| shard.open && shard.url == UrlReference::Store;
    if shards.all().iter().any(takes_tenants) {
        // Rather now than when a tenant is half made.
        let probed = connected.probe(&UrlReference::Store).await;
        probed.map_err(|error| Unavailable::because("the first shard", error))?;
    }
    connected.connect_all();
    let stores = SchemaStores::new(
        Arc::clone(&connected),
        news.clone(),
        limits.open_schemas_max(),
        limits.appends_waiting_max,
        older,
        Arc::clone(clock),
        doorbell.clone(),
    );
    tasks.spawn(stores.clone().follow_other_nodes(stop.clone()));
    tasks.close();
    Ok(Adapters {
        directory,
        shards,
        mover: Some(Mover {
            records: Arc::clone(&landlord) as _,
            places: Arc::new(ShardPlaces::new(Arc::clone(&connected), Arc::clone(clock))),
        }),
        shard_databases: Some(Arc::clone(&connected) as _),
        news,
        landlord,
        overviews: Arc::new(LandlordReadModel::new(Arc::clone(&database))),
        stores: Arc::new(stores.clone()),
        counts: Arc::new(stores.clone()),
        process_states: Arc::new(SchemaProcesses::new(Arc::new(stores.clone()))),
        cards: Arc::new(PostgresCardsProjection::new(Arc::new(stores.clone()))),
        engine: Arc::new(Shared {
            landlord: database,
            shards: connected,
            stores,
            stop,
            tasks,
        }),
    })
}

/// Records the first shard if there is none; answers all that there are.
async fn record_first_shard(
    landlord: &dyn Landlord,
    now: DateTime<Utc>,
) -> Result<Vec<Shard>, Unavailable> {
    let what = "the first shard";
    let found = landlord.shards().await?;
    if !found.is_empty() {
        return Ok(found);
    }
    let name = Slug::try_from(FIRST_SHARD.to_owned());
    let shard = Shard {
        name: name.map_err(|error| Unavailable::because(what, error))?,
        url: UrlReference::Store,
        open: true,
    };
    match landlord.add_shard(&shard, now, None).await {
        // Another node was faster.
        Ok(_) | Err(LandlordError::ShardExists) => landlord.shards().await,
        Err(error) => Err(Unavailable::because(what, error)),
    }
}

#[async_trait]
impl Engine for Shared {
    async fn silent(&self, patience: Duration) -> (Vec<Slug>, bool) {
        let (silent, of) = self.shards.silent(patience).await;
        let all = silent.len() == of;
        (silent, all)
    }

    async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.stores.close_all().await;
        self.shards.close().await;
        self.landlord.close().await;
    }
}
