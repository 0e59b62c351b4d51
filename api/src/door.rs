//! The door: what happens to every request alike.
//!
//! One layer around every route instead of a stack of them: the request's id, the key behind it,
//! the bound on requests in flight, one log event, the metrics, a handler's panic, and the
//! writing of problem documents, so that each of them is in one place and costs once.

mod unread;

use std::convert::Infallible;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use application::error::causes;
use axum::body::Body;
use axum::extract::{MatchedPath, Request};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use domain::ids::TenantId;
use futures::FutureExt;
use tower::{Layer, Service};

use self::unread::Unread;
use crate::Api;
use crate::problem::{Code, Problem, ProblemBody};
use crate::scope::{Arrival, bearer, id_from_outside};

/// The request's id, from the client or for it.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// What the request belongs to.
pub const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
/// Bytes of a request's path and query, at most.
const URI_BYTES_MAX: usize = 16 * 1024;
/// Bytes of a request's headers, at most. The server itself reads somewhat larger heads, so that
/// these are answered as everything else is; beyond that it cuts off.
const HEADERS_BYTES_MAX: usize = 32 * 1024;
/// The media type of problem documents.
pub const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The layer.
#[derive(Clone)]
pub struct Door {
    api: Arc<Api>,
}

impl Door {
    /// A door to `api`.
    pub const fn new(api: Arc<Api>) -> Self {
        Self { api }
    }
}

impl<S> Layer<S> for Door {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            api: Arc::clone(&self.api),
            inner,
        }
    }
}

/// A route behind the door.
#[derive(Clone)]
pub struct Guarded<S> {
    api: Arc<Api>,
    inner: S,
}

impl<S> Service<Request> for Guarded<S>
where
    S: Service<Request, Error = Infallible>,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let began = Instant::now();
        let api = Arc::clone(&self.api);
        let arrival = Arc::new(arrival(&api, &request));
        let method = request.method().clone();
        let path = request.extensions().get::<MatchedPath>().cloned();
        let admitted = admit(&api, &arrival, path.as_ref(), &request);
        let (mut request, unread) = Unread::of(request);
        request.extensions_mut().insert(Arc::clone(&arrival));
        let handler = self.inner.call(request);
        Box::pin(async move {
            let mut response = match admitted {
                Ok(()) => answer(handler).await,
                Err(problem) => problem.into_response(),
            };
            arrival.leave();
            if let Some(unread) = unread {
                unread.discard().await;
            }
            finish(&api, &arrival, &method, path.as_ref(), &mut response, began);
            Ok(response)
        })
    }
}

fn arrival(api: &Api, request: &Request) -> Arrival {
    let headers = request.headers();
    Arrival::new(
        id_from_outside(headers.get(REQUEST_ID))
            .unwrap_or_else(|| api.application.random.id().to_string()),
        id_from_outside(headers.get(CORRELATION_ID)),
        bearer(headers).and_then(|secret| api.application.keys.authenticate(&secret)),
        tenant_in(request.uri().path()),
    )
}

/// The tenant whom a path of the landlord's or an auditor's names.
fn tenant_in(path: &str) -> Option<TenantId> {
    let prefixes = ["/v1/landlord/tenants/", "/v1/audit/tenants/"];
    let rest = prefixes.iter().find_map(|it| path.strip_prefix(it))?;
    rest.split('/').next()?.parse().ok()
}

/// Lets a request in, if it is not too large and there is room for it.
fn admit(
    api: &Api,
    arrival: &Arrival,
    path: Option<&MatchedPath>,
    request: &Request,
) -> Result<(), Problem> {
    let uri = request.uri().path_and_query();
    if uri.is_some_and(|uri| uri.as_str().len() > URI_BYTES_MAX) {
        let detail = format!("path and query may have {URI_BYTES_MAX} bytes at most");
        return Err(Problem::new(Code::UriTooLong, detail));
    }
    let length = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    if request.headers().iter().map(length).sum::<usize>() > HEADERS_BYTES_MAX {
        let detail = format!("the headers may have {HEADERS_BYTES_MAX} bytes at most");
        return Err(Problem::new(Code::HeadersTooLarge, detail));
    }
    // The probes must be answered most of all when the process is overloaded.
    match path.is_some_and(|path| path.as_str().starts_with("/v1/")) {
        true => arrival.enter(&api.crowd),
        false => Ok(()),
    }
}

/// The handler's answer, unless it panics.
async fn answer<F, R>(handler: F) -> Response
where
    F: Future<Output = Result<R, Infallible>>,
    R: IntoResponse,
{
    match AssertUnwindSafe(handler).catch_unwind().await {
        Ok(Ok(answer)) => answer.into_response(),
        Err(panic) => Problem::internal(format!("panic: {}", message(&*panic))).into_response(),
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}

/// Writes the problem, if there is one; then the request's id, its metrics and its log event.
fn finish(
    api: &Api,
    arrival: &Arrival,
    method: &Method,
    path: Option<&MatchedPath>,
    response: &mut Response,
    began: Instant,
) {
    let problem = response.extensions_mut().remove::<Arc<Problem>>();
    let status = response.status();
    let problem = problem.or_else(|| {
        // What the router or a library refused by itself becomes a problem too.
        (status.is_client_error() || status.is_server_error())
            .then(|| Arc::new(Problem::of_status(status)))
    });
    if let Some(problem) = &problem {
        write(api, arrival, method, problem, response);
    }
    if let Ok(id) = HeaderValue::from_str(&arrival.request_id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let path = path.map_or("none", MatchedPath::as_str);
    let took = began.elapsed();
    api.meter.answered(method, path, status, took);
    log(arrival, method, path, response, problem.as_deref(), took);
}

fn write(
    api: &Api,
    arrival: &Arrival,
    method: &Method,
    problem: &Problem,
    response: &mut Response,
) {
    let mut document = problem.body().clone();
    document.request_id.clone_from(&arrival.request_id);
    if document.missing.tenant.is_some() {
        document.missing.upgrade_url = Some(api.upgrade_url.clone());
    }
    let text = text_of(&document);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, PROBLEM_JSON);
    headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
    if let Some(seconds) = problem.code().retry_after_seconds() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if problem.code() == Code::Unauthorized {
        let challenge = HeaderValue::from_static("Bearer realm=\"digital-card\"");
        headers.insert(WWW_AUTHENTICATE, challenge);
    }
    *response.body_mut() = match *method == Method::HEAD {
        true => Body::empty(),
        false => Body::from(text),
    };
}

fn text_of(document: &ProblemBody) -> Vec<u8> {
    // A problem is text and numbers under text keys, which always serialise.
    serde_json::to_vec(document).unwrap_or_default()
}

/// One event a request at most: quiet for what the client can see, loud for what it cannot.
fn log(
    arrival: &Arrival,
    method: &Method,
    path: &str,
    response: &Response,
    problem: Option<&Problem>,
    took: std::time::Duration,
) {
    macro_rules! event {
        ($level:ident, $($more:tt)*) => {
            tracing::$level!(
                request_id = arrival.request_id,
                key = arrival.key.as_ref().map(|key| tracing::field::display(key.id)),
                tenant = arrival.tenant.map(tracing::field::display),
                %method,
                path,
                status = response.status().as_u16(),
                took_us = took.as_micros() as u64,
                $($more)*
            )
        };
    }
    let Some(problem) = problem else {
        return event!(debug, "answered");
    };
    let code = problem.code();
    let cause = problem.source().map(|source| causes(source));
    match code.status() {
        StatusCode::INTERNAL_SERVER_ERROR => event!(error, code = code.as_str(), cause, "failed"),
        StatusCode::SERVICE_UNAVAILABLE => {
            event!(warn, code = code.as_str(), cause, "not answered")
        }
        _ => event!(debug, code = code.as_str(), "refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_handler_that_panics_is_an_internal_error() {
        let handler = async {
            if StatusCode::OK.is_success() {
                panic!("a bug");
            }
            Ok::<_, Infallible>(StatusCode::OK)
        };
        let response = answer(handler).await;
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let problem = response.extensions().get::<Arc<Problem>>();
        assert_eq!(problem.map(|it| it.code()), Some(Code::Internal));
    }
}
