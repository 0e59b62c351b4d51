//! Whether two addresses lead to one database. Their texts do not tell, nor does what a server says
//! of itself, which a copy of it says as well. So one side holds a lock, which the other asks for.

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};

use crate::patience::limited;

/// A lock that nobody else knows of, held as long as the connection lives.
const HOLD: &str = "with lock as materialized \
     (select hashtextextended(gen_random_uuid()::text, 2) as key) \
     select key, pg_advisory_lock(key) from lock";
const IS_FREE: &str = "select pg_try_advisory_lock($1)";
/// There is no such database.
const MISSING: &str = "3D000";

/// Whether both lead to the same database. One that is not there is no other.
pub(super) async fn are_one(
    one: &PgConnectOptions,
    other: &PgConnectOptions,
) -> Result<bool, sqlx::Error> {
    let Some(marked) = Marked::connect(one).await? else {
        return Ok(false);
    };
    let are_one = marked.is(other).await;
    marked.end().await;
    are_one
}

/// A database that can be recognized.
pub(super) struct Marked {
    connection: PgConnection,
    key: i64,
}

impl Marked {
    /// Marks a database for as long as this lives; nothing if it is not there.
    pub(super) async fn connect(database: &PgConnectOptions) -> Result<Option<Self>, sqlx::Error> {
        let Some(mut connection) = connect(database).await? else {
            return Ok(None);
        };
        let key = limited(sqlx::query_scalar(HOLD).fetch_one(&mut connection)).await?;
        Ok(Some(Self { connection, key }))
    }

    /// Whether this address leads to it.
    pub(super) async fn is(&self, other: &PgConnectOptions) -> Result<bool, sqlx::Error> {
        let Some(mut connection) = connect(other).await? else {
            return Ok(false);
        };
        let is_free = sqlx::query_scalar::<_, bool>(IS_FREE).bind(self.key);
        let is_free = limited(is_free.fetch_one(&mut connection)).await?;
        let _ = limited(connection.close()).await;
        Ok(!is_free)
    }

    /// Ends the mark.
    pub(super) async fn end(self) {
        // The lock ends with the connection, however that ends.
        let _ = limited(self.connection.close()).await;
    }
}

async fn connect(database: &PgConnectOptions) -> Result<Option<PgConnection>, sqlx::Error> {
    match limited(database.connect()).await {
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(MISSING) => Ok(None),
        connected => connected.map(Some),
    }
}
