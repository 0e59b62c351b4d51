//! Who asks: established once at the door from the API key, carried through every command.

use domain::event::Metadata;
use domain::ids::{KeyId, TenantId, Version};
use domain::text::Reason;
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What an API key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The provider's own staff: everything but tenants' card commands.
    Landlord,
    /// A tenant's administrator: everything of that tenant.
    TenantAdmin,
    /// Reads everything of one tenant.
    TenantViewer,
    /// Reads the history of any tenant.
    Auditor,
    /// Reads usage and the event feed.
    Billing,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [
        Self::Landlord,
        Self::TenantAdmin,
        Self::TenantViewer,
        Self::Auditor,
        Self::Billing,
    ];

    /// The role as clients see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Landlord => "landlord",
            Self::TenantAdmin => "tenant_admin",
            Self::TenantViewer => "tenant_viewer",
            Self::Auditor => "auditor",
            Self::Billing => "billing",
        }
    }

    /// Whether a key of this role belongs to one tenant.
    pub const fn of_tenant(self) -> bool {
        matches!(self, Self::TenantAdmin | Self::TenantViewer)
    }
}

/// Who asks, and with which request.
#[derive(Clone, Debug)]
pub struct Scope {
    /// The key's id.
    pub key: KeyId,
    /// The key's role.
    pub role: Role,
    /// The key's tenant, for the roles that have one.
    pub tenant: Option<TenantId>,
    /// The request's id.
    pub request_id: String,
    /// What the request belongs to; its own id if the client said nothing.
    pub correlation_id: String,
}

impl Scope {
    /// The tenant whose key this is.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`] for a key that belongs to no tenant.
    pub fn own_tenant(&self) -> Result<TenantId, Error> {
        self.tenant.ok_or(Error::Forbidden)
    }
}

/// A request to change something.
#[derive(Clone, Debug)]
pub struct Command {
    /// Who asks.
    pub scope: Scope,
    /// Why, as the asker said.
    pub reason: Option<Reason>,
    /// The key under which to answer the same again.
    pub idempotency: Option<Idempotency>,
    /// The version that the asker has seen, if it must still be that.
    pub if_match: Option<Version>,
}

/// What makes a request the same request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's `Idempotency-Key`.
    pub key: String,
    /// SHA-256 of method, path and body.
    pub fingerprint: [u8; 32],
}

impl Command {
    /// The idempotency key in the name space of who asks, so that a tenant and the landlord may
    /// use the same key on one ledger.
    pub fn idempotency_key(&self) -> Option<String> {
        let name_space = match self.scope.tenant {
            Some(_) => "tenant",
            None => "landlord",
        };
        let idempotency = self.idempotency.as_ref()?;
        Some(format!("{name_space}:{}", idempotency.key))
    }

    /// What travels with the events of this command.
    pub fn metadata(&self) -> Metadata {
        Metadata {
            actor: self.scope.key.to_string(),
            role: self.scope.role.as_str().to_owned(),
            reason: self
                .reason
                .as_ref()
                .map(|reason| reason.as_str().to_owned()),
            request_id: self.scope.request_id.clone(),
            correlation_id: self.scope.correlation_id.clone(),
            causation_id: self.scope.request_id.clone(),
        }
    }
}

impl Scope {
    /// Refuses keys of any other role than these.
    ///
    /// # Errors
    ///
    /// [`Error::Forbidden`].
    pub fn require(&self, roles: &[Role]) -> Result<(), Error> {
        roles
            .contains(&self.role)
            .then_some(())
            .ok_or(Error::Forbidden)
    }
}
