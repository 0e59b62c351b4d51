//! Read models: each one file with its table, its fold, its queries and its registration.

pub mod cards;
pub mod landlord;
