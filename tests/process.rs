//! The process: how it starts, how it refuses to, how it stops.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Method;
use serde_json::json;

use crate::support::client::{id, send};
use crate::support::raw::Connection;
use crate::support::recount::everything_agrees;
use crate::support::service::{command, run, wait_for};
use crate::support::{Client, DEADLINE, Options, Service, Store, eventually};

/// A directory has one owner; a database any number of nodes.
#[tokio::test]
async fn a_second_process_is_refused_in_one_line_on_a_directory_and_welcome_on_a_database() {
    let service = Service::start();
    match &**service.store() {
        Store::Directory(directory) => {
            let store = service.store().url();
            let second = ["serve", "--store", &store, "--listen", "127.0.0.1:0"];
            let (status, said) = run(command().args(second));
            assert!(!status.success());
            assert_one_clear_line(&said, directory.path().to_str().expect("a path"));
        }
        Store::Database(_) => {
            let second = Service::node_of(service.store(), Options::default());
            second.tenant("free").await.issue("By the second").await;
        }
    }
    service.tenant("free").await.issue("Undisturbed").await;
}

#[test]
fn bad_configuration_ends_the_process_at_once_and_names_the_knob() {
    for (arguments, variables, knob) in [
        (vec!["--store", "mysql://x"], vec![], "STORE"),
        (vec!["--store", ""], vec![], "STORE"),
        (vec!["--listen", "nowhere"], vec![], "LISTEN"),
        (vec!["--listen", "127.0.0.1:99999"], vec![], "LISTEN"),
        (vec![], vec![("STORE", "sqlite:/proc/no/such")], "STORE"),
        (
            vec![],
            vec![("LANDLORD_API_KEY", "short")],
            "LANDLORD_API_KEY",
        ),
    ] {
        let directory = tempfile::tempdir().expect("a directory");
        let mut command = command();
        command
            .arg("serve")
            .args(&arguments)
            .envs(variables.clone());
        command.current_dir(directory.path());
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        let (status, said) = run(&mut command);
        assert!(!status.success(), "{arguments:?} {variables:?}: {said}");
        assert_one_clear_line(&said, knob);
    }
}

#[tokio::test]
async fn an_address_in_use_is_told_in_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let store = Store::new();
    let serve = ["serve", "--store", &store.url(), "--listen", &address];
    let (status, said) = run(command().args(serve));
    assert!(!status.success());
    assert_one_clear_line(&said, &address);

    // Nothing was made that would now be lost: the key is shown at the first start that serves.
    drop(taken);
    let mut arguments = command();
    let service = Service::started_by(arguments.args(serve));
    eventually("the key is shown", || async {
        service.output().contains("shown this once").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_shutdown_answers_what_was_asked_and_loses_nothing() {
    let mut service = Service::start();
    let tenant = service.tenant("pro").await;
    let asking: Vec<_> = (0..64)
        .map(|index| {
            let tenant = tenant.clone();
            tokio::spawn(async move { issue_until_refused(&tenant, index).await })
        })
        .collect();
    // In the middle of it: after the first answers have come.
    while tenant.usage().await["issued_total"].as_u64() < Some(100) {}
    service.terminate();
    let mut acknowledged = 0;
    for client in asking {
        acknowledged += client.await.expect("a client");
    }
    let (status, said) = service.stopped();
    assert!(status.success(), "{status}: {said}");
    service.restart();
    let tenant = tenant.at(service.base());
    everything_agrees(&service, &tenant).await;
    let kept = tenant.usage().await["issued_total"]
        .as_u64()
        .expect("a count");
    assert!(kept >= acknowledged, "{kept} < {acknowledged}");
}

/// How many cards were acknowledged until the service stopped taking requests. A connection that
/// ends in the middle of an answer fails the test: draining means that it is sent whole.
async fn issue_until_refused(tenant: &Client, client: usize) -> u64 {
    for index in 0_u64.. {
        let body = json!({ "holder": { "name": format!("{client}-{index}") } });
        let key = format!("drain-{client}-{index}");
        let request = tenant.command(reqwest::Method::POST, "/v1/cards", &key, &body);
        match crate::support::client::try_send(request).await {
            Ok(answer) if answer.status == 201 => {}
            Ok(answer) => {
                assert_eq!(answer.status, 503, "{answer}");
                return index;
            }
            Err(error) => {
                assert!(
                    !error.is_body() && !error.is_decode(),
                    "half an answer: {error}"
                );
                return index;
            }
        }
    }
    unreachable!("the service stops")
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_up_a_shutdown() {
    let mut service = Service::start();
    let mut idle = Connection::open(service.address()).await;
    let mut half = Connection::open(service.address()).await;
    half.send("GET /healthz HTTP/1.1\r\nHost:").await;
    service.stranger().get("/healthz").await.expect(200);
    let begun = std::time::Instant::now();
    service.terminate();
    let (status, said) = service.stopped();
    assert!(status.success(), "{said}");
    assert!(
        begun.elapsed() < Duration::from_secs(15),
        "{:?}",
        begun.elapsed()
    );
    idle.closed().await;
}

#[test]
fn a_service_to_whom_nobody_listens_any_more_goes_on_and_stops_when_told_to() {
    let store = Store::new();
    let mut child = command()
        .args(["serve", "--listen", "127.0.0.1:0", "--store", &store.url()])
        .spawn()
        .expect("the binary starts");
    let mut said = BufReader::new(child.stdout.take().expect("piped")).lines();
    let ready = said.any(|line| line.expect("UTF-8").contains("listening on "));
    assert!(ready, "it listens");
    drop((said, child.stderr.take()));
    let pid = Pid::from_raw(child.id().cast_signed());
    kill(pid, Signal::SIGTERM).expect("signalled");
    let status = wait_for(&mut child, DEADLINE);
    let _ = child.kill();
    let status = status.expect("it stops when it is told to");
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn the_first_start_prints_the_landlord_key_once_and_a_curl_that_works() {
    let store = Arc::new(Store::new());
    let mut starts = Vec::new();
    for _ in 0..2 {
        let mut service = Service::spawn(&["serve"], &store);
        let said = eventually("the first steps are printed", || async {
            let told = if starts.is_empty() {
                "/v1/cards -H"
            } else {
                "landlord key"
            };
            Some(service.output()).filter(|said| said.contains(told))
        })
        .await;
        starts.push(said.clone());
        if starts.len() == 1 {
            let card = pasted(&said);
            assert_eq!(card["status"], "active", "{card}");
            let key = key_in(&said).unwrap_or_else(|| panic!("no key: {said}"));
            service
                .client(key)
                .get("/v1/landlord/tenants")
                .await
                .expect(200);
        }
        service.terminate();
        service.stopped();
    }
    assert!(key_in(&starts[1]).is_none(), "shown again: {}", starts[1]);
}

/// What the printed lines print, when they are pasted into a shell.
fn pasted(said: &str) -> serde_json::Value {
    let begins = |line: &&str| line.starts_with("KEY=") || line.starts_with("curl ");
    let lines: Vec<_> = said.lines().filter(begins).collect();
    assert_eq!(lines.len(), 2, "{said}");
    printed(&lines.join("\n"))
}

/// The JSON that commands of a shell print.
fn printed(commands: &str) -> serde_json::Value {
    let shell = std::process::Command::new("sh")
        .args(["-c", commands])
        .output();
    let printed = shell.expect("a shell").stdout;
    serde_json::from_slice(&printed)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&printed)))
}

#[tokio::test]
async fn the_demo_shows_three_tenants_with_cards_and_is_safe_to_repeat() {
    let store = Arc::new(Store::new());
    let mut cards = Vec::new();
    for _ in 0..2 {
        let mut service = Service::spawn(&["demo"], &store);
        let said = eventually("the keys are printed", || async {
            Some(service.output()).filter(|said| said.matches("dck_").count() >= 4)
        })
        .await;
        let landlord = keys_in(&said)
            .into_iter()
            .map(|key| service.client(key))
            .collect::<Vec<_>>();
        let mut tenants = Vec::new();
        for client in &landlord {
            let answer = client.get("/v1/landlord/tenants").await;
            if answer.status == 200 {
                tenants = client.all("/v1/landlord/tenants").await;
            }
        }
        let plans: BTreeSet<_> = tenants
            .iter()
            .filter_map(|one| one["plan"].as_str())
            .collect();
        assert_eq!(
            plans,
            BTreeSet::from(["enterprise", "free", "pro"]),
            "{said}"
        );
        let in_circulation = |one: &serde_json::Value| one["usage"]["in_circulation"].as_u64();
        cards.push(
            tenants
                .iter()
                .filter_map(in_circulation)
                .collect::<Vec<_>>(),
        );
        service.terminate();
        service.stopped();
    }
    assert!(cards[0].iter().all(|count| *count > 0), "{cards:?}");
    assert_eq!(cards[0], cards[1], "the second run made no more cards");
}

#[tokio::test]
async fn every_key_and_every_command_that_the_demo_prints_works() {
    let service = Service::spawn(&["demo"], &Arc::new(Store::new()));
    let said = eventually("the commands are printed", || async {
        Some(service.output()).filter(|said| said.contains("/v1/landlord/tenants -H"))
    })
    .await;
    let client_of = |who: &str| {
        let line = said.lines().find(|line| line.trim().starts_with(who));
        let key = line.and_then(key_in);
        service.client(key.unwrap_or_else(|| panic!("no key of {who}: {said}")))
    };
    for tenant in client_of("landlord").all("/v1/landlord/tenants").await {
        let plan = tenant["plan"].as_str().expect("a plan");
        let who = format!("{} ({plan})", tenant["name"].as_str().expect("a name"));
        let entitled = client_of(&who).get("/v1/entitlements").await;
        assert_eq!(entitled.expect(200).json()["plan"], plan);
        let history = format!("/v1/audit/tenants/{}/events", id(&tenant));
        client_of("auditor").get(&history).await.expect(200);
    }

    let commands = said.lines().filter(|line| line.trim().starts_with("curl "));
    let mut answered = 0;
    for command in commands {
        let problem = printed(command)["status"].as_u64();
        // Whatever has a state of its own says it in words.
        let expected = command.contains("# 402").then_some(402);
        assert_eq!(problem, expected, "{command}");
        answered += 1;
    }
    assert_eq!(answered, 6, "{said}");
}

#[tokio::test]
async fn a_log_line_says_whose_request_it_is_in_text_and_in_json() {
    for (format, shown) in [
        ("text", "request_id=\"asked-7\""),
        ("json", r#""request_id":"asked-7""#),
    ] {
        let options = Options::default()
            .with("LOG_FORMAT", format)
            .with("RUST_LOG", "debug");
        let service = Service::start_with(options);
        let request = service.stranger();
        let request = request.request(Method::GET, "/v1/usage");
        let answer = send(request.header("X-Request-Id", "asked-7")).await;
        answer.problem(401, "unauthorized");
        let line = eventually("it is logged", || async {
            let said = service.output();
            let line = said.lines().find(|line| line.contains("asked-7"));
            line.map(str::to_owned)
        })
        .await;
        assert!(line.contains(shown), "{line}");
        if format == "json" {
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!(line["status"], 401, "{line}");
            assert_eq!(line["path"], "/v1/usage", "{line}");
            assert_eq!(line["code"], "unauthorized", "{line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_than_accepted_are_told_to_come_back_and_lose_nothing() {
    a_crowd_beyond("REQUESTS_IN_FLIGHT_MAX", 2, "requests").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenants_crowd_is_told_to_come_back_and_takes_nobody_elses_place() {
    let options = Options::default()
        .with("REQUESTS_IN_FLIGHT_MAX", 40)
        .with("TENANT_REQUESTS_IN_FLIGHT_MAX", 2);
    let service = Service::start_with(options);
    let (crowd, other) = (service.tenant("pro").await, service.tenant("pro").await);
    let asking: Vec<_> = (0..32)
        .map(|index| {
            let crowd = crowd.clone();
            tokio::spawn(async move { issue_often(&crowd, index).await })
        })
        .collect();
    for index in 0..20 {
        other.issue(&format!("Other {index}")).await;
    }
    let mut sent_away = 0;
    for client in asking {
        sent_away += client.await.expect("a client");
    }
    assert!(sent_away > 0, "everybody found a place");
    everything_agrees(&service, &crowd).await;
}

/// How many of 20 cards were refused because the tenant asked for too much at once.
async fn issue_often(tenant: &Client, client: usize) -> u32 {
    let mut sent_away = 0;
    for index in 0..20 {
        let body = json!({ "holder": { "name": format!("Crowd {client}-{index}") } });
        let answer = tenant.post("/v1/cards", &body).await;
        if answer.status != 201 {
            answer.problem(429, "rate_limited");
            assert_eq!(answer.header("retry-after"), "1");
            sent_away += 1;
        }
    }
    sent_away
}

#[tokio::test(flavor = "multi_thread")]
async fn more_changes_than_may_wait_for_a_ledger_are_told_to_come_back_and_lose_nothing() {
    a_crowd_beyond("APPENDS_WAITING_MAX", 1, "ledger").await;
}

async fn a_crowd_beyond(limit: &'static str, value: u32, what: &str) {
    let service = Service::start_with(Options::default().with(limit, value));
    let tenant = service.tenant("pro").await;
    let asking = (0..200).map(|index| {
        let tenant = tenant.clone();
        tokio::spawn(async move {
            let body = json!({ "holder": { "name": format!("Crowd {index}") } });
            tenant.post("/v1/cards", &body).await
        })
    });
    let (mut issued, mut sent_away) = (0, 0);
    for answer in futures::future::join_all(asking).await {
        let answer = answer.expect("an answer");
        if answer.status == 201 {
            issued += 1;
            continue;
        }
        let problem = answer.problem(503, "overloaded");
        let detail = problem["detail"].as_str().expect("a detail");
        assert!(detail.contains(what), "{detail}");
        let seconds: u64 = answer.header("retry-after").parse().expect("seconds");
        assert!(seconds >= 1);
        sent_away += 1;
    }
    assert!(
        issued > 0 && sent_away > 0,
        "{issued} issued, {sent_away} sent away"
    );
    assert_eq!(tenant.usage().await["issued_total"], issued);
    everything_agrees(&service, &tenant).await;
}

#[tokio::test]
async fn health_readiness_and_metrics_are_there() {
    let service = Service::shared();
    let stranger = service.stranger();
    stranger.get("/healthz").await.expect(200);
    stranger.get("/readyz").await.expect(200);
    let metrics = stranger.get("/metrics").await;
    assert!(
        metrics
            .expect(200)
            .header("content-type")
            .starts_with("text/plain")
    );
}

/// The first key in a text.
pub fn key_in(said: &str) -> Option<&str> {
    keys_in(said).first().copied()
}

/// Every key in a text.
fn keys_in(said: &str) -> Vec<&str> {
    said.match_indices("dck_")
        .map(|(at, _)| {
            let rest = &said[at..];
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
            &rest[..end.unwrap_or(rest.len())]
        })
        .collect()
}

/// One line for people that names what is wrong, and nothing for programmers.
fn assert_one_clear_line(said: &str, names: &str) {
    let lines: Vec<_> = said
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    assert_eq!(lines.len(), 1, "not one line: {said}");
    assert!(said.contains(names), "{names} is not named: {said}");
    assert!(
        !said.contains("panicked") && !said.contains("Os {"),
        "{said}"
    );
}
