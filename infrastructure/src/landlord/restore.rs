//! The landlord's records from elsewhere: added as they were, and never over what is there.

use application::keys::ApiKey;
use application::ports::restore::StoredOutcome;
use application::tenants::Tenant;

use super::{hash, insert_key, insert_tenant};
use crate::portable::{Row, Statement, Transaction, statement};
use crate::projections::row;

/// Adds everything, where it is not there; `false` if the tenant's id or slug is taken.
pub(super) async fn add(
    transaction: &mut dyn Transaction,
    tenant: Option<&Tenant>,
    keys: &[ApiKey],
    answers: &[StoredOutcome],
) -> Result<bool, sqlx::Error> {
    if let Some(tenant) = tenant
        && transaction.run(insert_tenant(tenant)).await?.is_empty()
    {
        return Ok(false);
    }
    for key in keys {
        let known = statement("select 1 from api_keys where id = $1").bind(key.id.to_string());
        // Also a key that was revoked here stays as it is.
        if transaction.run(known).await?.is_empty() {
            transaction.run(insert_key(key)).await?;
        }
    }
    for answer in answers {
        transaction.run(insert_answer(answer)).await?;
    }
    Ok(true)
}

fn insert_answer(answer: &StoredOutcome) -> Statement {
    let sql = "insert into idempotency (key, fingerprint, outcome, recorded_at) \
               values ($1, $2, $3, $4) on conflict (key) do nothing";
    statement(sql)
        .bind(answer.key.as_str())
        .bind(answer.fingerprint.as_slice())
        .bind(answer.outcome.as_str())
        .bind(answer.recorded_at.timestamp_micros())
}

/// Reads the answers between two keys, in the order of their keys.
pub(super) fn answers(after: &str, before: Option<&str>, limit: usize) -> Statement {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let columns = "select key, fingerprint, outcome, recorded_at from idempotency";
    match before {
        Some(before) => statement(format!(
            "{columns} where key > $1 and key < $2 order by key limit $3"
        ))
        .bind(after)
        .bind(before)
        .bind(limit),
        None => statement(format!("{columns} where key > $1 order by key limit $2"))
            .bind(after)
            .bind(limit),
    }
}

/// A row of [`answers`].
pub(super) fn answer(found: &Row) -> Result<StoredOutcome, sqlx::Error> {
    Ok(StoredOutcome {
        key: found.get(0)?,
        fingerprint: hash(found.get(1)?)?,
        outcome: found.get(2)?,
        // The landlord's records are in no ledger.
        position: 0,
        recorded_at: row::time(found.get(3)?)?,
    })
}
