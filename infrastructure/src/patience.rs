//! How long a PostgreSQL server is waited for: a connection that is lost without a word says
//! nothing for ever, and nor does a server that hangs.

use std::future::Future;
use std::io;
use std::time::Duration;

use tokio::time::timeout;

/// How long a statement may take, or a few that belong together.
pub const STATEMENT_MAX: Duration = Duration::from_secs(10);
/// How long a step may take that makes, renames or drops something, or fills it: it may wait half a
/// minute for a lock.
pub const STEP_MAX: Duration = Duration::from_secs(60);
/// How long a statement may take that reads or rewrites a whole ledger, of any size.
pub const WHOLE_LEDGER_MAX: Duration = Duration::from_secs(15 * 60);

/// Something that may take [`STATEMENT_MAX`].
pub async fn limited<T, E: From<sqlx::Error>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    limited_or(E::from, work).await
}

/// Something that may take this long.
pub async fn limited_to<T, E: From<sqlx::Error>>(
    max: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    or_late(max, E::from, work).await
}

/// Something that may take [`STATEMENT_MAX`], and says in words of its own that it took too long.
pub async fn limited_or<T, E>(
    late: impl FnOnce(sqlx::Error) -> E,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    or_late(STATEMENT_MAX, late, work).await
}

async fn or_late<T, E>(
    max: Duration,
    late: impl FnOnce(sqlx::Error) -> E,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let done = timeout(max, work).await;
    done.unwrap_or_else(|_| Err(late(sqlx::Error::Io(io::ErrorKind::TimedOut.into()))))
}
