//! The headers that make a command conditional (`If-Match`) or repeatable (`Idempotency-Key`).

use application::scope::Idempotency;
use axum::http::header::{IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, Method, Uri};
use domain::ids::Version;
use sha2::{Digest, Sha256};

use crate::problem::{Code, Problem};

/// The longest idempotency key, in characters.
const IDEMPOTENCY_KEY_LENGTH_MAX: usize = 255;

/// The client's idempotency key, with what makes the request the same request: SHA-256 of
/// method, path, query and body.
///
/// # Errors
///
/// `invalid_header` unless it is 1 to 255 visible ASCII characters, given once.
pub fn idempotency(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<Option<Idempotency>, Problem> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let bytes = value.as_bytes();
    let valid = (1..=IDEMPOTENCY_KEY_LENGTH_MAX).contains(&bytes.len())
        && bytes.iter().all(u8::is_ascii_graphic)
        && values.next().is_none();
    let (true, Ok(key)) = (valid, value.to_str()) else {
        return Err(Problem::new(
            Code::InvalidHeader,
            "Idempotency-Key must be 1 to 255 visible ASCII characters, given once",
        ));
    };
    let target = uri.path_and_query().map_or("", |target| target.as_str());
    let mut digest = Sha256::new();
    digest.update(method.as_str());
    digest.update([0]);
    digest.update(target);
    digest.update([0]);
    digest.update(body);
    Ok(Some(Idempotency {
        key: key.to_owned(),
        fingerprint: digest.finalize().into(),
    }))
}

/// The version that `If-Match` names; `*` names any.
///
/// A tag that this service never hands out (a weak one, one that is no number) matches no
/// version, so it becomes one that nothing can have.
///
/// # Errors
///
/// `invalid_header` unless it is one entity tag or `*`.
pub fn if_match(headers: &HeaderMap) -> Result<Option<Version>, Problem> {
    let mut values = headers.get_all(IF_MATCH).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let refuse = || {
        Problem::new(
            Code::InvalidHeader,
            "If-Match must be one entity tag, like \"3\", or *",
        )
    };
    if values.next().is_some() {
        return Err(refuse());
    }
    let text = value.to_str().map_err(|_| refuse())?.trim();
    if text == "*" {
        return Ok(None);
    }
    let (weak, tag) = match text.strip_prefix("W/") {
        Some(tag) => (true, tag),
        None => (false, text),
    };
    let inner = tag
        .strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        .filter(|inner| !inner.contains('"'))
        .ok_or_else(refuse)?;
    let version = inner.parse().ok().filter(|_| !weak);
    Ok(Some(version.unwrap_or(Version::MAX)))
}

/// Whether the client has this version already (`If-None-Match`).
pub fn has_already(headers: &HeaderMap, version: Version) -> bool {
    has_tag(headers, &format!("\"{version}\""))
}

/// Whether the client has the answer with this entity tag already (`If-None-Match`).
pub fn has_tag(headers: &HeaderMap, tag: &str) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).iter();
    lists
        .filter_map(|list| list.to_str().ok())
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).expect("a header value"));
        headers
    }

    #[test]
    fn if_match_takes_one_tag_or_a_star() {
        let read = |text: &str| if_match(&with("if-match", text));
        assert_eq!(read("\"3\"").expect("a tag"), Some(3));
        assert_eq!(read("*").expect("a star"), None);
        assert_eq!(read("W/\"3\"").expect("a tag"), Some(Version::MAX));
        assert_eq!(read("\"abc\"").expect("a tag"), Some(Version::MAX));
        for bad in ["3", "\"3", "\"3\", \"4\"", ""] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let mut twice = with("if-match", "\"3\"");
        twice.append(IF_MATCH, HeaderValue::from_static("\"4\""));
        assert!(if_match(&twice).is_err(), "two headers are two tags");
    }

    #[test]
    fn the_same_key_with_another_request_has_another_fingerprint() {
        let headers = with("idempotency-key", "k-1");
        let fingerprint = |method: Method, uri: &'static str, body: &[u8]| {
            idempotency(&method, &Uri::from_static(uri), &headers, body)
                .expect("a key")
                .expect("a key")
                .fingerprint
        };
        let first = fingerprint(Method::POST, "/v1/cards", b"{}");
        assert_eq!(first, fingerprint(Method::POST, "/v1/cards", b"{}"));
        assert_ne!(first, fingerprint(Method::PUT, "/v1/cards", b"{}"));
        assert_ne!(first, fingerprint(Method::POST, "/v1/cards?a=1", b"{}"));
        assert_ne!(first, fingerprint(Method::POST, "/v1/cards", b"{ }"));
    }

    #[test]
    fn idempotency_keys_are_visible_ascii_of_bounded_length() {
        let read = |key: &str| {
            let headers = with("idempotency-key", key);
            idempotency(&Method::POST, &Uri::from_static("/"), &headers, b"")
        };
        assert!(read(&"k".repeat(255)).is_ok());
        for bad in ["", "a b", &"k".repeat(256)] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
