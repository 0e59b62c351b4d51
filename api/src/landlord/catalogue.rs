//! What is for sale: modules, features, plans, and the switch of a feature.
//!
//! The `ETag` of each is the version of the catalogue as a whole, so `If-Match` refuses a change
//! that was made up before any other one. A `PUT` says the whole of what it defines; the same again
//! changes nothing.

pub mod features;
pub mod modules;
pub mod plans;

use application::scope::{Role, Scope};
use axum::http::header::ETAG;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::ids::Version;
use serde::Serialize;

use crate::answer::{Json, etag};
use crate::extract::{Fields, headers};
use crate::problem::Problem;

/// The highest price level.
const PRICE_LEVEL_MAX: u32 = 100;

pub(super) fn require_landlord(scope: &Scope) -> Result<(), Problem> {
    Ok(scope.require(&[Role::Landlord])?)
}

fn versioned(version: Version, request_headers: &HeaderMap, body: impl Serialize) -> Response {
    let tag = [(ETAG, etag(version))];
    match headers::has_already(request_headers, version) {
        true => (StatusCode::NOT_MODIFIED, tag).into_response(),
        false => (tag, Json(body)).into_response(),
    }
}

/// Parses a price level.
fn price_level(fields: &mut Fields, level: u32) -> Option<u32> {
    let inside = (1..=PRICE_LEVEL_MAX).contains(&level);
    if !inside {
        let detail = format!("must be 1 to {PRICE_LEVEL_MAX}");
        fields.note("price_level", "out_of_range", detail);
    }
    inside.then_some(level)
}
