//! What the domain promises, as sentences.
//!
//! Given some history, when a command comes, then these events or this refusal. No I/O, no clock,
//! no async: everything is called directly. The stored forms (samples, catalogue of events, hash)
//! are pinned here as well, because a ledger outlives the code that wrote it.

// The vocabulary.
mod examples;
mod given;
mod table;

// The rules.
mod billing;
mod card;
mod catalogue;
mod catalogue_changes;
mod catalogue_migration;
mod entitlements;
mod payment;
mod preview;
mod schedule;
mod subscription;
mod thresholds;
mod trial;
mod usage;
mod verdict;

// The rules, over any sequence of commands.
mod passing_time;
mod properties;
mod world;

// What is stored.
mod chain;
mod decoding;
mod events_md;
mod every_event;
mod samples;
mod source;
