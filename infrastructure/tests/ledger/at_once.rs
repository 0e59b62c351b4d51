//! Tenants that come to one database at the same time.

use application::ports::Random;
use domain::ids::TenantId;
use futures::future::join_all;
use infrastructure::clock::SystemRandom;
use infrastructure::shard::schema::Schema;
use sqlx::{ConnectOptions, Executor};

use crate::cluster::Cluster;
use crate::restore::{Carried, Destination, InShard};
use crate::world::*;

const TENANTS: usize = 8;

#[tokio::test(flavor = "multi_thread")]
async fn restorations_that_finish_at_the_same_time_all_do() {
    let worlds = join_all((0..TENANTS).map(|_| on_plan::<SqliteUnderTest>("pro"))).await;
    let mut filled = Vec::new();
    for world in &worlds {
        let carried = Carried::from(&*world.ledger()).await;
        let destination = InShard::new(world.tenant()).await;
        let mut store = destination.restore().await.expect("begun");
        carried.fill(&mut *store).await.expect("filled");
        filled.push((store, carried.end));
    }
    let finishing = filled
        .into_iter()
        .map(|(store, end)| tokio::spawn(async move { store.finish(&end).await }));
    for finished in join_all(finishing).await {
        finished.expect("no panic").expect("finished");
    }
}

/// As when another login has made it: this one is to be let in.
#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_entered_from_many_databases_of_a_cluster_at_the_same_time() {
    let mut outside = Cluster::shared().options().connect().await.expect("one");
    let mut databases = Vec::new();
    for _ in 0..4 {
        let name = format!("beside_{}", SystemRandom.id().simple());
        let create = format!("create database {name} owner shards");
        outside.execute(&*create).await.expect("a database");
        databases.push(Cluster::shared().shard().database(&name));
    }
    let mut login = databases[0].connect().await.expect("one");
    for _ in 0..8 {
        let schema = Schema::of(TenantId::new(SystemRandom.id()));
        let role = format!("create role {} nologin noinherit", schema.name());
        login.execute(&*role).await.expect("a role");
        let making = databases.iter().map(|database| {
            let (schema, database) = (schema.clone(), database.clone());
            tokio::spawn(async move { schema.migrate(&database).await })
        });
        for made in join_all(making).await {
            made.expect("no panic").expect("made");
        }
    }
}
