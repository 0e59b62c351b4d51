//! Usage audits: every ledger is counted again; what has drifted is found, and repaired only when
//! somebody says so.

use std::sync::Arc;

use chrono::{TimeDelta, Timelike};
use serde_json::{Value, json};

use crate::support::clock::WallClock;
use crate::support::recount::{everything_agrees, history};
use crate::support::{Answer, Client, Options, Service, Store, eventually, now, unique};

/// Where audits are asked for.
pub const AUDITS: &str = "/v1/landlord/usage-audits";

/// Starts an audit, of everything or what the body says, as soon as no other one is running.
async fn start(service: &Service, body: &Value) -> Answer {
    eventually("no other audit is running", || async {
        let started = service.landlord().post(AUDITS, body).await;
        match started.status {
            409 => {
                started.problem(409, "audit_running");
                None
            }
            _ => Some(started),
        }
    })
    .await
}

/// The report of an audit, once it is over.
async fn over(service: &Service, id: &str) -> Value {
    let path = format!("{AUDITS}/{id}");
    eventually("the audit is over", || async {
        let report = service.landlord().get(&path).await.expect(200).json();
        (report["state"] != "running").then_some(report)
    })
    .await
}

/// An audit, of everything or what the body says: its report.
pub async fn audit(service: &Service, body: &Value) -> Value {
    let started = start(service, body).await;
    started.expect(202);
    let id = started.text("id");
    assert_eq!(started.header("location"), format!("{AUDITS}/{id}"));
    over(service, id).await
}

/// A service with tenants who have cards, stopped.
async fn stopped(tenants: usize) -> (Service, Vec<Client>) {
    let mut service = Service::start_with(Options::default().with("USAGE_AUDIT_AT", "off"));
    let mut clients = Vec::new();
    for _ in 0..tenants {
        let tenant = service.tenant("free").await;
        tenant.issue("Issued").await;
        let card = tenant.issue_active("Suspended").await;
        tenant.change(&card, "suspend").await.expect(200);
        everything_agrees(&service, &tenant).await;
        clients.push(tenant);
    }
    service.terminate();
    service.stopped();
    (service, clients)
}

#[tokio::test]
async fn an_audit_counts_every_ledger_and_finds_nothing_where_nothing_is_wrong() {
    let (mut service, tenants) = stopped(3).await;
    service.restart();
    let report = audit(&service, &json!({})).await;
    assert_eq!(report["state"], "finished", "{report}");
    assert_eq!(
        (&report["tenants"], &report["tenants_done"]),
        (&json!(3), &json!(3))
    );
    let mut events = 0;
    for tenant in &tenants {
        events += history(&service, tenant.id()).await.len();
    }
    assert_eq!(report["events"], events);
    assert_eq!(
        (&report["drifted_total"], &report["failed_total"]),
        (&json!(0), &json!(0))
    );

    let body = json!({ "tenant": tenants[0].id() });
    let report = audit(&service, &body).await;
    assert_eq!(report["tenant"], tenants[0].id());
    assert_eq!(report["tenants_done"], 1);
    let listed = service.landlord().all(&format!("{AUDITS}?limit=1")).await;
    assert_eq!(listed.len(), 2);
    assert_eq!(listed[0], report, "the newest is first");
}

#[tokio::test]
async fn a_counter_that_was_corrupted_is_found_and_repaired_only_by_command() {
    let (mut service, tenants) = stopped(2).await;
    service.store().miscount(tenants[0].id()).await;
    service.restart();
    let tenants: Vec<_> = tenants
        .into_iter()
        .map(|it| it.at(service.base()))
        .collect();
    let tenant = &tenants[0];

    let report = audit(&service, &json!({})).await;
    assert_eq!(report["drifted_total"], 1, "{report}");
    let drift = &report["drifted"][0];
    assert_eq!(drift["tenant"], tenant.id());
    let counts = |active: u64, revoked: u64| {
        json!({
            "issued": 1, "active": active, "suspended": 1,
            "revoked": revoked, "expired": 0, "replaced": 0,
        })
    };
    assert_eq!(drift["head"]["expected"], counts(0, 0));
    assert_eq!(drift["head"]["found"], counts(2, 7));
    assert_eq!(
        drift["read_model"]["expected"],
        drift["read_model"]["found"]
    );
    assert_eq!(service.counted("usage_drift_total").await, 1);
    // Found, and left as it is.
    assert_eq!(tenant.usage().await["by_status"], counts(2, 7));
    let before = history(&service, tenant.id()).await;
    assert!(
        before
            .iter()
            .all(|event| event["type"] != "UsageReconciled")
    );

    let path = format!("{AUDITS}/{}/repair", report["id"].as_str().expect("an id"));
    let landlord = service.landlord();
    let elsewhere = json!({ "tenant": tenants[1].id() });
    landlord
        .put(&path, &elsewhere)
        .await
        .problem(404, "not_found");
    let key = unique("repair");
    let body = json!({ "reason": "a bit has flipped" });
    let repaired = landlord
        .put_once(&path, &key, &body)
        .await
        .expect(200)
        .json();
    let item = &repaired["items"][0];
    assert_eq!(
        (&item["before"], &item["after"]),
        (&counts(2, 7), &counts(0, 0))
    );
    assert_eq!(item["position"], before.len() + 1);
    // Said again, it is answered the same and not done again.
    let again = landlord
        .put_once(&path, &key, &body)
        .await
        .expect(200)
        .json();
    assert_eq!(again, repaired);

    let events = everything_agrees(&service, tenant).await;
    assert_eq!(events.len(), before.len() + 1);
    let event = events.last().expect("an event");
    assert_eq!(event["type"], "UsageReconciled");
    assert_eq!(event["payload"]["UsageReconciled"]["before"], counts(2, 7));
    assert_eq!(event["payload"]["UsageReconciled"]["after"], counts(0, 0));
    assert_eq!(event["metadata"]["reason"], "a bit has flipped");
    let report = audit(&service, &json!({})).await;
    assert_eq!(report["drifted_total"], 0, "{report}");
}

#[tokio::test]
async fn a_repaired_quota_admits_what_it_should() {
    let (mut service, tenants) = stopped(1).await;
    service.store().miscount(tenants[0].id()).await;
    service.restart();
    let tenant = tenants[0].clone().at(service.base());
    let issuing = (0..496).map(|nth| {
        let tenant = tenant.clone();
        async move { tenant.issue(&format!("Holder {nth}")).await }
    });
    futures::future::join_all(issuing).await;
    let one = json!({ "holder": { "name": "One more" } });
    tenant
        .post("/v1/cards", &one)
        .await
        .problem(402, "quota_exceeded");
    let report = audit(&service, &json!({})).await;
    let path = format!("{AUDITS}/{}/repair", report["id"].as_str().expect("an id"));
    let landlord = service.landlord();
    landlord.put(&path, &json!({})).await.expect(200);
    for _ in 0..2 {
        tenant.post("/v1/cards", &one).await.expect(201);
    }
    tenant
        .post("/v1/cards", &one)
        .await
        .problem(402, "quota_exceeded");
    everything_agrees(&service, &tenant).await;
}

#[tokio::test]
async fn a_read_model_that_says_something_else_is_found_and_built_anew_by_command() {
    misread(0, &json!(1)).await;
}

#[tokio::test]
async fn a_read_model_of_events_that_there_are_not_is_found_and_built_anew_by_command() {
    // As after a tenant's store was put back from a backup.
    misread(100, &json!(null)).await;
}

async fn misread(ahead: u64, issued: &Value) {
    let (mut service, tenants) = stopped(1).await;
    service.store().misread(tenants[0].id(), ahead).await;
    service.restart();
    let tenant = tenants[0].clone().at(service.base());
    let report = audit(&service, &json!({})).await;
    assert_eq!(report["drifted_total"], 1, "{report}");
    let drift = &report["drifted"][0];
    assert_eq!(drift["head"]["expected"], drift["head"]["found"]);
    assert_eq!(drift["read_model"]["found"]["issued"], 9);
    assert_eq!(drift["read_model"]["expected"]["issued"], *issued);
    let path = format!("{AUDITS}/{}/repair", report["id"].as_str().expect("an id"));
    let body = json!({ "tenant": tenant.id(), "reason": "it was wrong" });
    service.landlord().put(&path, &body).await.expect(200);
    everything_agrees(&service, &tenant).await;
}

#[tokio::test]
async fn a_tenant_who_cannot_be_counted_holds_up_no_other() {
    let (mut service, tenants) = stopped(3).await;
    let why = service.store().break_tenant(tenants[1].id());
    service.restart();
    let report = audit(&service, &json!({})).await;
    assert_eq!(report["state"], "finished", "{report}");
    assert_eq!(
        (&report["tenants_done"], &report["failed_total"]),
        (&json!(3), &json!(1))
    );
    let failed = &report["failed"][0];
    assert_eq!(failed["tenant"], tenants[1].id());
    let reason = failed["reason"].as_str().expect("a reason");
    assert!(reason.contains(why), "{reason}");
    assert_eq!(report["drifted_total"], 0, "{report}");
}

#[tokio::test]
async fn the_same_request_begins_one_audit() {
    let service = Service::shared();
    let key = unique("audit");
    let landlord = service.landlord();
    let first = eventually("no other audit is running", || async {
        let started = landlord.post_once(AUDITS, &key, &json!({})).await;
        (started.status == 202).then_some(started)
    })
    .await;
    let again = landlord.post_once(AUDITS, &key, &json!({})).await;
    assert!(again.expect(202).is_replayed());
    assert_eq!(again.text("id"), first.text("id"));
    over(&service, first.text("id")).await;
    let nobody = json!({ "tenant": "018f0000-0000-7000-8000-000000000000" });
    landlord
        .post(AUDITS, &nobody)
        .await
        .problem(404, "not_found");
    let missing = format!("{AUDITS}/018f0000-0000-7000-8000-000000000000");
    landlord.get(&missing).await.problem(404, "not_found");
}

#[tokio::test]
async fn the_audit_of_a_night_runs_once_by_itself() {
    let (clock, store) = (WallClock::new(), Arc::new(Store::new()));
    // Three seconds before the next full minute.
    let minute = now() + TimeDelta::minutes(1);
    let at = minute.format("%H:%M").to_string();
    clock.set_apart(57 - i64::from(now().second()));
    let node = || {
        let options = Options::default().with("USAGE_AUDIT_AT", &at);
        Service::node_of(&store, clock.of(options))
    };
    let nodes = match *store {
        Store::Directory(_) => vec![node()],
        Store::Database(_) => vec![node(), node()],
    };
    let id = eventually("the audit has run", || async {
        let all = nodes[0].landlord().all(AUDITS).await;
        assert!(all.len() < 2, "{all:?}");
        all.first()
            .map(|audit| audit["id"].as_str().expect("an id").to_owned())
    })
    .await;
    assert_eq!(over(&nodes[0], &id).await["state"], "finished");
    // Both have had their chance when the clock is a minute later.
    clock.set_apart(120);
    for node in &nodes {
        assert_eq!(node.landlord().all(AUDITS).await.len(), 1);
    }
}
