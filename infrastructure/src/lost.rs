//! Connections to PostgreSQL that turn out to be lost when they are used: what only reads is read
//! again on another one, so that nobody hears of a server that was started again meanwhile.

use std::future::Future;
use std::io::ErrorKind;

use crate::ledger::StoreError;

/// Whether the connection was lost, or the server stops or starts. Not whether it took too long.
pub fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != ErrorKind::TimedOut,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // The server stops or starts; connection exceptions.
            ["57P01", "57P02", "57P03"].contains(&&*code) || code.starts_with("08")
        }),
        _ => false,
    }
}

/// What may say that a connection was lost.
pub trait MaybeLost {
    /// Whether it says so.
    fn says_lost(&self) -> bool;
}

impl MaybeLost for sqlx::Error {
    fn says_lost(&self) -> bool {
        is_lost(self)
    }
}

impl MaybeLost for StoreError {
    fn says_lost(&self) -> bool {
        match self {
            Self::Database(error) => is_lost(error),
            Self::File(_)
            | Self::Undecodable(_)
            | Self::Frozen
            | Self::Repository(_)
            | Self::Malformed(_)
            | Self::Missing(_)
            | Self::Moved
            | Self::Panicked => false,
        }
    }
}

/// Does what only reads; once more if its connection was lost.
pub async fn read_again<T, E, F>(read: impl Fn() -> F) -> Result<T, E>
where
    E: MaybeLost,
    F: Future<Output = Result<T, E>>,
{
    match read().await {
        Err(error) if error.says_lost() => read().await,
        read => read,
    }
}
