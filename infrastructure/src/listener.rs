//! A connection that listens to what is notified on a channel of a PostgreSQL database.
//!
//! A notification that nobody listened to is gone. So whoever listens is told at the start, and
//! after each lost connection, that anything may have been missed. A connection that is lost
//! without a word is told by silence: when nothing has come for a while, it notifies itself, which
//! also finds out a pooler in between that does not pass notifications on.

use std::convert::Infallible;
use std::time::Duration;

use metrics::counter;
use sqlx::postgres::{PgConnectOptions, PgListener, PgNotification, PgPoolOptions};
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

/// After how long a silence a connection notifies itself.
pub const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long a connection, a statement or a notification to itself may take.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// The first pause before another connection; it doubles up to [`PAUSE_MAX`].
pub const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause before another connection.
pub const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a listener hears.
pub enum Heard<'a> {
    /// It listens from now on: what came before may have been missed.
    Beginning,
    /// A notification's payload; empty if somebody notified itself.
    Word(&'a str),
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// The database says so.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// It did not answer.
    #[error("no answer in time")]
    Slow(#[from] tokio::time::error::Elapsed),
    /// Not even its own notification came.
    #[error("nothing came for too long")]
    Silent,
    /// The server ended it.
    #[error("the server closed it")]
    Closed,
}

impl Lost {
    /// Counts and logs it; `what` for people, as in `listening`.
    pub fn complain(&self, what: &'static str, channel: &'static str) {
        counter!("notification_connections_lost_total", "channel" => channel).increment(1);
        tracing::warn!(
            error = self as &dyn std::error::Error,
            channel,
            "the connection for {what} is lost; connecting again"
        );
    }
}

/// Listens for as long as it is polled, over as many connections as that takes.
pub async fn listen(
    database: PgConnectOptions,
    channel: &'static str,
    mut hear: impl FnMut(Heard<'_>),
) {
    let mut pause = PAUSE_MIN;
    loop {
        let lost = match connect(&database, channel).await {
            Ok(listener) => {
                hear(Heard::Beginning);
                let hear = |word: &str| {
                    pause = PAUSE_MIN;
                    hear(Heard::Word(word));
                };
                listen_on(listener, channel, hear).await
            }
            Err(lost) => lost,
        };
        lost.complain("listening", channel);
        sleep(pause).await;
        pause = PAUSE_MAX.min(pause * 2);
    }
}

/// A listener whose socket is closed with it.
///
/// sqlx unlistens on a dropped one, in a task of its own that waits for the answer: of a server that
/// is silent, for ever. There is no other way to end it, so that task is given to a runtime that runs
/// nothing and ends at once.
struct Listening(Option<PgListener>);

impl Listening {
    fn on(&mut self) -> Result<&mut PgListener, Lost> {
        self.0.as_mut().ok_or(Lost::Closed)
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        let Ok(nowhere) = Builder::new_current_thread().build() else {
            return;
        };
        {
            let _there = nowhere.enter();
            self.0 = None;
        }
        nowhere.shutdown_background();
    }
}

async fn connect(database: &PgConnectOptions, channel: &str) -> Result<Listening, Lost> {
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(PATIENCE)
        .connect_lazy_with(database.clone());
    let mut listening = Listening(Some(PgListener::connect_with(&pool).await?));
    let listener = listening.on()?;
    listener.eager_reconnect(false);
    timeout(PATIENCE, listener.listen(channel)).await??;
    Ok(listening)
}

/// Passes on what comes, until the connection is lost.
async fn listen_on(mut listening: Listening, channel: &str, mut hear: impl FnMut(&str)) -> Lost {
    let lost = async {
        let listener = listening.on()?;
        loop {
            hear(next(listener, channel).await?.payload());
        }
    };
    let lost: Result<Infallible, Lost> = lost.await;
    match lost {
        Err(lost) => lost,
    }
}

async fn next(listener: &mut PgListener, channel: &str) -> Result<PgNotification, Lost> {
    // To stop waiting loses nothing: what has come in part stays in the connection's buffer.
    if let Ok(next) = timeout(HEARTBEAT, listener.try_recv()).await {
        return next?.ok_or(Lost::Closed);
    }
    notify_itself(listener, channel).await?;
    match timeout(PATIENCE, listener.try_recv()).await {
        Ok(next) => next?.ok_or(Lost::Closed),
        Err(_silence) => Err(Lost::Silent),
    }
}

async fn notify_itself(listener: &mut PgListener, channel: &str) -> Result<(), Lost> {
    let notify = sqlx::query("select pg_notify($1, '')")
        .bind(channel)
        .execute(listener);
    timeout(PATIENCE, notify).await??;
    Ok(())
}
