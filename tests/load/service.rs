//! The service under load: the release build as a child process on a store of its own.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::audit::Stopped;
use super::store::{Store, cpu_of};

pub const LANDLORD_KEY: &str = "landlord-key-of-the-load-command";

/// A running service; it ends, and its data goes, with this value.
pub struct Service {
    child: Child,
    address: String,
    started_in: Duration,
    binary: PathBuf,
    store: Arc<Store>,
}

impl Service {
    /// Starts `binary` on a store.
    pub fn start(binary: &Path, store: Store) -> anyhow::Result<Self> {
        Self::start_on(binary, Arc::new(store))
    }

    /// Another one on the same data, after this one was killed.
    pub fn killed_and_started(mut self) -> anyhow::Result<Self> {
        self.child.kill()?;
        self.child.wait()?;
        Self::start_on(&self.binary, Arc::clone(&self.store))
    }

    /// Stops it in order.
    pub fn stopped(mut self) -> anyhow::Result<Stopped> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM)?;
        self.child.wait()?;
        Ok(Stopped {
            binary: self.binary.clone(),
            store: Arc::clone(&self.store),
        })
    }

    /// Starts `binary` on a store that may have something in it.
    pub fn start_on(binary: &Path, store: Arc<Store>) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        Self::spawn_on(&mut command, store)
    }

    /// Starts `binary` on a store that others may have used, publishing to a broker, if any.
    pub fn start_publishing(
        binary: &Path,
        store: &Arc<Store>,
        broker: Option<&str>,
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(binary);
        command.args(["serve", "--listen", "127.0.0.1:0"]);
        command.envs(broker.map(|url| ("AMQP_URL", url)));
        Self::spawn_on(&mut command, Arc::clone(store))
    }

    /// Starts a service by this command, which is told the store and says where it listens.
    pub fn spawn(command: &mut Command, store: Store) -> anyhow::Result<Self> {
        Self::spawn_on(command, Arc::new(store))
    }

    fn spawn_on(command: &mut Command, store: Arc<Store>) -> anyhow::Result<Self> {
        let begun = Instant::now();
        let binary = PathBuf::from(command.get_program());
        let mut child = command
            .env("STORE", store.url())
            .env("LANDLORD_API_KEY", LANDLORD_KEY)
            .env(
                "RUST_LOG",
                std::env::var("RUST_LOG").unwrap_or("warn".to_owned()),
            )
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let output = BufReader::new(child.stdout.take().context("piped")?);
        for line in output.lines() {
            if let Some((_, address)) = line?.split_once("listening on http://") {
                return Ok(Self {
                    child,
                    address: address.trim().to_owned(),
                    started_in: begun.elapsed(),
                    binary,
                    store,
                });
            }
        }
        bail!("the service did not start")
    }

    /// The processor time that it has used so far, in user and kernel mode.
    pub fn cpu(&self) -> anyhow::Result<Duration> {
        cpu_of(self.child.id())
    }

    /// Where it keeps its data.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// How long it took until it listened.
    pub const fn started_in(&self) -> Duration {
        self.started_in
    }

    /// The memory that it has resident, in MiB.
    pub fn memory_mib(&self) -> anyhow::Result<u64> {
        self.mib("VmRSS:")
    }

    /// The most memory that it has had resident since its start or [`Self::forget_peak`], in MiB.
    pub fn peak_mib(&self) -> anyhow::Result<u64> {
        self.mib("VmHWM:")
    }

    /// From now on the peak is counted anew; the memory that it has resident, in MiB.
    pub fn forget_peak(&self) -> anyhow::Result<u64> {
        // proc(5): this resets the high water mark.
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5")?;
        self.memory_mib()
    }

    fn mib(&self, what: &'static str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let found = status.lines().find_map(|line| line.strip_prefix(what));
        let kib = found.and_then(|line| line.split_whitespace().next());
        Ok(kib.context(what)?.parse::<u64>()? / 1024)
    }

    /// Where it listens.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Makes the release build; its program.
pub fn build() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or("cargo".to_owned());
    let status = Command::new(cargo)
        .args(["build", "--release", "--bin", "digital-card"])
        .status()
        .context("cannot run cargo; name the program with --binary")?;
    ensure!(status.success(), "the release build failed");
    // This program is in target/PROFILE/examples.
    let this = std::env::current_exe()?;
    let target = this.ancestors().nth(3).context("not run by cargo")?;
    Ok(target.join("release/digital-card"))
}
