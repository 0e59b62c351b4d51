//! The adapters behind the application's ports.
//!
//! Only `api/src/wiring.rs` names what is in here. SQL lives in this crate and in `migrations/`
//! and nowhere else.

pub mod database;
pub mod doorbell;
mod listener;
mod lost;
mod patience;
pub mod portable;
pub mod shard;

pub mod ledger;
pub mod shards;
pub mod tenants;

pub mod checkpoints;
pub mod processes;
pub mod projections;

pub mod rabbitmq;

pub mod landlord;
pub mod news;

pub mod billing;

pub mod clock;
