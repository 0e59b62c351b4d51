//! Which tenants are being moved to another shard, and by which process.

use application::news::News;
use application::ports::Unavailable;
use application::ports::moves::{Move, MoveRecords, Stage};
use async_trait::async_trait;
use domain::ids::TenantId;

use super::{LandlordDatabase, THE_DATABASE};
use crate::database::unavailable;
use crate::news::{CHANNEL, word};
use crate::portable::{Row, Statement, statement};
use crate::projections::row;

/// The columns of `moves`, in the order that [`read`] reads them.
const COLUMNS: &str = "tenant_id, source, target, stage, mover";

impl LandlordDatabase {
    /// Whether a statement did anything.
    async fn does(&self, change: Statement) -> Result<bool, Unavailable> {
        let done = self.database.write(change).await;
        Ok(!done.map_err(unavailable(THE_DATABASE))?.is_empty())
    }

    async fn switched(&self, claimed: &Move) -> Result<bool, sqlx::Error> {
        let mut transaction = self.database.begin().await?;
        let switch = "update moves set stage = 'switched' \
                      where tenant_id = $1 and mover = $2 and stage = 'copying' \
                      returning tenant_id";
        if transaction.run(of(switch, claimed)).await?.is_empty() {
            transaction.rollback().await?;
            return Ok(false);
        }
        let place = statement("update tenants set shard = $2 where id = $1 returning id")
            .bind(claimed.tenant.to_string())
            .bind(claimed.target.as_str())
            .notify(CHANNEL, word(News::Tenant(claimed.tenant)));
        transaction.commit(place).await?;
        Ok(true)
    }
}

#[async_trait]
impl MoveRecords for LandlordDatabase {
    async fn find(&self, tenant: TenantId) -> Result<Option<Move>, Unavailable> {
        let select = statement(format!("select {COLUMNS} from moves where tenant_id = $1"));
        let found = self.found(select.bind(tenant.to_string()), read);
        Ok(found.await?.pop())
    }

    async fn claim(&self, wanted: &Move) -> Result<Move, Unavailable> {
        let insert = format!(
            "insert into moves ({COLUMNS}) values ($1, $2, $3, $4, $5) \
             on conflict (tenant_id) do update set mover = excluded.mover returning {COLUMNS}"
        );
        let insert = statement(insert)
            .bind(wanted.tenant.to_string())
            .bind(wanted.source.as_str())
            .bind(wanted.target.as_str())
            .bind(wanted.stage.as_str())
            .bind(wanted.mover.to_string());
        let claimed = self.database.write(insert).await;
        claimed
            .and_then(|rows| rows.first().map_or(Err(sqlx::Error::RowNotFound), read))
            .map_err(unavailable(THE_DATABASE))
    }

    async fn switch(&self, claimed: &Move) -> Result<bool, Unavailable> {
        let switched = self.switched(claimed).await;
        switched.map_err(unavailable(THE_DATABASE))
    }

    async fn undo(&self, claimed: &Move) -> Result<bool, Unavailable> {
        let undo = "update moves set stage = 'undoing' \
                    where tenant_id = $1 and mover = $2 and stage <> 'switched' \
                    returning tenant_id";
        self.does(of(undo, claimed)).await
    }

    async fn is_claimed(&self, claimed: &Move) -> Result<bool, Unavailable> {
        let found = self.find(claimed.tenant).await?;
        Ok(found.is_some_and(|it| it.mover == claimed.mover))
    }

    async fn end(&self, claimed: &Move) -> Result<(), Unavailable> {
        let end = "delete from moves where tenant_id = $1 and mover = $2 returning tenant_id";
        self.does(of(end, claimed)).await.map(drop)
    }
}

/// A statement about the move of a tenant by a mover.
fn of(sql: &'static str, claimed: &Move) -> Statement {
    statement(sql)
        .bind(claimed.tenant.to_string())
        .bind(claimed.mover.to_string())
}

fn read(found: &Row) -> Result<Move, sqlx::Error> {
    Ok(Move {
        tenant: row::id(found.get(0)?)?,
        source: row::text(found.get(1)?)?,
        target: row::text(found.get(2)?)?,
        stage: row::word::<Stage>(found.get(3)?)?,
        mover: row::id(found.get(4)?)?,
    })
}
