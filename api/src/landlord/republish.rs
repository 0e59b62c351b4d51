//! Publishing a tenant's messages again, for a consumer that has lost some.

use std::sync::Arc;

use application::republish::Republication;
use application::scope::Command;
use axum::extract::State;
use domain::ids::{Position, TenantId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Api;
use crate::answer::Commanded;
use crate::extract::body::reason;
use crate::extract::{Ask, Fields, InPath};
use crate::problem::Problem;

/// From where on.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RepublishFrom {
    /// The ledger position of the first event to publish again: 1 for all of them.
    #[schema(minimum = 1, example = 1)]
    from: Position,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// What will be published again.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Republication)]
pub struct RepublicationBody {
    /// Whose messages.
    #[schema(value_type = String, format = Uuid)]
    tenant: TenantId,
    /// The position of the first event.
    from: Position,
    /// The position of the last event: the one before this request, which is recorded too.
    to: Position,
}

/// Publishes a tenant's messages to the broker again, from a position on, in order.
///
/// The request is recorded in the tenant's history; the messages come once the publisher has come
/// to it, with the ids they had. Without a broker, that is when there is one.
#[utoipa::path(
    post, path = "/v1/landlord/tenants/{id}/republish", tag = "Landlord",
    request_body = RepublishFrom, params(("id" = String, Path, description = "The tenant's id")),
    responses((status = 200, description = "It is recorded, and will be done", body = RepublicationBody))
)]
pub async fn republish(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<TenantId>,
    ask: Ask<RepublishFrom>,
) -> Result<Commanded<RepublicationBody>, Problem> {
    let (command, from) = ask.into_republish()?;
    let done = api.application.republish(&command, id, from).await?;
    let to = done.position.saturating_sub(1);
    let body = |Republication { tenant, from }| RepublicationBody { tenant, from, to };
    Ok(Commanded::ok(done, body))
}

impl Ask<RepublishFrom> {
    fn into_republish(self) -> Result<(Command, Position), Problem> {
        let mut fields = Fields::default();
        let reason = reason(&mut fields, self.body.reason);
        let command = Command {
            reason: fields.finish(reason)?,
            ..self.command
        };
        Ok((command, self.body.from))
    }
}
