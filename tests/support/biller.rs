//! A biller's program and file, as the tests run it, and what its reports say.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};

use chrono::Days;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

use super::service::command;
use super::{Service, now};

/// A biller with a file of its own.
pub struct Biller {
    address: String,
    directory: TempDir,
}

impl Biller {
    /// Of the broker at this address.
    pub fn of(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            directory: tempfile::tempdir().expect("a directory"),
        }
    }

    /// What it keeps messages in.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("billing.db")
    }

    /// `billing-report` about yesterday and today, as CSV.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = about_today(&self.file(), arguments);
        command
            .env("AMQP_URL", &self.address)
            .env("BILLING_IDLE_S", "0.3");
        command
    }

    /// What it says, when it has ended.
    pub fn report(&self, arguments: &[&str]) -> Report {
        Report::of(self.command(arguments))
    }

    /// How many messages it has kept.
    pub async fn kept(&self) -> usize {
        let file = SqliteConnectOptions::new().filename(self.file());
        let Ok(mut books) = file.read_only(true).connect().await else {
            return 0;
        };
        let count = sqlx::query_scalar::<_, i64>("select count(*) from received");
        let count = count.fetch_one(&mut books).await.unwrap_or(0);
        books.close().await.expect("closed");
        count.try_into().expect("a count")
    }
}

/// `billing-report` about yesterday and today, as CSV, with this file.
pub fn about_today(file: &Path, arguments: &[&str]) -> Command {
    let today = now().date_naive();
    let (from, to) = (today - Days::new(1), today + Days::new(1));
    let mut command = command();
    command
        .args(["billing-report", "--csv", "--from", &from.to_string()])
        .args(["--to", &to.to_string(), "--file"])
        .arg(file)
        .args(arguments);
    command
}

/// What a report said.
pub struct Report {
    done: bool,
    /// On standard output.
    pub lines: String,
    /// On standard error.
    pub notes: String,
}

impl Report {
    /// What this command says, when it has ended.
    pub fn of(mut command: Command) -> Self {
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().expect("the binary starts");
        Self {
            done: status.success(),
            lines: String::from_utf8(stdout).expect("UTF-8"),
            notes: String::from_utf8(stderr).expect("UTF-8"),
        }
    }

    /// The same, if nothing is in doubt.
    #[track_caller]
    pub fn done(self) -> Self {
        assert!(self.done, "{}\n{}", self.lines, self.notes);
        self
    }

    /// The same, if it ended with an error and said why.
    #[track_caller]
    pub fn in_doubt(self, why: &str) -> Self {
        assert!(!self.done, "{}\n{}", self.lines, self.notes);
        assert!(self.notes.contains(why), "{}", self.notes);
        self
    }

    /// How much of something a tenant is billed, and whether that is sure.
    pub fn quantity(&self, tenant: &str, charge: &str) -> (usize, bool) {
        let mut reader = csv::Reader::from_reader(self.lines.as_bytes());
        let rows = reader.records().map(|row| row.expect("a row"));
        let mut rows = rows.filter(|row| &row[0] == tenant && &row[3] == charge);
        match rows.next() {
            Some(row) => (row[6].parse().expect("a number"), &row[7] == "true"),
            None => (0, true),
        }
    }
}

/// Tells a biller that follows to stop, and waits until it has.
pub fn terminate(mut following: Child) {
    let pid = Pid::from_raw(following.id().cast_signed());
    signal::kill(pid, Signal::SIGTERM).expect("signalled");
    assert!(following.wait().expect("ended").success());
}

/// The same report, counted from the ledgers of a service that has stopped.
pub fn recount(service: &Service) -> Report {
    let nowhere = Path::new("/nowhere/billing.db");
    let mut command = about_today(nowhere, &["--from-ledgers"]);
    command.env("STORE", service.store().url());
    Report::of(command).done()
}
