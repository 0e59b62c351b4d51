//! The parts of the one transaction in which messages are kept.
//!
//! Each statement finds its rows by the keys of the batch, so a batch costs the same however long
//! the file is.

use std::collections::{BTreeMap, BTreeSet};

use application::billing::message::{Message, fact};
use application::billing::rejected::{ClaimedId, Rejected};
use chrono::{DateTime, Utc};
use domain::ids::{Position, TenantId};
use sqlx::{QueryBuilder, Row, Sqlite, SqliteConnection};

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
    let repeated = messages.len() - new.len();
    let contradicted = match repeated {
        0 => 0,
        _ => contradict(transaction, messages).await?,
    };
    Ok(Kept {
        new: new.len() as u64,
        late: late(messages, newest, new),
        repeated: repeated as u64,
        contradicted,
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

/// How many of the messages say something else than what is kept under their key, which stays;
/// remembers which.
async fn contradict(
    transaction: &mut SqliteConnection,
    messages: &[Message],
) -> Result<u64, sqlx::Error> {
    let kept = kept(transaction, messages).await?;
    let mut count = 0;
    for message in messages {
        let key = (message.tenant.to_string(), message.sequence.cast_signed());
        let Some(kept) = kept.get(&key) else { continue };
        if kept.says_the_same(message) {
            continue;
        }
        count += 1;
        sqlx::query(
            "insert into contradicted (tenant, sequence, at) values ($1, $2, $3)
             on conflict (tenant, sequence) do nothing",
        )
        .bind(key.0)
        .bind(key.1)
        .bind(kept.at.min(message.at.timestamp_micros()))
        .execute(&mut *transaction)
        .await?;
    }
    Ok(count)
}

/// What a kept message says.
struct Said {
    name: String,
    at: i64,
    data: String,
}

impl Said {
    /// Whether another says the same to a bill: content that means nothing to it may be added.
    fn says_the_same(&self, other: &Message) -> bool {
        let same_data = || match (fact(&self.name, &self.data), fact(&other.name, &other.data)) {
            (Ok(this), Ok(other)) => this == other,
            (Err(_), _) | (_, Err(_)) => false,
        };
        self.name == other.name
            && self.at == other.at.timestamp_micros()
            && (self.data == other.data || same_data())
    }
}

/// What is kept under the keys of these messages.
async fn kept(
    transaction: &mut SqliteConnection,
    messages: &[Message],
) -> Result<BTreeMap<(String, i64), Said>, sqlx::Error> {
    let mut select = QueryBuilder::<Sqlite>::new(
        "select tenant, sequence, name, at, data from received where (tenant, sequence) in (",
    );
    select.push_values(messages, |mut key, message| {
        key.push_bind(message.tenant.to_string())
            .push_bind(message.sequence.cast_signed());
    });
    select.push(")");
    let rows = select.build().fetch_all(transaction).await?;
    rows.iter()
        .map(|row| {
            let said = Said {
                name: row.try_get(2)?,
                at: row.try_get(3)?,
                data: row.try_get(4)?,
            };
            Ok(((row.try_get(0)?, row.try_get(1)?), said))
        })
        .collect()
}
