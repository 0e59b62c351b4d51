//! The engine for production: the landlord in a PostgreSQL database, tenants in shards. Any number
//! of nodes may use the same ones.

use std::sync::Arc;

use application::doorbell::Doorbell;
use application::news::LandlordNews;
use application::ports::{Clock, Landlord, Random, Unavailable};
use application::shards::{Shard, Shards, UrlReference};
use application::tenants::Directory;
use async_trait::async_trait;
use domain::ids::Slug;
use infrastructure::clock::SystemRandom;
use infrastructure::landlord::{self, LandlordDatabase};
use infrastructure::news::hear_news;
use infrastructure::portable::postgres::PostgresDatabase;
use infrastructure::projections::cards::postgres::PostgresCardsProjection;
use infrastructure::projections::landlord::LandlordReadModel;
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
    clock: &Arc<dyn Clock>,
    doorbell: &Doorbell,
) -> Result<Adapters, Unavailable> {
    let of_landlord = "the landlord's database";
    let store = shards::address(url.reveal())
        .ok_or_else(|| Unavailable::because(of_landlord, "this is no postgres:// address"))?;
    let database = landlord::connect(shards::pool(&store, limits.landlord_connections_max))
        .await
        .map_err(|error| Unavailable::because(of_landlord, error))?;
    let database = Arc::new(database);
    let landlord = LandlordDatabase::new(Arc::clone(&database));
    landlord.add_shard(&first_shard()?).await?;

    let directory = Arc::new(Directory::new(landlord.tenants().await?));
    let shards = Arc::new(Shards::new(landlord.shards().await?));
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let news = LandlordNews::default();
    tasks.spawn(hear_news(store.clone(), news.clone(), stop.clone()));
    let node = Node {
        id: SystemRandom.id(),
        store,
        doorbell: doorbell.clone(),
        connections_max: limits.shard_connections_max,
    };
    let connected = ConnectedShards::new(node, Arc::clone(&shards), Arc::clone(&directory));
    let connected = Arc::new(connected);
    connected.connect_all();
    let stores = SchemaStores::new(
        Arc::clone(&connected),
        limits.open_tenants_max,
        limits.appends_waiting_max,
        Arc::clone(clock),
        doorbell.clone(),
    );
    tasks.spawn(stores.clone().follow_other_nodes(stop.clone()));
    tasks.close();
    Ok(Adapters {
        directory,
        shards,
        news,
        landlord: Arc::new(landlord),
        overviews: Arc::new(LandlordReadModel::new(Arc::clone(&database))),
        stores: Arc::new(stores.clone()),
        cards: Arc::new(PostgresCardsProjection::new(Arc::clone(&connected) as _)),
        engine: Arc::new(Shared {
            landlord: database,
            shards: connected,
            stores,
            stop,
            tasks,
        }),
    })
}

fn first_shard() -> Result<Shard, Unavailable> {
    let name = Slug::try_from(FIRST_SHARD.to_owned());
    Ok(Shard {
        name: name.map_err(|error| Unavailable::because("the first shard", error))?,
        url: UrlReference::Store,
        open: true,
    })
}

#[async_trait]
impl Engine for Shared {
    async fn answers(&self) -> Result<(), Unavailable> {
        self.shards.answer().await
    }

    async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
        self.stores.close_all().await;
        self.shards.close().await;
        self.landlord.close().await;
    }
}
