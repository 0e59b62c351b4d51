//! Who asks: from the bearer key to the application's [`Scope`].
//!
//! The [door](crate::door) looks the key up once a request and leaves what it found as an
//! [`Arrival`]; a handler that takes a [`Caller`] answers 401 without one. The tenant comes from
//! the key, never from the request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use application::keys::{ApiKey, Secret, Seed};
use application::scope::Scope;
use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use domain::ids::TenantId;

use crate::Api;
use crate::crowd::{Crowd, Place};
use crate::problem::{Code, Problem};

/// The longest request or correlation id taken over from a client, in bytes.
const ID_LENGTH_MAX: usize = 128;

/// What the door found out about a request.
#[derive(Debug)]
pub struct Arrival {
    /// The request's id: the client's, if it is well-formed, else a new one.
    pub request_id: String,
    /// What the request belongs to, as the client said.
    pub correlation_id: Option<String>,
    /// The key, if it is in force.
    pub key: Option<ApiKey>,
    /// The tenant that the request is about, for the log: the key's, or one that the path names.
    pub tenant: Option<TenantId>,
    /// Its place among the requests being worked on.
    place: Mutex<Option<Place>>,
}

impl Arrival {
    /// A request that has arrived, without a place yet.
    pub fn new(
        request_id: String,
        correlation_id: Option<String>,
        key: Option<ApiKey>,
        in_path: Option<TenantId>,
    ) -> Self {
        let tenant = key.as_ref().and_then(|key| key.tenant).or(in_path);
        Self {
            request_id,
            correlation_id,
            key,
            tenant,
            place: Mutex::default(),
        }
    }

    /// Takes a place.
    ///
    /// # Errors
    ///
    /// As [`Crowd::enter`].
    pub fn enter(&self, crowd: &Arc<Crowd>) -> Result<(), Problem> {
        let tenant = self.key.as_ref().and_then(|key| key.tenant);
        *self.place() = Some(crowd.enter(tenant)?);
        Ok(())
    }

    /// Leaves its place to others, if it has one.
    pub fn leave(&self) {
        *self.place() = None;
    }

    fn place(&self) -> MutexGuard<'_, Option<Place>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who asks, for handlers.
#[derive(Debug)]
pub struct Caller(pub Scope);

/// What a caller's new keys are derived from.
#[derive(Debug)]
pub struct CallerSeed(pub Seed);

impl FromRequestParts<Arc<Api>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, Problem> {
        let arrival = parts
            .extensions
            .get::<Arc<Arrival>>()
            .ok_or_else(|| Problem::internal("a request that did not pass the door"))?;
        let Some(key) = &arrival.key else {
            return Err(unauthorized(&parts.headers));
        };
        let request_id = arrival.request_id.clone();
        Ok(Self(Scope {
            key: key.id,
            role: key.role,
            tenant: key.tenant,
            correlation_id: arrival
                .correlation_id
                .clone()
                .unwrap_or_else(|| request_id.clone()),
            request_id,
        }))
    }
}

impl FromRequestParts<Arc<Api>> for CallerSeed {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<Api>) -> Result<Self, Problem> {
        match bearer(&parts.headers) {
            Some(secret) => Ok(Self(Seed::new(secret))),
            None => Err(unauthorized(&parts.headers)),
        }
    }
}

fn unauthorized(headers: &HeaderMap) -> Problem {
    let detail = match headers.contains_key(AUTHORIZATION) {
        true => "this API key is not in force",
        false => "send an API key: Authorization: Bearer KEY",
    };
    Problem::new(Code::Unauthorized, detail)
}

/// The secret that the client sent.
pub fn bearer(headers: &HeaderMap) -> Option<Secret> {
    let (scheme, secret) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| Secret::new(secret.trim()))
}

/// An id from outside that may be echoed, logged and stored: 1 to 128 letters, digits and
/// `- _ . : / + = @`.
pub fn id_from_outside(value: Option<&HeaderValue>) -> Option<String> {
    let text = value?.to_str().ok()?;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(&b);
    let valid = (1..=ID_LENGTH_MAX).contains(&text.len()) && text.bytes().all(allowed);
    valid.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_from_outside_are_taken_only_if_they_can_do_no_harm() {
        let taken = |text: &str| {
            let value = HeaderValue::from_str(text).expect("a header value");
            id_from_outside(Some(&value)).is_some()
        };
        assert!(taken("0192f0c1-aaaa-7bbb-8ccc-0123456789ab"));
        assert!(taken(&"a".repeat(128)));
        for bad in ["", "a b", "a\tb", "<b>", "\"", &"a".repeat(129)] {
            assert!(!taken(bad), "{bad:?}");
        }
        assert!(id_from_outside(None).is_none());
    }

    #[test]
    fn the_scheme_is_bearer_in_any_case_and_nothing_else() {
        let secret = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, HeaderValue::from_static(text));
            bearer(&headers).map(|secret| secret.reveal().to_owned())
        };
        assert_eq!(secret("Bearer k"), Some("k".to_owned()));
        assert_eq!(secret("bearer k"), Some("k".to_owned()));
        assert_eq!(secret("Basic k"), None);
        assert_eq!(secret("k"), None);
    }
}
