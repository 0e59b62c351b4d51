//! Moving a tenant to another shard, while nodes serve it.
//!
//! ```text
//! copy what is there           appends go on
//! freeze the old ledger        appends are answered 503; reads go on
//! copy the rest, verify        and all outcomes; the copy is frozen too
//! build the read models        and carry the publisher's checkpoint
//! switch the landlord's record nodes hear of it
//! thaw the new ledger          appends go on, there
//! drop the old ledger
//! ```
//!
//! What a node believes of the place cannot do harm: the ledger itself refuses appends while it is
//! frozen, and at most one of the two is not. The move is recorded before it begins, and each step
//! may be repeated, so a move that was interrupted anywhere is finished by asking for it again, or
//! undone by asking for the shard that the tenant came from.
//!
//! Where both places are one database, only the record is switched.

use std::sync::Arc;
use std::time::Duration;

use domain::chain::Hash;
use domain::ids::{Position, Slug, TenantId};

use crate::Application;
use crate::ports::moves::{Condition, Move, MoveRecords, Places, Stage};
use crate::ports::restore::{LedgerEnd, RestoreError, RestoringStore};
use crate::ports::{HistoryFilter, TenantStore, Unavailable};
use crate::tenants::Tenant;

/// How many events or outcomes are copied at a time.
const CHUNK: usize = 500;
/// How long the old ledger is kept after the switch, for reads that are under way.
const GRACE: Duration = Duration::from_secs(2);

/// Why a tenant is not where it was to be moved. It is served from where it was, unless said
/// otherwise.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The embedded store has no shards.
    #[error("the embedded store has no shards")]
    NoShards,
    /// There is no such tenant.
    #[error("there is no such tenant")]
    UnknownTenant,
    /// There is no such shard.
    #[error("there is no shard {}", .0.as_str())]
    UnknownShard(Slug),
    /// The tenant is being made.
    #[error("the tenant is half made; the next `serve` finishes it")]
    HalfMade,
    /// Another move of the tenant is under way.
    #[error(
        "the tenant is being moved to {}: finish that by asking for it again, or undo it by asking \
         for {}", .1.as_str(), .0.as_str()
    )]
    AnotherWay(Slug, Slug),
    /// A move of the tenant is switched, but not finished.
    #[error("the tenant was moved to {}: finish that by asking for it again", .0.as_str())]
    Unfinished(Slug),
    /// The place that is to stay has no ledger.
    #[error(
        "the tenant's ledger is not where it should be ({}); nothing is dropped anywhere",
        .0.as_ref().map_or("in no shard", Slug::as_str)
    )]
    Missing(Option<Slug>),
    /// Another process has taken over.
    #[error("another process has taken the move over")]
    TakenOver,
    /// It was told to stop.
    #[error("it was told to stop")]
    Stopped,
    /// The copy is not what it was made of.
    #[error("the copy is not the same as the ledger it was made of")]
    NotTheSame,
    /// The tenant was not copied.
    #[error(transparent)]
    Copy(#[from] RestoreError),
    /// Something did not answer. Whether the tenant is frozen or moved is not known: ask again.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The move failed and was undone.
    #[error("the move was undone")]
    Undone(#[source] Box<MoveError>),
    /// The move failed and could not be undone: the tenant may be frozen.
    #[error("the move is neither done nor undone, so the tenant may take no changes: ask again")]
    Stuck(#[source] Box<MoveError>),
}

/// What became of a tenant that was to be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moved {
    /// It is at its new place.
    There,
    /// It was there already.
    BeforeThis,
    /// A move away from there was undone.
    Back,
}

/// A process that moves tenants.
pub struct Mover {
    /// The landlord's records of moves.
    pub records: Arc<dyn MoveRecords>,
    /// The shards.
    pub places: Arc<dyn Places>,
}

/// One move, with what it needs.
struct Moving<'a> {
    application: &'a Application,
    mover: &'a Mover,
    claimed: Move,
    /// The tenant as it is recorded at its old place.
    here: Tenant,
    /// The tenant as it will be recorded.
    there: Tenant,
}

/// Whether a move is told to stop.
pub type Stopped<'a> = &'a (dyn Fn() -> bool + Send + Sync);
/// What a move tells of itself.
pub type Tell<'a> = &'a (dyn Fn(String) + Send + Sync);

impl Application {
    /// Moves a tenant to a shard, or finishes or undoes a move that was interrupted. Asked by
    /// whoever has the machine, not by a key, so no role is required.
    ///
    /// Asked between its steps, `stopped` makes it undo itself as long as it is not switched.
    ///
    /// # Errors
    ///
    /// [`MoveError`].
    pub async fn move_tenant(
        &self,
        mover: Option<&Mover>,
        tenant: TenantId,
        to: &Slug,
        stopped: Stopped<'_>,
        tell: Tell<'_>,
    ) -> Result<Moved, MoveError> {
        let mover = mover.ok_or(MoveError::NoShards)?;
        if self.shards.get(to).is_none() {
            return Err(MoveError::UnknownShard(to.clone()));
        }
        // Where it is says the record, not this process's memory.
        let tenant = self.landlord.tenant(tenant).await?;
        let tenant = tenant.ok_or(MoveError::UnknownTenant)?;
        let Some(at) = tenant.shard.clone() else {
            return Err(MoveError::NoShards);
        };
        if !tenant.ready {
            return Err(MoveError::HalfMade);
        }
        if at == *to {
            // Seen before it is known that there is no move: one that begins now freezes it anew.
            let seen = mover.places.condition(&tenant).await?;
            if mover.records.find(tenant.id).await?.is_none() {
                match seen {
                    Condition::Missing => return Err(MoveError::Missing(Some(at))),
                    Condition::InUse => {}
                    // By a mover that was late, after its move was undone.
                    Condition::Frozen(seen) => {
                        mover.places.thaw(&tenant, seen).await?;
                    }
                }
                return Ok(Moved::BeforeThis);
            }
        }
        let wanted = Move {
            tenant: tenant.id,
            source: at,
            target: to.clone(),
            stage: Stage::Copying,
            mover: self.random.id(),
        };
        let claimed = mover.records.claim(&wanted).await?;
        let moving = Moving::new(self, mover, tenant, claimed);
        let Move { source, target, .. } = &moving.claimed;
        match moving.claimed.stage {
            Stage::Switched if target == to => moving.finish(tell).await.map(|()| Moved::There),
            Stage::Copying if target == to => moving.run(stopped, tell).await,
            Stage::Copying | Stage::Undoing if source == to => {
                moving.undo().await?;
                Ok(Moved::Back)
            }
            Stage::Copying | Stage::Undoing => {
                Err(MoveError::AnotherWay(source.clone(), target.clone()))
            }
            Stage::Switched => Err(MoveError::Unfinished(target.clone())),
        }
    }
}

impl<'a> Moving<'a> {
    fn new(application: &'a Application, mover: &'a Mover, tenant: Tenant, claimed: Move) -> Self {
        let at = |shard: &Slug| Tenant {
            shard: Some(shard.clone()),
            ..tenant.clone()
        };
        Self {
            here: at(&claimed.source),
            there: at(&claimed.target),
            application,
            mover,
            claimed,
        }
    }

    /// Copies and switches; if that fails, undoes it.
    async fn run(self, stopped: Stopped<'_>, tell: Tell<'_>) -> Result<Moved, MoveError> {
        let switched = match self.copy(stopped, tell).await {
            Ok(()) => self.switch().await,
            Err(error) => Err(error),
        };
        let error = match switched {
            Ok(()) => return self.go_on(tell).await,
            Err(MoveError::TakenOver) => return Err(MoveError::TakenOver),
            Err(error) => error,
        };
        let undoing = match self.undo().await {
            Ok(()) => return Err(MoveError::Undone(error.into())),
            Err(undoing) => undoing,
        };
        // Only the answer to the switch may have been lost.
        if matches!(undoing, MoveError::TakenOver) && self.is_switched().await.unwrap_or(false) {
            return self.go_on(tell).await;
        }
        let undoing = &undoing as &dyn std::error::Error;
        tracing::error!(error = undoing, "a move cannot be undone");
        Err(MoveError::Stuck(error.into()))
    }

    /// After the switch.
    async fn go_on(&self, tell: Tell<'_>) -> Result<Moved, MoveError> {
        tell(format!("switched to {}", self.claimed.target.as_str()));
        self.finish(tell).await.map(|()| Moved::There)
    }

    /// Makes a frozen copy of the frozen ledger, with read models.
    async fn copy(&self, stopped: Stopped<'_>, tell: Tell<'_>) -> Result<(), MoveError> {
        if self.are_one().await? {
            return Ok(());
        }
        let places = &self.mover.places;
        // An earlier attempt may have come this far.
        if places.are_same(&self.here, &self.there).await? {
            // Another process may be about to thaw what that one froze.
            self.freeze().await?;
        } else {
            // What another process has copied is not this one's to drop.
            self.require_claim().await?;
            places.drop_frozen(&self.there).await?;
            self.copy_anew(stopped, tell).await?;
        }
        let told = |position| tell(format!("the cards are at position {position}"));
        places.build_read_models(&self.there, &told).await?;
        // What was published a moment before, and from here on until the switch, is published again.
        places.carry_checkpoints(&self.here, &self.there).await?;
        if stopped() {
            return Err(MoveError::Stopped);
        }
        match places.are_same(&self.here, &self.there).await? {
            true => Ok(()),
            false => Err(MoveError::NotTheSame),
        }
    }

    async fn copy_anew(&self, stopped: Stopped<'_>, tell: Tell<'_>) -> Result<(), MoveError> {
        let places = &self.mover.places;
        let store = self.application.stores.open(self.claimed.tenant).await?;
        let mut copy = Copying {
            filled: places.fill(&self.there).await?,
            stopped,
            position: 0,
            hash: Hash::GENESIS,
        };
        let copied = copy.all(self, &store, tell).await;
        match copied {
            Ok(end) => Ok(copy.filled.finish(&end).await?),
            Err(error) => {
                copy.filled.discard().await;
                Err(error)
            }
        }
    }

    /// Freezes the old place. Whoever is late, because its move was taken over meanwhile, takes that
    /// back where nobody else would: not while another copies, who may rely on it by now.
    async fn freeze(&self) -> Result<(), MoveError> {
        let Mover { records, places } = self.mover;
        let frozen = places.freeze(&self.here, &self.claimed.target).await?;
        match records.find(self.claimed.tenant).await? {
            Some(found) if found.mover == self.claimed.mover => return Ok(()),
            Some(found) => match found.stage {
                Stage::Copying | Stage::Switched => {}
                Stage::Undoing => drop(places.thaw(&self.here, frozen).await?),
            },
            None => drop(places.thaw(&self.here, frozen).await?),
        }
        Err(MoveError::TakenOver)
    }

    async fn switch(&self) -> Result<(), MoveError> {
        match self.mover.records.switch(&self.claimed).await? {
            true => Ok(()),
            false => Err(MoveError::TakenOver),
        }
    }

    /// After the switch: opens the new place, clears the old one away.
    async fn finish(&self, tell: Tell<'_>) -> Result<(), MoveError> {
        self.open(&self.there).await?;
        tell("changes are taken again".to_owned());
        tokio::time::sleep(GRACE).await;
        self.end(&self.there, &self.here).await
    }

    /// Before the switch: opens the old place again, clears the new one away.
    async fn undo(&self) -> Result<(), MoveError> {
        if !self.mover.records.undo(&self.claimed).await? {
            return Err(MoveError::TakenOver);
        }
        self.open(&self.here).await?;
        self.end(&self.here, &self.there).await
    }

    /// Thaws what was frozen for this move, until the ledger takes appends. Seen before the claim
    /// is: whoever takes the move over freezes anew, so what is thawed here is nobody else's.
    async fn open(&self, place: &Tenant) -> Result<(), MoveError> {
        let places = &self.mover.places;
        loop {
            match places.condition(place).await? {
                Condition::Missing => return Err(MoveError::Missing(place.shard.clone())),
                Condition::InUse => return Ok(()),
                Condition::Frozen(seen) => {
                    self.require_claim().await?;
                    places.thaw(place, seen).await?;
                }
            }
        }
    }

    /// Clears a place away that is not the tenant's any more, or not yet: never the only one that
    /// has its ledger.
    async fn end(&self, kept: &Tenant, place: &Tenant) -> Result<(), MoveError> {
        self.require_claim().await?;
        if !self.are_one().await? {
            self.open(kept).await?;
            self.mover.places.drop_frozen(place).await?;
        }
        Ok(self.mover.records.end(&self.claimed).await?)
    }

    /// Whether both places are one: then there is nothing to copy, and nothing to drop.
    async fn are_one(&self) -> Result<bool, Unavailable> {
        self.mover.places.are_one(&self.here, &self.there).await
    }

    /// Whether this mover has switched.
    async fn is_switched(&self) -> Result<bool, Unavailable> {
        let found = self.mover.records.find(self.claimed.tenant).await?;
        let mine = found.filter(|it| it.mover == self.claimed.mover);
        Ok(mine.is_some_and(|it| it.stage == Stage::Switched))
    }

    async fn require_claim(&self) -> Result<(), MoveError> {
        match self.mover.records.is_claimed(&self.claimed).await? {
            true => Ok(()),
            false => Err(MoveError::TakenOver),
        }
    }
}

/// A ledger being copied.
struct Copying<'a> {
    filled: Box<dyn RestoringStore>,
    stopped: Stopped<'a>,
    position: Position,
    hash: Hash,
}

impl Copying<'_> {
    async fn all(
        &mut self,
        moving: &Moving<'_>,
        store: &TenantStore,
        tell: Tell<'_>,
    ) -> Result<LedgerEnd, MoveError> {
        // Until little has come meanwhile.
        while self.events(store).await? {}
        tell(format!("copied up to position {}", self.position));
        moving.freeze().await?;
        while self.events(store).await? {}
        self.outcomes(store).await?;
        tell(format!("frozen and copied at position {}", self.position));
        Ok(LedgerEnd {
            position: self.position,
            hash: self.hash,
            card_serials_reserved: store.ledger.card_serials_reserved().await?,
        })
    }

    /// Copies the next events; whether there may be more of them.
    async fn events(&mut self, store: &TenantStore) -> Result<bool, MoveError> {
        if (self.stopped)() {
            return Err(MoveError::Stopped);
        }
        let rest = HistoryFilter {
            after: self.position,
            ..HistoryFilter::default()
        };
        let events = store.ledger.history(&rest, CHUNK).await?;
        self.filled.add_events(&events).await?;
        if let Some(last) = events.last() {
            (self.position, self.hash) = (last.position, last.hash);
        }
        Ok(events.len() == CHUNK)
    }

    async fn outcomes(&mut self, store: &TenantStore) -> Result<(), MoveError> {
        let mut from = None;
        loop {
            let page = store.ledger.outcomes(from.as_deref(), CHUNK).await?;
            self.filled.add_outcomes(&page.items).await?;
            from = page.next;
            if from.is_none() {
                return Ok(());
            }
        }
    }
}
