//! Building the cards of a schema anew. It has a connection of its own: the ledger is read in the
//! middle of a transaction, which would wait for ever if the shard's connections were all held by
//! others who build.

use std::sync::Arc;

use application::ports::{HandlerError, Ledger, RecordedEvent, Unavailable};
use domain::ids::Position;
use sqlx::{Connection, PgConnection};

use super::super::rebuild::{Building, PAGE_EVENTS, latest_is, not_before};
use super::super::table::{INDEXES, Table};
use super::super::{failed, fold};
use super::{rows, table};
use crate::projections::following;
use crate::shard::Room;
use crate::shard::schema::Schema;

/// A new table in a tenant's schema.
pub struct InSchema {
    connection: PgConnection,
    schema: Schema,
    generation: i64,
}

impl InSchema {
    /// Begins with an empty one.
    pub async fn start(room: &Room) -> Result<Self, HandlerError> {
        let schema = room.schema().clone();
        let mut connection = room.separate().await.map_err(failed)?;
        let mut transaction = connection.begin().await.map_err(failed)?;
        let generation = table::create_next(&mut transaction, &schema)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Self {
            connection,
            schema,
            generation,
        })
    }
}

impl Building for InSchema {
    async fn fill(
        &mut self,
        before: Position,
        events: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        let mut transaction = self.connection.begin().await.map_err(failed)?;
        still_ours(&mut transaction, &self.schema, self.generation).await?;
        let position = apply(&mut transaction, &self.schema, before, events).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(position)
    }

    /// With what the planner asks about a table, which would else be known only some time later.
    async fn index(&mut self) -> Result<(), HandlerError> {
        let mut transaction = self.connection.begin().await.map_err(failed)?;
        still_ours(&mut transaction, &self.schema, self.generation).await?;
        for index in INDEXES {
            let (schema, number) = (&self.schema, self.generation);
            table::create_index(&mut transaction, schema, Table::Next, index, number)
                .await
                .map_err(failed)?;
        }
        let analyze = format!("analyze {}", self.schema.table(Table::Next.name()));
        table::execute(&mut transaction, &analyze)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    /// The live table waits meanwhile, at its checkpoint; the ledger goes on, so the new table is
    /// swapped in as soon as it has reached that.
    async fn finish(
        mut self,
        ledger: &dyn Ledger,
        before: Position,
        page: &[Arc<RecordedEvent>],
    ) -> Result<Position, HandlerError> {
        let schema = &self.schema;
        let mut transaction = self.connection.begin().await.map_err(failed)?;
        still_ours(&mut transaction, schema, self.generation).await?;
        let mut position = apply(&mut transaction, schema, before, page).await?;
        table::hold(&mut transaction, schema)
            .await
            .map_err(failed)?;
        let live = table::reached(&mut *transaction, schema, Table::Live).await?;
        while position < live {
            let page = ledger.read(position, PAGE_EVENTS).await?;
            if page.is_empty() {
                break;
            }
            position = apply(&mut transaction, schema, position, &page).await?;
        }
        not_before(position, live)?;
        table::swap(&mut transaction, schema, position)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        // The tables are swapped, however the connection ends.
        let _ = self.connection.close().await;
        Ok(position)
    }
}

/// Brings the new table from its checkpoint to the last of the events; answers the new checkpoint.
async fn apply(
    connection: &mut PgConnection,
    schema: &Schema,
    before: Position,
    events: &[Arc<RecordedEvent>],
) -> Result<Position, HandlerError> {
    let events = following(events, before)?;
    let Some(last) = events.last() else {
        return Ok(before);
    };
    let position = last.stored.position;
    let histories = fold::histories(events)?;
    let begun_before = fold::begun_before(&histories);
    let known = match begun_before.is_empty() {
        true => vec![],
        false => {
            let known = rows::load(&mut *connection, schema, Table::Next, &begun_before).await?;
            known.cards
        }
    };
    let cards = fold::fold(known, histories);
    let steps = (before, position);
    match rows::store(connection, schema, Table::Next, steps, None, &cards).await {
        Ok(true) => Ok(position),
        Ok(false) => Err(Unavailable::new("the checkpoint, which others are moving too").into()),
        Err(error) => Err(failed(error)),
    }
}

/// Refuses to go on in a table that a later building has begun anew; none begins until the
/// transaction ends.
async fn still_ours(
    connection: &mut PgConnection,
    schema: &Schema,
    generation: i64,
) -> Result<(), HandlerError> {
    let latest = table::generation(connection, schema)
        .await
        .map_err(failed)?;
    latest_is(latest, generation)
}
