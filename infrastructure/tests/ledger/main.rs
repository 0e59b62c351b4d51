//! What a ledger promises, on every engine that keeps one, and what the SQLite one adds.
//!
//! `conformance` asks only for a ledger under test, so a second engine runs the same sentences.
//! Nothing here sleeps: what is waited for is the answer to an append queued later.

mod at_once;
mod cards;
mod cards_postgres;
mod checkpoints;
#[path = "../../../tests/servers/postgres.rs"]
mod cluster;
mod conformance;
mod dedicated;
mod doorbell;
mod given_up;
mod kept;
mod lost;
mod other_nodes;
mod postgres;
mod properties;
mod quota;
mod reconciliation;
mod restore;
mod rooms;
mod sentences;
mod silence;
mod sqlite;
mod stores;
mod world;
