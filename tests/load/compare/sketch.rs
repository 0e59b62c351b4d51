//! What this service on the embedded store is compared with: a bare sketch of its ledger, and bare
//! HTTP.
//!
//! The sketch is the least that does a batching ledger's work, as fast as is simple: what waits is
//! one transaction and one text of SQLite's, with chained hashes and a read model in it. No gate,
//! keys, quota, idempotency or subscribers. Bare HTTP reads and answers the same and stores
//! nothing.

use std::iter::repeat_n;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use application::ports::{Clock, Random};
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::routing::post;
use axum::serve::ListenerExt;
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use domain::chain::{Hash, Link};
use domain::ids::CardNumber;
use infrastructure::clock::{SystemClock, SystemRandom};
use serde::{Deserialize, Serialize};
use sqlx::query::Query;
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Executor, Sqlite};
use tokio::sync::{mpsc, oneshot};

/// How many cards are committed at a time, as our service has it.
const BATCH_MAX: usize = 512;
/// How many more may wait.
const WAITING_MAX: usize = 1024;
/// After how many pages the log is moved into the file, as our service has it.
const CHECKPOINT_PAGES: &str = "500";

/// The ledger's tables as our service has them; of the cards what a list of them shows.
const TABLES: &str = "
    create table events (
        position integer primary key, aggregate_type text not null, aggregate_id text not null,
        sequence bigint not null, event_type text not null, event_version text not null,
        payload text not null, metadata text not null, recorded_at bigint not null,
        hash blob not null
    );
    create unique index events_stream on events (aggregate_id, aggregate_type, sequence);
    create table head (
        id integer primary key check (id = 1), position bigint not null, hash blob not null
    );
    insert into head values (1, 0, zeroblob(32));
    create table cards (
        id text not null primary key, number text not null, status text not null,
        holder_name text not null, holder_email text, tier text not null,
        issued_at bigint not null, version bigint not null
    )";

const INSERT_EVENTS: &str = "insert into events select * from (values ";
const EVENT: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const EVENT_COLUMNS: usize = 10;
const INSERT_CARDS: &str = "insert into cards select * from (values ";
const CARD: &str = "(?, ?, ?, ?, ?, ?, ?, ?)";
const CARD_COLUMNS: usize = 8;
/// Places that are left over are bound to null and passed over.
const PRESENT: &str = ") where column1 is not null; ";
/// A head that is elsewhere makes this fail: its position may not be null.
const MOVE_HEAD: &str =
    "update head set position = case when position = ? then ? end, hash = ? where id = 1; commit";

const KIND: &str = "DigitalCard";
const TYPE: &str = "CardIssued";
const VERSION: &str = "2.0.0";
const STATUS: &str = "issued";
const TIER: &str = "standard";
const ACTOR: &str = "01a20adc-32fd-748c-94f0-72fd702ca60b";

type Bound<'q> = Query<'q, Sqlite, SqliteArguments<'q>>;

#[derive(Deserialize)]
struct IssueBody {
    holder: Holder,
}

#[derive(Serialize, Deserialize)]
struct Holder {
    name: String,
    email: Option<String>,
}

/// As our service answers.
#[derive(Serialize)]
struct CardBody<'a> {
    id: &'a str,
    number: &'a str,
    status: &'static str,
    holder: &'a Holder,
    external_ref: Option<&'a str>,
    tier: &'static str,
    issued_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    replaces: Option<&'a str>,
    replaced_by: Option<&'a str>,
    version: u64,
}

/// As our service stores it.
#[derive(Serialize)]
enum Event<'a> {
    CardIssued {
        number: &'a str,
        holder: &'a Holder,
        tier: &'static str,
        at: DateTime<Utc>,
    },
}

#[derive(Serialize)]
struct Metadata<'a> {
    actor: &'static str,
    role: &'static str,
    request_id: &'a str,
    correlation_id: &'a str,
    causation_id: &'a str,
}

/// A card that waits for the writer.
struct Waiting {
    id: String,
    number: String,
    holder: Holder,
    at: DateTime<Utc>,
    payload: String,
    metadata: String,
    committed: oneshot::Sender<()>,
}

struct Sketch {
    serial: AtomicU64,
    /// None if nothing is stored.
    writer: Option<mpsc::Sender<Waiting>>,
}

/// Serves on an empty directory until the process ends; bare HTTP if there is none.
pub async fn serve(store: Option<&str>) -> anyhow::Result<()> {
    let mut sketch = Sketch {
        serial: AtomicU64::new(1),
        writer: None,
    };
    if let Some(store) = store {
        let directory = store.strip_prefix("sqlite:").context("not a directory")?;
        let connection = open(Path::new(directory)).await?;
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        sketch.writer = Some(sender);
        tokio::spawn(async move {
            if let Err(error) = write(connection, waiting).await {
                eprintln!("the sketch's writer has stopped: {error:#}");
            }
        });
    }
    let routes = Router::new()
        .route("/v1/cards", post(issue))
        .with_state(Arc::new(sketch));
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    let listener = tokio::net::TcpListener::bind(any).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let listener = listener.tap_io(|stream| {
        // Without it the answers are the same, later.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, routes).await.context("serving")
}

type Answer = (StatusCode, [(HeaderName, &'static str); 1], Vec<u8>);

/// All that can be done outside the writer is done here, on either side of it.
async fn issue(
    State(sketch): State<Arc<Sketch>>,
    Json(IssueBody { holder }): Json<IssueBody>,
) -> Result<Answer, StatusCode> {
    let id = SystemRandom.id().to_string();
    let serial = sketch.serial.fetch_add(1, Ordering::Relaxed);
    let number = String::from(CardNumber::from_serial(serial));
    let at = SystemClock.now();
    let body = serde_json::to_vec(&CardBody {
        id: &id,
        number: &number,
        status: STATUS,
        holder: &holder,
        external_ref: None,
        tier: TIER,
        issued_at: at,
        expires_at: None,
        replaces: None,
        replaced_by: None,
        version: 1,
    });
    if let Some(writer) = &sketch.writer {
        let (committed, commit) = oneshot::channel();
        let waiting = Waiting {
            payload: payload(&number, &holder, at).map_err(failed)?,
            metadata: metadata().map_err(failed)?,
            id,
            number,
            holder,
            at,
            committed,
        };
        writer.send(waiting).await.map_err(failed)?;
        commit.await.map_err(failed)?;
    }
    let json = [(CONTENT_TYPE, "application/json")];
    Ok((StatusCode::CREATED, json, body.map_err(failed)?))
}

fn failed<E>(_: E) -> StatusCode {
    StatusCode::INTERNAL_SERVER_ERROR
}

fn payload(number: &str, holder: &Holder, at: DateTime<Utc>) -> serde_json::Result<String> {
    serde_json::to_string(&Event::CardIssued {
        number,
        holder,
        tier: TIER,
        at,
    })
}

fn metadata() -> serde_json::Result<String> {
    let request = SystemRandom.id().to_string();
    serde_json::to_string(&Metadata {
        actor: ACTOR,
        role: "tenant_admin",
        request_id: &request,
        correlation_id: &request,
        causation_id: &request,
    })
}

async fn open(directory: &Path) -> anyhow::Result<SqliteConnection> {
    let mut connection = SqliteConnectOptions::new()
        .filename(directory.join("sketch.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("wal_autocheckpoint", CHECKPOINT_PAGES)
        .disable_statement_logging()
        .connect()
        .await?;
    connection.execute(TABLES).await?;
    Ok(connection)
}

/// Commits what waits, again and again: one text a transaction, which is one hand-over to SQLite's
/// thread.
async fn write(
    mut connection: SqliteConnection,
    mut waiting: mpsc::Receiver<Waiting>,
) -> anyhow::Result<()> {
    let texts = texts();
    let mut head = (0, Hash::GENESIS);
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while waiting.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let text = &texts[batch.len().next_power_of_two().ilog2() as usize];
        let (query, answers) = bind(sqlx::query(text), &mut head, &mut batch)?;
        query.execute(&mut connection).await?;
        for answer in answers {
            // Who no longer waits needs no answer.
            let _ = answer.send(());
        }
    }
    Ok(())
}

/// The texts for 1, 2, 4 … cards, few enough to be kept prepared.
fn texts() -> Vec<String> {
    let text = |rows: usize| {
        let (events, cards) = (vec![EVENT; rows].join(","), vec![CARD; rows].join(","));
        format!(
            "begin immediate; {INSERT_EVENTS}{events}{PRESENT}\
             {INSERT_CARDS}{cards}{PRESENT}{MOVE_HEAD}"
        )
    };
    (0..=BATCH_MAX.ilog2())
        .map(|power| text(1 << power))
        .collect()
}

/// Empties the batch into the query, and chains it to the head, which moves; who waits for it.
fn bind<'q>(
    mut query: Bound<'q>,
    head: &mut (u64, Hash),
    batch: &mut Vec<Waiting>,
) -> anyhow::Result<(Bound<'q>, Vec<oneshot::Sender<()>>)> {
    let rows = batch.len();
    let left_over = rows.next_power_of_two() - rows;
    let before = head.0;
    let recorded_at = SystemClock.now().timestamp_micros();
    let mut cards = Vec::with_capacity(rows);
    let mut answers = Vec::with_capacity(rows);
    for waiting in batch.drain(..) {
        let position = head.0 + 1;
        let link = Link {
            position,
            aggregate_type: KIND,
            aggregate_id: &waiting.id,
            sequence: 1,
            event_type: TYPE,
            event_version: VERSION,
            payload: &waiting.payload,
            metadata: &waiting.metadata,
            recorded_at_micros: recorded_at,
        };
        *head = (position, link.hash(&head.1));
        query = query
            .bind(i64::try_from(position)?)
            .bind(KIND)
            .bind(waiting.id.clone())
            .bind(1_i64)
            .bind(TYPE)
            .bind(VERSION)
            .bind(waiting.payload)
            .bind(waiting.metadata)
            .bind(recorded_at)
            .bind(head.1.as_bytes().to_vec());
        cards.push((waiting.id, waiting.number, waiting.holder, waiting.at));
        answers.push(waiting.committed);
    }
    query = bind_nulls(query, left_over * EVENT_COLUMNS);
    for (id, number, holder, at) in cards {
        query = query
            .bind(id)
            .bind(number)
            .bind(STATUS)
            .bind(holder.name)
            .bind(holder.email)
            .bind(TIER)
            .bind(at.timestamp_micros())
            .bind(1_i64);
    }
    let query = bind_nulls(query, left_over * CARD_COLUMNS)
        .bind(i64::try_from(before)?)
        .bind(i64::try_from(head.0)?)
        .bind(head.1.as_bytes().to_vec());
    Ok((query, answers))
}

fn bind_nulls(query: Bound<'_>, count: usize) -> Bound<'_> {
    repeat_n(None::<i64>, count).fold(query, Bound::bind)
}
