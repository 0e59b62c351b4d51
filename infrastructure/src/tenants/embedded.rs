//! One SQLite file a tenant, in a directory.

use std::path::PathBuf;
use std::sync::Arc;

use application::doorbell::Doorbell;
use application::ports::restore::{RestoreError, RestoringStore};
use application::ports::{Clock, TenantStore, Unavailable};
use application::tenants::Tenant;
use async_trait::async_trait;
use domain::ids::TenantId;

use super::{Missing, OpenStores, Opener, WHAT};
use crate::database::{Database, Older, too_old, unavailable};
use crate::ledger::sqlite::{self, MIGRATOR, SqliteLedger};
use crate::projections::cards::{CardsReadModel, TenantDatabases};

/// How many stores stay open unused, unless told otherwise. Each is a thread and 3 file
/// descriptors, and up to 4 of the former and 12 of the latter more while it is read.
pub const OPEN_MAX_DEFAULT: usize = 256;

/// The tenants' SQLite files.
pub type EmbeddedStores = OpenStores<Files>;

/// A directory of SQLite files.
pub struct Files {
    directory: PathBuf,
    waiting_max: usize,
    older: Older,
    clock: Arc<dyn Clock>,
    doorbell: Doorbell,
}

/// A tenant's file, open.
pub struct OpenFile {
    ledger: Arc<SqliteLedger>,
    database: Arc<Database>,
}

impl EmbeddedStores {
    /// Stores in `directory`, which is there and owned by this process; at most `open_max` of
    /// them open, unless more are in use at once: the excess is closed at the next opening. At
    /// most `waiting_max` appends wait for each of them. A schema that is older than this program is
    /// treated as `older` says.
    pub fn new(
        directory: PathBuf,
        open_max: usize,
        waiting_max: usize,
        older: Older,
        clock: Arc<dyn Clock>,
        doorbell: Doorbell,
    ) -> Self {
        let files = Files {
            directory,
            waiting_max,
            older,
            clock,
            doorbell: doorbell.clone(),
        };
        Self::with(files, open_max, doorbell)
    }
}

#[async_trait]
impl TenantDatabases for EmbeddedStores {
    async fn database(&self, tenant: TenantId) -> Result<Arc<Database>, Unavailable> {
        self.behind(tenant, |file| Arc::clone(&file.database)).await
    }
}

impl Opener for Files {
    type Behind = OpenFile;

    async fn open(
        &self,
        tenant: TenantId,
        missing: Missing,
    ) -> Result<(TenantStore, OpenFile), Unavailable> {
        let path = self.path(tenant);
        if tenant == TenantId::LANDLORD && self.older == Older::Refuse && !path.exists() {
            return Err(unavailable(WHAT)(too_old(0, &MIGRATOR)));
        }
        let database = match missing {
            Missing::Refuse => Database::open_existing(&path, &MIGRATOR, self.older).await,
            Missing::Create => Database::open(&path, &MIGRATOR).await,
        };
        let database = Arc::new(database.map_err(unavailable(WHAT))?);
        match self.assemble(tenant, &database).await {
            Ok((ledger, cards)) => {
                let store = TenantStore {
                    tenant,
                    ledger: Arc::clone(&ledger) as _,
                    cards: Arc::new(cards),
                };
                Ok((store, OpenFile { ledger, database }))
            }
            Err(error) => {
                // The next attempt must not find this one's connection still open.
                close(tenant, &database).await;
                Err(error)
            }
        }
    }

    async fn restore(&self, tenant: &Tenant) -> Result<Box<dyn RestoringStore>, RestoreError> {
        sqlite::restore(tenant.id, self.path(tenant.id)).await
    }

    async fn close(&self, tenant: TenantId, file: OpenFile) {
        file.ledger.close().await;
        close(tenant, &file.database).await;
    }
}

impl Files {
    /// The landlord's own ledger is beside the directory, like the landlord's records.
    fn path(&self, tenant: TenantId) -> PathBuf {
        if tenant == TenantId::LANDLORD {
            return self.directory.with_file_name("landlord-ledger.db");
        }
        self.directory.join(format!("{tenant}.db"))
    }

    async fn assemble(
        &self,
        tenant: TenantId,
        database: &Arc<Database>,
    ) -> Result<(Arc<SqliteLedger>, CardsReadModel), Unavailable> {
        let cards = CardsReadModel::open(Arc::clone(database))
            .await
            .map_err(unavailable(WHAT))?;
        let ledger = SqliteLedger::open(
            tenant,
            Arc::clone(database),
            Arc::clone(&self.clock),
            self.doorbell.clone(),
            self.waiting_max,
        )
        .await?;
        Ok((Arc::new(ledger), cards))
    }
}

async fn close(tenant: TenantId, database: &Database) {
    if let Err(error) = database.close().await {
        tracing::error!(%tenant, error = &error as &dyn std::error::Error, "closing a store");
    }
}
