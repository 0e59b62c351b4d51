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
mod card;
mod catalogue;
mod entitlements;
mod subscription;
mod thresholds;
mod usage;

// The rules, over any sequence of commands.
mod properties;
mod world;

// What is stored.
mod chain;
mod decoding;
mod events_md;
mod samples;
mod source;
