//! The commands of a card's life over HTTP.
//!
//! Repeating a change that is done already is a success. Whether a change is allowed is decided
//! in the domain; here requests are only read and answers written.

use std::sync::Arc;

use application::cards::{Change, NewCard};
use application::scope::Command;
use axum::extract::State;
use chrono::{DateTime, Utc};
use domain::card::Holder;
use domain::ids::CardId;
use domain::text::Tier;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{CardBody, HolderBody};
use crate::Api;
use crate::answer::Commanded;
use crate::extract::body::{Why, reason};
use crate::extract::{Ask, Fields, InPath};
use crate::problem::Problem;

/// A card to issue.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(as = NewCard)]
#[serde(deny_unknown_fields)]
pub struct NewCardBody {
    /// Who holds it.
    holder: HolderBody,
    /// The tenant's own reference.
    #[schema(max_length = 100, example = "member-1815")]
    external_ref: Option<String>,
    /// Its kind. Default: `standard`.
    #[schema(max_length = 40)]
    tier: Option<String>,
    /// When it ends by itself: RFC 3339, in the future.
    #[schema(format = DateTime)]
    expires_at: Option<String>,
    /// Whether it is active from the start.
    #[serde(default)]
    activate: bool,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// A card's new end.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// The new end: RFC 3339, in the future.
    #[schema(format = DateTime)]
    expires_at: String,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// A card's new holder, whole: as `holder`, or its fields directly.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HolderUpdate {
    /// The new holder.
    holder: Option<HolderBody>,
    /// Its name, if `holder` is absent.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// Its e-mail address, if `holder` is absent.
    #[schema(max_length = 254)]
    email: Option<String>,
    /// Why, for the record.
    #[schema(max_length = 500)]
    reason: Option<String>,
}

/// Issues a card.
#[utoipa::path(
    post, path = "/v1/cards", tag = "Cards", request_body = NewCardBody,
    responses(
        (status = 201, description = "The card", body = CardBody),
        (status = 402, description = "The quota is reached, or the subscription is not in good standing"),
    )
)]
pub async fn issue_card(
    State(api): State<Arc<Api>>,
    ask: Ask<NewCardBody>,
) -> Result<Commanded<CardBody>, Problem> {
    let (command, new) = ask.into_new_card()?;
    let done = api.application.issue_card(&command, new).await?;
    let location = format!("/v1/cards/{}", done.value.id);
    Ok(Commanded::created(done, CardBody::from, location))
}

/// Replaces a card by a new one of the same holder; answers the new one.
#[utoipa::path(
    post, path = "/v1/cards/{id}/replace", tag = "Cards", request_body = Why,
    params(("id" = String, Path, description = "The card's id")),
    responses(
        (status = 201, description = "The new card; both are linked", body = CardBody),
        (status = 402, description = "The subscription is not in good standing"),
    )
)]
pub async fn replace_card(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<CardId>,
    ask: Ask<Why>,
) -> Result<Commanded<CardBody>, Problem> {
    let command = ask.because()?;
    let done = api.application.replace_card(&command, id).await?;
    let location = format!("/v1/cards/{}", done.value.id);
    Ok(Commanded::created(done, CardBody::from, location))
}

/// Puts an issued card to use.
#[utoipa::path(
    put, path = "/v1/cards/{id}/activate", tag = "Cards", request_body = Why,
    params(("id" = String, Path, description = "The card's id")),
    responses(
        (status = 200, description = "The card", body = CardBody),
        (status = 402, description = "The subscription is not in good standing"),
    )
)]
pub async fn activate_card(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<CardId>,
    ask: Ask<Why>,
) -> Result<Commanded<CardBody>, Problem> {
    change(&api, &ask.because()?, id, Change::Activate).await
}

/// Takes an active card out of use for a while.
#[utoipa::path(
    put, path = "/v1/cards/{id}/suspend", tag = "Cards", request_body = Why,
    params(("id" = String, Path, description = "The card's id")),
    responses((status = 200, description = "The card", body = CardBody))
)]
pub async fn suspend_card(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<CardId>,
    ask: Ask<Why>,
) -> Result<Commanded<CardBody>, Problem> {
    change(&api, &ask.because()?, id, Change::Suspend).await
}

/// Puts a suspended card back to use.
#[utoipa::path(
    put, path = "/v1/cards/{id}/reinstate", tag = "Cards", request_body = Why,
    params(("id" = String, Path, description = "The card's id")),
    responses(
        (status = 200, description = "The card", body = CardBody),
        (status = 402, description = "The subscription is not in good standing"),
    )
)]
pub async fn reinstate_card(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<CardId>,
    ask: Ask<Why>,
) -> Result<Commanded<CardBody>, Problem> {
    change(&api, &ask.because()?, id, Change::Reinstate).await
}

/// Ends a card for good.
#[utoipa::path(
    put, path = "/v1/cards/{id}/revoke", tag = "Cards", request_body = Why,
    params(("id" = String, Path, description = "The card's id")),
    responses((status = 200, description = "The card", body = CardBody))
)]
pub async fn revoke_card(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<CardId>,
    ask: Ask<Why>,
) -> Result<Commanded<CardBody>, Problem> {
    change(&api, &ask.because()?, id, Change::Revoke).await
}

/// Gives a card a new end; an expired one becomes active again and takes a place of the quota.
#[utoipa::path(
    put, path = "/v1/cards/{id}/renew", tag = "Cards", request_body = Renewal,
    params(("id" = String, Path, description = "The card's id")),
    responses(
        (status = 200, description = "The card", body = CardBody),
        (status = 402, description = "The quota is reached, or the subscription is not in good standing"),
    )
)]
pub async fn renew_card(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<CardId>,
    ask: Ask<Renewal>,
) -> Result<Commanded<CardBody>, Problem> {
    let (command, expires_at) = ask.into_renewal()?;
    change(&api, &command, id, Change::Renew(expires_at)).await
}

/// Changes who holds a card.
#[utoipa::path(
    put, path = "/v1/cards/{id}/holder", tag = "Cards", request_body = HolderUpdate,
    params(("id" = String, Path, description = "The card's id")),
    responses((status = 200, description = "The card", body = CardBody))
)]
pub async fn update_holder(
    State(api): State<Arc<Api>>,
    InPath(id): InPath<CardId>,
    ask: Ask<HolderUpdate>,
) -> Result<Commanded<CardBody>, Problem> {
    let (command, holder) = ask.into_holder()?;
    change(&api, &command, id, Change::UpdateHolder(holder)).await
}

async fn change(
    api: &Api,
    command: &Command,
    id: CardId,
    change: Change,
) -> Result<Commanded<CardBody>, Problem> {
    let done = api.application.change_card(command, id, change).await?;
    Ok(Commanded::ok(done, CardBody::from))
}

impl Ask<NewCardBody> {
    fn into_new_card(self) -> Result<(Command, NewCard), Problem> {
        let body = self.body;
        let mut fields = Fields::default();
        let name = fields.text("holder.name", body.holder.name);
        let email = fields.optional_text("holder.email", body.holder.email);
        let external_ref = fields.optional_text("external_ref", body.external_ref);
        let tier = fields.optional_text("tier", body.tier);
        let expires_at = fields.optional_time("expires_at", body.expires_at.as_deref());
        let reason = reason(&mut fields, body.reason);
        let whole = || {
            let new = NewCard {
                holder: Holder {
                    name: name?,
                    email: email?,
                },
                external_ref: external_ref?,
                tier: tier?.unwrap_or_else(Tier::default),
                expires_at: expires_at?,
                activate: body.activate,
            };
            let command = Command {
                reason: reason?,
                ..self.command
            };
            Some((command, new))
        };
        fields.finish(whole())
    }
}

impl Ask<Renewal> {
    fn into_renewal(self) -> Result<(Command, DateTime<Utc>), Problem> {
        let mut fields = Fields::default();
        let expires_at = fields.time("expires_at", &self.body.expires_at);
        let reason = reason(&mut fields, self.body.reason);
        let (expires_at, reason) = fields.finish(expires_at.zip(reason))?;
        let command = Command {
            reason,
            ..self.command
        };
        Ok((command, expires_at))
    }
}

impl Ask<HolderUpdate> {
    fn into_holder(self) -> Result<(Command, Holder), Problem> {
        let HolderUpdate {
            holder,
            name,
            email,
            reason: why,
        } = self.body;
        let mut fields = Fields::default();
        let holder = match (holder, name, email) {
            (Some(HolderBody { name, email }), None, None) => {
                let name = fields.text("holder.name", name);
                name.zip(fields.optional_text("holder.email", email))
            }
            (None, Some(name), email) => {
                let name = fields.text("name", name);
                name.zip(fields.optional_text("email", email))
            }
            (None, None, _) => {
                fields.note("holder", "required", "is missing");
                None
            }
            (Some(_), _, _) => {
                fields.note(
                    "holder",
                    "ambiguous",
                    "goes without name and email beside it",
                );
                None
            }
        };
        let holder = holder.map(|(name, email)| Holder { name, email });
        let reason = reason(&mut fields, why);
        let (holder, reason) = fields.finish(holder.zip(reason))?;
        let command = Command {
            reason,
            ..self.command
        };
        Ok((command, holder))
    }
}
