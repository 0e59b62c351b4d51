//! The forms of an answer: what every command and every list says beside its content.

use application::commands::Done;
use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, ETAG, LOCATION};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::ids::{Position, Version};
use serde::Serialize;
use utoipa::ToSchema;

use crate::problem::Problem;

/// The ledger's position after a command.
pub const LEDGER_POSITION: HeaderName = HeaderName::from_static("ledger-position");
/// Whether the answer was given before, to the same request.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A body of JSON.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(text) => {
                let mut response = Response::new(Body::from(text));
                let json = HeaderValue::from_static("application/json");
                response.headers_mut().insert(CONTENT_TYPE, json);
                response
            }
            Err(error) => Problem::internal(error).into_response(),
        }
    }
}

/// What a command did.
#[derive(Debug)]
pub struct Commanded<T> {
    status: StatusCode,
    location: Option<String>,
    etag: Option<Version>,
    position: Option<Position>,
    replayed: bool,
    body: T,
}

impl<T> Commanded<T> {
    /// 200: `done`, with its value as `body` shows it.
    pub fn ok<V>(done: Done<V>, body: impl FnOnce(V) -> T) -> Self {
        Self {
            status: StatusCode::OK,
            location: None,
            etag: Some(done.version),
            position: Some(done.position),
            replayed: done.replayed,
            body: body(done.value),
        }
    }

    /// 201: as [`Self::ok`], and where the new thing is.
    pub fn created<V>(done: Done<V>, body: impl FnOnce(V) -> T, location: String) -> Self {
        Self {
            status: StatusCode::CREATED,
            location: Some(location),
            ..Self::ok(done, body)
        }
    }

    /// 202: as [`Self::created`], of something that is not done yet.
    pub fn accepted<V>(done: Done<V>, body: impl FnOnce(V) -> T, location: String) -> Self {
        Self {
            status: StatusCode::ACCEPTED,
            ..Self::created(done, body, location)
        }
    }

    /// The same, of a thing that is in no ledger and so has neither version nor position.
    pub fn outside_ledgers(self) -> Self {
        Self {
            etag: None,
            position: None,
            ..self
        }
    }
}

impl<T: Serialize> IntoResponse for Commanded<T> {
    fn into_response(self) -> Response {
        let mut response = Json(self.body).into_response();
        if response.status() != StatusCode::OK {
            return response;
        }
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(version) = self.etag {
            headers.insert(ETAG, etag(version));
        }
        if let Some(position) = self.position {
            headers.insert(LEDGER_POSITION, HeaderValue::from(position));
        }
        if let Some(location) = self
            .location
            .and_then(|uri| HeaderValue::try_from(uri).ok())
        {
            headers.insert(LOCATION, location);
        }
        if self.replayed {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }
}

/// A version as an entity tag.
pub fn etag(version: Version) -> HeaderValue {
    HeaderValue::try_from(format!("\"{version}\""))
        .unwrap_or_else(|_| unreachable!("digits and quotes are valid in a header"))
}

/// A page of a list.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Page<T> {
    /// The page.
    pub items: Vec<T>,
    /// Where the next page begins, for `?cursor=`; null on the last.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// A list that fits on one page.
    pub const fn whole(items: Vec<T>) -> Self {
        Self {
            items,
            next_cursor: None,
        }
    }
}
