//! What Digital Card does: the commands and queries of tenants, landlord and auditors, the loop
//! that drives everything after a commit, and the ports through which all of it reaches the
//! outside.
//!
//! [`Application`] is the table of contents: one method a use case, each in the file of its noun.
//! A command reads top to bottom as *permission, rule, decision, append*; it never touches a
//! read model. A query reads a read model; it never changes anything.

pub mod cards;
pub mod catalogue;
pub mod checks;
pub mod entitlements;
pub mod migrations;
pub mod subscriptions;
pub mod tenants;

pub mod archive;
pub mod audit;
pub mod billing;
pub mod keys;
pub mod moves;
pub mod shards;

pub mod messages;
pub mod republish;

pub mod doorbell;
pub mod news;
pub mod processes;
pub mod subscribers;
pub mod thresholds;
pub mod usage_audits;

pub mod commands;
pub mod error;
pub mod ports;
pub mod scope;

use std::sync::Arc;

use domain::event::Decoder;

use crate::catalogue::CurrentCatalogue;
use crate::keys::KeyRing;
use crate::ports::agenda::Agenda;
use crate::ports::shards::ShardDatabases;
use crate::ports::{Clock, Landlord, LandlordView, Random, TenantStores};
use crate::shards::Shards;
use crate::subscribers::Subscribers;
use crate::tenants::Directory;
use crate::usage_audits::Auditor;

/// The use cases, and what they need. Built once, in the wiring.
pub struct Application {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub random: Arc<dyn Random>,
    /// The tenants' own stores.
    pub stores: Arc<dyn TenantStores>,
    /// The landlord's records.
    pub landlord: Arc<dyn Landlord>,
    /// The landlord's read models.
    pub overviews: Arc<dyn LandlordView>,
    /// When which tenant needs attention.
    pub agenda: Arc<dyn Agenda>,
    /// What is for sale, in memory.
    pub catalogue: CurrentCatalogue,
    /// How stored events are read.
    pub decoder: Decoder,
    /// Which tenants exist, in memory.
    pub directory: Arc<Directory>,
    /// Where tenants can be, in memory.
    pub shards: Arc<Shards>,
    /// This node's way to them; none on the embedded store.
    pub shard_databases: Option<Arc<dyn ShardDatabases>>,
    /// Who may come in, in memory.
    pub keys: KeyRing,
    /// Everything that follows the ledgers.
    pub subscribers: Arc<Subscribers>,
    /// Who counts again.
    pub auditor: Auditor,
}
