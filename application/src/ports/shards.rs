//! This node's way to the shards.

use async_trait::async_trait;
use domain::ids::Slug;

use super::Unavailable;
use crate::shards::UrlReference;

/// This node's way to the databases that are shards.
#[async_trait]
pub trait ShardDatabases: Send + Sync {
    /// Asks a database for a sign of life, and what its login may do.
    async fn probe(&self, url: &UrlReference) -> Result<ShardLogin, ShardUnreachable>;

    /// The recorded shard that this database is, if it is one. Of those that are not reached it is
    /// not known.
    async fn find(&self, url: &UrlReference) -> Result<Option<Slug>, ShardUnreachable>;
}

/// What this node's login may do in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardLogin {
    /// Make databases: what a tenant with a database of its own needs.
    pub may_make_databases: bool,
}

/// Why this node does not reach a shard.
#[derive(Debug, thiserror::Error)]
pub enum ShardUnreachable {
    /// The reference leads to no address here; says why, without the address.
    #[error("{0}")]
    NoAddress(String),
    /// The database does not answer.
    #[error(transparent)]
    NoAnswer(Unavailable),
}
