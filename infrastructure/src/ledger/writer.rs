//! The one task that writes a ledger: takes what waits, commits it as one batch, answers.
//!
//! While a batch commits, the next gathers in the queue. The queue is bounded in appends and in
//! bytes; beyond it callers hear [`AppendError::Busy`] at once. The ledger's own upkeep takes no
//! append's place. Nothing here depends on a caller staying around for the answer.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use application::ports::{Append, AppendError, Appended, Unavailable};
use domain::ids::Position;
use futures::FutureExt;
use metrics::{counter, histogram};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Prepared;
use super::{Committed, Engine, Memory, Ring, StoreError};

/// How many bytes of text may wait; a single larger append is let in when nothing else waits.
const QUEUE_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How many appends are committed at a time.
pub(super) const BATCH_APPENDS_MAX: usize = 512;
/// How many bytes of text are committed at a time, before the append that goes over it.
const BATCH_BYTES_MAX: usize = 1024 * 1024;

/// How much may wait besides appends: one request for serials and one for a look.
const UPKEEP_MAX: usize = 2;

/// What people are told could not be had.
const WHAT: &str = "the tenant's ledger";

type Answer = oneshot::Sender<Result<Appended, AppendError>>;

/// What the writer is asked.
enum Work {
    Append(Box<Waiting>),
    /// Reserve serials if none are in stock.
    Serials(oneshot::Sender<()>),
    /// Another node has written: look where the head is.
    Look(oneshot::Sender<()>),
}

/// An append that waits.
struct Waiting {
    append: Prepared,
    bytes: usize,
    answer: Answer,
    place: OwnedSemaphorePermit,
    room: OwnedSemaphorePermit,
}

/// The callers' end of the writer.
pub(super) struct Writer {
    memory: Arc<Memory>,
    sender: mpsc::Sender<Work>,
    /// One for each append that may wait.
    places: Arc<Semaphore>,
    /// One for each byte that may wait.
    room: Arc<Semaphore>,
    /// Held by the one caller that asks for more serials.
    restocking: Mutex<()>,
    /// Held by the one caller that has the writer look.
    looking: Mutex<()>,
    stop: CancellationToken,
    task: TaskTracker,
}

impl Writer {
    /// Starts the task, before which at most `waiting_max` appends may wait. It ends after
    /// [`Self::close`], or when this value is dropped, and in either case after everything queued
    /// before is done.
    pub(super) fn spawn<E: Engine>(engine: E, memory: Arc<Memory>, waiting_max: usize) -> Self {
        let (sender, receiver) = mpsc::channel(waiting_max + UPKEEP_MAX);
        let stop = CancellationToken::new();
        let task = TaskTracker::new();
        task.spawn(run(engine, Arc::clone(&memory), receiver, stop.clone()));
        task.close();
        Self {
            memory,
            sender,
            places: Arc::new(Semaphore::new(waiting_max)),
            room: Arc::new(Semaphore::new(QUEUE_BYTES_MAX)),
            restocking: Mutex::default(),
            looking: Mutex::default(),
            stop,
            task,
        }
    }

    /// Queues an append and waits for its answer.
    pub(super) async fn append(&self, append: Append) -> Result<Appended, AppendError> {
        let append = Prepared::of(append).map_err(|error| Unavailable::because(WHAT, error))?;
        self.queue(append).await
    }

    /// Queues what was made ready and waits for its answer.
    pub(super) async fn queue(&self, append: Prepared) -> Result<Appended, AppendError> {
        let bytes = append.bytes();
        let permits = u32::try_from(bytes.clamp(1, QUEUE_BYTES_MAX)).unwrap_or(u32::MAX);
        let place = Arc::clone(&self.places)
            .try_acquire_owned()
            .map_err(|_| full())?;
        let room = Arc::clone(&self.room)
            .try_acquire_many_owned(permits)
            .map_err(|_| full())?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            append,
            bytes,
            answer,
            place,
            room,
        };
        match self.sender.try_send(Work::Append(Box::new(waiting))) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => return Err(full()),
            Err(TrySendError::Closed(_)) => return Err(closed().into()),
        }
        answered.await.unwrap_or_else(|_| Err(closed().into()))
    }

    /// A serial that was never handed out before.
    pub(super) async fn next_serial(&self) -> Result<u64, Unavailable> {
        loop {
            if let Some(serial) = self.memory.serials.take() {
                return Ok(serial);
            }
            let _restocking = self.restocking.lock().await;
            if let Some(serial) = self.memory.serials.take() {
                return Ok(serial);
            }
            let (answer, answered) = oneshot::channel();
            self.ask(Work::Serials(answer)).await?;
            answered
                .await
                .map_err(|_| Unavailable::new("the tenant's card numbers"))?;
        }
    }

    /// Brings the head in memory up to `position` (0: up to date): through the queue, so that
    /// nothing newer is replaced.
    pub(super) async fn look(&self, position: Position) -> Result<(), Unavailable> {
        let _looking = self.looking.lock().await;
        if position > 0 && self.memory.head.load().position >= position {
            return Ok(());
        }
        let (answer, answered) = oneshot::channel();
        self.ask(Work::Look(answer)).await?;
        answered.await.map_err(|_| Unavailable::new(WHAT))
    }

    /// Puts the house's own work into the queue, as soon as there is a place.
    async fn ask(&self, work: Work) -> Result<(), Unavailable> {
        self.sender.send(work).await.map_err(|_| closed())
    }

    /// Takes no more, finishes what is queued, and waits for that.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.task.wait().await;
    }
}

fn full() -> AppendError {
    counter!("ledger_queue_full_total").increment(1);
    AppendError::Busy
}

const fn closed() -> Unavailable {
    Unavailable::new("the tenant's ledger is closed")
}

async fn run<E: Engine>(
    engine: E,
    memory: Arc<Memory>,
    mut queue: mpsc::Receiver<Work>,
    stop: CancellationToken,
) {
    let mut untold = Untold::default();
    loop {
        let first = tokio::select! {
            biased;
            () = stop.cancelled(), if !queue.is_closed() => {
                queue.close();
                continue;
            }
            work = queue.recv() => work,
        };
        let Some(first) = first else { return };
        let batch = Batch::gather(first, &mut queue);
        work_off(&engine, &memory, batch, &mut untold).await;
    }
}

/// What is committed together.
#[derive(Default)]
struct Batch {
    appends: Vec<Prepared>,
    answers: Vec<Answer>,
    restocked: Vec<oneshot::Sender<()>>,
    looked: Vec<oneshot::Sender<()>>,
    room: Vec<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Batch {
    fn gather(first: Work, queue: &mut mpsc::Receiver<Work>) -> Self {
        let mut batch = Self::default();
        batch.add(first);
        while batch.appends.len() < BATCH_APPENDS_MAX
            && batch.bytes < BATCH_BYTES_MAX
            && let Ok(work) = queue.try_recv()
        {
            batch.add(work);
        }
        batch
    }

    fn add(&mut self, work: Work) {
        match work {
            Work::Append(waiting) => {
                let Waiting {
                    append,
                    bytes,
                    answer,
                    place,
                    room,
                } = *waiting;
                drop(place);
                self.appends.push(append);
                self.answers.push(answer);
                self.room.push(room);
                self.bytes += bytes;
            }
            Work::Serials(restocked) => self.restocked.push(restocked),
            Work::Look(looked) => self.looked.push(looked),
        }
    }
}

/// Whether a batch has failed that may be committed all the same: nobody was told of it, so whatever
/// moves the head next is told to everybody.
#[derive(Default)]
struct Untold(bool);

impl Untold {
    const fn ring(&self, otherwise: Ring) -> Ring {
        match self.0 {
            true => Ring::Everybody,
            false => otherwise,
        }
    }
}

async fn work_off<E: Engine>(engine: &E, memory: &Memory, batch: Batch, untold: &mut Untold) {
    if batch.appends.is_empty() && batch.restocked.is_empty() {
        if look(engine, memory, untold).await {
            tell(batch.looked);
        }
        return;
    }
    let started = Instant::now();
    histogram!("ledger_batch_appends").record(batch.appends.len() as f64);
    let commit = engine.commit(&batch.appends, memory);
    let outcome = AssertUnwindSafe(commit)
        .catch_unwind()
        .await
        .unwrap_or(Err(StoreError::Panicked));
    match outcome {
        Ok(committed) => {
            histogram!("ledger_commit_seconds").record(started.elapsed());
            settle(memory, committed, batch.answers, untold);
            tell(batch.restocked);
            // A batch begins with the head as it is.
            tell(batch.looked);
        }
        Err(error) => {
            fail(memory, error, batch.answers);
            engine.distrust();
            untold.0 = true;
            // The failed batch may be committed all the same: what is stored says so. If that
            // cannot be read either, the next batch reads it, before it decides anything.
            if look(engine, memory, untold).await {
                tell(batch.looked);
            }
        }
    }
}

fn tell(waiting: Vec<oneshot::Sender<()>>) {
    for waits in waiting {
        // Who no longer waits needs no answer; so with every answer here.
        let _ = waits.send(());
    }
}

/// Shows a committed batch, then answers.
fn settle(memory: &Memory, committed: Committed, answers: Vec<Answer>, untold: &mut Untold) {
    if let Some(block) = committed.serials {
        memory.serials.add(block);
    }
    let ring = untold.ring(match committed.events.is_empty() {
        true => Ring::ThisNode,
        false => Ring::Everybody,
    });
    let Committed {
        head,
        subscription,
        events,
        ..
    } = committed;
    untold.0 &= !memory.publish(head, subscription, events, ring);
    let mut tally = Tally::default();
    for (answer, verdict) in answers.into_iter().zip(committed.verdicts) {
        tally.count(&verdict);
        let _ = answer.send(verdict);
    }
    tally.report();
}

fn fail(memory: &Memory, error: StoreError, answers: Vec<Answer>) {
    let tenant = memory.tenant;
    match error {
        StoreError::Frozen => {
            tracing::info!(%tenant, appends = answers.len(), "refused while the ledger is moved");
        }
        _ => {
            tracing::error!(%tenant, appends = answers.len(), error = &error as &dyn std::error::Error, "a batch failed; whether it is committed is unknown");
        }
    }
    counter!("ledger_appends_total", "outcome" => "unavailable").increment(answers.len() as u64);
    let error = Arc::new(error);
    for answer in answers {
        let source = Unavailable::because(WHAT, Arc::clone(&error));
        let _ = answer.send(Err(source.into()));
    }
}

/// Shows the head as it is stored; whether that could be read.
async fn look<E: Engine>(engine: &E, memory: &Memory, untold: &mut Untold) -> bool {
    let tenant = memory.tenant;
    match AssertUnwindSafe(engine.load(&memory.decoder))
        .catch_unwind()
        .await
    {
        Ok(Ok((head, subscription))) => {
            let ring = untold.ring(Ring::ThisNode);
            untold.0 &= !memory.publish(head, Arc::new(subscription), vec![], ring);
            true
        }
        Ok(Err(error)) => {
            tracing::error!(%tenant, error = &error as &dyn std::error::Error, "the head cannot be read");
            false
        }
        Err(_) => {
            tracing::error!(%tenant, "reading the head has panicked");
            false
        }
    }
}

/// Outcomes of a batch, so that each metric is touched once a batch.
#[derive(Default)]
struct Tally {
    committed: u64,
    replayed: u64,
    conflict: u64,
    not_admitted: u64,
    key_reused: u64,
}

impl Tally {
    const fn count(&mut self, verdict: &Result<Appended, AppendError>) {
        match verdict {
            Ok(Appended::Committed(_)) => self.committed += 1,
            Ok(Appended::Replayed(_)) => self.replayed += 1,
            Err(AppendError::VersionConflict) => self.conflict += 1,
            Err(AppendError::NotAdmitted(_)) => self.not_admitted += 1,
            Err(AppendError::KeyReused) => self.key_reused += 1,
            // Counted where they are made.
            Err(AppendError::Busy | AppendError::Unavailable(_)) => {}
        }
    }

    fn report(&self) {
        for (outcome, count) in [
            ("committed", self.committed),
            ("replayed", self.replayed),
            ("version_conflict", self.conflict),
            ("not_admitted", self.not_admitted),
            ("key_reused", self.key_reused),
        ] {
            if count > 0 {
                counter!("ledger_appends_total", "outcome" => outcome).increment(count);
            }
        }
    }
}
