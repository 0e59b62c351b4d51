//! The landlord's database and the read models, over real files and a ledger in memory.
//!
//! The ledger is a fake so that histories can be anything the domain allows, appended at the
//! moment a test chooses; how the real one hands out events is specified beside it.

mod agenda;
mod cards;
mod cards_list;
mod cards_rebuild;
mod exchange;
mod overviews;
mod records;

mod history;
mod store;
