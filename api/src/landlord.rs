//! The landlord over HTTP: tenants and what they are sold, the catalogue, the subscribers,
//! usage audits, keys.

pub mod subscriptions;
pub mod tenants;

pub mod shards;

pub mod republish;

pub mod catalogue;
pub mod keys;
pub mod migrations;
pub mod subscribers;
pub mod usage_audits;
