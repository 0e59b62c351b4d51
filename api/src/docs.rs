//! The HTTP contract: the OpenAPI document, its pages, and the page of problem codes.
//!
//! The document is made from the handlers; what holds for many operations (errors, conditional
//! headers, the key) is added here by rule, so that no handler can forget it. It is committed as
//! `api/openapi.json`, and a test fails when the two differ.

use std::fmt::Write;

use axum::Router;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::Html;
use axum::routing::get;
use bytes::Bytes;
use utoipa::OpenApi as _;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Required, Response, ResponseBuilder};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::problem::code::Code;
use crate::problem::{Missing, ProblemBody};

const SECURITY: &str = "api_key";

/// What the document says beside the operations.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Digital Card",
        description = "Digital cards for many tenants, sold in modules.\n\n\
            Errors are problem documents (RFC 9457); [every code](/docs/problems) is documented. \
            Commands answer `ETag` (the version of what they changed) and `Ledger-Position`; any \
            read waits for a position with `?at_least=`. With an `Idempotency-Key` a repeated \
            request answers the first outcome again, with `Idempotent-Replayed: true`."
    ),
    components(schemas(ProblemBody, Missing)),
    tags(
        (name = "Cards", description = "A tenant's cards, one at a time (level 1)"),
        (name = "Advanced", description = "Bulk jobs, exports, statistics, live updates (level 2)"),
        (name = "Tenant", description = "What a tenant has"),
        (name = "Landlord", description = "Tenants and what they are sold"),
        (name = "Auditor", description = "History as it was stored"),
        (name = "Process", description = "For operators"),
    )
)]
struct Outline;

/// The document before any operation.
pub fn outline() -> OpenApi {
    Outline::openapi()
}

/// The whole contract.
pub fn contract() -> OpenApi {
    complete(crate::routes().into_openapi())
}

/// The whole contract, as it is committed.
pub fn contract_text() -> String {
    let mut text = contract()
        .to_pretty_json()
        .unwrap_or_else(|_| unreachable!("the document is text under text keys"));
    text.push('\n');
    text
}

/// Adds to every operation what follows from its form.
pub fn complete(mut openapi: OpenApi) -> OpenApi {
    let mut components = openapi.components.take().unwrap_or_default();
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme(SECURITY, bearer);
    openapi.components = Some(components);
    for (path, item) in &mut openapi.paths.paths {
        let operations = [
            (&mut item.get, false),
            (&mut item.post, true),
            (&mut item.put, true),
            (&mut item.delete, true),
        ];
        for (operation, changes) in operations {
            if let Some(operation) = operation {
                complete_operation(path, operation, changes);
            }
        }
    }
    openapi
}

fn complete_operation(path: &str, operation: &mut Operation, changes: bool) {
    describe_problems(operation);
    if !path.starts_with("/v1/") {
        return;
    }
    operation.security = Some(vec![SecurityRequirement::new(
        SECURITY,
        Vec::<String>::new(),
    )]);
    let with_body = operation.request_body.is_some();
    let with_path = path.contains('{');
    let in_ledger = changes && !path.contains("api-keys") && !path.contains("/subscribers/");
    let queried = operation.parameters.iter().flatten().any(
        |parameter| matches!(parameter, RefOr::T(one) if one.parameter_in == ParameterIn::Query),
    );
    let rules = [
        (true, "401", "No API key, or none that is in force"),
        (true, "403", "The key's role may not do this"),
        (true, "500", "Something went wrong here"),
        (
            true,
            "503",
            "A dependency did not answer, or too many requests; see `Retry-After`",
        ),
        (
            queried,
            "400",
            "The query string cannot be (`invalid_query`, `invalid_cursor`)",
        ),
        (with_body, "400", "Malformed JSON or headers"),
        (with_path, "404", "Missing, or another tenant's"),
        (with_body, "408", "The body did not arrive in time"),
        (
            changes,
            "409",
            "The state does not allow it, or others change the same resource",
        ),
        (with_body && in_ledger, "412", "`If-Match` failed"),
        (with_body, "413", "The body is too large"),
        (with_body, "415", "The body is not `application/json`"),
        (
            with_body,
            "422",
            "Fields that cannot be, or an idempotency key of another request",
        ),
    ];
    for (applies, status, description) in rules {
        if applies {
            add_problem(operation, status, description);
        }
    }
    if with_body && !path.contains("/subscribers/") {
        parameter(
            operation,
            "Idempotency-Key",
            "Answers the first outcome again if repeated",
        );
    }
    if with_body && in_ledger {
        parameter(
            operation,
            "If-Match",
            "Only if the resource is still at this version",
        );
        command_headers(operation);
    }
}

/// Errors that a handler declares by status and description get the problem's content.
fn describe_problems(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && (status.starts_with('4') || status.starts_with('5'))
        {
            response
                .content
                .insert(PROBLEM.to_owned(), problem().into());
        }
    }
}

const PROBLEM: &str = "application/problem+json";

fn problem() -> Content {
    Content::new(Some(Ref::from_schema_name("Problem")))
}

fn add_problem(operation: &mut Operation, status: &str, description: &str) {
    let response: Response = ResponseBuilder::new()
        .description(description)
        .content(PROBLEM, problem())
        .build();
    operation
        .responses
        .responses
        .entry(status.to_owned())
        .or_insert(RefOr::T(response));
}

fn text() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

fn parameter(operation: &mut Operation, name: &str, description: &str) {
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Header)
        .required(Required::False)
        .description(Some(description))
        .schema(Some(text()))
        .build();
    operation
        .parameters
        .get_or_insert_default()
        .push(parameter.into());
}

fn command_headers(operation: &mut Operation) {
    let header = |description: &str| {
        HeaderBuilder::new()
            .schema(Some(text()))
            .description(Some(description))
            .build()
    };
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else {
            continue;
        };
        if status.starts_with('2') {
            let headers = [
                ("ETag", header("The version after the command")),
                ("Ledger-Position", header("The ledger's position after it")),
                (
                    "Idempotent-Replayed",
                    header("`true` if this was answered before"),
                ),
            ];
            for (name, header) in headers {
                response.headers.insert(name.to_owned(), header.into());
            }
        }
    }
}

/// The pages: the document, Swagger UI (its files are part of the program), and the codes.
pub fn pages<S: Clone + Send + Sync + 'static>(openapi: OpenApi) -> Router<S> {
    let document = Bytes::from(openapi.to_json().unwrap_or_default());
    let json: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "application/json")];
    let problems = Bytes::from(problems_page());
    // Unless told otherwise, the page asks somebody else's server whether the document is valid.
    let config = Config::from("/openapi.json").validator_url("none");
    let swagger = SwaggerUi::new("/docs").config(config);
    Router::new()
        .route("/openapi.json", get(async move || (json, document.clone())))
        .route("/docs/problems", get(async move || Html(problems.clone())))
        .merge(Router::from(swagger))
}

/// Every code with its meaning; the `type` of a problem points here.
fn problems_page() -> String {
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <title>Digital Card: problem codes</title>\
         <style>body{font:1rem/1.5 system-ui,sans-serif;max-width:46rem;margin:2rem auto;\
         padding:0 1rem}h2{margin:2rem 0 0}code{background:#eee;padding:0 .2em}\
         :target{background:#ffc}</style>\
         <h1>Problem codes</h1><p>Every error is a problem document (RFC 9457, \
         <code>application/problem+json</code>). <code>code</code> is stable; \
         <code>request_id</code> finds the request in the logs.</p>",
    );
    for code in Code::ALL {
        let (id, status, title) = (code.as_str(), code.status().as_u16(), code.title());
        let meaning = marked_up(code.meaning());
        // Writing to a string cannot fail.
        let _ = write!(
            page,
            "<h2 id=\"{id}\"><code>{id}</code></h2><p>{status} · {title}</p><p>{meaning}</p>"
        );
    }
    page
}

/// Text with `code` in backticks as HTML.
fn marked_up(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
    let mut html = String::with_capacity(escaped.len() + 64);
    for (place, part) in escaped.split('`').enumerate() {
        match place % 2 {
            0 => html.push_str(part),
            _ => html.extend(["<code>", part, "</code>"]),
        }
    }
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_contract_is_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/openapi.json");
        let current = contract_text();
        if std::env::var_os("UPDATE_CONTRACTS").is_some() {
            std::fs::write(path, &current).expect("a writable contract");
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == current,
            "api/openapi.json is not what the code says. Is the change meant, and in \
             api/CHANGELOG.md? Then run: UPDATE_CONTRACTS=1 cargo test -p api contract"
        );
    }

    #[test]
    fn every_operation_documents_its_errors() {
        for (path, item) in contract().paths.paths {
            let operations = [item.get, item.post, item.put, item.delete];
            for operation in operations.into_iter().flatten() {
                let statuses = &operation.responses.responses;
                if path.starts_with("/v1/") {
                    assert!(statuses.contains_key("401"), "{path}");
                    assert!(statuses.contains_key("503"), "{path}");
                    assert!(operation.security.is_some(), "{path}");
                }
            }
        }
    }

    #[test]
    fn every_code_is_on_the_page() {
        let page = problems_page();
        for code in Code::ALL {
            assert!(page.contains(&format!("<h2 id=\"{}\"", code.as_str())));
        }
    }
}
