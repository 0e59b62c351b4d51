//! Random requests at the running service: always an answer, always in form, never a failure.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use reqwest::Method;
use serde_json::{Value, json};

use crate::contracts::documented_codes;
use crate::support::client::{id, send};
use crate::support::{Answer, Client, Service};

const CASES: u32 = 1_500;

#[derive(Clone, Debug)]
struct Thrown {
    as_landlord: bool,
    method: Method,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

#[test]
fn random_requests_are_answered_in_form_and_never_with_a_failure() {
    let service = Service::shared();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (tenant, card, codes) = runtime.block_on(async {
        let tenant = service.tenant("free").await;
        let card = tenant.issue("Target").await;
        (tenant, card, documented_codes(&service).await)
    });
    let landlord = service.landlord();
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    };
    let strategy = thrown(id(&card).to_owned(), tenant.id().to_owned());
    TestRunner::new(config)
        .run(&strategy, |thrown| {
            let client = if thrown.as_landlord {
                &landlord
            } else {
                &tenant
            };
            if let Some(answer) = runtime.block_on(throw(client, thrown)) {
                in_form(&answer, &codes)?;
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
    let alive = runtime.block_on(service.stranger().get("/healthz"));
    alive.expect(200);
}

/// `None` if the client library itself will not send it.
async fn throw(client: &Client, thrown: Thrown) -> Option<Answer> {
    let mut request = client
        .request(thrown.method, &thrown.path)
        .body(thrown.body);
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

fn thrown(card: String, tenant: String) -> impl Strategy<Value = Thrown> {
    let method = prop::sample::select(vec![
        Method::GET,
        Method::POST,
        Method::PUT,
        Method::DELETE,
        Method::PATCH,
        Method::HEAD,
        Method::OPTIONS,
    ])
    .prop_filter("an answer to HEAD has no body to look at", |method| {
        *method != Method::HEAD
    });
    (any::<bool>(), method, path(card, tenant), headers(), body()).prop_map(
        |(as_landlord, method, path, headers, body)| Thrown {
            as_landlord,
            method,
            path,
            headers,
            body,
        },
    )
}

fn path(card: String, tenant: String) -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "/v1/cards".to_owned(),
        format!("/v1/cards/{card}"),
        format!("/v1/cards/{card}/history"),
        format!("/v1/cards/{card}/activate"),
        format!("/v1/cards/{card}/renew"),
        format!("/v1/cards/{card}/holder"),
        format!("/v1/cards/{card}/replace"),
        "/v1/cards/bulk".to_owned(),
        "/v1/cards/export".to_owned(),
        "/v1/cards/stats".to_owned(),
        "/v1/live".to_owned(),
        "/v1/bulk-jobs".to_owned(),
        "/v1/api-keys".to_owned(),
        "/v1/entitlements".to_owned(),
        "/v1/usage".to_owned(),
        "/v1/landlord/tenants".to_owned(),
        format!("/v1/landlord/tenants/{tenant}"),
        "/v1/landlord/tenants/x/subscription/plan".to_owned(),
        "/v1/landlord/tenants/x/subscription/features/max_cards".to_owned(),
        "/v1/landlord/subscribers".to_owned(),
        "/v1/landlord/api-keys".to_owned(),
        format!("/v1/audit/tenants/{tenant}/events"),
        "/readyz".to_owned(),
    ]);
    let segment = prop_oneof![
        "[a-z0-9._~-]{0,12}",
        "%[0-9a-fA-F]{2}",
        Just("..".to_owned())
    ];
    let unknown =
        prop::collection::vec(segment, 0..5).prop_map(|all| format!("/{}", all.join("/")));
    let name = prop_oneof![
        Just("limit".to_owned()),
        Just("cursor".to_owned()),
        Just("q".to_owned()),
        Just("sort".to_owned()),
        Just("status".to_owned()),
        Just("after".to_owned()),
        Just("type".to_owned()),
        Just("from".to_owned()),
        "[a-z]{0,5}",
    ];
    let value = prop_oneof![
        "[0-9]{1,22}",
        "-?[0-9]{1,3}",
        "[A-Za-z0-9%+_-]{0,20}",
        "(%[0-9a-f]{2}){1,8}"
    ];
    let query = prop::collection::vec((name, value), 0..4).prop_map(|pairs| {
        let pairs: Vec<_> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        pairs.join("&")
    });
    (prop_oneof![4 => known, 1 => unknown], query).prop_map(|(path, query)| match query.as_str() {
        "" => path,
        query => format!("{path}?{query}"),
    })
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

fn body() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        "\\PC{0,30}".prop_map(Value::from),
        ".{0,10}".prop_map(Value::from),
        Just(json!("2099-01-01T00:00:00Z")),
        Just(json!("x".repeat(10_000))),
    ];
    let key = prop_oneof![
        Just("holder".to_owned()),
        Just("name".to_owned()),
        Just("email".to_owned()),
        Just("tier".to_owned()),
        Just("expires_at".to_owned()),
        Just("activate".to_owned()),
        Just("reason".to_owned()),
        Just("plan".to_owned()),
        Just("slug".to_owned()),
        Just("value".to_owned()),
        Just("role".to_owned()),
        "[a-z]{0,6}",
    ];
    let tree = leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(key.clone(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    });
    prop_oneof![
        6 => tree.clone().prop_map(|tree| tree.to_string().into_bytes()),
        1 => (tree, any::<prop::sample::Index>()).prop_map(|(tree, cut)| {
            let text = tree.to_string().into_bytes();
            text[..cut.index(text.len() + 1)].to_vec()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => Just(Vec::new()),
    ]
}
