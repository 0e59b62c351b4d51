//! The parts of the one transaction in which messages are kept.
//!
//! Each statement finds its rows by the keys of the batch, so a batch costs the same however long
//! the file is.

use std::collections::{BTreeMap, BTreeSet};

use application::billing::message::Message;
use application::billing::rejected::{ClaimedId, Rejected};
use chrono::{DateTime, Utc};
use domain::ids::{Position, TenantId};
use sqlx::{QueryBuilder, Sqlite, SqliteConnection};

use super::Kept;

/// How many rejected messages are remembered.
const REJECTED_MAX: i64 = 1_000;

/// Keeps those messages that are new; of these, none counts as rejected any longer. There must be
/// at least one.
pub async fn receive(
    transaction: &mut SqliteConnection,
    messages: &[Message],
) -> Result<Kept, sqlx::Error> {
    let newest = newest_of(transaction, messages).await?;
    let mut insert = insert(messages);
    let new: Vec<(String, i64)> = insert.build_query_as().fetch_all(&mut *transaction).await?;
    no_longer_rejected(transaction, messages).await?;
    let kept = new.len() as u64;
    Ok(Kept {
        new: kept,
        late: late(messages, newest, new),
        repeated: messages.len() as u64 - kept,
        rejected: 0,
    })
}

/// Remembers what was put aside; all that has no id, as one.
pub async fn put_aside(
    transaction: &mut SqliteConnection,
    rejected: &[Rejected],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    for one in rejected {
        let id = one.id.as_ref().map_or("", ClaimedId::as_str);
        sqlx::query(
            "insert into rejected (message_id, reason, at)
             select $1, $2, $3 where (select count(*) from rejected) < $4
             on conflict (message_id) do nothing",
        )
        .bind(id)
        .bind(&one.reason)
        .bind(now.timestamp_micros())
        .bind(REJECTED_MAX)
        .execute(&mut *transaction)
        .await?;
    }
    Ok(())
}

fn insert(messages: &[Message]) -> QueryBuilder<'_, Sqlite> {
    let columns = "insert into received (tenant, sequence, name, at, data) ";
    let mut insert = QueryBuilder::new(columns);
    insert.push_values(messages, |mut row, message| {
        row.push_bind(message.tenant.to_string())
            .push_bind(message.sequence.cast_signed())
            .push_bind(&message.name)
            .push_bind(message.at.timestamp_micros())
            .push_bind(&message.data);
    });
    insert.push(" on conflict (tenant, sequence) do nothing returning tenant, sequence");
    insert
}

/// One that was sent again whole is put aside no longer.
async fn no_longer_rejected(
    transaction: &mut SqliteConnection,
    messages: &[Message],
) -> Result<(), sqlx::Error> {
    let mut delete = QueryBuilder::<Sqlite>::new("delete from rejected where message_id in (");
    let mut ids = delete.separated(", ");
    for message in messages {
        ids.push_bind(message.id());
    }
    ids.push_unseparated(")");
    delete.build().execute(transaction).await?;
    Ok(())
}

/// The newest message of each tenant in `messages` that is kept already.
async fn newest_of(
    transaction: &mut SqliteConnection,
    messages: &[Message],
) -> Result<BTreeMap<TenantId, Position>, sqlx::Error> {
    let tenants: BTreeSet<TenantId> = messages.iter().map(|message| message.tenant).collect();
    let mut newest = BTreeMap::new();
    for tenant in tenants {
        let last: Option<i64> =
            sqlx::query_scalar("select max(sequence) from received where tenant = $1")
                .bind(tenant.to_string())
                .fetch_one(&mut *transaction)
                .await?;
        newest.insert(tenant, last.unwrap_or(0).cast_unsigned());
    }
    Ok(newest)
}

/// How many of the new messages came after one that is behind them in the ledger.
fn late(
    messages: &[Message],
    mut newest: BTreeMap<TenantId, Position>,
    new: Vec<(String, i64)>,
) -> u64 {
    let mut new: BTreeSet<(String, i64)> = new.into_iter().collect();
    let mut late = 0;
    for message in messages {
        // Within a batch too, a message is new once.
        if new.remove(&(message.tenant.to_string(), message.sequence.cast_signed())) {
            let newest = newest.entry(message.tenant).or_default();
            late += u64::from(message.sequence < *newest);
            *newest = message.sequence.max(*newest);
        }
    }
    late
}
