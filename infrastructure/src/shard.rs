//! A shard: a PostgreSQL database that tenants' schemas are in, and the connections to it.
//!
//! A connection is had only *in a tenant's room*: under the tenant's role, which may use the
//! tenant's schema and no other. So the database, not the care taken in a statement, keeps tenants
//! apart.
//!
//! ```text
//! shard.room(tenant) -> Room::connection -> `set role t_…`, unless it is set -> RoomConnection
//! ```
//!
//! # What it protects against
//!
//! A statement that names another tenant's table is refused (42501), whatever the mistake that it
//! came from, and so is any that runs in no room. Not against statements that somebody else
//! writes: who can run `set role` can enter any room. The names of tables are in the catalogue,
//! which everybody may read.
//!
//! # What it costs
//!
//! A round trip when a connection changes rooms, none while it stays. So an idle connection that is
//! in the room already is preferred, then the one that the tenant's rooms and the connections agree
//! on by a hash: a tenant's statements are prepared on few of them.
//!
//! Texts name the schema, so each tenant has its own, and a connection keeps 2,048 of
//! them prepared. The other way is to set the search path with the role and have one text for all:
//! then PostgreSQL plans a statement anew whenever the path has changed, which costs more than the
//! statement (`cargo bench -p infrastructure --bench rooms` compares them).
//!
//! # Poolers
//!
//! A role that is set belongs to the session. None of these connections may go through a pooler
//! that hands a server connection on after each transaction: it would hand on the room. One that
//! keeps it for the session (pgbouncer's `pool_mode = session`, with its `DISCARD ALL`) hands on no
//! room, but pgbouncer refuses connections that bring settings along (`options`), as these do, or,
//! told to ignore them, drops the limits among them without a word: go past it. `set local` would bear
//! any pooler, for two more round trips a statement: `begin` and `commit`.

pub mod schema;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use domain::ids::TenantId;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, Executor, PgConnection};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

use self::schema::Schema;

/// How many statements a connection keeps prepared, of all tenants. One costs its server process
/// 25 (a read) to 70 KiB (an append), so all of them up to 140 MiB.
const STATEMENTS_MAX: usize = 2_048;
/// How long a connection may have been idle to be used without asking whether it is alive.
const TRUSTED: Duration = Duration::from_secs(1);
/// How long it may take to answer that, or to change rooms: shorter than anybody waits for a
/// connection, so that there is time for another.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How old a connection may become: a server process also keeps what it has learnt of each schema
/// that it was used for, some 20 KiB, until it ends.
const AGE_MAX: Duration = Duration::from_secs(30 * 60);

/// The connections to a shard, of all its tenants together. A clone is the same shard.
#[derive(Clone)]
pub struct Shard(Arc<Connections>);

struct Connections {
    options: PgConnectOptions,
    connections_max: usize,
    acquire_max: Duration,
    idle_max: Duration,
    permits: Arc<Semaphore>,
    opened: AtomicU64,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    kept: Vec<Kept>,
    /// When something last went wrong on a connection: others may be lost as well.
    doubted: Option<Instant>,
}

/// A connection, and the room that it is in.
struct Kept {
    connection: PgConnection,
    room: Schema,
    /// How many the shard had opened before.
    number: u64,
    opened: Instant,
    left: Instant,
}

impl Shard {
    /// A shard to which at most `connections_max` connections are open at once, 1 at least; who
    /// waits for one is refused after `acquire_max`; one that is not used is closed between
    /// `idle_max` and twice that. None is opened yet.
    ///
    /// The role that logs in is described at [`Schema::migrate`].
    pub fn new(
        options: PgConnectOptions,
        connections_max: usize,
        acquire_max: Duration,
        idle_max: Duration,
    ) -> Self {
        let connections_max = connections_max.clamp(1, Semaphore::MAX_PERMITS);
        let connections = Arc::new(Connections {
            options: options.statement_cache_capacity(STATEMENTS_MAX),
            connections_max,
            acquire_max,
            idle_max,
            permits: Arc::new(Semaphore::new(connections_max)),
            opened: AtomicU64::new(0),
            idle: Mutex::default(),
        });
        tokio::spawn(close_unused(Arc::downgrade(&connections)));
        Self(connections)
    }

    /// Asks the server for a sign of life, on one of the shard's connections, and on a new one if that
    /// is lost: the server may have been started again since. If all are in use, their users will
    /// hear of it.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says; [`sqlx::Error::PoolTimedOut`] if it says nothing in time.
    pub async fn answer(&self) -> Result<(), sqlx::Error> {
        let Ok(_permit) = self.0.permits.try_acquire() else {
            return Ok(());
        };
        let idle = self.0.idle().kept.pop();
        let ask = async {
            if let Some(mut kept) = idle {
                if let Ok(Ok(())) = timeout(ANSWER_MAX, kept.connection.ping()).await {
                    self.0.idle().kept.push(kept);
                    return Ok(());
                }
                self.0.idle().doubted = Some(Instant::now());
            }
            self.0.options.connect().await?.close().await
        };
        let answered = timeout(self.0.acquire_max, ask).await;
        answered.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// A tenant's room.
    pub fn room(&self, tenant: TenantId) -> Room {
        Room {
            shard: Arc::clone(&self.0),
            schema: Schema::of(tenant),
        }
    }

    /// Closes what is idle, and what is in use as soon as it is left; none is opened any more.
    pub async fn close(&self) {
        self.0.permits.close();
        let kept = mem::take(&mut self.0.idle().kept);
        for kept in kept {
            // Its socket is closed in any case.
            let _ = timeout(ANSWER_MAX, kept.connection.close()).await;
        }
    }
}

/// Closes connections that are not used, until the shard is gone.
async fn close_unused(connections: Weak<Connections>) {
    while let Some(idle_max) = connections.upgrade().map(|it| it.idle_max) {
        tokio::time::sleep(idle_max).await;
        let Some(connections) = connections.upgrade() else {
            return;
        };
        let kept = &mut connections.idle().kept;
        // Dropped, which closes the socket.
        kept.retain(|kept| kept.left.elapsed() <= idle_max);
    }
}

/// A tenant's room in a shard: its schema, entered under its role.
#[derive(Clone)]
pub struct Room {
    shard: Arc<Connections>,
    schema: Schema,
}

impl Room {
    /// The tenant's schema.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// One of the shard's connections, in this room. The schema is there and up to date.
    ///
    /// # Errors
    ///
    /// What PostgreSQL says; [`sqlx::Error::PoolTimedOut`] if none can be had in time,
    /// [`sqlx::Error::PoolClosed`] if the shard is closed.
    pub async fn connection(&self) -> Result<RoomConnection, sqlx::Error> {
        let entered = timeout(self.shard.acquire_max, self.enter()).await;
        entered.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    /// A connection in this room that is none of the shard's, for work that keeps it for long:
    /// the server does not limit how long a statement takes.
    ///
    /// # Errors
    ///
    /// As [`Self::connection`].
    pub async fn separate(&self) -> Result<PgConnection, sqlx::Error> {
        let open = async {
            let mut connection = self.open().await?;
            connection.execute("set statement_timeout = 0").await?;
            Ok(connection)
        };
        let opened = timeout(self.shard.acquire_max, open).await;
        opened.unwrap_or(Err(sqlx::Error::PoolTimedOut))
    }

    async fn enter(&self) -> Result<RoomConnection, sqlx::Error> {
        let permit = Arc::clone(&self.shard.permits).acquire_owned().await;
        let permit = permit.map_err(|_| sqlx::Error::PoolClosed)?;
        let kept = loop {
            match self.shard.take(&self.schema) {
                Some((kept, doubtful)) => {
                    // One that does not answer is closed, and another one taken.
                    if let Some(kept) = self.change(kept, doubtful).await {
                        break kept;
                    }
                }
                None => {
                    let connection = self.open().await?;
                    break self.shard.keep(connection, self.schema.clone());
                }
            }
        };
        Ok(RoomConnection {
            kept: Some(kept),
            sound: true,
            shard: Arc::clone(&self.shard),
            _permit: permit,
        })
    }

    async fn open(&self) -> Result<PgConnection, sqlx::Error> {
        let mut connection = self.shard.options.connect().await?;
        connection.execute(self.schema.set_role().as_str()).await?;
        Ok(connection)
    }

    /// Brings an idle connection into this room; none if it does not answer. Whoever gives up
    /// meanwhile drops it, so it is never known to be in a room that it is not in.
    async fn change(&self, mut kept: Kept, doubtful: bool) -> Option<Kept> {
        let connection = &mut kept.connection;
        if kept.room != self.schema {
            let role = self.schema.set_role();
            let set = timeout(ANSWER_MAX, connection.execute(role.as_str())).await;
            set.ok()?.ok()?;
            kept.room = self.schema.clone();
        } else if doubtful {
            timeout(ANSWER_MAX, connection.ping()).await.ok()?.ok()?;
        }
        Some(kept)
    }
}

impl Connections {
    fn idle(&self) -> MutexGuard<'_, Idle> {
        // Nothing is left half done where it is locked.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle connection for a room, and whether it may be lost; none if one is to be opened.
    fn take(&self, room: &Schema) -> Option<(Kept, bool)> {
        let mut idle = self.idle();
        let in_room = idle.kept.iter().position(|kept| kept.room == *room);
        // Whoever has a permit and no connection yet is counted: there are never too many.
        let in_use = self.connections_max - self.permits.available_permits();
        let full = idle.kept.len() + in_use > self.connections_max;
        let place = match in_room {
            None if full => agreed(room, &idle.kept)?,
            found => found?,
        };
        let kept = idle.kept.swap_remove(place);
        let doubted = idle.doubted.is_some_and(|at| at >= kept.left);
        let doubtful = doubted || kept.left.elapsed() > TRUSTED;
        Some((kept, doubtful))
    }

    fn keep(&self, connection: PgConnection, room: Schema) -> Kept {
        let now = Instant::now();
        Kept {
            connection,
            room,
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            opened: now,
            left: now,
        }
    }
}

/// The connection that a room prefers among those (rendezvous hashing: who goes or comes changes
/// nothing between the others).
fn agreed(room: &Schema, kept: &[Kept]) -> Option<usize> {
    let rank = |place: &usize| {
        let mut hasher = DefaultHasher::new();
        (room.name(), kept[*place].number).hash(&mut hasher);
        hasher.finish()
    };
    (0..kept.len()).max_by_key(rank)
}

/// A connection in a tenant's room. It goes back to its shard only if it is sound: nothing is under
/// way on it, and no transaction is open. Otherwise it is closed, which ends both.
pub struct RoomConnection {
    /// There until it is dropped.
    kept: Option<Kept>,
    sound: bool,
    shard: Arc<Connections>,
    /// The last to go, when the connection is idle or closed.
    _permit: OwnedSemaphorePermit,
}

impl RoomConnection {
    /// The connection, to do something on it; [`Self::rest`] when that has succeeded.
    pub fn work(&mut self) -> &mut PgConnection {
        self.sound = false;
        let kept = self.kept.as_mut().expect("there until it is dropped");
        &mut kept.connection
    }

    /// Nothing is under way any more.
    pub fn rest(&mut self) {
        self.sound = true;
    }

    /// What came of the last work; the connection goes back if it has succeeded.
    ///
    /// # Errors
    ///
    /// That of the work.
    pub fn done<T, E>(mut self, came: Result<T, E>) -> Result<T, E> {
        self.sound = came.is_ok();
        came
    }
}

impl Drop for RoomConnection {
    fn drop(&mut self) {
        let Some(mut kept) = self.kept.take() else {
            return;
        };
        let now = Instant::now();
        let mut idle = self.shard.idle();
        match self.sound {
            false => idle.doubted = Some(now),
            true if self.shard.permits.is_closed() || now - kept.opened > AGE_MAX => {}
            true => {
                kept.left = now;
                idle.kept.push(kept);
            }
        }
    }
}
