//! A tenant's cards over HTTP: what a card looks like, and the reads.

pub mod commands;

use std::sync::Arc;

use application::cards::{Card, CardCursor, CardFilter, CardSort};
use application::ports::StoredEvent;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::StatusCode;
use axum::http::header::ETAG;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::card::{Holder, Status};
use domain::event::Metadata;
use domain::ids::{CardId, Position, Version};
use domain::text::Tier;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::Api;
use crate::answer::{Json, Page, etag};
use crate::extract::{Fields, InPath, InQuery, cursor, headers, page_items, text};
use crate::problem::Problem;
use crate::scope::Caller;

/// A digital card.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Card)]
pub struct CardBody {
    /// Its id: a UUID, version 7.
    #[schema(value_type = String, format = Uuid)]
    pub id: CardId,
    /// 16 digits, unique in the tenant.
    #[schema(example = "6180339887499098")]
    pub number: String,
    /// Where it is in its life.
    pub status: StatusBody,
    /// Who holds it.
    pub holder: HolderBody,
    /// The tenant's own reference.
    pub external_ref: Option<String>,
    /// Its kind.
    #[schema(example = "standard")]
    pub tier: String,
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// The card whose place it took.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub replaces: Option<CardId>,
    /// The card that took its place.
    #[schema(value_type = Option<String>, format = Uuid)]
    pub replaced_by: Option<CardId>,
    /// How many events it has; also its `ETag`.
    pub version: Version,
}

/// Who holds a card.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Holder)]
#[serde(deny_unknown_fields)]
pub struct HolderBody {
    /// Name.
    #[schema(min_length = 1, max_length = 200, example = "Ada Lovelace")]
    pub name: String,
    /// E-mail address.
    #[serde(default)]
    #[schema(max_length = 254, example = "ada@example.com")]
    pub email: Option<String>,
}

/// Where a card is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = CardStatus)]
#[serde(rename_all = "snake_case")]
pub enum StatusBody {
    /// In circulation, not yet in use.
    Issued,
    /// In circulation and in use.
    Active,
    /// In circulation, out of use for a while.
    Suspended,
    /// Ended for good.
    Revoked,
    /// Its time is over; may be renewed.
    Expired,
    /// Another card took its place.
    Replaced,
}

/// What happened to a card.
#[derive(Debug, Serialize, ToSchema)]
pub struct CardEventBody {
    /// Its place in the tenant's ledger.
    pub position: Position,
    /// The card's version after it.
    pub version: Version,
    /// Its name.
    #[serde(rename = "type")]
    #[schema(example = "CardIssued")]
    pub event_type: String,
    /// When it was recorded.
    pub at: DateTime<Utc>,
    /// Who did it: the id of an API key, or the name of a process.
    pub actor: String,
    /// The role in which they did it.
    pub role: String,
    /// Why, as they said.
    pub reason: Option<String>,
    /// The request it came with.
    pub request_id: String,
    /// What it belongs to.
    pub correlation_id: String,
    /// What it says.
    #[schema(value_type = Object)]
    pub data: Box<RawValue>,
}

/// Which cards are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct CardQuery {
    /// Only cards of this status.
    status: Option<StatusBody>,
    /// Only cards whose name, e-mail address, number or reference has this in it, in any case.
    q: Option<String>,
    /// Only cards of this kind.
    tier: Option<String>,
    /// In this order; `-` is backwards. Default: `issued_at`.
    #[param(value_type = Option<String>, pattern = "^-?(issued_at|name)$")]
    sort: Option<CardSort>,
    /// At most so many, 1 to 500. Default: 50.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Waits until the list includes this ledger position.
    at_least: Option<Position>,
}

/// How fresh a read must be.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Fresh {
    /// Waits until the answer includes this ledger position.
    pub at_least: Option<Position>,
}

/// Which part of a card's history is asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// At most so many, 1 to 500. Default: 50.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Waits until the ledger has this position.
    at_least: Option<Position>,
}

/// Lists cards, a page at a time.
#[utoipa::path(
    get, path = "/v1/cards", tag = "Cards", params(CardQuery),
    responses((status = 200, description = "A page of cards", body = Page<CardBody>))
)]
pub async fn list_cards(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InQuery(query): InQuery<CardQuery>,
) -> Result<Json<Page<CardBody>>, Problem> {
    let at_least = query.at_least.unwrap_or_default();
    let cursor = query.cursor.clone();
    let mut filter = query.into_filter()?;
    let list = ("cards", filter.status, &filter.q, &filter.tier, filter.sort);
    filter.after = match cursor {
        Some(cursor) => Some(cursor::read::<CardCursor>(&list, &cursor)?),
        None => None,
    };
    let page = api.application.cards(&scope, &filter, at_least).await?;
    let list = ("cards", filter.status, &filter.q, &filter.tier, filter.sort);
    let next_cursor = match page.next {
        Some(next) => Some(cursor::write(&list, &next)?),
        None => None,
    };
    let items = page.items.into_iter().map(CardBody::from).collect();
    Ok(Json(Page { items, next_cursor }))
}

/// Reads one card.
#[utoipa::path(
    get, path = "/v1/cards/{id}", tag = "Cards",
    params(("id" = String, Path, description = "The card's id"), Fresh),
    responses(
        (status = 200, description = "The card", body = CardBody,
            headers(("ETag" = String, description = "The card's version"))),
        (status = 304, description = "The client has this version already (`If-None-Match`)"),
    )
)]
pub async fn get_card(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(id): InPath<CardId>,
    InQuery(fresh): InQuery<Fresh>,
    request_headers: HeaderMap,
) -> Result<Response, Problem> {
    let at_least = fresh.at_least.unwrap_or_default();
    let card = api.application.card(&scope, id, at_least).await?;
    let tag = [(ETAG, etag(card.version))];
    if headers::has_already(&request_headers, card.version) {
        return Ok((StatusCode::NOT_MODIFIED, tag).into_response());
    }
    Ok((tag, Json(CardBody::from(card))).into_response())
}

/// Lists what happened to a card, oldest first: who, when, why.
#[utoipa::path(
    get, path = "/v1/cards/{id}/history", tag = "Cards",
    params(("id" = String, Path, description = "The card's id"), HistoryQuery),
    responses((status = 200, description = "A page of the card's events", body = Page<CardEventBody>))
)]
pub async fn card_history(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(id): InPath<CardId>,
    InQuery(query): InQuery<HistoryQuery>,
) -> Result<Json<Page<CardEventBody>>, Problem> {
    let limit = page_items(query.limit)?;
    let at_least = query.at_least.unwrap_or_default();
    let list = ("history", id);
    let after: Position = match &query.cursor {
        Some(cursor) => cursor::read(&list, cursor)?,
        None => 0,
    };
    let mut events = api
        .application
        .card_history(&scope, id, after, limit + 1, at_least)
        .await?;
    let more = events.len() > limit;
    events.truncate(limit);
    let next_cursor = match events.last().filter(|_| more) {
        Some(last) => Some(cursor::write(&list, &last.position)?),
        None => None,
    };
    let items = events.into_iter().map(CardEventBody::of);
    Ok(Json(Page {
        items: items.collect::<Result<_, _>>()?,
        next_cursor,
    }))
}

impl CardQuery {
    fn into_filter(self) -> Result<CardFilter, Problem> {
        let limit = page_items(self.limit)?;
        let mut fields = Fields::default();
        let tier: Option<Option<Tier>> = fields.optional_text("tier", self.tier);
        Ok(CardFilter {
            status: self.status.map(Status::from),
            q: text("q", self.q)?,
            tier: fields.finish_query(tier)?,
            sort: self.sort.unwrap_or(CardSort::IssuedAt),
            after: None,
            limit,
        })
    }
}

impl From<Card> for CardBody {
    fn from(card: Card) -> Self {
        Self {
            id: card.id,
            number: card.number.into(),
            status: card.status.into(),
            holder: card.holder.into(),
            external_ref: card.external_ref.map(Into::into),
            tier: card.tier.into(),
            issued_at: card.issued_at,
            expires_at: card.expires_at,
            replaces: card.replaces,
            replaced_by: card.replaced_by,
            version: card.version,
        }
    }
}

impl From<Holder> for HolderBody {
    fn from(holder: Holder) -> Self {
        Self {
            name: holder.name.into(),
            email: holder.email.map(Into::into),
        }
    }
}

impl From<Status> for StatusBody {
    fn from(status: Status) -> Self {
        match status {
            Status::Issued => Self::Issued,
            Status::Active => Self::Active,
            Status::Suspended => Self::Suspended,
            Status::Revoked => Self::Revoked,
            Status::Expired => Self::Expired,
            Status::Replaced => Self::Replaced,
        }
    }
}

impl From<StatusBody> for Status {
    fn from(status: StatusBody) -> Self {
        match status {
            StatusBody::Issued => Self::Issued,
            StatusBody::Active => Self::Active,
            StatusBody::Suspended => Self::Suspended,
            StatusBody::Revoked => Self::Revoked,
            StatusBody::Expired => Self::Expired,
            StatusBody::Replaced => Self::Replaced,
        }
    }
}

impl CardEventBody {
    /// The event as stored, its content without the name around it.
    fn of(stored: StoredEvent) -> Result<Self, Problem> {
        let metadata: Metadata =
            serde_json::from_str(&stored.metadata).map_err(Problem::internal)?;
        let mut content: std::collections::HashMap<String, Box<RawValue>> =
            serde_json::from_str(&stored.payload).map_err(Problem::internal)?;
        let data = content
            .remove(&stored.event_type)
            .ok_or_else(|| Problem::internal("an event without its name"))?;
        Ok(Self {
            position: stored.position,
            version: stored.sequence,
            event_type: stored.event_type,
            at: stored.recorded_at,
            actor: metadata.actor,
            role: metadata.role,
            reason: metadata.reason,
            request_id: metadata.request_id,
            correlation_id: metadata.correlation_id,
            data,
        })
    }
}
