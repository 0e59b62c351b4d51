//! Random requests at the running service, at every operation of its contract: always an answer,
//! always in form, never a failure.

mod bodies;

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};

use crate::contracts::{committed, documented_codes};
use crate::support::client::{id, send};
use crate::support::{Answer, Client, Service};

const CASES: u32 = 1_500;
/// How many tenants the landlord's requests are about: one that was cancelled is of little use.
const TENANTS: usize = 8;

/// An operation of the contract, on something that there is.
#[derive(Clone, Debug)]
struct Operation {
    method: Method,
    /// As the contract writes it.
    template: String,
    path: String,
    /// The names in its query.
    query: Vec<String>,
    /// The schema of its body; null if it has none.
    body: Value,
}

#[derive(Clone, Debug)]
struct Thrown {
    operation: Operation,
    as_landlord: bool,
    method: Method,
    query: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

#[test]
fn random_requests_are_answered_in_form_and_never_with_a_failure() {
    // Of its own: they change what is for sale.
    let service = Service::start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let landlord = service.landlord();
    let (tenant, operations, codes) = runtime.block_on(async {
        let tenant = service.tenant("free").await;
        let card = tenant.issue("Target").await;
        let audit = landlord.post("/v1/landlord/usage-audits", &json!({})).await;
        let audit = audit.expect(202).json();
        let mut operations = Vec::new();
        for _ in 0..TENANTS {
            let about = service.tenant("pro").await;
            operations.extend(operations_on(id(&card), id(&audit), about.id()));
        }
        (tenant, operations, documented_codes(&service).await)
    });
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let unreached = operations.iter().filter(|it| !it.body.is_null());
    let unreached: BTreeSet<_> = unreached.map(name).collect();
    let unreached = RefCell::new(unreached);
    TestRunner::new(config)
        .run(&thrown(operations), |thrown| {
            let client = if thrown.as_landlord {
                &landlord
            } else {
                &tenant
            };
            let operation = thrown.operation.clone();
            if let Some(answer) = runtime.block_on(throw(client, thrown)) {
                in_form(&answer, &codes)?;
                if ![401, 403, 404, 405].contains(&answer.status) {
                    unreached.borrow_mut().remove(&name(&operation));
                }
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    let alive = runtime.block_on(service.stranger().get("/healthz"));
    alive.expect(200);
    let unreached = unreached.into_inner();
    assert!(
        unreached.is_empty(),
        "whose body was never looked at: {unreached:#?}"
    );
}

fn name(operation: &Operation) -> String {
    format!("{} {}", operation.method, operation.template)
}

/// `None` if the client library itself will not send it.
async fn throw(client: &Client, thrown: Thrown) -> Option<Answer> {
    let path = match thrown.query.as_str() {
        "" => thrown.operation.path,
        query => format!("{}?{query}", thrown.operation.path),
    };
    let mut request = client.request(thrown.method, &path).body(thrown.body);
    for (name, value) in thrown.headers {
        let value = reqwest::header::HeaderValue::from_bytes(value.as_bytes()).ok()?;
        request = request.header(name, value);
    }
    let copy = request.try_clone()?;
    copy.build().ok()?;
    Some(send(request).await)
}

fn in_form(answer: &Answer, codes: &[String]) -> Result<(), TestCaseError> {
    prop_assert!(
        answer.status < 500 || answer.status == 501 || answer.status == 503,
        "{answer}"
    );
    prop_assert!(
        answer.headers.contains_key("x-request-id"),
        "no request id: {answer}"
    );
    if answer.status >= 400 {
        let problem = answer.any_problem();
        let code = problem["code"].as_str().unwrap_or_default();
        prop_assert!(
            codes.iter().any(|known| known == code),
            "undocumented: {answer}"
        );
        prop_assert_eq!(
            &problem["request_id"],
            answer.header("x-request-id"),
            "{}",
            answer
        );
    }
    // Only a read model that was asked to be ahead of its ledger may be behind.
    if answer.status == 503 {
        prop_assert_eq!(
            &answer.any_problem()["code"],
            "read_model_behind",
            "{}",
            answer
        );
    }
    Ok(())
}

/// Every operation of the contract, on this card, audit, and tenant.
fn operations_on(card: &str, audit: &str, tenant: &str) -> Vec<Operation> {
    let contract = committed();
    let mut operations = Vec::new();
    for (template, of_path) in contract["paths"].as_object().expect("paths") {
        let when = |part: &str, then, otherwise| match template.contains(part) {
            true => then,
            false => otherwise,
        };
        let path = template
            .replace(
                "{id}",
                when("/cards/", card, when("/usage-audits/", audit, tenant)),
            )
            .replace("{key}", when("/modules/", "digital_card.basic", "pro"))
            .replace("{name}", when("/shards/", "main", "cards"))
            .replace("{slug}", when("/subscription/", "max_cards", "export_csv"));
        for (method, operation) in of_path.as_object().expect("operations") {
            let parameters = operation["parameters"].as_array();
            let query = parameters
                .into_iter()
                .flatten()
                .filter(|it| it["in"] == "query");
            let body = &operation["requestBody"]["content"]["application/json"]["schema"];
            operations.push(Operation {
                method: method.to_uppercase().parse().expect("a method"),
                template: template.clone(),
                path: path.clone(),
                query: query
                    .filter_map(|it| it["name"].as_str().map(str::to_owned))
                    .collect(),
                body: resolved(body, &contract),
            });
        }
    }
    operations
}

/// A schema with those that it refers to in their places.
fn resolved(schema: &Value, contract: &Value) -> Value {
    match schema {
        Value::Object(fields) => match fields.get("$ref").and_then(Value::as_str) {
            Some(reference) => {
                let referred = contract.pointer(reference.trim_start_matches('#'));
                resolved(referred.expect("a schema"), contract)
            }
            None => fields
                .iter()
                .map(|(name, value)| (name.clone(), resolved(value, contract)))
                .collect(),
        },
        Value::Array(all) => all.iter().map(|one| resolved(one, contract)).collect(),
        other => other.clone(),
    }
}

fn thrown(operations: Vec<Operation>) -> impl Strategy<Value = Thrown> {
    let elsewhere = (method(), path()).prop_map(|(method, path)| Operation {
        method,
        template: path.clone(),
        path,
        query: vec![],
        body: Value::Null,
    });
    let operation = prop_oneof![9 => prop::sample::select(operations), 1 => elsewhere];
    operation.prop_flat_map(|operation| {
        let of_tenants = !["/v1/landlord", "/v1/audit"]
            .iter()
            .any(|it| operation.path.starts_with(it));
        let method = prop_oneof![9 => Just(operation.method.clone()), 1 => method()];
        let (query, body) = (query(&operation.query), bodies::body(&operation.body));
        let by_other = prop::bool::weighted(0.1);
        (by_other, method, query, headers(), body).prop_map(
            move |(by_other, method, query, headers, body)| Thrown {
                operation: operation.clone(),
                as_landlord: of_tenants == by_other,
                method,
                query,
                headers,
                body,
            },
        )
    })
}

/// Not HEAD: an answer to it has no body to look at.
fn method() -> impl Strategy<Value = Method> {
    prop::sample::select(vec![
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::OPTIONS,
    ])
}

/// One that most likely leads nowhere.
fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        "[a-z0-9._~-]{0,12}",
        "%[0-9a-fA-F]{2}",
        Just("..".to_owned())
    ];
    prop::collection::vec(segment, 0..5).prop_map(|all| format!("/{}", all.join("/")))
}

fn query(names: &[String]) -> impl Strategy<Value = String> + use<> {
    let mut names = names.to_vec();
    // Who asks for what is still to come waits for it.
    names.retain(|name| name != "at_least");
    names.push("nothing".to_owned());
    let name = prop_oneof![3 => prop::sample::select(names), 1 => "[a-z]{0,5}"];
    let value = prop_oneof![
        "[0-9]{1,22}",
        "-?[0-9]{1,3}",
        "[A-Za-z0-9%+_-]{0,20}",
        "(%[0-9a-f]{2}){1,8}"
    ];
    let pair = (name, value).prop_map(|(name, value)| format!("{name}={value}"));
    prop::collection::vec(pair, 0..4).prop_map(|pairs| pairs.join("&"))
}

fn headers() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let name = prop::sample::select(vec![
        "Content-Type",
        "Idempotency-Key",
        "If-Match",
        "If-None-Match",
        "Accept",
        "X-Request-Id",
        "Range",
        "Expect",
        "Upgrade",
        "X-Forwarded-For",
        "Cookie",
        "Origin",
        "traceparent",
    ]);
    let value = prop_oneof![
        Just("application/json".to_owned()),
        Just("application/x-ndjson".to_owned()),
        Just("text/csv".to_owned()),
        Just("\"1\"".to_owned()),
        "[ -~]{0,40}",
        "\\PC{0,20}",
    ];
    let json = Just(vec![("Content-Type", "application/json".to_owned())]);
    let extra = prop::collection::vec((name, value), 0..4);
    prop_oneof![2 => (json, extra.clone()).prop_map(|(mut json, extra)| {
        json.extend(extra.into_iter().filter(|(name, _)| *name != "Content-Type"));
        json
    }), 1 => extra]
    // The client library waits for a 100 that a refusal does not send.
    .prop_map(|all| {
        all.into_iter()
            .filter(|(name, _)| *name != "Expect")
            .collect()
    })
}
