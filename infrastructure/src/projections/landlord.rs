//! The landlord's read models.
