//! Where a tenant's events are kept.
