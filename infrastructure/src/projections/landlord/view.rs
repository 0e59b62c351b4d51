//! What the landlord is shown: its tenants' records beside what is known of each.
//!
//! A tenant of whom nothing was folded yet is shown with nothing bought and nothing used.

use application::ports::{LandlordView, Unavailable};
use application::tenants::{TenantFilter, TenantOverview, TenantPage};
use async_trait::async_trait;
use domain::ids::TenantId;

use super::LandlordReadModel;
use crate::database::unavailable;
use crate::landlord::{self, TENANT_COLUMNS, THE_DATABASE};
use crate::portable::{Row, statement};
use crate::projections::{row, search};

#[async_trait]
impl LandlordView for LandlordReadModel {
    async fn tenant(&self, id: TenantId) -> Result<Option<TenantOverview>, Unavailable> {
        self.one(id).await.map_err(unavailable(THE_DATABASE))
    }

    async fn list(&self, filter: &TenantFilter) -> Result<TenantPage, Unavailable> {
        self.page(filter).await.map_err(unavailable(THE_DATABASE))
    }
}

impl LandlordReadModel {
    async fn one(&self, id: TenantId) -> Result<Option<TenantOverview>, sqlx::Error> {
        let sql = format!("{} where tenants.id = $1", select());
        let one = statement(sql).bind(id.to_string());
        let found = self.database.read(one).await?;
        found.first().map(overview).transpose()
    }

    async fn page(&self, filter: &TenantFilter) -> Result<TenantPage, sqlx::Error> {
        let sql = format!(
            "{} where tenants.id > $1 and ($2 is null or overviews.plan = $2) \
             and ($3 is null or tenants.search like $3 escape '\\') \
             order by tenants.id limit $4",
            select()
        );
        let wanted = i64::try_from(filter.limit).unwrap_or(i64::MAX - 1);
        let page = statement(sql)
            .bind(filter.after.map(|id| id.to_string()).unwrap_or_default())
            .bind(filter.plan.as_ref().map(|plan| plan.as_str()))
            .bind(filter.q.as_deref().map(search::pattern))
            .bind(wanted + 1);
        let found = self.database.read(page).await?;
        let items: Vec<_> = found
            .iter()
            .take(filter.limit)
            .map(overview)
            .collect::<Result<_, _>>()?;
        let last = items.last().map(|item| item.tenant.id);
        let next = last.filter(|_| found.len() > filter.limit);
        Ok(TenantPage { items, next })
    }
}

fn select() -> String {
    format!(
        "select {TENANT_COLUMNS}, overviews.position, overviews.subscription, overviews.usage \
         from tenants left join tenant_overviews overviews on overviews.tenant_id = tenants.id"
    )
}

fn overview(found: &Row) -> Result<TenantOverview, sqlx::Error> {
    let position: Option<i64> = found.get(8)?;
    let subscription: Option<&str> = found.get(9)?;
    let usage: Option<&str> = found.get(10)?;
    Ok(TenantOverview {
        tenant: landlord::tenant(found)?,
        subscription: subscription.map_or_else(|| Ok(Default::default()), row::json)?,
        usage: usage.map_or_else(|| Ok(Default::default()), row::json)?,
        position: position.map_or(Ok(0), row::position)?,
    })
}
