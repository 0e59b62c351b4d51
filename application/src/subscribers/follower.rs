//! One subscriber's way along one tenant's ledger.

use std::panic::AssertUnwindSafe;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::ids::{Position, TenantId};
use futures::FutureExt;
use metrics::{counter, histogram};
use tokio::sync::watch;

use super::Line;
use crate::error::causes;
use crate::ports::HandlerError;
use crate::ports::checkpoints::Turn;

/// How many events are handed over at a time.
const BATCH_EVENTS: usize = 512;
/// How long events may gather behind a batch that was not full. A batch costs a commit, whatever
/// its size; without this, a busy ledger and its followers would take turns event by event.
const GATHER: Duration = Duration::from_millis(2);
/// How often events that cannot be handled are tried before the subscriber stops for the tenant.
const ATTEMPTS_MAX: u32 = 5;
/// The first pause before another try; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What a subscriber is doing with a tenant's ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FollowerState {
    /// It has handled everything it was rung for.
    #[default]
    Idle,
    /// It is at work.
    Running,
    /// It failed and waits to try again.
    Retrying,
    /// It failed too often and waits to be resumed.
    Stopped,
}

/// How far a subscriber is with a tenant's ledger.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// What it is doing.
    pub state: FollowerState,
    /// Up to where it has handled events; unknown until it first looked.
    pub checkpoint: Option<Position>,
    /// The newest position it has heard of.
    pub head: Position,
    /// When the oldest event that it has not handled was recorded; if it cannot even read the
    /// ledger, when it first tried.
    pub behind_since: Option<DateTime<Utc>>,
    /// Why it last failed, until it succeeds.
    pub last_error: Option<String>,
}

impl Progress {
    /// How many events it is behind.
    pub fn lag(&self) -> u64 {
        self.head.saturating_sub(self.checkpoint.unwrap_or(0))
    }
}

/// [`Progress`], shared, and awaitable.
#[derive(Default)]
pub(super) struct Follower {
    state: Mutex<State>,
    checkpoint: watch::Sender<Option<Position>>,
}

#[derive(Default)]
struct State {
    progress: Progress,
    /// How many rings did not know how far the ledger is.
    unsure: u64,
    /// How many of those the ledger itself was asked for.
    looked: u64,
}

/// What rang before a step.
#[derive(Clone, Copy)]
struct Heard {
    /// The newest position.
    position: Position,
    unsure: u64,
    /// Whether only the ledger knows how far it is.
    must_look: bool,
}

impl Follower {
    pub(super) fn progress(&self) -> Progress {
        self.lock().progress.clone()
    }

    /// Waits until the checkpoint is at or after `position`.
    pub(super) async fn reached(&self, position: Position) {
        let mut checkpoint = self.checkpoint.subscribe();
        // The sender is in `self`, so the channel stays open while this borrows it.
        let _ = checkpoint
            .wait_for(|at| at.is_some_and(|at| at >= position))
            .await;
    }

    /// Notes a ring, for position 0 if nobody knows how far the ledger is; whether a task must be
    /// started for it.
    pub(super) fn begin(&self, position: Position) -> bool {
        let mut state = self.lock();
        state.unsure += u64::from(position == 0);
        state.progress.head = state.progress.head.max(position);
        match state.progress.state {
            FollowerState::Idle => {
                state.progress.state = FollowerState::Running;
                true
            }
            FollowerState::Running | FollowerState::Retrying | FollowerState::Stopped => false,
        }
    }

    /// Lets a stopped follower begin again; whether it was stopped.
    pub(super) fn resume(&self) -> bool {
        let progress = &mut self.lock().progress;
        let stopped = progress.state == FollowerState::Stopped;
        if stopped {
            progress.state = FollowerState::Idle;
        }
        stopped
    }

    /// The effect was built anew up to `position`.
    pub(super) fn rebuilt(&self, position: Position) {
        self.resume();
        self.advance(position);
    }

    fn advance(&self, position: Position) {
        let mut state = self.lock();
        let progress = &mut state.progress;
        progress.checkpoint = Some(position);
        progress.head = progress.head.max(position);
        progress.last_error = None;
        progress.behind_since = None;
        drop(state);
        self.checkpoint.send_replace(Some(position));
    }

    fn heard(&self) -> Heard {
        let state = self.lock();
        Heard {
            position: state.progress.head,
            unsure: state.unsure,
            must_look: state.unsure > state.looked,
        }
    }

    /// The ledger was asked, and has nothing more than what had rung.
    fn looked(&self, heard: Heard) {
        self.lock().looked = heard.unsure;
    }

    /// All that had rung is handled; whether the task may end, because nothing else has rung
    /// meanwhile.
    fn rest(&self, heard: Heard) -> bool {
        let mut state = self.lock();
        let done = state.progress.head <= heard.position && state.unsure == heard.unsure;
        if done {
            let progress = &mut state.progress;
            progress.state = FollowerState::Idle;
            progress.head = progress.checkpoint.unwrap_or_default();
            progress.last_error = None;
            progress.behind_since = None;
        }
        done
    }

    /// Something is not handled, since `time` at the latest.
    fn behind_since(&self, time: DateTime<Utc>) {
        self.lock().progress.behind_since.get_or_insert(time);
    }

    fn enter(&self, state: FollowerState, error: Option<String>) {
        let progress = &mut self.lock().progress;
        progress.state = state;
        if error.is_some() {
            progress.last_error = error;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands over events until none is left, or handling them has failed too often.
pub(super) async fn follow(line: &Line, tenant: TenantId, follower: &Follower) {
    let mut failures = 0;
    loop {
        if line.stop.is_cancelled() {
            return follower.enter(FollowerState::Idle, None);
        }
        let error = match AssertUnwindSafe(step(line, tenant, follower))
            .catch_unwind()
            .await
        {
            Ok(Ok(Step::Handled { events })) => {
                failures = 0;
                follower.enter(FollowerState::Running, None);
                if events < BATCH_EVENTS && !line.subscriber.waits_elsewhere() {
                    line.pause(GATHER).await;
                }
                continue;
            }
            Ok(Ok(Step::Elsewhere { look_again_in })) => {
                failures = 0;
                follower.enter(FollowerState::Running, None);
                line.pause(look_again_in).await;
                continue;
            }
            Ok(Ok(Step::Resting)) => return,
            Ok(Err(error)) => error,
            Err(_panic) => HandlerError::Failed("the handler panicked".to_owned()),
        };
        let subscriber = line.subscriber.name();
        counter!("subscriber_failures_total", "subscriber" => subscriber).increment(1);
        failures += 1;
        follower.behind_since(line.clock.now());
        let final_failure = matches!(error, HandlerError::Failed(_)) && failures >= ATTEMPTS_MAX;
        let text = causes(&error);
        if final_failure {
            tracing::error!(subscriber, %tenant, error = text, "stopped: resume it by command");
            return follower.enter(FollowerState::Stopped, Some(text));
        }
        // Ever more rarely: what many tenants wait for would be all that is logged.
        if failures.is_power_of_two() {
            tracing::warn!(subscriber, %tenant, error = text, failures, "trying again");
        }
        follower.enter(FollowerState::Retrying, Some(text));
        let pause = PAUSE_MAX.min(PAUSE_MIN * 2_u32.saturating_pow(failures - 1));
        line.pause(pause).await;
    }
}

impl Line {
    async fn pause(&self, pause: Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

enum Step {
    Handled {
        events: usize,
    },
    /// Another node handles the events.
    Elsewhere {
        look_again_in: Duration,
    },
    Resting,
}

async fn step(line: &Line, tenant: TenantId, follower: &Follower) -> Result<Step, HandlerError> {
    let Ok(_place) = line.at_a_time.acquire().await else {
        return Ok(Step::Resting);
    };
    let store = line.stores.open(tenant).await?;
    let turn = match line.subscriber.turn(&store).await {
        Ok(turn) => turn,
        Err(error) => {
            // It cannot work, but can say where it is, and another node may have done the work.
            let checkpoint = line.subscriber.checkpoint(&store).await?;
            if follower.progress().checkpoint != Some(checkpoint) {
                follower.advance(checkpoint);
            }
            let heard = follower.heard();
            let done = checkpoint >= heard.position && !heard.must_look && follower.rest(heard);
            return match done {
                true => Ok(Step::Resting),
                false => Err(error.into()),
            };
        }
    };
    match turn {
        Turn::Here => {}
        Turn::HereFrom(checkpoint) if follower.progress().checkpoint == Some(checkpoint) => {}
        Turn::HereFrom(checkpoint) => follower.advance(checkpoint),
        Turn::Elsewhere {
            checkpoint,
            lapses_in,
        } => {
            let heard = follower.heard();
            follower.advance(checkpoint);
            return Ok(match checkpoint >= heard.position && follower.rest(heard) {
                true => Step::Resting,
                false => Step::Elsewhere {
                    look_again_in: lapses_in,
                },
            });
        }
    }
    let checkpoint = match follower.progress().checkpoint {
        Some(position) => position,
        None => {
            let position = line.subscriber.checkpoint(&store).await?;
            follower.advance(position);
            position
        }
    };
    let heard = follower.heard();
    if checkpoint >= heard.position && !heard.must_look && follower.rest(heard) {
        return Ok(Step::Resting);
    }
    let events = store.ledger.read(checkpoint, BATCH_EVENTS).await?;
    let Some(oldest) = events.first() else {
        follower.looked(heard);
        return Ok(match follower.rest(heard) {
            true => Step::Resting,
            false => Step::Handled { events: 0 },
        });
    };
    let recorded_at = oldest.stored.recorded_at;
    follower.lock().progress.behind_since = Some(recorded_at);
    let position = line.subscriber.handle(&store, &events).await?;
    follower.advance(position);
    let waited = (line.clock.now() - recorded_at)
        .to_std()
        .unwrap_or_default();
    histogram!("subscriber_delay_seconds", "subscriber" => line.subscriber.name()).record(waited);
    Ok(Step::Handled {
        events: events.len(),
    })
}
