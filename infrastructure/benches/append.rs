//! What a batched append costs beside a bare multi-row insert of the same rows: `cargo bench -p
//! infrastructure --bench append`. The target is a ratio of at most 2.
//!
//! Both commit with `synchronous=FULL` on the same kind of file; 64 issuances a batch.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use application::doorbell::Doorbell;
use application::ports::{
    Append, Clock, HistoryFilter, IdempotencyRecord, Ledger, Random, StoredEvent, StreamAppend,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use domain::card::{CardEvent, Holder};
use domain::catalogue::Catalogue;
use domain::event::{AggregateKind, Event};
use domain::ids::{CardId, CardNumber, TenantId};
use domain::subscription::{Attribution, SubscriptionEvent};
use domain::text::{Email, HolderName, Tier};
use futures::future::join_all;
use infrastructure::clock::{SystemClock, SystemRandom};
use infrastructure::database::{Database, begin};
use infrastructure::ledger::sqlite::{MIGRATOR, SqliteLedger};
use tempfile::TempDir;
use tokio::runtime::Builder;

const BATCH: usize = 64;
const METADATA: &str = r#"{"actor":"0199a0a8-7c5e-7d11-8f4e-0d8a8c8f1f11","causation_id":"0199a0a8-7c5e-7d11-8f4e-0d8a8c8f1f12","correlation_id":"0199a0a8-7c5e-7d11-8f4e-0d8a8c8f1f12","request_id":"0199a0a8-7c5e-7d11-8f4e-0d8a8c8f1f12","role":"tenant_admin"}"#;

fn issue(serial: u64, keyed: bool) -> Append {
    let at = SystemClock.now();
    let id = CardId::new(SystemRandom.id()).to_string();
    let event = CardEvent::CardIssued {
        number: CardNumber::from_serial(serial),
        holder: Holder {
            name: HolderName::try_from("Ada Lovelace".to_owned()).expect("a name"),
            email: Some(Email::try_from("ada@example.com".to_owned()).expect("an address")),
        },
        external_ref: None,
        tier: Tier::default(),
        expires_at: None,
        replaces: None,
        at,
    };
    let record = || IdempotencyRecord {
        key: format!("0199a0a8-7c5e-7d11-8f4e-0d8a8c8f1f11:{}", SystemRandom.id()),
        fingerprint: SystemRandom.secret(),
        outcome: format!("{{\"value\":{{\"id\":\"{id}\"}},\"version\":1}}"),
    };
    Append {
        idempotency: keyed.then(record),
        streams: vec![StreamAppend {
            kind: AggregateKind::Card,
            id,
            expected: 0,
            events: vec![Event::Card(event)],
            metadata: METADATA.to_owned(),
        }],
    }
}

async fn open(directory: &TempDir, name: &str) -> Arc<Database> {
    let path = directory.path().join(name);
    Arc::new(Database::open(&path, &MIGRATOR).await.expect("a database"))
}

async fn ledger(directory: &TempDir, name: &str) -> SqliteLedger {
    let tenant = TenantId::new(SystemRandom.id());
    let database = open(directory, name).await;
    let ledger = SqliteLedger::open(
        tenant,
        database,
        Arc::new(SystemClock),
        Doorbell::default(),
        2_048,
    )
    .await
    .expect("a ledger");
    let plan = Catalogue::standard().plan("pro").expect("a plan").clone();
    let at = SystemClock.now();
    let started = SubscriptionEvent::SubscriptionStarted {
        plan,
        attribution: Attribution::default(),
        at,
    };
    let start = Append {
        streams: vec![StreamAppend {
            kind: AggregateKind::Subscription,
            id: tenant.to_string(),
            expected: 0,
            events: vec![Event::Subscription(started)],
            metadata: METADATA.to_owned(),
        }],
        idempotency: None,
    };
    ledger.append(start).await.expect("started");
    ledger
}

/// The same rows into a table with the same columns and no index but the position's.
async fn bare_insert(database: &Database, rows: &[StoredEvent], first: i64) {
    let values = vec!["(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"; rows.len()].join(", ");
    let text = format!("insert into bare values {values}");
    let mut query = sqlx::query(&text);
    for (position, row) in (first..).zip(rows) {
        query = query
            .bind(position)
            .bind(&row.aggregate_type)
            .bind(&row.aggregate_id)
            .bind(1_i64)
            .bind(&row.event_type)
            .bind(&row.event_version)
            .bind(&row.payload)
            .bind(&row.metadata)
            .bind(row.recorded_at.timestamp_micros())
            .bind(row.hash.as_bytes().as_slice());
    }
    let mut writer = database.writer().await.expect("the writer");
    let mut transaction = begin(&mut writer).await.expect("begun");
    query.execute(&mut *transaction).await.expect("inserted");
    transaction.commit().await.expect("committed");
}

async fn time_appends(ledger: &SqliteLedger, batches: u64, keyed: bool) -> Duration {
    let mut spent = Duration::ZERO;
    for batch in 0..batches {
        let appends: Vec<_> = (0..BATCH as u64)
            .map(|nth| issue(batch * BATCH as u64 + nth, keyed))
            .collect();
        let start = Instant::now();
        let answers = join_all(appends.into_iter().map(|it| ledger.append(it))).await;
        spent += start.elapsed();
        for answer in answers {
            black_box(answer.expect("committed"));
        }
    }
    spent
}

fn append(criterion: &mut Criterion) {
    // One thread, so that all appends are queued before the writer's task runs: one batch.
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let directory = tempfile::tempdir().expect("a directory");
    let mut group = criterion.benchmark_group("64 issuances");
    group.throughput(Throughput::Elements(BATCH as u64));

    let keyless = runtime.block_on(ledger(&directory, "keyless.db"));
    group.bench_function("append", |bencher| {
        bencher
            .to_async(&runtime)
            .iter_custom(|batches| time_appends(&keyless, batches, false));
    });
    let keyed = runtime.block_on(ledger(&directory, "keyed.db"));
    group.bench_function("append with idempotency keys", |bencher| {
        bencher
            .to_async(&runtime)
            .iter_custom(|batches| time_appends(&keyed, batches, true));
    });

    let filter = HistoryFilter {
        after: 1,
        ..HistoryFilter::default()
    };
    let rows = runtime
        .block_on(keyless.history(&filter, BATCH))
        .expect("the rows");
    let bare = runtime.block_on(open(&directory, "bare.db"));
    runtime.block_on(async {
        let mut writer = bare.writer().await.expect("the writer");
        sqlx::query(
            "create table bare (position integer primary key, aggregate_type text, \
             aggregate_id text, sequence bigint, event_type text, event_version text, \
             payload text, metadata text, recorded_at bigint, hash blob)",
        )
        .execute(&mut *writer)
        .await
        .expect("a table");
    });
    let mut position = 1;
    group.bench_function("bare insert", |bencher| {
        bencher.iter_custom(|batches| {
            let start = Instant::now();
            for _ in 0..batches {
                runtime.block_on(bare_insert(&bare, &rows, position));
                position += BATCH as i64;
            }
            start.elapsed()
        });
    });
    group.finish();
}

criterion_group!(benches, append);
criterion_main!(benches);
