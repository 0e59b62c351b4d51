//! The embedded engine: SQLite files in a directory that this process owns.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use domain::ids::Slug;
use tokio::time::timeout;

use application::doorbell::Doorbell;
use application::news::LandlordNews;
use application::ports::{Clock, Landlord, Unavailable};
use application::shards::Shards;
use application::tenants::Directory;
use async_trait::async_trait;
use infrastructure::database::{DataDirectory, Database, Older};
use infrastructure::landlord::{self, LandlordDatabase};
use infrastructure::processes::FileProcesses;
use infrastructure::projections::cards::CardsProjection;
use infrastructure::projections::landlord::LandlordReadModel;
use infrastructure::tenants::EmbeddedStores;

use super::{Adapters, Engine};
use crate::config::Limits;

struct Files {
    directory: DataDirectory,
    landlord: Arc<Database>,
    stores: EmbeddedStores,
}

/// Opens the data directory at `path`.
pub(super) async fn open(
    path: &Path,
    limits: &Limits,
    older: Older,
    clock: &Arc<dyn Clock>,
    doorbell: &Doorbell,
) -> Result<Adapters, Unavailable> {
    let directory = DataDirectory::take(path)
        .map_err(|error| Unavailable::because("the data directory", error))?;
    let database = landlord::open(&directory.landlord(), older)
        .await
        .map_err(|error| Unavailable::because("the landlord's database", error))?;
    let database = Arc::new(database);
    let landlord = LandlordDatabase::new(Arc::clone(&database));
    // This process alone has the directory, so whoever ran one is gone.
    landlord.interrupt_usage_audits().await?;
    let stores = EmbeddedStores::new(
        directory.tenants(),
        limits.open_files_max(),
        limits.appends_waiting_max,
        older,
        Arc::clone(clock),
        doorbell.clone(),
    );
    Ok(Adapters {
        directory: Arc::new(Directory::new(landlord.tenants().await?)),
        shards: Arc::new(Shards::default()),
        shard_databases: None,
        mover: None,
        news: LandlordNews::default(),
        landlord: Arc::new(landlord),
        overviews: Arc::new(LandlordReadModel::new(Arc::clone(&database))),
        stores: Arc::new(stores.clone()),
        counts: Arc::new(stores.clone()),
        process_states: Arc::new(FileProcesses::new(Arc::new(stores.clone()))),
        cards: Arc::new(CardsProjection::new(Arc::new(stores.clone()))),
        engine: Arc::new(Files {
            directory,
            landlord: database,
            stores,
        }),
    })
}

#[async_trait]
impl Engine for Files {
    async fn silent(&self, patience: Duration) -> (Vec<Slug>, bool) {
        let found = timeout(patience, tokio::fs::metadata(self.directory.tenants())).await;
        (vec![], !matches!(found, Ok(Ok(_))))
    }

    async fn close(&self) {
        self.stores.close_all().await;
        if let Err(error) = self.landlord.close().await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the landlord's database did not close in order");
        }
    }
}
