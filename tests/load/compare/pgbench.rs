//! PostgreSQL's own `pgbench` on the same cluster: what the server can take if nothing stands
//! before it.

use std::io::Write;
use std::process::Command;

use anyhow::{Context, ensure};
use sqlx::{ConnectOptions, Connection, Executor};

use crate::postgres::Cluster;
use crate::store::{Engine, Store};

/// A table as a ledger's; what a `CardIssued` has in it is its defaults, because pgbench takes a
/// colon in a script for one of its variables.
const TABLE: &str = r#"create table events (
    position bigint generated always as identity primary key,
    aggregate_type text not null, aggregate_id text not null, sequence bigint not null,
    event_type text not null, event_version text not null,
    payload json not null default '{"CardIssued":{"number":"0688837074976345",
        "holder":{"name":"Margaret Ferreira","email":"margaret.23@example.com"},
        "external_ref":null,"tier":"standard","replaces":null,
        "at":"2026-11-24T00:02:12.907076Z"}}',
    metadata json not null default '{"actor":"01a20adc-32fd-748c-94f0-72fd702ca60b",
        "causation_id":"01a20adc-330b-72d6-b397-6eb5fcb41b35",
        "correlation_id":"01a20adc-330b-72d6-b397-6eb5fcb41b35",
        "request_id":"01a20adc-330b-72d6-b397-6eb5fcb41b35","role":"tenant_admin"}',
    recorded_at bigint not null default 1795478532907459,
    hash bytea not null default decode(repeat('5a', 32), 'hex')
);
create unique index events_stream on events (aggregate_id, aggregate_type, sequence)"#;

const INSERT: &str = "insert into events \
    (aggregate_type, aggregate_id, sequence, event_type, event_version) \
    select 'DigitalCard', cast(gen_random_uuid() as text), 1, 'CardIssued', '2.0.0' \
    from generate_series";

/// Events inserted a second by `clients` at once, `rows` of them in each statement, which is a
/// transaction.
pub async fn inserts_per_second(clients: usize, rows: usize, seconds: f64) -> anyhow::Result<f64> {
    let Store::Database(database) = Store::empty(Engine::Postgres, None).await? else {
        anyhow::bail!("a database was asked for");
    };
    let cluster = Cluster::shared();
    let mut connection = cluster.options().database(&database).connect().await?;
    connection.execute(TABLE).await?;
    connection.close().await?;
    let mut script = tempfile::NamedTempFile::new()?;
    writeln!(script, "{INSERT}(1, {rows});")?;
    let said = Command::new(cluster.program("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--username=tests"])
        .arg(format!("--client={clients}"))
        .arg(format!("--jobs={}", clients.min(4)))
        .arg(format!("--time={:.0}", seconds.max(1.0)))
        .arg(format!("--host={}", cluster.directory().display()))
        .arg(format!("--file={}", script.path().display()))
        .arg(&database)
        .output()
        .context("pgbench")?;
    let text = String::from_utf8_lossy(&said.stdout);
    let error = String::from_utf8_lossy(&said.stderr);
    let error = error.lines().next().unwrap_or_default();
    ensure!(said.status.success(), "{error}");
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.and_then(|tps| tps.split_whitespace().next());
    Ok(tps.context("pgbench gave no tps")?.parse::<f64>()? * rows as f64)
}
