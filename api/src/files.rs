//! How many files the process may have open: connections and embedded stores each need some.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::{Limits, Store};

/// What an open embedded store needs at most: 3 for the connection that writes, and for each of 4
/// that read.
const FILES_A_STORE: u64 = 15;
/// What the process needs besides.
const FILES_BESIDES: u64 = 128;

/// Raises the limit as far as the system lets a process do itself, and warns if that is fewer than
/// the configured connections and stores may need.
pub fn raise_limit(store: &Store, limits: &Limits) {
    let needed = needed(store, limits);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let raised = setrlimit(Resource::RLIMIT_NOFILE, soft.max(hard.min(needed)), hard);
    let allowed = match raised {
        Ok(()) => soft.max(hard.min(needed)),
        Err(_) => soft,
    };
    if allowed < needed {
        tracing::warn!(
            allowed,
            needed,
            "fewer files may be open than CONNECTIONS_MAX and OPEN_TENANTS_MAX may need: raise the limit (ulimit -n), or lower these"
        );
    }
}

fn needed(store: &Store, limits: &Limits) -> u64 {
    let connections = limits.connections_max as u64;
    let stores = match store {
        Store::Sqlite(_) => limits.open_files_max() as u64 * FILES_A_STORE,
        Store::Postgres(_) => u64::from(limits.shard_connections_max),
    };
    FILES_BESIDES + connections + stores
}
