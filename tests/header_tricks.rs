//! What no well-behaved client sends: the service refuses it, never fails, and goes on.

use std::time::Duration;

use serde_json::Value;

use crate::support::raw::{Connection, RawAnswer, exchange, head};
use crate::support::{Client, Service};

const BODY: &str = r#"{"holder":{"name":"Tricky"}}"#;

fn post(tenant: &Client, extra: &str, body: &str) -> String {
    let extra = format!("Content-Type: application/json\r\n{extra}");
    head(tenant, "POST /v1/cards HTTP/1.1", &extra) + body
}

/// A 4xx with (or, where HTTP itself was broken, without) a problem document.
fn assert_refused(what: &str, answer: Option<RawAnswer>) {
    let answer = answer.unwrap_or_else(|| panic!("{what}: no answer"));
    assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
    if !answer.body.is_empty() {
        let problem: Value = serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("{what}: {error}: {answer:?}"));
        assert_eq!(problem["status"], answer.status, "{what}");
        assert!(problem["code"].is_string(), "{what}");
    }
}

#[tokio::test]
async fn bodies_with_two_lengths_or_none_that_is_true_are_refused() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let right = BODY.len();
    for (what, extra, body) in [
        (
            "two lengths",
            format!("Content-Length: {right}\r\nContent-Length: 3\r\n"),
            BODY,
        ),
        (
            "a length with a sign",
            format!("Content-Length: +{right}\r\n"),
            BODY,
        ),
        (
            "a negative length",
            "Content-Length: -1\r\n".to_owned(),
            BODY,
        ),
        (
            "a length that is no number",
            "Content-Length: many\r\n".to_owned(),
            BODY,
        ),
        (
            "a length beyond any memory",
            "Content-Length: 99999999999999999999999\r\n".to_owned(),
            BODY,
        ),
        (
            "no chunk size",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            "zz\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "a huge chunk size",
            "Transfer-Encoding: chunked\r\n".to_owned(),
            "ffffffffffffffffff\r\nabc",
        ),
        (
            "an unknown coding",
            "Transfer-Encoding: gzip\r\n".to_owned(),
            BODY,
        ),
        ("no body where one must be", String::new(), ""),
    ] {
        let answer = exchange(service.address(), post(&tenant, &extra, body)).await;
        assert_refused(what, answer);
    }
    assert!(tenant.all("/v1/cards").await.is_empty());
}

#[tokio::test]
async fn a_length_beside_chunks_never_smuggles_a_second_request() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let smuggled = post(
        &tenant,
        &format!("Content-Length: {}\r\n", BODY.len()),
        BODY,
    );
    let body = format!("0\r\n\r\n{smuggled}");
    let extra = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    let mut connection = Connection::open(service.address()).await;
    connection.send(post(&tenant, extra, &body)).await;
    let (received, closed) = connection.read_all(Duration::from_secs(2)).await;
    let received = String::from_utf8_lossy(&received);
    assert!(closed, "such a connection is not kept: {received}");
    assert!(tenant.all("/v1/cards").await.is_empty(), "{received}");
}

#[tokio::test]
async fn heads_that_are_too_large_are_told_so() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let long = format!("X-Long: {}\r\n", "y".repeat(40 << 10));
    let query = format!("GET /v1/cards?q={} HTTP/1.1", "q".repeat(20 << 10));
    for (request, status, code) in [
        (
            head(&tenant, "GET /v1/usage HTTP/1.1", &long),
            431,
            "headers_too_large",
        ),
        (head(&tenant, &query, ""), 414, "uri_too_long"),
    ] {
        let answer = exchange(service.address(), request).await;
        let answer = answer.unwrap_or_else(|| panic!("{code}: no answer"));
        assert_eq!(answer.status, status, "{answer:?}");
        let problem: Value = serde_json::from_str(&answer.body).expect("a problem");
        assert_eq!(problem["code"], code);
    }
}

#[tokio::test]
async fn heads_that_are_far_too_large_are_refused() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let get = |extra: &str| head(&tenant, "GET /v1/usage HTTP/1.1", extra);
    let many: String = (0..2_000).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("X-Long: {}\r\n", "y".repeat(1 << 20));
    for (what, request) in [
        ("many headers", get(&many)),
        ("a long header", get(&long)),
        (
            "a long path",
            head(
                &tenant,
                &format!("GET /{} HTTP/1.1", "p".repeat(1 << 20)),
                "",
            ),
        ),
        (
            "a long query",
            head(
                &tenant,
                &format!("GET /v1/cards?q={} HTTP/1.1", "q".repeat(1 << 20)),
                "",
            ),
        ),
    ] {
        assert_refused(what, exchange(service.address(), request).await);
    }
    tenant.usage().await;
}

#[tokio::test]
async fn what_is_not_http_is_refused() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    for (what, request) in [
        ("HTTP/0.9", "GET /v1/usage\r\n\r\n".to_owned()),
        (
            "a version nobody knows",
            "GET / HTTP/9.9\r\nHost: x\r\n\r\n".to_owned(),
        ),
        (
            "a NUL in the path",
            "GET /v1/\0usage HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        ),
        (
            "a NUL in a header",
            head(&tenant, "GET /v1/usage HTTP/1.1", "X-Nul: a\0b\r\n"),
        ),
        (
            "a header without a name",
            head(&tenant, "GET /v1/usage HTTP/1.1", ": x\r\n"),
        ),
        (
            "a header with a space in its name",
            head(&tenant, "GET /v1/usage HTTP/1.1", "X Y: z\r\n"),
        ),
        (
            "a folded header",
            head(&tenant, "GET /v1/usage HTTP/1.1", "X-Fold: a\r\n b: c\r\n"),
        ),
        (
            "TLS",
            "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\r\n\r\n".to_owned(),
        ),
        ("words", "hello, is anybody there?\r\n\r\n".to_owned()),
    ] {
        assert_refused(what, exchange(service.address(), request).await);
    }
    // Whoever begins with HTTP/2 would not understand an answer in HTTP/1: the connection is closed.
    let mut connection = Connection::open(service.address()).await;
    connection.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    connection.closed().await;
    tenant.usage().await;
}

#[tokio::test]
async fn odd_but_valid_requests_are_answered_as_usual() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let address = service.address();
    let absolute = format!("GET http://{address}/v1/usage HTTP/1.1");
    for (what, request, status) in [
        ("absolute form", head(&tenant, &absolute, ""), 200),
        ("HTTP/1.0", head(&tenant, "GET /v1/usage HTTP/1.0", ""), 200),
        (
            "a method nobody knows",
            head(&tenant, "BREW /v1/usage HTTP/1.1", ""),
            405,
        ),
        (
            "asterisk form",
            head(&tenant, "OPTIONS * HTTP/1.1", ""),
            404,
        ),
        (
            "a path that climbs",
            head(&tenant, "GET /v1/../../etc/passwd HTTP/1.1", ""),
            404,
        ),
        (
            "an encoded slash",
            head(&tenant, "GET /v1%2fusage HTTP/1.1", ""),
            404,
        ),
        (
            "two slashes",
            head(&tenant, "GET //v1/usage HTTP/1.1", ""),
            404,
        ),
    ] {
        let answer = exchange(address, request).await;
        let answer = answer.unwrap_or_else(|| panic!("{what}: no answer"));
        let alike =
            answer.status == status || (status > 400 && (400..500).contains(&answer.status));
        assert!(alike, "{what}: {answer:?}");
    }
}

#[tokio::test]
async fn a_body_that_nobody_reads_does_not_cost_its_answer() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let body = "x".repeat(8 << 20);
    let extra = format!("Content-Length: {}\r\n", body.len());
    for (line, status) in [
        ("OPTIONS /readyz HTTP/1.1", 405),
        ("POST /v1/nothing HTTP/1.1", 404),
        ("POST /v1/cards HTTP/1.1", 413),
        ("PUT /v1/landlord/plans/free HTTP/1.1", 403),
    ] {
        let request = head(&tenant, line, &extra) + &body;
        let answer = exchange(service.address(), request).await;
        let answer = answer.unwrap_or_else(|| panic!("{line}: no answer"));
        assert_eq!(answer.status, status, "{line}: {answer:?}");
    }
}

#[tokio::test]
async fn chunked_bodies_are_read_and_connections_are_kept() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let chunked = format!("{:x}\r\n{BODY}\r\n0\r\n\r\n", BODY.len());
    let request = post(&tenant, "Transfer-Encoding: chunked\r\n", &chunked);
    let mut connection = Connection::open(service.address()).await;
    for _ in 0..3 {
        assert!(connection.send(&request).await);
        let answer = connection.answer().await.expect("an answer");
        assert_eq!(answer.status, 201, "{answer:?}");
    }
    assert_eq!(tenant.all("/v1/cards").await.len(), 3);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let usage = head(&tenant, "GET /v1/usage HTTP/1.1", "");
    let nothing = head(&tenant, "GET /v1/nothing HTTP/1.1", "");
    let last = head(&tenant, "GET /v1/usage HTTP/1.1", "Connection: close\r\n");
    let mut connection = Connection::open(service.address()).await;
    connection.send(format!("{usage}{nothing}{last}")).await;
    let (received, closed) = connection.read_all(Duration::from_secs(5)).await;
    let received = String::from_utf8_lossy(&received).into_owned();
    assert!(closed, "{received}");
    let statuses: Vec<_> = received
        .match_indices("HTTP/1.1 ")
        .map(|(at, _)| received[at + 9..at + 12].to_owned())
        .collect();
    assert_eq!(statuses, ["200", "404", "200"], "{received}");
}

#[tokio::test]
async fn a_client_that_hangs_up_at_once_does_no_harm() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let request = post(
        &tenant,
        &format!("Content-Length: {}\r\n", BODY.len()),
        BODY,
    );
    for cut in [1, 20, request.len() / 2, request.len() - 1, request.len()] {
        let mut connection = Connection::open(service.address()).await;
        connection.send(&request[..cut]).await;
        drop(connection);
    }
    // Only the whole request can have had an effect, and at most once.
    let listed = tenant.all("/v1/cards").await;
    assert!(listed.len() <= 1, "{listed:?}");
    crate::support::recount::everything_agrees(&service, &tenant).await;
}
