//! Which store a tenant is in, and the ones that are open.
