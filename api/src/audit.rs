//! A tenant's history for auditors: pages of JSON, or all of it as NDJSON, byte for byte as
//! stored, with the hashes that prove it (`digital-card verify` checks them offline).

use std::sync::Arc;

use application::ports::{HistoryFilter, StoredEvent};
use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_DISPOSITION, CONTENT_TYPE, VARY};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use domain::ids::{Position, TenantId, Version};
use futures::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use crate::Api;
use crate::answer::{Json, Page};
use crate::extract::{Fields, InPath, InQuery, cursor, page_items, text};
use crate::problem::{Code, Problem};
use crate::scope::Caller;

/// How many events are written to the connection at a time.
const EVENTS_A_WRITE: usize = 64;
const NDJSON: &str = "application/x-ndjson";

/// An event, as stored.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AuditEvent)]
pub struct EventBody {
    /// Its place in the ledger: 1, 2, 3 … without gaps.
    pub position: Position,
    /// The kind of its aggregate.
    #[schema(example = "DigitalCard")]
    pub aggregate_type: String,
    /// Its aggregate.
    pub aggregate_id: String,
    /// Its place among its aggregate's events, from 1.
    pub sequence: Version,
    /// Its name.
    #[serde(rename = "type")]
    #[schema(example = "CardIssued")]
    pub event_type: String,
    /// The version of its shape.
    #[schema(example = "2.0.0")]
    pub version: String,
    /// Its content: the exact stored text, which the hash covers.
    #[schema(value_type = Object)]
    pub payload: Box<RawValue>,
    /// Who, why and on whose request: the exact stored text, which the hash covers.
    #[schema(value_type = Object)]
    pub metadata: Box<RawValue>,
    /// When it was recorded, to the microsecond.
    #[schema(value_type = String, format = DateTime)]
    pub recorded_at: String,
    /// Its link in the chain: SHA-256 over the hash before it and the stored bytes.
    pub hash: String,
}

/// How a history is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HistoryFormat {
    /// Pages of JSON.
    Json,
    /// Everything that matches, one JSON object a line.
    Ndjson,
}

/// Which events are asked for.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    /// Only events after this position.
    after: Option<Position>,
    /// Only events of this name: `CardIssued`.
    #[serde(rename = "type")]
    event_type: Option<String>,
    /// Only events of this aggregate.
    aggregate_id: Option<String>,
    /// Only events recorded at or after this time.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Only events recorded before this time.
    #[param(format = DateTime)]
    to: Option<String>,
    /// Waits until the ledger has this position.
    at_least: Option<Position>,
    /// At most so many a page of JSON, 1 to 500. Default: 50.
    limit: Option<usize>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Instead of the header `Accept`.
    #[param(inline)]
    format: Option<HistoryFormat>,
}

/// Lists a tenant's events, or streams all of them. The landlord's own ledger, in which the
/// catalogue is, has the id `00000000-0000-0000-0000-000000000000`.
///
/// `Accept: application/x-ndjson` (or `format=ndjson`) answers everything that matches, one event
/// a line, without pages.
#[utoipa::path(
    get, path = "/v1/audit/tenants/{id}/events", tag = "Auditor",
    params(("id" = String, Path, description = "The tenant's id"), EventQuery),
    responses((status = 200, description = "A page of events, or all of them", content(
        (Page<EventBody> = "application/json"),
        (EventBody = "application/x-ndjson"),
    )))
)]
pub async fn list_events(
    State(api): State<Arc<Api>>,
    Caller(scope): Caller,
    InPath(id): InPath<TenantId>,
    InQuery(query): InQuery<EventQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let list = (
        ("events", id, &query.event_type, &query.aggregate_id),
        (&query.from, &query.to),
    );
    let mut filter = query.filter()?;
    if let Some(cursor) = &query.cursor {
        let place: Position = cursor::read(&list, cursor)?;
        filter.after = filter.after.max(place);
    }
    let at_least = query.at_least.unwrap_or_default();
    if wanted(query.format, &headers)? == HistoryFormat::Ndjson {
        let events = api.application.history_stream(&scope, id, filter, at_least);
        let events = events.await?;
        return Ok(download(id, lines(events)));
    }
    let limit = page_items(query.limit)?;
    let mut events = api
        .application
        .history(&scope, id, &filter, limit + 1, at_least)
        .await?;
    let more = events.len() > limit;
    events.truncate(limit);
    let next_cursor = match events.last().filter(|_| more) {
        Some(last) => Some(cursor::write(&list, &last.position)?),
        None => None,
    };
    let items = events.into_iter().map(EventBody::of);
    let items = items.collect::<Result<_, _>>().map_err(Problem::internal)?;
    Ok(([(VARY, "accept")], Json(Page { items, next_cursor })).into_response())
}

impl EventQuery {
    fn filter(&self) -> Result<HistoryFilter, Problem> {
        let mut fields = Fields::default();
        let from = fields.optional_time("from", self.from.as_deref());
        let to = fields.optional_time("to", self.to.as_deref());
        let (from, to) = fields.finish_query(from.zip(to))?;
        Ok(HistoryFilter {
            after: self.after.unwrap_or_default(),
            event_type: text("type", self.event_type.clone())?,
            kind: None,
            aggregate_id: text("aggregate_id", self.aggregate_id.clone())?,
            from,
            to,
        })
    }
}

/// The format by parameter, else by `Accept`: the first media type in it that can be had.
fn wanted(format: Option<HistoryFormat>, headers: &HeaderMap) -> Result<HistoryFormat, Problem> {
    if let Some(format) = format {
        return Ok(format);
    }
    let Some(accept) = headers.get(ACCEPT) else {
        return Ok(HistoryFormat::Json);
    };
    let accept = accept.to_str().unwrap_or_default();
    accept
        .split(',')
        .find_map(|range| match range.split(';').next().map(str::trim) {
            Some(NDJSON | "application/ndjson" | "application/jsonl") => {
                Some(HistoryFormat::Ndjson)
            }
            Some("application/json" | "application/*" | "*/*") => Some(HistoryFormat::Json),
            _ => None,
        })
        .ok_or_else(|| {
            let detail = "this is had as application/json or application/x-ndjson";
            Problem::new(Code::NotAcceptable, detail)
        })
}

/// The events as lines, some at a time. A failure breaks the download off, so that a client
/// never takes a part for the whole.
fn lines<E>(
    events: impl Stream<Item = Result<StoredEvent, E>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static
where
    E: std::error::Error + Send + Sync + 'static,
{
    Box::pin(events).ready_chunks(EVENTS_A_WRITE).map(|chunk| {
        let mut text = Vec::with_capacity(chunk.len() * 1024);
        for event in chunk {
            let body = event.map_err(broken_off)?;
            let body = EventBody::of(body).map_err(broken_off)?;
            serde_json::to_writer(&mut text, &body).map_err(broken_off)?;
            text.push(b'\n');
        }
        Ok(Bytes::from(text))
    })
}

fn broken_off(error: impl std::error::Error + Send + Sync + 'static) -> std::io::Error {
    tracing::error!(
        error = &error as &dyn std::error::Error,
        "a download broke off"
    );
    std::io::Error::other(error)
}

fn download(
    tenant: TenantId,
    lines: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static,
) -> Response {
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(NDJSON));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    let disposition = format!("attachment; filename=\"history-{tenant}.ndjson\"");
    if let Ok(disposition) = HeaderValue::try_from(disposition) {
        headers.insert(CONTENT_DISPOSITION, disposition);
    }
    response
}

impl EventBody {
    /// The event with its exact texts; an error if one of them is not JSON.
    pub fn of(stored: StoredEvent) -> Result<Self, serde_json::Error> {
        Ok(Self {
            position: stored.position,
            aggregate_type: stored.aggregate_type,
            aggregate_id: stored.aggregate_id,
            sequence: stored.sequence,
            event_type: stored.event_type,
            version: stored.event_version,
            payload: RawValue::from_string(stored.payload)?,
            metadata: RawValue::from_string(stored.metadata)?,
            recorded_at: exact(stored.recorded_at),
            hash: stored.hash.to_string(),
        })
    }
}

/// A time to the microsecond, which is how times are kept.
pub(crate) fn exact(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_the_parameter_then_the_first_media_type_that_can_be_had() {
        let by = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            wanted(None, &headers)
        };
        assert_eq!(by(NDJSON).expect("a format"), HistoryFormat::Ndjson);
        assert_eq!(
            by("text/html, */*;q=0.1").expect("a format"),
            HistoryFormat::Json
        );
        assert_eq!(
            by("text/html").expect_err("a problem").code(),
            Code::NotAcceptable
        );
        let headers = HeaderMap::new();
        assert_eq!(
            wanted(None, &headers).expect("a format"),
            HistoryFormat::Json
        );
        let format = wanted(Some(HistoryFormat::Ndjson), &headers);
        assert_eq!(format.expect("a format"), HistoryFormat::Ndjson);
    }
}
