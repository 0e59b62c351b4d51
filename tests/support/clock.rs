//! A node's wall clock that a test sets: a small library that the node preloads, compiled with the
//! C compiler that the build needs anyway. The service knows nothing of it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::Options;

/// A wall clock that runs with the machine's, so many seconds apart.
pub struct WallClock {
    directory: TempDir,
}

impl WallClock {
    /// One that shows the machine's time.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/servers/clock.c");
        let compiled = Command::new("cc")
            .args(["-O2", "-Wall", "-Werror", "-shared", "-fPIC", source, "-o"])
            .arg(directory.path().join("clock.so"))
            .status();
        assert!(compiled.expect("cc, a C compiler").success());
        let clock = Self { directory };
        clock.set_apart(0);
        clock
    }

    /// From now on it is so many seconds ahead of the machine's; behind it, if negative.
    pub fn set_apart(&self, seconds: i64) {
        // In one step: the process reads it at any time.
        let new = self.directory.path().join("new");
        fs::write(&new, seconds.to_string()).expect("written");
        fs::rename(new, self.offset()).expect("renamed");
    }

    /// A process that goes by it.
    pub fn of(&self, options: Options) -> Options {
        let library = self.directory.path().join("clock.so");
        options
            .with("LD_PRELOAD", library.display())
            .with("CLOCK_OFFSET_FILE", self.offset().display())
    }

    fn offset(&self) -> PathBuf {
        self.directory.path().join("offset")
    }
}
