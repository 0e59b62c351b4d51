//! What other people's clients are written against does not change unseen.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::house::root;
use crate::support::Service;
use crate::support::service::{command, run};

#[tokio::test]
async fn the_committed_openapi_document_is_the_one_served() {
    let service = Service::shared();
    let served = service
        .stranger()
        .get("/openapi.json")
        .await
        .expect(200)
        .json();
    assert_eq!(
        served,
        committed(),
        "the HTTP contract has changed: if it was meant to, write it anew with \
         `cargo run -- openapi > api/openapi.json`, review the difference, and tell clients in \
         api/CHANGELOG.md",
    );
}

#[test]
fn the_openapi_command_prints_the_committed_document() {
    let (status, said) = run(command().arg("openapi"));
    assert!(status.success(), "{said}");
    let printed: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(printed, committed());
}

#[tokio::test]
async fn every_error_code_is_documented_on_one_page() {
    let service = Service::shared();
    let codes = documented_codes(&service).await;
    for required in [
        "validation_failed",
        "idempotency_key_reused",
        "upgrade_required",
        "quota_exceeded",
        "subscription_suspended",
        "invalid_transition",
        "version_conflict",
        "request_in_progress",
    ] {
        assert!(
            codes.iter().any(|code| code == required),
            "{required} is not in {codes:?}"
        );
    }
    let unique: BTreeSet<_> = codes.iter().collect();
    assert_eq!(
        unique.len(),
        codes.len(),
        "a code is documented twice: {codes:?}"
    );
}

#[tokio::test]
async fn the_type_of_a_problem_leads_to_its_documentation() {
    let service = Service::shared();
    let problem = service
        .stranger()
        .get("/v1/cards")
        .await
        .problem(401, "unauthorized");
    let link = problem["type"].as_str().expect("a type");
    let (page, anchor) = link.split_once('#').expect("an anchor");
    let path = page.trim_start_matches(service.base());
    let page = service.stranger().get(path).await;
    let text = String::from_utf8(page.expect(200).body.clone()).expect("UTF-8");
    assert!(
        text.contains(&format!("id=\"{anchor}\"")),
        "{link} leads nowhere"
    );
}

#[tokio::test]
async fn the_docs_page_needs_nothing_from_elsewhere() {
    let service = Service::shared();
    let stranger = service.stranger();
    let page = stranger.get("/docs").await;
    let page = if page.status / 100 == 3 {
        stranger.get("/docs/").await
    } else {
        page
    };
    let html = String::from_utf8(page.expect(200).body.clone()).expect("UTF-8");
    for attribute in ["src=\"", "href=\""] {
        for (at, _) in html.match_indices(attribute) {
            let target = &html[at + attribute.len()..];
            let target = &target[..target.find('"').unwrap_or(target.len())];
            assert!(
                !target.starts_with("http") && !target.starts_with("//"),
                "{target}"
            );
            let path = format!("/docs/{}", target.trim_start_matches("./"));
            stranger.get(&path).await.expect(200);
        }
    }
    let settings = stranger.get("/docs/swagger-initializer.js").await;
    let settings = String::from_utf8(settings.expect(200).body.clone()).expect("UTF-8");
    assert!(
        settings.contains("\"validatorUrl\": \"none\""),
        "somebody else is asked about the document: {settings}"
    );
}

#[tokio::test]
async fn every_operation_documents_what_may_go_wrong() {
    for (path, operations) in committed()["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let responses = operation["responses"].as_object().expect("responses");
            assert!(
                operation["operationId"].is_string(),
                "{method} {path} has no operationId"
            );
            if path.starts_with("/v1/") {
                assert!(
                    responses.contains_key("401"),
                    "{method} {path} does not document 401"
                );
            }
        }
    }
}

/// The committed contract.
pub fn committed() -> Value {
    let text = std::fs::read_to_string(root().join("api/openapi.json"))
        .expect("api/openapi.json: write it with `cargo run -- openapi > api/openapi.json`");
    serde_json::from_str(&text).expect("JSON")
}

/// Every code on the page that documents them.
pub async fn documented_codes(service: &Service) -> Vec<String> {
    let page = service.stranger().get("/docs/problems").await;
    let html = String::from_utf8(page.expect(200).body.clone()).expect("UTF-8");
    let ids = html.split("id=\"").skip(1);
    let codes: Vec<_> = ids
        .filter_map(|rest| rest.split('"').next())
        .map(str::to_owned)
        .collect();
    assert!(!codes.is_empty(), "no codes on the page: {html}");
    codes
}
