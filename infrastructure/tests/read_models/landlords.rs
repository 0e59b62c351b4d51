//! The landlord's database on each engine that keeps one.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use infrastructure::database::Older;
use infrastructure::landlord::connect;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgPool};

use crate::cluster::Cluster;
use crate::store::{self, Landlord};

/// Makes each sentence a test of both engines.
macro_rules! on_both_engines {
    ($($sentence:ident),+ $(,)?) => {
        mod sqlite {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $sentence() {
                    super::$sentence::<crate::landlords::Sqlite>().await;
                }
            )+
        }
        mod postgres {
            $(
                #[tokio::test(flavor = "multi_thread")]
                async fn $sentence() {
                    super::$sentence::<crate::landlords::Postgres>().await;
                }
            )+
        }
    };
}
pub(crate) use on_both_engines;

/// An engine that keeps the landlord's database.
pub trait LandlordUnderTest {
    /// A landlord without tenants, over a new database.
    async fn landlord() -> Landlord;
}

/// A file of its own.
pub struct Sqlite;

impl LandlordUnderTest for Sqlite {
    async fn landlord() -> Landlord {
        store::landlord().await
    }
}

/// A database of its own in the cluster that the tests share.
pub struct Postgres;

impl LandlordUnderTest for Postgres {
    async fn landlord() -> Landlord {
        node(&new_database().await).await
    }
}

/// The landlord as one node has it.
pub async fn node(database: &PgConnectOptions) -> Landlord {
    let database = connect(pool(database), Older::Migrate).await;
    Landlord::over(database.expect("a database"), None)
}

/// Connections of one node.
pub fn pool(database: &PgConnectOptions) -> PgPool {
    PgPoolOptions::new()
        .max_connections(4)
        .acquire_timeout(Duration::from_secs(20))
        .connect_lazy_with(database.clone())
}

/// An empty database.
pub async fn new_database() -> PgConnectOptions {
    new_database_in(Cluster::shared()).await
}

/// An empty database in a cluster.
pub async fn new_database_in(cluster: &Cluster) -> PgConnectOptions {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let name = format!("landlord_{}", MADE.fetch_add(1, Ordering::Relaxed));
    let cluster = cluster.options();
    let mut connection = cluster.connect().await.expect("a connection");
    sqlx::query(&format!("create database {name}"))
        .execute(&mut connection)
        .await
        .expect("a database");
    connection.close().await.expect("closed");
    cluster.database(&name)
}
