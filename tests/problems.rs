//! Requests that cannot be: each answered with a problem document of the right code.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::{id, send};
use crate::support::{Answer, Client, Service, unique};

/// Sends a body as it is.
async fn post(tenant: &Client, content_type: Option<&str>, body: impl Into<Vec<u8>>) -> Answer {
    let mut request = tenant
        .request(Method::POST, "/v1/cards")
        .header("Idempotency-Key", unique("key"))
        .body(body.into());
    if let Some(content_type) = content_type {
        request = request.header("Content-Type", content_type);
    }
    send(request).await
}

#[tokio::test]
async fn malformed_json_is_400() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    for body in [
        "{",
        "nonsense",
        "{\"holder\": }",
        "{\"holder\":{\"name\":\"A\"}}trailing",
        "{'holder': 1}",
        "\u{feff}{}",
        "[1,2",
        "{\"holder\":{\"name\":\"\\ud800\"}}",
    ] {
        post(&tenant, Some("application/json"), body)
            .await
            .problem(400, "malformed_json");
    }
    let latin = b"{\"holder\":{\"name\":\"\xe9\"}}".to_vec();
    post(&tenant, Some("application/json"), latin)
        .await
        .problem(400, "malformed_json");
    let deep = "[".repeat(10_000);
    post(&tenant, Some("application/json"), deep)
        .await
        .problem(400, "malformed_json");
    assert!(tenant.all("/v1/cards").await.is_empty());
}

#[tokio::test]
async fn a_body_of_the_wrong_shape_is_422_and_says_which_field() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    for (body, field) in [
        (json!({ "holder": { "name": 7 } }), "holder.name"),
        (json!({ "holder": { "name": null } }), "holder.name"),
        (
            json!({ "holder": { "name": "A", "nickname": "B" } }),
            "holder.nickname",
        ),
        (json!({ "holder": {} }), "holder"),
        (json!({ "holder": "A" }), "holder"),
        (
            json!({ "holder": { "name": "A" }, "color": "red" }),
            "color",
        ),
        (
            json!({ "holder": { "name": "A" }, "activate": "yes" }),
            "activate",
        ),
        (
            json!({ "holder": { "name": "A" }, "expires_at": "tomorrow" }),
            "expires_at",
        ),
        (
            json!({ "holder": { "name": "A" }, "expires_at": 7 }),
            "expires_at",
        ),
        (
            json!({ "holder": { "name": "A" }, "expires_at": "2001-01-01T00:00:00Z" }),
            "expires_at",
        ),
        (json!({ "holder": { "name": "A" }, "tier": "" }), "tier"),
        (
            json!({ "holder": { "name": "A" }, "external_ref": "r".repeat(101) }),
            "external_ref",
        ),
        (
            json!({ "holder": { "name": "A", "email": "nobody" } }),
            "holder.email",
        ),
        (
            json!({ "holder": { "name": "x".repeat(10_000) } }),
            "holder.name",
        ),
        (json!({ "holder": { "name": "   " } }), "holder.name"),
        (json!({ "holder": { "name": "A\u{0}B" } }), "holder.name"),
        (json!({ "holder": { "name": "A\u{202e}B" } }), "holder.name"),
        (json!({ "holder": { "name": "A\nB" } }), "holder.name"),
    ] {
        let answer = tenant.post("/v1/cards", &body).await;
        let problem = answer.problem(422, "validation_failed");
        let error = &problem["errors"][0];
        let named = error["field"].as_str().unwrap_or_default();
        assert!(named.starts_with(field), "wanted {field}: {answer}");
        for part in ["code", "detail"] {
            assert!(error[part].is_string(), "no {part}: {answer}");
        }
    }
    for body in [json!([]), json!("text"), json!(7), json!(null), json!({})] {
        let answer = tenant.post("/v1/cards", &body).await;
        answer.problem(422, "validation_failed");
    }
    assert!(tenant.all("/v1/cards").await.is_empty());
}

#[tokio::test]
async fn a_reason_is_checked_like_every_other_text() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue_active("Reasoned").await;
    let path = format!("/v1/cards/{}/suspend", id(&card));
    for body in [
        json!({ "reason": 7 }),
        json!({ "reason": "" }),
        json!({ "reason": "x".repeat(501) }),
        json!({ "reason": "a\u{7}b" }),
        json!({ "because": "x" }),
    ] {
        tenant
            .put(&path, &body)
            .await
            .problem(422, "validation_failed");
    }
    tenant
        .put(&path, &json!({ "reason": "ok" }))
        .await
        .expect(200);
}

#[tokio::test]
async fn a_transition_needs_no_body() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue("Bodiless").await;
    let path = format!("/v1/cards/{}/activate", id(&card));
    send(tenant.request(Method::PUT, &path)).await.expect(200);
}

#[tokio::test]
async fn a_10_mb_body_is_413_and_the_connection_goes_on_or_closes_cleanly() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let huge = format!("{{\"holder\":{{\"name\":\"{}\"}}}}", "x".repeat(10 << 20));
    let answer = post(&tenant, Some("application/json"), huge).await;
    answer.problem(413, "body_too_large");
    tenant.issue("Afterwards").await;
}

#[tokio::test]
async fn a_body_of_another_media_type_is_415() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let body = r#"{"holder":{"name":"A"}}"#;
    for content_type in [
        Some("text/plain"),
        Some("application/xml"),
        Some("application/x-www-form-urlencoded"),
        Some("nonsense"),
        None,
    ] {
        let answer = post(&tenant, content_type, body).await;
        answer.problem(415, "unsupported_media_type");
    }
    let answer = post(&tenant, Some("application/json; charset=utf-8"), body).await;
    answer.expect(201);
}

#[tokio::test]
async fn what_is_not_there_is_404() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let landlord = service.landlord();
    let nobody = "018f0000-0000-7000-8000-000000000000";
    for path in [
        format!("/v1/cards/{nobody}"),
        format!("/v1/cards/{nobody}/history"),
        "/v1/cards/not-a-uuid".to_owned(),
        "/v1/cards/not-a-uuid/history".to_owned(),
        "/v1/cards/%00".to_owned(),
        "/v1/cards/%ff%fe".to_owned(),
        "/v1/nothing".to_owned(),
        "/".to_owned() + &"x".repeat(3_000),
        "/v2/cards".to_owned(),
    ] {
        tenant.get(&path).await.problem(404, "not_found");
    }
    for path in [
        format!("/v1/landlord/tenants/{nobody}"),
        "/v1/landlord/tenants/not-a-uuid".to_owned(),
        format!("/v1/audit/tenants/{nobody}/events"),
        "/v1/landlord/plans/platinum".to_owned(),
        "/v1/landlord/features/nothing".to_owned(),
    ] {
        landlord.get(&path).await.problem(404, "not_found");
    }
    let path = "/v1/landlord/subscribers/nobody/resume";
    landlord
        .put(path, &json!({}))
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn a_method_that_a_path_does_not_have_is_405_with_allow() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let answer = tenant.delete("/v1/cards").await;
    answer.problem(405, "method_not_allowed");
    let allowed = answer.header("allow").to_owned();
    assert!(
        allowed.contains("GET") && allowed.contains("POST"),
        "{allowed}"
    );
}

#[tokio::test]
async fn a_query_that_cannot_be_is_400() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    for query in [
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=many",
        "limit=99999999999999999999",
        "status=lost",
        "sort=age",
        "at_least=-1",
        "at_least=x",
        "colour=red",
        "q=%00",
        "q=a%0Ab",
        "limit=5&limit=6",
    ] {
        let answer = tenant.get(&format!("/v1/cards?{query}")).await;
        let problem = answer.problem(400, "invalid_query");
        assert!(problem["errors"][0]["field"].is_string(), "{answer}");
    }
    tenant.get("/v1/cards?limit=500").await.expect(200);
}

#[tokio::test]
async fn a_cursor_that_was_tampered_with_or_is_of_another_list_is_400() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    for name in ["Anna", "Berta", "Clara"] {
        tenant.issue(name).await;
    }
    let page = tenant
        .get("/v1/cards?limit=1&sort=name")
        .await
        .expect(200)
        .json();
    let cursor = page["next_cursor"].as_str().expect("more").to_owned();
    let follow = |cursor: &str| format!("/v1/cards?limit=1&sort=name&cursor={cursor}");
    tenant.get(&follow(&cursor)).await.expect(200);

    let middle = cursor.len() / 2;
    let other = if cursor.as_bytes()[middle] == b'A' {
        "B"
    } else {
        "A"
    };
    let changed = format!("{}{other}{}", &cursor[..middle], &cursor[middle + 1..]);
    for bad in [
        "",
        "x",
        "%00",
        "AAAA",
        &changed,
        &cursor[..middle],
        &format!("{cursor}A"),
    ] {
        tenant
            .get(&follow(bad))
            .await
            .problem(400, "invalid_cursor");
    }
    for elsewhere in [
        format!("/v1/cards?sort=issued_at&cursor={cursor}"),
        format!("/v1/cards?sort=-name&cursor={cursor}"),
        format!("/v1/cards?sort=name&status=issued&cursor={cursor}"),
    ] {
        tenant.get(&elsewhere).await.problem(400, "invalid_cursor");
    }
}

#[tokio::test]
async fn every_problem_has_the_request_id_of_its_header() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let answer = tenant.get("/v1/nothing").await;
    assert_eq!(
        answer.any_problem()["request_id"],
        answer.header("x-request-id")
    );

    let mine = tenant
        .request(Method::GET, "/v1/nothing")
        .header("X-Request-Id", "mine-1");
    let answer = send(mine).await;
    assert_eq!(answer.any_problem()["request_id"], "mine-1");
    // An id that could forge log lines, or fill them, is not taken over.
    for bad in ["x".repeat(5_000), "a b\"c".to_owned()] {
        let asked = tenant
            .request(Method::GET, "/v1/nothing")
            .header("X-Request-Id", &bad);
        assert_ne!(
            send(asked).await.any_problem()["request_id"],
            Value::from(bad)
        );
    }
}

#[tokio::test]
async fn a_tenant_that_cannot_be_is_refused() {
    let service = Service::shared();
    let landlord = service.landlord();
    let whole = json!({ "name": "Name", "slug": "a-slug", "plan": "free" });
    for (field, value) in [
        ("name", json!("")),
        ("name", json!("x".repeat(10_000))),
        ("slug", json!("A Slug")),
        ("slug", json!("../../etc/passwd")),
        ("slug", json!("ab")),
        ("slug", json!("-ab")),
        ("slug", json!("x".repeat(41))),
        ("plan", json!("platinum")),
        ("plan", json!("")),
        ("isolation", json!("none")),
        ("id", json!("018f0000-0000-7000-8000-000000000000")),
    ] {
        let mut body = whole.clone();
        body[field] = value;
        let problem = landlord
            .post("/v1/landlord/tenants", &body)
            .await
            .problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["field"], field, "{problem}");
    }
}
