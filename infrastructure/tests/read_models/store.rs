//! A tenant's store: a ledger in memory, and the cards in a real file.

use std::path::Path;
use std::sync::{Arc, Mutex};

use application::ports::checkpoints::{Checkpoints, Turn};
use application::ports::restore::OutcomePage;
use application::ports::{
    Append, AppendError, Appended, CardsView, Head, HistoryFilter, Ledger, RecordedEvent,
    RecordedOutcome, StoredEvent, Subscriber, TenantStore, Unavailable,
};
use async_trait::async_trait;
use cqrs_es::persist::SerializedEvent;
use domain::event::AggregateKind;
use domain::ids::{Position, TenantId};
use infrastructure::database::{Database, Older, begin};
use infrastructure::landlord::LandlordDatabase;
use infrastructure::portable;
use infrastructure::projections::cards::{
    CardsProjection, CardsReadModel, LiveCards, TenantDatabases,
};
use infrastructure::projections::landlord::LandlordReadModel;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use tempfile::TempDir;

/// Events that a test appends, and whoever follows them reads.
#[derive(Default)]
pub struct MemoryLedger {
    pub events: Mutex<Vec<Arc<RecordedEvent>>>,
}

const ABSENT: &str = "anything but reading";

#[async_trait]
impl Ledger for MemoryLedger {
    fn head(&self) -> Arc<Head> {
        unreachable!("read models do not ask for the head")
    }

    async fn heard(&self, _: Position) -> Result<(), Unavailable> {
        Ok(())
    }

    async fn append(&self, _: Append) -> Result<Appended, AppendError> {
        Err(Unavailable::new(ABSENT).into())
    }

    async fn load(&self, _: AggregateKind, _: &str) -> Result<Vec<SerializedEvent>, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn outcome(&self, _: &str) -> Result<Option<RecordedOutcome>, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn next_card_serial(&self) -> Result<u64, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn read(
        &self,
        after: Position,
        limit: usize,
    ) -> Result<Vec<Arc<RecordedEvent>>, Unavailable> {
        let after = usize::try_from(after).map_err(|error| Unavailable::because(ABSENT, error))?;
        let events = self.events.lock().expect("no test panics with it");
        Ok(events.iter().skip(after).take(limit).cloned().collect())
    }

    async fn history(&self, _: &HistoryFilter, _: usize) -> Result<Vec<StoredEvent>, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn outcomes(&self, _: Option<&str>, _: usize) -> Result<OutcomePage, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }

    async fn card_serials_reserved(&self) -> Result<u64, Unavailable> {
        Err(Unavailable::new(ABSENT))
    }
}

/// Where the cards of a tenant are kept.
pub trait Engine: Send + Sync + Sized + 'static {
    /// What keeps them up to date.
    type Cards: Subscriber + 'static;

    /// An empty one.
    fn start() -> impl Future<Output = Self> + Send;
    /// Whose cards they are.
    fn tenant(&self) -> TenantId;
    /// What answers questions about them.
    fn view(&self) -> impl Future<Output = Arc<dyn CardsView>> + Send;
    /// What keeps them up to date.
    fn cards(&self) -> Self::Cards;
    /// Changes the database behind the read model's back.
    fn change(&self, sql: &str) -> impl Future<Output = ()> + Send;
    /// Every column of every row, as text.
    fn dump(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// A tenant whose store is open.
pub struct Tenant<E: Engine = InFile> {
    pub ledger: Arc<MemoryLedger>,
    pub store: TenantStore,
    pub cards: E::Cards,
    pub engine: E,
}

/// A new tenant without events, whose cards are in a file.
pub async fn tenant() -> Tenant {
    tenant_on().await
}

/// A new tenant without events.
pub async fn tenant_on<E: Engine>() -> Tenant<E> {
    let engine = E::start().await;
    let ledger = Arc::new(MemoryLedger::default());
    Tenant {
        store: TenantStore {
            tenant: engine.tenant(),
            ledger: ledger.clone(),
            cards: engine.view().await,
            checkpoints: Arc::new(NoCheckpoints),
        },
        ledger,
        cards: engine.cards(),
        engine,
    }
}

/// The read models keep their own.
struct NoCheckpoints;

#[async_trait]
impl Checkpoints for NoCheckpoints {
    async fn position(&self, _: &'static str) -> Result<Position, Unavailable> {
        Ok(0)
    }

    async fn turn(&self, _: &'static str) -> Result<Turn, Unavailable> {
        Ok(Turn::Here)
    }

    async fn advance(&self, _: &'static str, _: Position) -> Result<(), Unavailable> {
        Ok(())
    }
}

/// A SQLite file in a directory of its own.
pub struct InFile {
    pub database: Arc<Database>,
    _directory: TempDir,
}

/// Answers the one database there is.
struct One(Arc<Database>);

#[async_trait]
impl TenantDatabases for One {
    async fn database(&self, _: TenantId) -> Result<Arc<Database>, Unavailable> {
        Ok(Arc::clone(&self.0))
    }

    async fn cards(&self, _: TenantId) -> Result<Arc<LiveCards>, Unavailable> {
        Ok(Arc::new(LiveCards::of(Arc::clone(&self.0))))
    }
}

impl Engine for InFile {
    type Cards = CardsProjection;

    async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self {
            database: tenant_database(&directory.path().join("tenant.db")).await,
            _directory: directory,
        }
    }

    fn tenant(&self) -> TenantId {
        tenant_id(1)
    }

    async fn view(&self) -> Arc<dyn CardsView> {
        let view = CardsReadModel::open(Arc::clone(&self.database)).await;
        Arc::new(view.expect("the table"))
    }

    fn cards(&self) -> CardsProjection {
        CardsProjection::new(Arc::new(One(Arc::clone(&self.database))))
    }

    async fn change(&self, sql: &str) {
        let mut writer = self.database.writer().await.expect("the writer");
        let mut transaction = begin(&mut writer).await.expect("a transaction");
        sqlx::query(sql)
            .persistent(false)
            .execute(&mut *transaction)
            .await
            .expect("a change");
        transaction.commit().await.expect("a commit");
    }

    async fn dump(&self) -> Vec<String> {
        let sql = "select concat_ws('|', id, number, status, holder_name, \
                   coalesce(holder_email, '-'), coalesce(external_ref, '-'), tier, issued_at, \
                   coalesce(expires_at, '-'), coalesce(replaces, '-'), \
                   coalesce(replaced_by, '-'), version, name_sort, search) \
                   from cards order by id";
        sqlx::query_scalar(sql)
            .fetch_all(self.database.readers())
            .await
            .expect("the rows")
    }
}

impl<E: Engine> Tenant<E> {
    /// Hands over what the ledger has, some events at a time, until none is left.
    pub async fn follow(&self, subscriber: &dyn Subscriber, at_a_time: usize) -> Position {
        let mut position = subscriber
            .checkpoint(&self.store)
            .await
            .expect("a checkpoint");
        loop {
            let events = self
                .ledger
                .read(position, at_a_time)
                .await
                .expect("some events");
            if events.is_empty() {
                return position;
            }
            position = subscriber
                .handle(&self.store, &events)
                .await
                .expect("the events are handled");
        }
    }

    /// The cards as tenants see them.
    pub fn view(&self) -> &dyn CardsView {
        self.store.cards.as_ref()
    }
}

/// A database file with what the cards need of the ledger's: the table of checkpoints.
pub async fn tenant_database(path: &Path) -> Arc<Database> {
    let checkpoints = Migration::new(
        1,
        "checkpoints".into(),
        MigrationType::Simple,
        "create table checkpoints (subscriber text not null primary key, position bigint not null)"
            .into(),
        false,
    );
    let migrator = Migrator {
        migrations: vec![checkpoints].into(),
        ..Migrator::DEFAULT
    };
    Arc::new(Database::open(path, &migrator).await.expect("a database"))
}

/// The landlord's records and read models, over one database.
pub struct Landlord {
    pub records: LandlordDatabase,
    pub model: LandlordReadModel,
    pub database: Arc<dyn portable::Engine>,
    _directory: Option<TempDir>,
}

impl Landlord {
    /// Over a database that has its schema.
    pub fn over(database: impl portable::Engine + 'static, directory: Option<TempDir>) -> Self {
        let database = Arc::new(database);
        Self {
            records: LandlordDatabase::new(Arc::clone(&database)),
            model: LandlordReadModel::new(Arc::clone(&database)),
            database,
            _directory: directory,
        }
    }
}

/// A landlord without tenants, over a new file.
pub async fn landlord() -> Landlord {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("landlord.db");
    let database = infrastructure::landlord::open(&file, Older::Migrate).await;
    Landlord::over(database.expect("a database"), Some(directory))
}

/// The `n`-th tenant's id.
pub fn tenant_id(n: u64) -> TenantId {
    format!("0199bbbb-0000-7000-8000-{n:012}")
        .parse()
        .expect("a UUID")
}
