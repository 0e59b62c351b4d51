//! What it costs to keep tenants apart by a role each, and which way is the cheapest, over 1 to 1,000
//! schemas on eight connections: `cargo bench -p infrastructure --bench rooms`.
//!
//! An operation reads a tenant's head. The first way is the product's; the others are what it was
//! chosen from.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use application::ports::Random;
use domain::ids::TenantId;
use futures::future::join_all;
use infrastructure::clock::SystemRandom;
use infrastructure::shard::Shard;
use infrastructure::shard::schema::Schema;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Executor, PgConnection};

#[path = "../../tests/servers/postgres.rs"]
mod cluster;

const CONNECTIONS: usize = 8;
const TENANTS: [usize; 4] = [1, 10, 100, 1_000];
const MEASURED: Duration = Duration::from_secs(3);
const HEAD: &str = "select revision, position, hash, issued, active, suspended from";

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let options = cluster::Cluster::shared().shard();
        let most = TENANTS.into_iter().max().unwrap_or_default();
        let tenants: Vec<_> = (0..most)
            .map(|_| TenantId::new(SystemRandom.id()))
            .collect();
        for some in tenants.chunks(CONNECTIONS) {
            let made = some.iter().map(|tenant| async {
                Schema::of(*tenant).migrate(&options).await.expect("made");
            });
            join_all(made).await;
        }
        println!("| operations/s with so many tenants | {TENANTS:?} |");
        let ways = [
            Way::Room,
            Way::Names { kept: 4_096 },
            Way::Names { kept: 100 },
            Way::Path,
        ];
        for way in ways {
            let mut line = String::new();
            for count in TENANTS {
                let rate = measure(way, &options, &tenants[..count]).await;
                line.push_str(&format!(" {rate:.0} |"));
            }
            println!("| {way:?} |{line}");
        }
    });
}

/// How a connection comes to a tenant's tables.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// The tenant's role, names with the schema, tenants and connections matched.
    Room,
    /// No role, names with the schema, so many statements kept prepared.
    Names { kept: usize },
    /// The tenant's role and search path, one text for all tenants.
    Path,
}

async fn measure(way: Way, options: &PgConnectOptions, tenants: &[TenantId]) -> f64 {
    let options = options.clone().options([
        ("enable_seqscan", "off"),
        ("plan_cache_mode", "force_generic_plan"),
    ]);
    let patience = Duration::from_secs(30);
    let shard = Shard::new(options.clone(), CONNECTIONS, patience, patience);
    let next = AtomicUsize::new(0);
    let done = AtomicUsize::new(0);
    // Each way has prepared what it can before it is measured.
    for measured in [false, true] {
        done.store(0, Ordering::Relaxed);
        let until = Instant::now() + MEASURED;
        join_all((0..CONNECTIONS).map(|_| async {
            let mut own = Own::open(way, &options).await;
            while Instant::now() < until {
                let nth = next.fetch_add(1, Ordering::Relaxed);
                // Scattered, so that every connection comes to every tenant.
                let tenant = tenants[nth.wrapping_mul(7_919) % tenants.len()];
                match way {
                    Way::Room => in_room(&shard, tenant).await,
                    Way::Names { .. } | Way::Path => own.read(way, tenant).await,
                }
                done.fetch_add(1, Ordering::Relaxed);
            }
        }))
        .await;
        if measured {
            break;
        }
    }
    shard.close().await;
    done.load(Ordering::Relaxed) as f64 / MEASURED.as_secs_f64()
}

async fn in_room(shard: &Shard, tenant: TenantId) {
    let room = shard.room(tenant);
    let mut connection = room.connection().await.expect("a connection");
    let sql = format!("{HEAD} {}.head where id = 1", room.schema().name());
    let row = sqlx::query(&sql).fetch_one(connection.work()).await;
    connection.done(row).expect("a head");
}

/// A connection without a room.
struct Own {
    connection: PgConnection,
    entered: Option<TenantId>,
}

impl Own {
    async fn open(way: Way, options: &PgConnectOptions) -> Self {
        let options = match way {
            // A login that may read every schema.
            Way::Names { kept } => options
                .clone()
                .username("tests")
                .statement_cache_capacity(kept),
            Way::Room | Way::Path => options.clone(),
        };
        Self {
            connection: options.connect().await.expect("a connection"),
            entered: None,
        }
    }

    async fn read(&mut self, way: Way, tenant: TenantId) {
        let schema = Schema::of(tenant);
        let schema = schema.name();
        let sql = match way {
            Way::Path => format!("{HEAD} head where id = 1"),
            Way::Room | Way::Names { .. } => format!("{HEAD} {schema}.head where id = 1"),
        };
        if matches!(way, Way::Path) && self.entered != Some(tenant) {
            let enter = format!("set role {schema}; set search_path to {schema}");
            self.connection.execute(&*enter).await.expect("entered");
            self.entered = Some(tenant);
        }
        let row = sqlx::query(&sql).fetch_one(&mut self.connection).await;
        row.expect("a head");
    }
}
