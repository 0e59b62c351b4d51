//! Connections that are lost, or should not be: what a node does without being told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use application::doorbell::Doorbell;
use application::ports::{AppendError, CardsView, Ledger, Random};
use domain::ids::TenantId;
use infrastructure::clock::SystemRandom;
use infrastructure::doorbell::{Residents, ShardDoorbell};
use infrastructure::projections::cards::postgres::PostgresCards;
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{pause, timeout};
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::postgres::PostgresUnderTest;
use crate::world::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_append_that_is_refused_costs_no_connection() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let name = format!("refused-{}", world.tenant());
    let (_shard, ledger) = world.connected_once(&name).await;
    let before = world.processes_of(&name).await;
    assert_eq!(before.len(), 1);
    let head = world.table("head");
    let freeze = format!("update {head} set moved_to = 'second', revision = revision + 1");
    world.run(&freeze).await;
    for _ in 0..3 {
        let refused = ledger.append(issue()).await;
        assert!(matches!(refused, Err(AppendError::Unavailable(_))));
    }
    assert_eq!(world.processes_of(&name).await, before);
}
