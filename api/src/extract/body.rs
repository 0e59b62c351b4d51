//! A command: who asks, under which conditions, and its body of JSON.

use std::sync::Arc;

use application::scope::{Command, Role, Scope};
use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use bytes::{Bytes, BytesMut};
use domain::text::Reason;
use http_body_util::BodyExt;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::error::Category;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::{Fields, fields, headers};
use crate::Api;
use crate::problem::{Code, FieldError, Problem};
use crate::scope::{Arrival, Caller};

/// A request to change something: the command it becomes, and its body.
///
/// An empty body reads as `{}`, so that a change that needs nothing said can be asked for with
/// no body at all.
#[derive(Debug)]
pub struct Ask<B> {
    /// Who asks, and under which conditions; [`Self::because`] adds why.
    pub command: Command,
    /// What was sent.
    pub body: B,
}

/// The body of a change that takes nothing but a reason.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Why {
    /// Why, for the record.
    #[schema(max_length = 500)]
    pub reason: Option<String>,
}

/// No body at all, or an empty object.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl<B: DeserializeOwned> FromRequest<Arc<Api>> for Ask<B> {
    type Rejection = Problem;

    async fn from_request(request: Request, api: &Arc<Api>) -> Result<Self, Problem> {
        let (mut parts, body) = request.into_parts();
        let Caller(scope) = Caller::from_request_parts(&mut parts, api).await?;
        scope.require(may_command(parts.uri.path()))?;
        let if_match = headers::if_match(&parts.headers)?;
        let text = match parts.extensions.get::<Arc<Arrival>>() {
            // However slowly the body comes, it takes nobody's place.
            Some(arrival) => {
                arrival.leave();
                let text = read(api, &parts.headers, body).await?;
                arrival.enter(&api.crowd)?;
                text
            }
            None => return Err(Problem::internal("a request that did not pass the door")),
        };
        let idempotency = headers::idempotency(&parts.method, &parts.uri, &parts.headers, &text)?;
        Ok(Self {
            body: parse(&parts.headers, &text)?,
            command: Command {
                scope,
                reason: None,
                idempotency,
                if_match,
            },
        })
    }
}

/// Who may change things: the landlord its own, a tenant's administrators theirs. The use cases
/// say the same again; asked here, a key that may not is told so before its body is looked at.
fn may_command(path: &str) -> &'static [Role] {
    match path.starts_with("/v1/landlord/") {
        true => &[Role::Landlord],
        false => &[Role::TenantAdmin],
    }
}

impl<B> Ask<B> {
    /// Who asks.
    pub const fn scope(&self) -> &Scope {
        &self.command.scope
    }
}

/// Parses why something is asked for.
pub fn reason(fields: &mut Fields, text: Option<String>) -> Option<Option<Reason>> {
    fields.optional_text("reason", text)
}

impl Ask<Why> {
    /// The command, with its reason.
    ///
    /// # Errors
    ///
    /// `validation_failed` if the reason cannot be one.
    pub fn because(self) -> Result<Command, Problem> {
        let mut fields = Fields::default();
        let reason = reason(&mut fields, self.body.reason);
        Ok(Command {
            reason: fields.finish(reason)?,
            ..self.command
        })
    }
}

async fn read(api: &Api, headers: &HeaderMap, body: Body) -> Result<Bytes, Problem> {
    let max = api.limits.body_bytes_max;
    let too_large = || {
        Problem::new(
            Code::BodyTooLarge,
            format!("the body may have {max} bytes at most"),
        )
    };
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > max) {
        return Err(too_large());
    }
    match timeout(api.limits.body_timeout, collect(body, max)).await {
        Ok(Ok(Some(whole))) => Ok(whole),
        Ok(Ok(None)) => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(Code::MalformedJson, "the body broke off")),
        Err(_) => Err(Problem::new(
            Code::RequestTimeout,
            "the body did not arrive in time",
        )),
    }
}

/// The whole body; `None` if it has more than `max` bytes.
async fn collect(mut body: Body, max: usize) -> Result<Option<Bytes>, axum::Error> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        if whole.len() + data.len() > max {
            return Ok(None);
        }
        whole.extend_from_slice(&data);
    }
    Ok(Some(whole.freeze()))
}

fn parse<B: DeserializeOwned>(headers: &HeaderMap, text: &[u8]) -> Result<B, Problem> {
    if text.is_empty() {
        return from_json(b"{}");
    }
    if !headers.get(CONTENT_TYPE).is_some_and(is_json) {
        return Err(Problem::new(
            Code::UnsupportedMediaType,
            "the body must be application/json",
        ));
    }
    if headers
        .get(CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity")
    {
        return Err(Problem::new(
            Code::UnsupportedMediaType,
            "the body must be sent as it is, without Content-Encoding",
        ));
    }
    from_json(text)
}

fn is_json(value: &axum::http::HeaderValue) -> bool {
    let Ok(text) = value.to_str() else {
        return false;
    };
    let media_type = text.split(';').next().unwrap_or_default().trim();
    media_type.eq_ignore_ascii_case("application/json")
        || (media_type.len() > "application/+json".len()
            && media_type.to_ascii_lowercase().starts_with("application/")
            && media_type.to_ascii_lowercase().ends_with("+json"))
}

fn from_json<B: DeserializeOwned>(text: &[u8]) -> Result<B, Problem> {
    // Serde would take a list of the fields' values for the object.
    let is_object = text.trim_ascii_start().first() == Some(&b'{');
    match serde_json::from_slice(text) {
        Ok(body) if is_object => Ok(body),
        Ok(_) | Err(_) => Err(what_is_wrong::<B>(text, is_object)),
    }
}

/// Looks again, for the place and the kind of what is wrong; that costs, so only now.
fn what_is_wrong<B: DeserializeOwned>(text: &[u8], is_object: bool) -> Problem {
    if std::str::from_utf8(text).is_err() {
        return Problem::new(Code::MalformedJson, "the body is not UTF-8");
    }
    if let Err(error) = serde_json::from_slice::<IgnoredAny>(text) {
        return malformed(&error);
    }
    if !is_object {
        let error = FieldError::new("", "wrong_type", "the body must be an object");
        return Problem::validation(vec![error]);
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    match serde_path_to_error::deserialize::<_, B>(&mut json) {
        Ok(_) => Problem::internal("a body that is wrong only at first sight"),
        Err(error) if error.inner().classify() == Category::Data => {
            let message = error.inner().to_string();
            Problem::validation(vec![fields::of_serde(error.path(), &message)])
        }
        Err(error) => malformed(error.inner()),
    }
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::new(
        Code::MalformedJson,
        format!(
            "the body is not JSON: line {}, column {}",
            error.line(),
            error.column()
        ),
    )
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "read for its errors")]
        holder: Inner,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "read for its errors")]
        name: String,
    }

    #[test]
    fn what_is_wrong_with_a_body_is_named() {
        for (text, field, code) in [
            ("{}", "holder", "required"),
            (r#"{"holder":{}}"#, "holder.name", "required"),
            (r#"{"holder":{"name":1}}"#, "holder.name", "wrong_type"),
            (r#"{"holder":{"name":null}}"#, "holder.name", "wrong_type"),
            (
                r#"{"holder":{"name":"a","x":1}}"#,
                "holder.x",
                "unknown_field",
            ),
            (r#"{"x":1}"#, "x", "unknown_field"),
            (
                r#"{"holder":{"name":"a","name":"b"}}"#,
                "holder.name",
                "duplicate",
            ),
            (r#"{"holder":3}"#, "holder", "wrong_type"),
            ("[]", "", "wrong_type"),
            ("3", "", "wrong_type"),
            ("null", "", "wrong_type"),
        ] {
            let problem = from_json::<Outer>(text.as_bytes()).expect_err(text);
            assert_eq!(problem.code(), Code::ValidationFailed, "{text}");
            let error = &problem.body().errors[0];
            assert_eq!(
                (&*error.field, &*error.code),
                (field, code),
                "{text}: {error:?}"
            );
            assert!(!error.detail.contains("struct"), "{text}: {error:?}");
            if field.is_empty() {
                assert_eq!(
                    problem.body().detail,
                    "the body must be an object",
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn a_body_that_is_encoded_is_not_read() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let mut with = |coding| {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static(coding));
            parse::<Why>(&headers, b"{}")
        };
        assert!(with("identity").is_ok());
        let problem = with("gzip").expect_err("a coding");
        assert_eq!(problem.code(), Code::UnsupportedMediaType);
    }

    #[test]
    fn what_is_not_json_is_malformed() {
        for text in [
            "{",
            "{\"holder\"",
            "nope",
            "{} {}",
            "\u{feff}{}",
            "{\"a\":}",
        ] {
            let problem = from_json::<Why>(text.as_bytes()).expect_err(text);
            assert_eq!(problem.code(), Code::MalformedJson, "{text}");
        }
        let problem = from_json::<Why>(b"{\"reason\":\"\xff\"}").expect_err("bytes");
        assert_eq!(problem.code(), Code::MalformedJson);
    }

    #[test]
    fn json_has_its_media_types() {
        let json = |text: &'static str| is_json(&HeaderValue::from_static(text));
        assert!(json("application/json"));
        assert!(json("Application/JSON; charset=utf-8"));
        assert!(json("application/merge+json"));
        assert!(!json("text/plain"));
        assert!(!json("application/+json"));
        assert!(!json("application/x-www-form-urlencoded"));
    }
}
