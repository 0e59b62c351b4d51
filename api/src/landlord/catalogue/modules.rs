//! Modules: what features are installed and locked together.

use std::sync::Arc;

use application::scope::Command;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use domain::catalogue::{Module, ModuleKey};
use domain::text::DisplayName;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{price_level, require_landlord, versioned};
use crate::Api;
use crate::answer::{Commanded, Json, Page};
use crate::extract::body::reason;
use crate::extract::{Ask, Fields, InPath};
use crate::problem::Problem;
use crate::scope::Caller;

/// A module: features that are installed and locked together.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ModuleForSale)]
pub struct ModuleForSaleBody {
    /// Its key.
    pub key: String,
    /// Its name, for people.
    pub name: String,
    /// The lowest price level whose plans install it.
    pub price_level: u32,
}

/// What a module is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModuleDefinition {
    /// Its name, for people.
    #[schema(max_length = 100)]
    name: String,
    /// The lowest price level whose plans install it: 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    price_level: u32,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Lists the modules, in price order.
#[utoipa::path(
    get, path = "/v1/landlord/modules", tag = "Landlord",
    responses((status = 200, description = "Every module", body = Page<ModuleForSaleBody>))
)]
pub async fn list_modules(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
) -> Result<Json<Page<ModuleForSaleBody>>, Problem> {
    require_landlord(&scope)?;
    let edition = api.application.catalogue.current();
    let modules = edition.catalogue.modules.iter().cloned();
    Ok(Json(Page::whole(modules.map(Into::into).collect())))
}

/// Shows a module.
#[utoipa::path(
    get, path = "/v1/landlord/modules/{key}", tag = "Landlord",
    params(("key" = String, Path, description = "The module's key")),
    responses(
        (status = 200, description = "The module", body = ModuleForSaleBody,
            headers(("ETag" = String, description = "The catalogue's version"))),
        (status = 304, description = "The client has this version already (`If-None-Match`)"),
    )
)]
pub async fn get_module(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(key): InPath<String>,
    request_headers: HeaderMap,
) -> Result<Response, Problem> {
    require_landlord(&scope)?;
    let edition = api.application.catalogue.current();
    let module = edition.catalogue.module(&key).cloned();
    let body = ModuleForSaleBody::from(module.ok_or_else(|| Problem::not_found("module"))?);
    Ok(versioned(edition.revision, &request_headers, body))
}

/// Defines a module, new or known.
#[utoipa::path(
    put, path = "/v1/landlord/modules/{key}", tag = "Landlord", request_body = ModuleDefinition,
    params(("key" = String, Path, description = "The module's key")),
    responses((status = 200, description = "The module", body = ModuleForSaleBody))
)]
pub async fn define_module(
    State(api): State<Arc<Api>>,
    InPath(key): InPath<String>,
    ask: Ask<ModuleDefinition>,
) -> Result<Commanded<ModuleForSaleBody>, Problem> {
    let (command, module) = ask.into_module(key)?;
    let done = api.application.define_module(&command, module).await;
    Ok(Commanded::ok(done?, ModuleForSaleBody::from))
}

impl Ask<ModuleDefinition> {
    fn into_module(self, key: String) -> Result<(Command, Module), Problem> {
        let Self { command, body } = self;
        let mut fields = Fields::default();
        let key = fields.text::<ModuleKey>("key", key);
        let name = fields.text::<DisplayName>("name", body.name);
        let price_level = price_level(&mut fields, body.price_level);
        let reason = reason(&mut fields, body.reason);
        let whole = || {
            let module = Module {
                key: key?,
                name: name?.into(),
                price_level: price_level?,
            };
            Some((module, reason?))
        };
        let (module, reason) = fields.finish(whole())?;
        Ok((Command { reason, ..command }, module))
    }
}

impl From<Module> for ModuleForSaleBody {
    fn from(module: Module) -> Self {
        Self {
            key: module.key.into(),
            name: module.name,
            price_level: module.price_level,
        }
    }
}
