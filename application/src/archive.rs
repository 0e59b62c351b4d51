//! Carrying a tenant from one service to another: everything that is its own, exactly as stored.
//!
//! A tenant that arrives is unknown to everybody until its store is whole and verified; its record
//! comes last, with its keys. So an import that is interrupted leaves nothing that is served, and
//! is simply repeated. Read models are not carried: subscribers build them from the ledger.
//!
//! Asked by whoever has the machine, not by a key, so no role is required.

use domain::chain::Hash;
use domain::ids::{KeyId, Position, Slug, TenantId};
use futures::stream::{self, BoxStream, Stream, StreamExt, TryStreamExt};

use crate::Application;
use crate::audit::stored_events;
use crate::error::Error;
use crate::keys::ApiKey;
use crate::ports::restore::{LedgerEnd, RestoreError, RestoringStore, StoredOutcome};
use crate::ports::{HistoryFilter, LandlordError, StoredEvent, Unavailable};
use crate::tenants::Tenant;

/// How many outcomes are read at a time.
const PAGE_OUTCOMES: usize = 500;
/// How many events or outcomes are stored at a time.
const BATCH_ITEMS: usize = 1_024;
/// How many bytes of text are stored at a time, before the item that goes over it.
const BATCH_BYTES: usize = 1024 * 1024;
/// The most answers of the landlord to one tenant's keys.
const ANSWERS_MAX: usize = 100_000;

/// What is known of a carried tenant before its history.
#[derive(Clone, Debug, PartialEq)]
pub struct Archive {
    /// The landlord's record.
    pub tenant: Tenant,
    /// The tenant's keys in force.
    pub keys: Vec<ApiKey>,
    /// Where its ledger ends.
    pub end: LedgerEnd,
}

/// What a carried tenant consists of, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The next event of its ledger.
    Event(StoredEvent),
    /// What its ledger answered under an idempotency key.
    Outcome(StoredOutcome),
    /// What the landlord answered to one of its keys.
    Answer(StoredOutcome),
}

/// The pieces, read as fast as they are taken.
pub type Pieces = BoxStream<'static, Result<Piece, Unavailable>>;

/// What became of an import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Imported {
    /// The tenant has come.
    New,
    /// The tenant was here already, with all of this history; nothing was done.
    AlreadyHere,
}

/// Why a tenant was not imported. It is not here then, unless it was before.
#[derive(Debug, thiserror::Error)]
pub enum ImportError<E: std::error::Error + 'static> {
    /// It cannot be read, or is not whole.
    #[error(transparent)]
    Source(E),
    /// The tenant is here with another record: its name, slug, first plan, isolation or time.
    #[error("the tenant is here already, with another record")]
    OtherRecord,
    /// The tenant is here with another history, or with a shorter one.
    #[error("the tenant is here already, with another history")]
    OtherHistory,
    /// The tenant is being made here.
    #[error("the tenant is here already, half made")]
    HalfMade,
    /// Every shard is closed for new tenants.
    #[error("no shard is open for new tenants")]
    NoOpenShard,
    /// Another tenant has its slug.
    #[error("the slug {} is taken by another tenant", .0.as_str())]
    SlugTaken(Slug),
    /// One of its keys is another's here, or is none of a tenant.
    #[error("the key {0} cannot be this tenant's")]
    KeyRefused(KeyId),
    /// An answer to a key that is none of this tenant's.
    #[error("the answer under {0:?} is to none of the tenant's keys")]
    StrangeAnswer(String),
    /// More answers than a tenant may bring.
    #[error("it has more than {ANSWERS_MAX} answers of the landlord")]
    TooManyAnswers,
    /// Its store could not be made.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Something did not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

impl Application {
    /// Everything of a tenant's own, up to the ledger's newest position. The tenant may be served
    /// meanwhile.
    pub async fn export_tenant(&self, id: TenantId) -> Result<(Archive, Pieces), Error> {
        let store = self.known_store(id).await?;
        let tenant = self.directory.get(id).ok_or(Error::NotFound("tenant"))?;
        let keys = self.keys.list(|key| key.tenant == Some(id));
        let head = store.ledger.head();
        let end = LedgerEnd {
            position: head.position,
            hash: head.hash,
            // Read after the head, so it covers every card up to there.
            card_serials_reserved: store.ledger.card_serials_reserved().await?,
        };
        let events = stored_events(store.clone(), HistoryFilter::default())
            .try_take_while(move |event| futures::future::ready(Ok(event.position <= end.position)))
            .map_ok(Piece::Event);
        let ledger = store.clone();
        let outcomes = pages(None, move |from: Option<String>| {
            let store = ledger.clone();
            async move {
                let from = from.as_deref();
                let page = store.ledger.outcomes(from, PAGE_OUTCOMES).await?;
                Ok((page.items, page.next))
            }
        })
        .try_filter(move |outcome| futures::future::ready(outcome.position <= end.position))
        .map_ok(Piece::Outcome);
        let asked: Vec<_> = keys.iter().map(|key| self.answers_to(key.id)).collect();
        let answers = stream::iter(asked).flatten().map_ok(Piece::Answer);
        let archive = Archive {
            tenant: (*tenant).clone(),
            keys,
            end,
        };
        Ok((archive, events.chain(outcomes).chain(answers).boxed()))
    }

    /// Makes a tenant out of what [`Self::export_tenant`] gave. `progress` is called with each
    /// position reached.
    ///
    /// # Errors
    ///
    /// [`ImportError`]; the same import may be tried again.
    pub async fn import_tenant<E: std::error::Error + 'static>(
        &self,
        archive: &Archive,
        pieces: impl Stream<Item = Result<Piece, E>>,
        progress: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<Imported, ImportError<E>> {
        if let Some(here) = self.found_here(archive).await? {
            return Ok(here);
        }
        self.check_keys(archive)?;
        let tenant = Tenant {
            shard: self
                .shards
                .place(&self.directory)
                .map_err(|_| ImportError::NoOpenShard)?,
            ready: true,
            ..archive.tenant.clone()
        };
        let mut store = self.stores.restore(&tenant).await?;
        let answers = match fill(&mut *store, archive, pieces, progress).await {
            Ok(answers) => answers,
            Err(error) => {
                store.discard().await;
                return Err(error);
            }
        };
        store.finish(&archive.end).await?;
        self.record(&tenant, &archive.keys, &answers).await?;
        // Opened once, it rings: subscribers on nodes that run need not wait for its first request.
        self.stores.open(tenant.id).await?;
        Ok(Imported::New)
    }

    /// Records the tenant; from now on it is served.
    async fn record<E: std::error::Error + 'static>(
        &self,
        tenant: &Tenant,
        keys: &[ApiKey],
        answers: &[StoredOutcome],
    ) -> Result<(), ImportError<E>> {
        let _no_other_key = self.keys.changing.lock().await;
        let _no_other_tenant = self.directory.changing.lock().await;
        match self.landlord.restore(Some(tenant), keys, answers).await {
            Ok(()) => {}
            Err(LandlordError::Unavailable(error)) => return Err(error.into()),
            Err(
                LandlordError::SlugTaken | LandlordError::KeyReused | LandlordError::ShardExists,
            ) => {
                return Err(ImportError::SlugTaken(tenant.slug.clone()));
            }
        }
        for key in keys {
            self.keys.put(key.clone());
        }
        self.directory.put(tenant.clone());
        Ok(())
    }

    /// The keys in force that belong to no tenant.
    pub async fn export_staff(&self) -> Result<Vec<ApiKey>, Unavailable> {
        let mut keys = self.landlord.keys().await?;
        keys.retain(|key| key.tenant.is_none());
        Ok(keys)
    }

    /// Lets keys that belong to no tenant in here too, except those that were revoked here.
    pub async fn import_staff(&self, keys: &[ApiKey]) -> Result<(), Error> {
        let _no_other_key = self.keys.changing.lock().await;
        self.landlord.restore(None, keys, &[]).await?;
        for key in self.landlord.keys().await? {
            if keys.iter().any(|it| it.id == key.id) {
                self.keys.put(key);
            }
        }
        Ok(())
    }

    /// Everything that the landlord ever answered under an idempotency key.
    pub fn export_answers(
        &self,
    ) -> impl Stream<Item = Result<StoredOutcome, Unavailable>> + Send + use<> {
        self.answers_between(String::new(), None)
    }

    /// Remembers answers from elsewhere, where nothing else was answered.
    ///
    /// # Errors
    ///
    /// What the answers' source, or the landlord's database, says; some are remembered then.
    pub async fn import_answers(
        &self,
        answers: impl Stream<Item = Result<StoredOutcome, Unavailable>>,
    ) -> Result<(), Error> {
        let mut chunks = std::pin::pin!(answers.try_chunks(PAGE_OUTCOMES));
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|error| error.1)?;
            self.landlord.restore(None, &[], &chunk).await?;
        }
        Ok(())
    }

    /// What the landlord answered to a key: its idempotency keys begin with the key's id.
    fn answers_to(
        &self,
        key: KeyId,
    ) -> impl Stream<Item = Result<StoredOutcome, Unavailable>> + Send + use<> {
        // The character after the colon that ends the id.
        self.answers_between(format!("{key}:"), Some(format!("{key};")))
    }

    fn answers_between(
        &self,
        after: String,
        before: Option<String>,
    ) -> impl Stream<Item = Result<StoredOutcome, Unavailable>> + Send + use<> {
        let landlord = self.landlord.clone();
        pages(Some(after), move |after: Option<String>| {
            let (landlord, before) = (landlord.clone(), before.clone());
            async move {
                let after = after.unwrap_or_default();
                let items = landlord
                    .answers(&after, before.as_deref(), PAGE_OUTCOMES)
                    .await?;
                let next = items.last().filter(|_| items.len() == PAGE_OUTCOMES);
                let next = next.map(|last| last.key.clone());
                Ok((items, next))
            }
        })
    }

    /// Whether the tenant is here, with this history.
    async fn found_here<E: std::error::Error + 'static>(
        &self,
        archive: &Archive,
    ) -> Result<Option<Imported>, ImportError<E>> {
        let new = &archive.tenant;
        let Some(known) = self.directory.get(new.id) else {
            return match self.directory.has_slug(&new.slug) {
                true => Err(ImportError::SlugTaken(new.slug.clone())),
                false => Ok(None),
            };
        };
        if !same_record(&known, new) {
            return Err(ImportError::OtherRecord);
        }
        if !known.ready {
            return Err(ImportError::HalfMade);
        }
        self.require_history(archive).await?;
        Ok(Some(Imported::AlreadyHere))
    }

    /// The tenant's store has all of the archive's events; it may have later ones.
    async fn require_history<E: std::error::Error + 'static>(
        &self,
        archive: &Archive,
    ) -> Result<(), ImportError<E>> {
        let store = self.stores.open(archive.tenant.id).await?;
        let end = archive.end;
        let same = end.position == 0 || {
            let last = HistoryFilter {
                after: end.position - 1,
                ..HistoryFilter::default()
            };
            let last = store.ledger.history(&last, 1).await?;
            hash_of(&last) == Some(end.hash)
        };
        same.then_some(()).ok_or(ImportError::OtherHistory)
    }

    /// A tenant's keys open nothing but that tenant, and are nobody else's here.
    fn check_keys<E: std::error::Error + 'static>(
        &self,
        archive: &Archive,
    ) -> Result<(), ImportError<E>> {
        for key in &archive.keys {
            let own = key.role.of_tenant() && key.tenant == Some(archive.tenant.id);
            if !own || self.keys.knows(key) {
                return Err(ImportError::KeyRefused(key.id));
            }
        }
        Ok(())
    }
}

/// Fills a store with pieces; the answers, which are for the landlord's records, come back.
async fn fill<E: std::error::Error + 'static>(
    store: &mut dyn RestoringStore,
    archive: &Archive,
    pieces: impl Stream<Item = Result<Piece, E>>,
    progress: &(dyn Fn(Position) + Send + Sync),
) -> Result<Vec<StoredOutcome>, ImportError<E>> {
    let mut pieces = std::pin::pin!(pieces);
    let mut answers = Vec::new();
    let mut batch = Batch::default();
    while let Some(piece) = pieces.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                // What is wrong with what came before says more.
                batch.store(store, progress).await?;
                return Err(ImportError::Source(error));
            }
        };
        match piece {
            Piece::Event(event) => {
                batch.bytes += event.payload.len() + event.metadata.len();
                batch.events.push(event);
            }
            Piece::Outcome(outcome) => {
                batch.bytes += outcome.outcome.len();
                batch.outcomes.push(outcome);
            }
            Piece::Answer(answer) => {
                check_answer(archive, &answer)?;
                answers.push(answer);
                if answers.len() > ANSWERS_MAX {
                    return Err(ImportError::TooManyAnswers);
                }
            }
        }
        if batch.is_full() {
            batch.store(store, progress).await?;
        }
    }
    batch.store(store, progress).await?;
    Ok(answers)
}

/// What is stored together.
#[derive(Default)]
struct Batch {
    events: Vec<StoredEvent>,
    outcomes: Vec<StoredOutcome>,
    bytes: usize,
}

impl Batch {
    const fn is_full(&self) -> bool {
        self.events.len() + self.outcomes.len() >= BATCH_ITEMS || self.bytes >= BATCH_BYTES
    }

    async fn store(
        &mut self,
        store: &mut dyn RestoringStore,
        progress: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<(), RestoreError> {
        if let Some(last) = self.events.last() {
            let position = last.position;
            store.add_events(&self.events).await?;
            progress(position);
        }
        if !self.outcomes.is_empty() {
            store.add_outcomes(&self.outcomes).await?;
        }
        self.events.clear();
        self.outcomes.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Items page by page, beginning at a place; each page says where the next one begins.
fn pages<F, Fut>(
    first: Option<String>,
    page: F,
) -> impl Stream<Item = Result<StoredOutcome, Unavailable>> + Send
where
    F: Fn(Option<String>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<(Vec<StoredOutcome>, Option<String>), Unavailable>> + Send,
{
    stream::try_unfold(Some((first, page)), |rest| async move {
        let Some((from, page)) = rest else {
            return Ok(None);
        };
        let (items, next) = page(from).await?;
        let rest = next.map(|next| (Some(next), page));
        Ok(Some((stream::iter(items).map(Ok), rest)))
    })
    .try_flatten()
}

fn check_answer<E: std::error::Error + 'static>(
    archive: &Archive,
    answer: &StoredOutcome,
) -> Result<(), ImportError<E>> {
    let asker = answer.key.split_once(':').map(|(asker, _)| asker);
    let own = |key: &ApiKey| asker == Some(key.id.to_string().as_str());
    match archive.keys.iter().any(own) {
        true => Ok(()),
        false => Err(ImportError::StrangeAnswer(answer.key.clone())),
    }
}

fn same_record(one: &Tenant, other: &Tenant) -> bool {
    (one.id, &one.name, &one.slug) == (other.id, &other.name, &other.slug)
        && (&one.first_plan, one.isolation) == (&other.first_plan, other.isolation)
        && one.created_at == other.created_at
}

fn hash_of(events: &[StoredEvent]) -> Option<Hash> {
    events.first().map(|event| event.hash)
}
