//! What handlers take from a request: the path, the query string, and a command with its body.
//!
//! One rule a part, so that clients can rely on it: a path that names nothing possible is 404, a
//! query string that cannot be is 400 `invalid_query`, a body that is not JSON is 400
//! `malformed_json`, and a body that is JSON but cannot be is 422 `validation_failed`. Unknown
//! parameters and fields are refused everywhere.

pub mod body;
pub mod cursor;
pub mod fields;
pub mod headers;

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use crate::Api;
use crate::problem::{FieldError, Problem};

pub use self::body::Ask;
pub use self::fields::Fields;

/// How many items a page of a list has, if nothing is said.
pub const PAGE_ITEMS_DEFAULT: usize = 50;
/// How many items a page of a list has at most.
pub const PAGE_ITEMS_MAX: usize = 500;
/// How many characters a text to search for has at most: more than any text that is kept.
const TEXT_CHARS_MAX: usize = 254;

/// Parameters of the path. What cannot be parsed cannot exist: 404.
#[derive(Debug)]
pub struct InPath<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Api>> for InPath<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &Arc<Api>) -> Result<Self, Problem> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(parameters)) => Ok(Self(parameters)),
            Err(_) => Err(Problem::not_found("resource")),
        }
    }
}

/// Parameters of the query string.
#[derive(Debug)]
pub struct InQuery<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<Arc<Api>> for InQuery<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, Problem> {
        query(parts.uri.query().unwrap_or_default()).map(Self)
    }
}

fn query<T: DeserializeOwned>(text: &str) -> Result<T, Problem> {
    let pairs = form_urlencoded::parse(text.as_bytes());
    let deserializer = serde_urlencoded::Deserializer::new(pairs);
    serde_path_to_error::deserialize(deserializer).map_err(|error| {
        let field = fields::of_serde(error.path(), &error.inner().to_string());
        Problem::invalid_query(field)
    })
}

/// The size of the page that `?limit=` asks for.
///
/// # Errors
///
/// `invalid_query` outside 1 to [`PAGE_ITEMS_MAX`].
pub fn page_items(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(PAGE_ITEMS_DEFAULT) {
        limit @ 1..=PAGE_ITEMS_MAX => Ok(limit),
        _ => Err(Problem::invalid_query(FieldError::new(
            "limit",
            "out_of_range",
            format!("must be 1 to {PAGE_ITEMS_MAX}"),
        ))),
    }
}

/// Text that a list is searched for; an empty one is none.
///
/// # Errors
///
/// `invalid_query` if it is longer than anything that is kept, or has control characters: nothing
/// that is kept has, and a store would take a NUL for the end of the text, or refuse it.
pub fn text(name: &'static str, value: Option<String>) -> Result<Option<String>, Problem> {
    let Some(text) = value.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let (code, detail) = if text.chars().count() > TEXT_CHARS_MAX {
        let detail = format!("may have {TEXT_CHARS_MAX} characters at most");
        ("too_long", detail)
    } else if text.chars().any(char::is_control) {
        let detail = "must not hold control characters".to_owned();
        ("control_character", detail)
    } else {
        return Ok(Some(text));
    };
    Err(Problem::invalid_query(FieldError::new(name, code, detail)))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Query {
        limit: Option<usize>,
        q: Option<String>,
    }

    #[test]
    fn a_query_string_is_read() {
        let read: Query = query("limit=3&q=a%20b+c").expect("a query");
        assert_eq!(read.limit, Some(3));
        assert_eq!(read.q.as_deref(), Some("a b c"));
    }

    #[test]
    fn what_is_wrong_with_a_query_string_is_named() {
        for (text, field, code) in [
            ("limit=x", "limit", "invalid"),
            ("nope=1", "nope", "unknown_field"),
            ("limit=1&limit=2", "limit", "duplicate"),
        ] {
            let problem = query::<Query>(text).expect_err("a problem");
            assert_eq!(problem.code(), crate::problem::Code::InvalidQuery);
            let error = &problem.body().errors[0];
            assert_eq!((&*error.field, &*error.code), (field, code), "{error:?}");
        }
    }

    #[test]
    fn a_text_to_search_for_is_what_could_be_kept() {
        let read = |value: &str| text("q", Some(value.to_owned()));
        assert_eq!(read("").expect("none"), None);
        assert_eq!(read("Ada").expect("a text").as_deref(), Some("Ada"));
        assert!(read(&"ä".repeat(254)).is_ok());
        for (value, code) in [
            ("a\0b", "control_character"),
            (&"_".repeat(255), "too_long"),
        ] {
            let problem = read(value).expect_err("a problem");
            assert_eq!(problem.body().errors[0].code, code);
        }
    }

    #[test]
    fn a_page_has_1_to_500_items() {
        assert_eq!(page_items(None).expect("a size"), 50);
        assert_eq!(page_items(Some(500)).expect("a size"), 500);
        assert!(page_items(Some(0)).is_err());
        assert!(page_items(Some(501)).is_err());
    }
}
