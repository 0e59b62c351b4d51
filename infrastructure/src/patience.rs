//! How long a PostgreSQL server is waited for: a connection that is lost without a word says
//! nothing for ever, and nor does a server that hangs.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::time::timeout;

/// How long a statement may take, or a few that belong together.
pub const STATEMENT_MAX: Duration = Duration::from_secs(10);

/// Something that may take [`STATEMENT_MAX`].
pub async fn limited<T, E: From<sqlx::Error>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    limited_or(E::from, work).await
}

/// The same, of something that says in words of its own that it took too long.
pub async fn limited_or<T, E>(
    late: impl FnOnce(sqlx::Error) -> E,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let done = timeout(STATEMENT_MAX, work).await;
    done.unwrap_or_else(|_| Err(late(sqlx::Error::Io(io::ErrorKind::TimedOut.into()))))
}
