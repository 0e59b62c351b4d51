//! What it costs that tenants share connections, beside the other ways to do it: `cargo bench -p
//! infrastructure --bench rooms`. It prints, for appends and for reads of one aggregate, how many a
//! second there are, what one costs the server's process in processor time, and how much memory of
//! its own that process has in the end.
//!
//! Eight tasks ask without a pause. In the first column each asks for one schema all the time; in the
//! others each asks for all of them in turn, and the rate is a multiple of the first. Commits are
//! not waited for: the disk would hide the difference.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use application::ports::Random;
use domain::ids::TenantId;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use infrastructure::clock::SystemRandom;
use infrastructure::shard::Shard;
use infrastructure::shard::schema::Schema;
use sqlx::postgres::PgRow;
use sqlx::{ConnectOptions, Executor, PgConnection, Row};

use self::Way::*;
use self::cluster::Cluster;

#[path = "../../tests/servers/postgres.rs"]
mod cluster;

const TASKS: usize = 8;
const SCHEMAS_MAX: usize = 1_000;
const MEASURED: Duration = Duration::from_secs(4);
const A_WHILE: Duration = Duration::from_secs(60);

/// How a connection comes to a tenant's tables.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    /// Names are qualified; as many statements are kept as sqlx keeps by default.
    DefaultCache,
    /// The same, with room for all of them.
    LargeCache,
    /// Names are qualified, and nothing is kept.
    Unprepared,
    /// The search path is set; the texts are the same for all.
    Path,
    /// The same, under the tenant's role.
    PathAndRole,
    /// The tenant's role and qualified names, as the service has it.
    Rooms,
}

const WAYS: [(Way, &str); 6] = [
    (DefaultCache, "qualified, 100 statements kept"),
    (LargeCache, "qualified, all statements kept"),
    (Unprepared, "qualified, no statement kept"),
    (Path, "search path"),
    (PathAndRole, "search path and role"),
    (Rooms, "rooms"),
];

/// The statements of one schema.
struct Texts {
    before: String,
    store: String,
    load: String,
}

impl Texts {
    /// Like those of the ledger, with less to bind.
    fn of(prefix: &str) -> Self {
        Self {
            before: format!(
                "select revision, position, hash, issued, active, suspended, revoked, expired, \
                 replaced, array(select json_build_array(key, encode(fingerprint, 'hex'), outcome, \
                 position) from {prefix}idempotency where key = any($1)), \
                 array(select json_build_array(aggregate_id, aggregate_type, max(sequence)) \
                 from {prefix}events where aggregate_id = any($1) \
                 group by aggregate_id, aggregate_type) from {prefix}head where id = 1"
            ),
            store: format!(
                "with moved as (update {prefix}head set revision = revision + 1, \
                 position = position + 1, hash = $2, issued = issued + 1 \
                 where id = 1 and revision = $1 returning position), \
                 happened as (insert into {prefix}events select moved.position, 'DigitalCard', id, \
                 1, 'CardIssued', '1.0', '{{}}', '{{}}', 0, $2 from moved, unnest($3::text[]) id), \
                 answered as (insert into {prefix}idempotency select id, $2, '', moved.position, 0 \
                 from moved, unnest($3::text[]) id) select count(*) = 1 from moved"
            ),
            load: format!(
                "select sequence, event_type, event_version, payload, metadata from {prefix}events \
                 where aggregate_id = $1 and aggregate_type = $2 order by sequence"
            ),
        }
    }
}

#[derive(Clone, Copy)]
enum Work {
    Append,
    Read,
}

impl Work {
    /// Does it once; an append may come too late, and is not tried again.
    async fn run(self, connection: &mut PgConnection, texts: &Texts, keep: bool) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed).to_string();
        let ids = [id.as_str()];
        match self {
            Self::Append => {
                let before: PgRow = sqlx::query(&texts.before)
                    .bind(ids.as_slice())
                    .persistent(keep)
                    .fetch_one(&mut *connection)
                    .await
                    .expect("the head");
                let stored = sqlx::query(&texts.store)
                    .bind(before.get::<i64, _>(0))
                    .bind([0_u8; 32].as_slice())
                    .bind(ids.as_slice())
                    .persistent(keep);
                stored.fetch_one(connection).await.expect("stored");
            }
            Self::Read => {
                let loaded = sqlx::query(&texts.load)
                    .bind(&id)
                    .bind("DigitalCard")
                    .persistent(keep);
                loaded.fetch_all(connection).await.expect("loaded");
            }
        }
    }
}

/// The tenants of the cluster, all with the same tables.
struct Tenants {
    ids: Vec<TenantId>,
    names: Vec<String>,
    qualified: Vec<Texts>,
    unqualified: Texts,
}

impl Tenants {
    async fn make(cluster: &Cluster) -> Self {
        let random = || TenantId::new(SystemRandom.id());
        let ids: Vec<_> = std::iter::repeat_with(random).take(SCHEMAS_MAX).collect();
        let options = cluster.shard();
        let migrations = stream::iter(&ids).map(|id| {
            let (schema, options) = (Schema::of(*id), &options);
            async move { schema.migrate(options).await.expect("a schema") }
        });
        migrations.buffer_unordered(TASKS).collect::<()>().await;
        let names: Vec<_> = ids
            .iter()
            .map(|id| Schema::of(*id).name().to_owned())
            .collect();
        Self {
            qualified: names
                .iter()
                .map(|name| Texts::of(&format!("{name}.")))
                .collect(),
            unqualified: Texts::of(""),
            names,
            ids,
        }
    }
}

/// What a task gets its connection from.
enum Source {
    Shard(Shard),
    /// Its own, and the tenant that it was last used for.
    Own(PgConnection, Option<usize>),
}

impl Source {
    async fn ask(&mut self, tenants: &Tenants, (way, work): (Way, Work), nth: usize) {
        let qualified = &tenants.qualified[nth];
        let (connection, last) = match self {
            Self::Shard(shard) => {
                let room = shard.room(tenants.ids[nth]);
                let mut connection = room.connection().await.expect("a connection");
                work.run(connection.work(), qualified, true).await;
                return connection.rest();
            }
            Self::Own(connection, last) => (connection, last),
        };
        let name = &tenants.names[nth];
        let (enter, texts) = match way {
            Path => (format!("set search_path to {name}"), &tenants.unqualified),
            PathAndRole => (
                format!("set role {name}; set search_path to {name}"),
                &tenants.unqualified,
            ),
            DefaultCache | LargeCache | Unprepared | Rooms => (String::new(), qualified),
        };
        if *last != Some(nth) && !enter.is_empty() {
            connection.execute(&*enter).await.expect("entered");
        }
        *last = Some(nth);
        work.run(connection, texts, way != Unprepared).await;
    }
}

/// Lets every task ask for `schemas` in turn, or all the time for one that is its own, as long as
/// `goes_on` says; how often they have.
async fn ask(
    tenants: &Arc<Tenants>,
    how: (Way, Work),
    schemas: Option<usize>,
    sources: Vec<Source>,
    goes_on: impl Fn(usize) -> bool + Copy + Send + 'static,
) -> (Vec<Source>, usize) {
    let tasks = sources.into_iter().enumerate().map(|(task, mut source)| {
        let tenants = Arc::clone(tenants);
        tokio::spawn(async move {
            let mut done = 0;
            while goes_on(done) {
                // Each begins elsewhere, so that they are seldom at the same one.
                let nth = schemas.map_or(task, |all| (done + task * all / TASKS) % all);
                source.ask(&tenants, how, nth).await;
                done += 1;
            }
            (source, done)
        })
    });
    let came = join_all(tasks).await.into_iter();
    let (sources, done): (_, Vec<_>) = came.map(|task| task.expect("no panic")).unzip();
    (sources, done.into_iter().sum())
}

/// Processor time in microseconds, and memory in MiB that is not shared, of server processes.
fn spent(processes: &[i32]) -> (f64, f64) {
    let read = |process: &i32, file| fs::read_to_string(format!("/proc/{process}/{file}"));
    let number = |text: Option<&str>| text.and_then(|it| it.parse().ok()).unwrap_or(0.0);
    let time = |process| {
        let said = read(process, "schedstat").unwrap_or_default();
        number(said.split_whitespace().next()) / 1_000.0
    };
    let memory = |process| {
        let said = read(process, "smaps_rollup").unwrap_or_default();
        let dirty = said.lines().find(|it| it.starts_with("Private_Dirty:"));
        number(dirty.and_then(|it| it.split_whitespace().nth(1))) / 1_024.0
    };
    let processes = || processes.iter();
    (processes().map(time).sum(), processes().map(memory).sum())
}

/// How many a second there are, and what one costs.
async fn measure(
    cluster: &Cluster,
    tenants: &Arc<Tenants>,
    (way, work): (Way, Work),
    schemas: Option<usize>,
) -> (f64, String) {
    let application = format!("measured-{}", SystemRandom.id());
    // Without a role, only a superuser may read all schemas.
    let options = match way {
        PathAndRole | Rooms => cluster.shard(),
        DefaultCache | LargeCache | Unprepared | Path => cluster.options(),
    };
    let kept = if way == LargeCache { 10_000 } else { 100 };
    let options = options
        .options([("synchronous_commit", "off")])
        .application_name(&application)
        .statement_cache_capacity(kept);
    let shard = Shard::new(options.clone(), TASKS, A_WHILE, A_WHILE);
    let mut sources = Vec::new();
    for _ in 0..TASKS {
        sources.push(match way {
            Rooms => Source::Shard(shard.clone()),
            _ => Source::Own(options.connect().await.expect("a connection"), None),
        });
    }
    // A statement is planned for its values some five times before it is planned for all.
    let rounds = 8 * schemas.unwrap_or(1);
    let warm = ask(tenants, (way, work), schemas, sources, move |done| {
        done < rounds
    });
    let (sources, _) = warm.await;
    let mut outside = cluster.options().connect().await.expect("a connection");
    let processes = "select pid from pg_stat_activity where application_name = $1";
    let processes: Vec<i32> = sqlx::query_scalar(processes)
        .bind(&application)
        .fetch_all(&mut outside)
        .await
        .expect("the activity");
    let (before, _) = spent(&processes);
    let start = Instant::now();
    let measured = move |_| start.elapsed() < MEASURED;
    let (_sources, done) = ask(tenants, (way, work), schemas, sources, measured).await;
    let rate = done as f64 / start.elapsed().as_secs_f64();
    let (after, memory) = spent(&processes);
    let each = (after - before) / done as f64;
    let memory = memory / processes.len() as f64;
    (rate, format!("{each:.0} µs, {memory:.0} MiB"))
}

#[tokio::main]
async fn main() {
    let cluster = Cluster::shared();
    let tenants = Arc::new(Tenants::make(cluster).await);
    for (title, work) in [("appends/s", Work::Append), ("reads/s", Work::Read)] {
        println!("| {title} | one each | 10 in turn | 100 | 1,000 |");
        println!("| --- | --- | --- | --- | --- |");
        for (way, name) in WAYS {
            let (alone, cost) = measure(cluster, &tenants, (way, work), None).await;
            print!("| {name} | {alone:.0} ({cost})");
            for schemas in [10, 100, SCHEMAS_MAX] {
                let (rate, cost) = measure(cluster, &tenants, (way, work), Some(schemas)).await;
                print!(" | {:.2} ({cost})", rate / alone);
            }
            println!(" |");
        }
        println!();
    }
}
