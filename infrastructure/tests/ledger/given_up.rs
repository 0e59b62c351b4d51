//! Appends that PostgreSQL gives up, or whose answer is lost: done once, or refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use application::ports::{AppendError, Ledger};
use sqlx::postgres::PgConnectOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use crate::cluster::Cluster;
use crate::postgres::PostgresUnderTest;
use crate::world::*;

/// Lets the server give up so many statements that store events, with this code.
async fn give_up(world: &PostgresUnderTest, code: &str, times: usize) {
    let (tries, give_up, events) = (
        world.table("tries"),
        world.table("give_up"),
        world.table("events"),
    );
    for statement in [
        format!("create sequence {tries}"),
        format!(
            "create function {give_up}() returns trigger language plpgsql security definer as $$ \
             begin if nextval('{tries}') <= {times} then \
             raise exception 'given up' using errcode = '{code}'; end if; return null; end $$"
        ),
        format!("create trigger give_up before insert on {events} execute function {give_up}()"),
    ] {
        world.run(&statement).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_gives_up_for_anothers_sake_is_tried_again() {
    // Serialization failure, deadlock, locks and idling that took too long, too many connections.
    for code in ["40001", "40P01", "55P03", "25P03", "53300"] {
        let world = on_plan::<PostgresUnderTest>("pro").await;
        give_up(&world, code, 2).await;
        assert_eq!(committed(world.ledger().append(issue()).await), 2, "{code}");
        assert_sound(&*world.ledger()).await;
        assert_eq!(everything(&*world.ledger()).await.len(), 2, "{code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_refused_again_is_refused() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    // A check violation.
    give_up(&world, "23514", 1_000).await;
    let refused = world.ledger().append(issue()).await;
    assert!(
        matches!(refused, Err(AppendError::Unavailable(_))),
        "{refused:?}"
    );
    let tries = format!("select last_value from {}", world.table("tries"));
    let tries = Cluster::shared().run("postgres", &tries);
    // If the cards went along, once more without them.
    assert!(["1", "2"].contains(&tries.trim()), "tried {tries} times");
    world
        .run(&format!(
            "drop trigger give_up on {}",
            world.table("events")
        ))
        .await;
    assert_eq!(committed(world.ledger().append(issue()).await), 2);
    assert_sound(&*world.ledger()).await;
}

/// It has no key, so only its events' hash can say that it was done.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_whose_answer_is_lost_after_the_commit_is_done_once() {
    let world = on_plan::<PostgresUnderTest>("pro").await;
    let relay = Relay::start().await;
    let (_shard, ledger) = world.by_way_of(relay.options.clone()).await;
    assert_eq!(committed(ledger.append(issue()).await), 2);
    assert_eq!(
        relay.swallowed.load(Ordering::SeqCst),
        1,
        "an answer was lost"
    );
    assert_sound(&*ledger).await;
    assert_eq!(everything(&*ledger).await.len(), 2);
}

/// What stands before the server, and lets the first answer to a storing statement go lost.
struct Relay {
    options: PgConnectOptions,
    swallowed: Arc<AtomicUsize>,
}

impl Relay {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let swallowed = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&swallowed);
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.expect("a connection");
                tokio::spawn(carry(client, Arc::clone(&count)));
            }
        });
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(port);
        Self {
            options: options.username("shards").database("postgres"),
            swallowed,
        }
    }
}

async fn carry(mut client: TcpStream, swallowed: Arc<AtomicUsize>) {
    let server = UnixStream::connect(Cluster::shared().socket()).await;
    let mut server = server.expect("the server");
    let (mut asked, mut answered) = ([0; 64 * 1024], [0; 64 * 1024]);
    // Answers until the one that goes lost: to the statement's text, and to its execution.
    let mut left = None;
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                let stores = asked[..length].windows(11).any(|word| word == b"insert into");
                if stores && swallowed.load(Ordering::SeqCst) == 0 {
                    left = Some(2);
                }
                if server.write_all(&asked[..length]).await.is_err() {
                    return;
                }
            }
            read = server.read(&mut answered) => {
                let Ok(length @ 1..) = read else { return };
                left = left.map(|left: usize| left - 1);
                if left == Some(0) {
                    swallowed.fetch_add(1, Ordering::SeqCst);
                    return;
                }
                if client.write_all(&answered[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}
