//! Where the service under load keeps its data: empty, and gone with the value.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use sqlx::{ConnectOptions, Connection, Row};
use tempfile::TempDir;

use crate::postgres::Cluster;

/// Which engine keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// SQLite files, synced at each commit.
    Embedded,
    /// A private PostgreSQL cluster, with its defaults: `fsync` and `synchronous_commit` are on.
    Postgres,
}

/// One service's data.
pub enum Store {
    Directory(TempDir),
    Database(String),
}

impl Store {
    /// An empty one, inside `within` if it is files.
    pub async fn empty(engine: Engine, within: Option<&Path>) -> anyhow::Result<Self> {
        if engine == Engine::Postgres {
            static MADE: AtomicU32 = AtomicU32::new(0);
            let name = format!("load_{}", MADE.fetch_add(1, Ordering::Relaxed));
            let mut cluster = Cluster::shared().options().connect().await?;
            sqlx::query(&format!("create database {name}"))
                .execute(&mut cluster)
                .await?;
            cluster.close().await?;
            return Ok(Self::Database(name));
        }
        Ok(Self::Directory(match within {
            Some(within) => TempDir::new_in(within)?,
            None => TempDir::new()?,
        }))
    }

    /// As the service's configuration names it.
    pub fn url(&self) -> String {
        match self {
            Self::Directory(directory) => format!("sqlite:{}", directory.path().display()),
            Self::Database(name) => Cluster::shared().url(name),
        }
    }

    /// What its server has done so far; nothing if it has none.
    pub async fn work(&self) -> anyhow::Result<Work> {
        let Self::Database(name) = self else {
            return Ok(Work::default());
        };
        let mut connection = Cluster::shared().options().connect().await?;
        let sql = "select xact_commit + xact_rollback from pg_stat_database where datname = $1";
        let row = sqlx::query(sql)
            .bind(name)
            .fetch_one(&mut connection)
            .await?;
        let transactions: i64 = row.try_get(0)?;
        let pids = "select pid from pg_stat_activity where pid <> pg_backend_pid()";
        let rows = sqlx::query(pids).fetch_all(&mut connection).await?;
        let mut cpu = Duration::ZERO;
        for row in rows {
            // One that has ended meanwhile is not counted.
            cpu += cpu_of(row.try_get::<i32, _>(0)?.try_into()?).unwrap_or_default();
        }
        connection.close().await?;
        Ok(Work {
            transactions: transactions.try_into()?,
            cpu,
        })
    }
}

/// What a database server has done.
#[derive(Clone, Copy, Default)]
pub struct Work {
    /// Transactions, each of which is one round trip here but for rare exceptions.
    pub transactions: u64,
    /// Processor time of its processes that are still there.
    pub cpu: Duration,
}

impl Work {
    /// What was done after `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            transactions: self.transactions.saturating_sub(before.transactions),
            cpu: self.cpu.saturating_sub(before.cpu),
        }
    }
}

/// The processor time that a process has used so far, in user and kernel mode.
pub fn cpu_of(pid: u32) -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/stat")))?;
    // proc(5): after the name in parentheses, utime and stime are the 12th and 13th field,
    // in ticks, of which Linux shows 100 a second.
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().context("no number"))
        .sum::<anyhow::Result<_>>()?;
    Ok(Duration::from_millis(ticks * 10))
}
