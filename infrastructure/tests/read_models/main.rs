//! The landlord's database and the read models, over real databases and a ledger in memory.
//!
//! The ledger is a fake so that histories can be anything the domain allows, appended at the
//! moment a test chooses; how the real one hands out events is specified beside it.

mod agenda;
mod cards;
mod cards_list;
mod cards_postgres;
mod cards_rebuild;
mod cards_sqlite;
#[path = "../../../tests/servers/postgres.rs"]
mod cluster;
mod engines;
mod exchange;
mod news;
mod nodes;
mod overviews;
mod records;
mod restored;
mod usage_audits;

mod history;
mod landlords;
mod store;
