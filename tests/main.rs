//! The tests of the whole: the real binary, over HTTP, as its users see it. One file a feature;
//! the names are sentences. `TESTS_ON=postgres` tests the same sentences on the other engine; see
//! `support/store.rs`.
//!
//! Deliberately absent: what one crate can say of itself (the domain's rules are specified in
//! `domain/tests`, the stores' in `infrastructure`), and waiting by sleeping: a test waits for
//! the event it needs, with a deadline.

mod authorization;
mod billing_systems;
mod cards;
mod catalogue;
mod catalogue_nodes;
mod checks;
mod expiry;
mod idempotency;
mod keys;
mod payments;
mod plan_migrations;
mod scheduled_plans;
mod subscriptions;
mod tenants;
mod trials;

mod connections;
mod shards;

mod quota;

mod archive;
mod maintenance;
mod process;
mod schema_migrations;

mod crash;
mod moves;
mod outage;

mod newer_schemas;
mod nodes;
mod servers_down;

mod torture;

mod audit;
mod subscribers;
mod thresholds;
mod usage_audits;

mod billing;
mod broker;
mod broker_down;
mod broker_kills;
mod broker_nodes;
mod messages;

mod header_tricks;
mod problems;
mod slow_clients;

mod fuzz;

mod contracts;
mod house;

mod support;
