//! The landlord's own records.
