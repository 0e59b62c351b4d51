//! What is true and what is allowed in Digital Card.
//!
//! Invariants of this room: no I/O, no clock and no randomness (the time comes in with the
//! command, ids come in from outside), and no knowledge of HTTP, SQL or messages. Everything
//! here can be tested by calling it.
//!
//! Suggested reading order: a card's life, what a tenant has bought, what that allows, how much
//! of it is used, and how all of it is recorded.

pub mod card;
pub mod subscription;

pub mod catalogue;
pub mod entitlements;
pub mod usage;
pub mod verdict;

pub mod billing;

pub mod chain;
pub mod event;

pub mod ids;
pub mod text;
