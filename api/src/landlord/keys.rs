//! API keys of any role, for the landlord.

use std::sync::Arc;

use application::keys::NewKey;
use application::scope::Command;
use axum::extract::State;
use axum::http::StatusCode;
use domain::ids::{KeyId, TenantId};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::Api;
use crate::answer::{Commanded, Json, Page};
use crate::extract::{Ask, Fields, InPath, InQuery};
use crate::keys::{KeyBody, PageQuery, RoleBody, page};
use crate::problem::Problem;
use crate::scope::{Caller, CallerSeed};

/// A key to make.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewApiKey)]
#[serde(deny_unknown_fields)]
pub struct NewKeyBody {
    /// What people call it.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// What it may be used for.
    role: RoleBody,
    /// The tenant it belongs to: for `tenant_admin` and `tenant_viewer`, and only for them.
    #[schema(value_type = Option<String>, format = Uuid)]
    tenant: Option<TenantId>,
}

/// Lists every key that is in force, oldest first.
#[utoipa::path(
    get, path = "/v1/landlord/api-keys", tag = "Landlord", params(PageQuery),
    responses((status = 200, description = "A page of keys", body = Page<KeyBody>))
)]
pub async fn list_keys(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InQuery(query): InQuery<PageQuery>,
) -> Result<Json<Page<KeyBody>>, Problem> {
    let keys = api.application.all_keys(&scope).await?;
    page(keys, &"all keys", &query).map(Json)
}

/// Makes a key of any role.
#[utoipa::path(
    post, path = "/v1/landlord/api-keys", tag = "Landlord", request_body = NewKeyBody,
    responses((status = 201, description = "The key; `api_key` is shown here and never again",
        body = KeyBody))
)]
pub async fn create_key(
    State(api): State<Arc<Api>>,
    CallerSeed(seed): CallerSeed,
    ask: Ask<NewKeyBody>,
) -> Result<Commanded<KeyBody>, Problem> {
    let (command, new) = ask.into_new_key()?;
    let done = api
        .to_its_end(|application| async move { application.create_key(&command, new, &seed).await })
        .await?;
    let location = format!("/v1/landlord/api-keys/{}", done.value.key.id);
    Ok(Commanded::created(done, KeyBody::issued, location).outside_ledgers())
}

/// Revokes a key; it opens nothing from this moment on.
#[utoipa::path(
    delete, path = "/v1/landlord/api-keys/{id}", tag = "Landlord",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 204, description = "It is revoked"))
)]
pub async fn revoke_key(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(id): InPath<KeyId>,
) -> Result<StatusCode, Problem> {
    api.to_its_end(|application| async move { application.revoke_key(&scope, id).await })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Ask<NewKeyBody> {
    fn into_new_key(self) -> Result<(Command, NewKey), Problem> {
        let mut fields = Fields::default();
        let name = fields.text("name", self.body.name);
        let new = NewKey {
            name: fields.finish(name)?,
            role: self.body.role.into(),
            tenant: self.body.tenant,
        };
        Ok((self.command, new))
    }
}
