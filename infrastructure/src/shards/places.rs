//! The places that a tenant's ledger can be at, for whoever moves it from one to another.

use std::sync::Arc;

use application::doorbell::Doorbell;
use application::news::LandlordNews;
use application::ports::checkpoints::Checkpoints;
use application::ports::moves::{Condition, Frozen, Places};
use application::ports::restore::{RestoreError, RestoringStore};
use application::ports::{Clock, HandlerError, Subscriber, TenantStore, TenantStores, Unavailable};
use application::subscribers::BROKER;
use application::tenants::{Isolation, Tenant};
use async_trait::async_trait;
use domain::ids::{Position, Slug};

use super::{ConnectedShards, same};
use crate::checkpoints::SchemaCheckpoints;
use crate::database::{Older, unavailable};
use crate::ledger::postgres::restore_frozen;
use crate::projections::cards::postgres::PostgresCardsProjection;
use crate::shard::schema::Schema;
use crate::tenants::SchemaStores;

const WHAT: &str = "the tenant's place";

/// Schemas in shards.
pub struct ShardPlaces {
    shards: Arc<ConnectedShards>,
    clock: Arc<dyn Clock>,
}

impl ShardPlaces {
    /// The places in these shards.
    pub fn new(shards: Arc<ConnectedShards>, clock: Arc<dyn Clock>) -> Self {
        Self { shards, clock }
    }
}

#[async_trait]
impl Places for ShardPlaces {
    async fn are_one(&self, one: &Tenant, other: &Tenant) -> Result<bool, Unavailable> {
        let (one, other) = (self.shards.of_record(one), self.shards.of_record(other));
        let (one, other) = futures::try_join!(one, other)?;
        let are_one = same::are_one(&one.options, &other.options).await;
        are_one.map_err(unavailable(WHAT))
    }

    async fn freeze(&self, here: &Tenant, to: &Slug) -> Result<Frozen, Unavailable> {
        let place = self.shards.of_record(here).await?;
        let frozen = place.shard.room(here.id).freeze(to).await;
        frozen.map_err(unavailable(WHAT))
    }

    async fn condition(&self, here: &Tenant) -> Result<Condition, Unavailable> {
        let place = self.shards.of_record(here).await?;
        let condition = place.shard.room(here.id).condition().await;
        condition.map_err(unavailable(WHAT))
    }

    async fn thaw(&self, here: &Tenant, seen: Frozen) -> Result<bool, Unavailable> {
        let place = self.shards.of_record(here).await?;
        let thawed = place.shard.room(here.id).thaw(seen).await;
        thawed.map_err(unavailable(WHAT))
    }

    async fn are_same(&self, one: &Tenant, other: &Tenant) -> Result<bool, Unavailable> {
        let tenant = one.id;
        let (one, other) = (self.shards.of_record(one), self.shards.of_record(other));
        let (one, other) = futures::try_join!(one, other)?;
        let (one, other) = (one.shard.room(tenant), other.shard.room(tenant));
        let both = futures::try_join!(one.summary(), other.summary());
        let (one, other) = both.map_err(unavailable(WHAT))?;
        Ok(one.is_some() && one == other)
    }

    async fn fill(&self, there: &Tenant) -> Result<Box<dyn RestoringStore>, RestoreError> {
        let place = self.shards.of_record(there).await?;
        let made = place.make_database(&Schema::of(there.id)).await;
        made.map_err(unavailable(WHAT))?;
        match &there.shard {
            Some(to) => restore_frozen(there.id, &place.options, to).await,
            None => Err(Unavailable::new(WHAT).into()),
        }
    }

    async fn build_read_models(
        &self,
        there: &Tenant,
        progress: &(dyn Fn(Position) + Send + Sync),
    ) -> Result<Position, Unavailable> {
        let shards = Arc::new(self.shards.for_one(there));
        let stores = SchemaStores::new(
            Arc::clone(&shards),
            LandlordNews::default(),
            1,
            1,
            Older::Migrate,
            Arc::clone(&self.clock),
            Doorbell::default(),
        );
        let built = match stores.open(there.id).await {
            Ok(store) => build(&stores, &store, progress).await,
            Err(error) => Err(error),
        };
        stores.close_all().await;
        shards.close().await;
        built
    }

    async fn carry_checkpoints(&self, here: &Tenant, there: &Tenant) -> Result<(), Unavailable> {
        let (from, to) = (self.shards.of_record(here), self.shards.of_record(there));
        let (from, to) = futures::try_join!(from, to)?;
        let [from, to] = [from, to].map(|place| {
            let (room, clock) = (place.shard.room(here.id), Arc::clone(&self.clock));
            SchemaCheckpoints::new(room, self.shards.node(), clock)
        });
        to.bring(BROKER, from.position(BROKER).await?).await
    }

    async fn drop_frozen(&self, here: &Tenant) -> Result<(), Unavailable> {
        let schema = Schema::of(here.id);
        let place = self.shards.of_record(here).await?;
        let dropped = place.shard.room(here.id).drop_frozen().await;
        dropped.map_err(unavailable(WHAT))?;
        if here.isolation == Isolation::Dedicated {
            place.drop_database(&schema).await;
        }
        Ok(())
    }
}

async fn build(
    stores: &SchemaStores,
    store: &TenantStore,
    progress: &(dyn Fn(Position) + Send + Sync),
) -> Result<Position, Unavailable> {
    let cards = PostgresCardsProjection::new(Arc::new(stores.clone()));
    let head = store.ledger.head().position;
    if cards.checkpoint(store).await? == head {
        return Ok(head);
    }
    match cards.rebuild(store, progress).await {
        Ok(position) => Ok(position),
        Err(HandlerError::Unavailable(error)) => Err(error),
        Err(HandlerError::Failed(why)) => Err(Unavailable::because(WHAT, why)),
    }
}
