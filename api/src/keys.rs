//! The tenant's own API keys, and what a key looks like over HTTP.

use std::sync::Arc;

use application::keys::{ApiKey, IssuedKey};
use application::scope::{Command, Role};
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use domain::ids::{KeyId, TenantId};
use domain::text::DisplayName;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::Api;
use crate::answer::{Commanded, Json, Page};
use crate::extract::{Ask, Fields, InPath, InQuery, cursor, page_items};
use crate::problem::Problem;
use crate::scope::{Caller, CallerSeed};

/// An API key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub struct KeyBody {
    /// Its id: safe to log and to show.
    #[schema(value_type = String, format = Uuid)]
    pub id: KeyId,
    /// What people call it.
    pub name: String,
    /// What it may be used for.
    pub role: RoleBody,
    /// The tenant it belongs to, for the roles that have one.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub tenant: Option<TenantId>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// The key itself, to send as `Authorization: Bearer`. Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key: Option<String>,
}

/// What a key may be used for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Role)]
#[serde(rename_all = "snake_case")]
pub enum RoleBody {
    /// The provider's own staff.
    Landlord,
    /// A tenant's administrator.
    TenantAdmin,
    /// Reads everything of one tenant.
    TenantViewer,
    /// Reads the history of any tenant.
    Auditor,
    /// Reads usage and the event feed.
    Billing,
}

/// A key of the tenant to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenantKey {
    /// What people call it.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// `tenant_admin` or `tenant_viewer`. Default: `tenant_admin`.
    role: Option<RoleBody>,
}

/// Which part of a list is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PageQuery {
    /// At most so many, 1 to 500. Default: 50.
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// Lists the tenant's keys that are in force, oldest first.
#[utoipa::path(
    get, path = "/v1/api-keys", tag = "Tenant", params(PageQuery),
    responses((status = 200, description = "A page of keys", body = Page<KeyBody>))
)]
pub async fn list_keys(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Json<Page<KeyBody>>, Problem> {
    let keys = api.application.tenant_keys(&scope).await?;
    page(keys, &("keys", scope.tenant), &query).map(Json)
}

/// Makes a key of the tenant. A second key needs the feature `api_access`.
#[utoipa::path(
    post, path = "/v1/api-keys", tag = "Tenant", request_body = NewTenantKey,
    responses(
        (status = 201, description = "The key; `api_key` is shown here and never again", body = KeyBody),
        (status = 402, description = "A second key needs the feature `api_access`"),
    )
)]
pub async fn create_key(
    State(api): State<Arc<Api>>,
    CallerSeed(seed): CallerSeed,
    ask: Ask<NewTenantKey>,
) -> Result<Commanded<KeyBody>, Problem> {
    let (command, name, role) = ask.into_new_key()?;
    let done = api
        .to_its_end(|application| async move {
            application
                .create_tenant_key(&command, name, role, &seed)
                .await
        })
        .await?;
    let location = format!("/v1/api-keys/{}", done.value.key.id);
    Ok(Commanded::created(done, KeyBody::issued, location).outside_ledgers())
}

/// Revokes a key of the tenant; it opens nothing from this moment on.
#[utoipa::path(
    delete, path = "/v1/api-keys/{id}", tag = "Tenant",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 204, description = "It is revoked"))
)]
pub async fn revoke_key(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(id): InPath<KeyId>,
) -> Result<StatusCode, Problem> {
    api.to_its_end(|application| async move { application.revoke_tenant_key(&scope, id).await })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Ask<NewTenantKey> {
    fn into_new_key(self) -> Result<(Command, DisplayName, Role), Problem> {
        let mut fields = Fields::default();
        let name = fields.text("name", self.body.name);
        let role = self.body.role.map_or(Role::TenantAdmin, Role::from);
        Ok((self.command, fields.finish(name)?, role))
    }
}

impl From<ApiKey> for KeyBody {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name.into(),
            role: key.role.into(),
            tenant: key.tenant,
            created_at: key.created_at,
            api_key: None,
        }
    }
}

impl KeyBody {
    /// A new key, with its secret.
    pub fn issued(issued: IssuedKey) -> Self {
        Self {
            api_key: Some(issued.secret.reveal().to_owned()),
            ..Self::from(issued.key)
        }
    }
}

impl From<Role> for RoleBody {
    fn from(role: Role) -> Self {
        match role {
            Role::Landlord => Self::Landlord,
            Role::TenantAdmin => Self::TenantAdmin,
            Role::TenantViewer => Self::TenantViewer,
            Role::Auditor => Self::Auditor,
            Role::Billing => Self::Billing,
        }
    }
}

impl From<RoleBody> for Role {
    fn from(role: RoleBody) -> Self {
        match role {
            RoleBody::Landlord => Self::Landlord,
            RoleBody::TenantAdmin => Self::TenantAdmin,
            RoleBody::TenantViewer => Self::TenantViewer,
            RoleBody::Auditor => Self::Auditor,
            RoleBody::Billing => Self::Billing,
        }
    }
}

/// The page of `keys` (oldest first) that is asked for.
///
/// # Errors
///
/// `invalid_query`, `invalid_cursor`.
pub fn page(
    keys: Vec<ApiKey>,
    list: &impl Serialize,
    query: &PageQuery,
) -> Result<Page<KeyBody>, Problem> {
    let limit = page_items(query.limit)?;
    let after: Option<KeyId> = match &query.cursor {
        Some(cursor) => Some(cursor::read(list, cursor)?),
        None => None,
    };
    let mut rest: Vec<_> = keys
        .into_iter()
        .filter(|key| after.is_none_or(|after| key.id > after))
        .collect();
    let more = rest.len() > limit;
    rest.truncate(limit);
    let next_cursor = match rest.last().filter(|_| more) {
        Some(last) => Some(cursor::write(list, &last.id)?),
        None => None,
    };
    let items = rest.into_iter().map(KeyBody::from).collect();
    Ok(Page { items, next_cursor })
}
