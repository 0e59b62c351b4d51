//! How busy all cores of the machine are, whoever keeps them so.

use anyhow::Context;

/// What the cores have done so far, or meanwhile, in ticks.
#[derive(Clone, Copy)]
pub struct Cores {
    idle: u64,
    waiting: u64,
    all: u64,
}

impl Cores {
    /// Since the machine started.
    pub fn read() -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("no cores")?;
        // proc(5): user, nice, system, idle, iowait, irq, softirq, steal; the guests' are in the first.
        let ticks = line.split_whitespace().skip(1).take(8);
        let ticks = ticks.map(str::parse).collect::<Result<Vec<u64>, _>>()?;
        Ok(Self {
            idle: *ticks.get(3).context("idle")?,
            waiting: *ticks.get(4).context("iowait")?,
            all: ticks.iter().sum(),
        })
    }

    /// What was done after `before`.
    pub const fn since(self, before: Self) -> Self {
        Self {
            idle: self.idle - before.idle,
            // It may go back a little, says the kernel.
            waiting: self.waiting.saturating_sub(before.waiting),
            all: self.all - before.all,
        }
    }

    /// The share of their time in which they worked.
    pub fn busy(self) -> f64 {
        (self.all - self.idle - self.waiting) as f64 / self.all as f64
    }

    /// The share in which they had nothing to do but wait for a disk.
    pub fn waiting(self) -> f64 {
        self.waiting as f64 / self.all as f64
    }
}
