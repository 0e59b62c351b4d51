//! One SQLite file a tenant, in a directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use application::doorbell::Doorbell;
use application::ports::restore::{RestoreError, RestoringStore};
use application::ports::usage::{LedgerCounts, Reconciliation, Recount};
use application::ports::{AppendError, Appended, Clock, TenantStore, Unavailable};
use application::tenants::Tenant;
use async_trait::async_trait;
use domain::ids::{Position, TenantId};
use sqlx::Connection;

use super::{Missing, OpenStores, Opener, Shared, WHAT};
use crate::checkpoints::FileCheckpoints;
use crate::database::{Database, Older, too_old, unavailable};
use crate::ledger::recount::{Count, Source, recount};
use crate::ledger::sqlite::{self, MIGRATOR, SqliteLedger};
use crate::ledger::{HeadRow, StoreError};
use crate::projections::cards::{CardsReadModel, LiveCards, TenantDatabases};

/// How many stores stay open unused, unless told otherwise. Each is a thread and 3 file
/// descriptors, and up to 4 of the former and 12 of the latter more while it is read.
pub const OPEN_MAX_DEFAULT: usize = 192;

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

    async fn cards(&self, tenant: TenantId) -> Result<Arc<LiveCards>, Unavailable> {
        self.behind(tenant, |file| file.ledger.cards()).await
    }
}

#[async_trait]
impl LedgerCounts for EmbeddedStores {
    async fn recount(&self, tenant: TenantId, also_at: Position) -> Result<Recount, Unavailable> {
        let counted = recount(&mut FileOf(self, tenant), also_at).await;
        counted.map_err(|error| Unavailable::because(WHAT, error))
    }

    async fn reconcile(
        &self,
        tenant: TenantId,
        wanted: Reconciliation,
    ) -> Result<Appended, AppendError> {
        let ledger = self.behind(tenant, |file| Arc::clone(&file.ledger)).await?;
        ledger.reconcile(wanted).await
    }
}

/// A tenant's file, to be looked at.
struct FileOf<'a>(&'a EmbeddedStores, TenantId);

impl Source for FileOf<'_> {
    /// In a task of its own: nobody may open the file before a connection to it is closed.
    async fn look(
        &mut self,
        count: Count,
        up_to: Position,
    ) -> Result<(HeadRow, Count), StoreError> {
        let Self(stores, tenant) = *self;
        let look = Arc::clone(&stores.shared).look(tenant, count, up_to);
        let looked = stores.shared.tasks.spawn(look).await;
        looked.unwrap_or(Err(StoreError::Panicked))
    }
}

impl Shared<Files> {
    /// Looks at a ledger on a connection of its store, if that is open, which does not count as a
    /// use. Otherwise on one of its own, while the store can be neither opened nor closed, so that
    /// this is the file's one connection.
    async fn look(
        self: Arc<Self>,
        tenant: TenantId,
        count: Count,
        up_to: Position,
    ) -> Result<(HeadRow, Count), StoreError> {
        let gate = self.lock().gate(tenant);
        let held = gate.lock_owned().await;
        let open = {
            let stores = self.lock();
            let open = stores.open.get(&tenant);
            open.map(|open| Arc::clone(&open.behind.database))
        };
        let looked = match open {
            Some(database) => {
                drop(held);
                look_beside(&database, count, up_to).await
            }
            None => {
                let looked = look_alone(&self.opener.path(tenant), count, up_to).await;
                drop(held);
                looked
            }
        };
        self.lock().forget_gate(tenant);
        looked
    }
}

async fn look_beside(
    database: &Database,
    count: Count,
    up_to: Position,
) -> Result<(HeadRow, Count), StoreError> {
    let mut reader = database.readers().acquire().await?;
    sqlite::look(&mut reader, count, up_to).await
}

async fn look_alone(
    path: &Path,
    count: Count,
    up_to: Position,
) -> Result<(HeadRow, Count), StoreError> {
    let mut alone = Database::connect_alone(path).await?;
    let looked = sqlite::look(&mut alone, count, up_to).await;
    alone.close().await?;
    looked
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
                    checkpoints: Arc::new(FileCheckpoints::new(Arc::clone(&database))),
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
