//! The read model of a tenant's cards.
