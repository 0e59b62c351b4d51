//! Shards: the PostgreSQL databases that tenants are placed in.

use std::sync::Arc;

use application::scope::Command;
use application::shards::{Shard, ShardOverview};
use axum::extract::State;
use domain::ids::Slug;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Api;
use crate::answer::{Commanded, Json, Page};
use crate::extract::{Ask, Fields, InPath};
use crate::problem::Problem;
use crate::scope::Caller;

/// A shard, as recorded.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Shard)]
pub struct ShardBody {
    /// Its name, unique.
    pub name: String,
    /// Where each node finds its address.
    #[schema(example = "env:SHARD_2_URL")]
    pub url: String,
    /// Whether new tenants are placed there.
    pub open: bool,
}

/// A shard, as this node sees it.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ShardOverview)]
pub struct ShardOverviewBody {
    /// As recorded.
    #[serde(flatten)]
    pub shard: ShardBody,
    /// How many tenants are in it.
    pub tenants: usize,
    /// Whether the node that answers reaches it.
    pub reachable: bool,
}

/// A shard to add.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewShard)]
#[serde(deny_unknown_fields)]
pub struct NewShardBody {
    /// Its name, unique.
    #[schema(pattern = "^[a-z0-9][a-z0-9-]{1,38}[a-z0-9]$", example = "shard-2")]
    name: String,
    /// Where each node finds its address, which has a password in it and so is not recorded: the
    /// variable `env:NAME`, the file `file:/PATH`, or `store`, the landlord's own database.
    #[schema(max_length = 200, example = "env:SHARD_2_URL")]
    url: String,
    /// Whether new tenants are placed there. Default: true.
    #[serde(default = "yes")]
    open: bool,
}

/// What to change of a shard.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = ShardChange)]
#[serde(deny_unknown_fields)]
pub struct ShardChangeBody {
    /// Whether new tenants are placed there. Those that are there stay.
    open: bool,
}

const fn yes() -> bool {
    true
}

/// Lists the shards, by name, and asks each for a sign of life.
#[utoipa::path(
    get, path = "/v1/landlord/shards", tag = "Landlord",
    responses((status = 200, description = "Every shard", body = Page<ShardOverviewBody>))
)]
pub async fn list_shards(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
) -> Result<Json<Page<ShardOverviewBody>>, Problem> {
    let shards = api.application.shard_overviews(&scope).await?;
    let items = shards.into_iter().map(ShardOverviewBody::from).collect();
    Ok(Json(Page::whole(items)))
}

/// Adds a shard that this node reaches. The same again is answered the same.
#[utoipa::path(
    post, path = "/v1/landlord/shards", tag = "Landlord", request_body = NewShardBody,
    responses((status = 201, description = "The shard", body = ShardBody))
)]
pub async fn add_shard(
    State(api): State<Arc<Api>>,
    ask: Ask<NewShardBody>,
) -> Result<Commanded<ShardBody>, Problem> {
    let (command, shard) = ask.into_new_shard()?;
    let done = api
        .to_its_end(|application| async move { application.add_shard(&command, shard).await })
        .await?;
    let location = format!("/v1/landlord/shards/{}", done.value.name.as_str());
    Ok(Commanded::created(done, ShardBody::from, location).outside_ledgers())
}

/// Opens a shard for new tenants, or closes it.
#[utoipa::path(
    put, path = "/v1/landlord/shards/{name}", tag = "Landlord", request_body = ShardChangeBody,
    params(("name" = String, Path, description = "The shard's name")),
    responses((status = 200, description = "The shard", body = ShardBody))
)]
pub async fn change_shard(
    State(api): State<Arc<Api>>,
    InPath(name): InPath<Slug>,
    ask: Ask<ShardChangeBody>,
) -> Result<Commanded<ShardBody>, Problem> {
    let Ask { command, body } = ask;
    let done = api
        .to_its_end(|application| async move {
            application.open_shard(&command, &name, body.open).await
        })
        .await?;
    Ok(Commanded::ok(done, ShardBody::from).outside_ledgers())
}

impl Ask<NewShardBody> {
    fn into_new_shard(self) -> Result<(Command, Shard), Problem> {
        let body = self.body;
        let mut fields = Fields::default();
        let name = fields.text("name", body.name);
        let url = fields.text("url", body.url);
        let whole = || {
            Some(Shard {
                name: name?,
                url: url?,
                open: body.open,
            })
        };
        Ok((self.command, fields.finish(whole())?))
    }
}

impl From<Shard> for ShardBody {
    fn from(shard: Shard) -> Self {
        Self {
            name: shard.name.into(),
            url: shard.url.into(),
            open: shard.open,
        }
    }
}

impl From<ShardOverview> for ShardOverviewBody {
    fn from(overview: ShardOverview) -> Self {
        Self {
            shard: overview.shard.into(),
            tenants: overview.tenants,
            reachable: overview.reachable,
        }
    }
}
