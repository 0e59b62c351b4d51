//! A billing system that retries, reorders and repeats brings nothing back.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::client::send;
use crate::support::clock::WallClock;
use crate::support::recount::history;
use crate::support::{Answer, Chance, Client, Options, Service, unique};

fn subscription(tenant: &Client, rest: &str) -> String {
    format!("/v1/landlord/tenants/{}/subscription{rest}", tenant.id())
}

/// A command as a biller keeps it to send it again: with its key, and the version it has seen.
#[derive(Clone)]
struct Sent {
    path: String,
    body: Value,
    key: String,
    seen: Option<u64>,
}

impl Sent {
    fn new(tenant: &Client, rest: &str, body: Value, seen: Option<u64>) -> Self {
        Self {
            path: subscription(tenant, rest),
            body,
            key: unique("billing"),
            seen,
        }
    }

    async fn to(&self, landlord: &Client) -> Answer {
        let mut request = landlord
            .request(Method::PUT, &self.path)
            .header("Idempotency-Key", &self.key)
            .json(&self.body);
        if let Some(seen) = self.seen {
            request = request.header("If-Match", format!("\"{seen}\""));
        }
        send(request).await
    }
}

async fn version(service: &Service, tenant: &Client) -> u64 {
    let seen = service.landlord().get(&subscription(tenant, "")).await;
    seen.expect(200).version()
}

#[tokio::test]
async fn an_upgrade_that_is_delivered_again_after_the_downgrade_changes_nothing() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let landlord = service.landlord();
    let upgrade = Sent::new(&tenant, "/plan", json!({ "plan": "enterprise" }), None);
    upgrade.to(&landlord).await.expect(200);
    let downgrade = Sent::new(&tenant, "/plan", json!({ "plan": "free" }), None);
    downgrade.to(&landlord).await.expect(200);
    for late in [&upgrade, &downgrade, &upgrade, &upgrade] {
        let answer = late.to(&landlord).await;
        assert!(answer.expect(200).is_replayed(), "{answer}");
    }
    let seen = landlord.get(&subscription(&tenant, "")).await.json();
    assert_eq!(seen["plan"], "free", "{seen}");
    assert_eq!(history(&service, tenant.id()).await.len(), 3);
}

#[tokio::test]
async fn a_command_that_was_overtaken_is_refused_by_the_version_it_has_seen() {
    let service = Service::shared();
    let tenant = service.tenant("pro").await;
    let landlord = service.landlord();
    let first = version(&service, &tenant).await;
    // Made in this order, and the upgrade is delivered last.
    let upgrade = Sent::new(
        &tenant,
        "/plan",
        json!({ "plan": "enterprise" }),
        Some(first),
    );
    let downgrade = Sent::new(&tenant, "/plan", json!({ "plan": "free" }), Some(first));
    downgrade.to(&landlord).await.expect(200);
    for _ in 0..3 {
        let late = upgrade.to(&landlord).await;
        late.problem(412, "precondition_failed");
    }
    let seen = landlord.get(&subscription(&tenant, "")).await;
    assert_eq!(
        (seen.json()["plan"].as_str(), seen.version()),
        (Some("free"), first + 1)
    );
    // One that was done is still answered as it was, whatever version it had seen.
    assert!(downgrade.to(&landlord).await.expect(200).is_replayed());
}

#[tokio::test]
async fn what_time_has_done_since_is_as_good_as_what_somebody_has_done() {
    let clock = WallClock::new();
    let service = Service::start_with(clock.of(Options::default()));
    let tenant = service.tenant("free").await;
    let landlord = service.landlord();
    let trial = json!({ "plan": "enterprise", "days": 14 });
    let trial = landlord
        .post(&subscription(&tenant, "/trial"), &trial)
        .await;
    let seen = trial.expect(201).version();
    clock.set_apart(15 * 24 * 60 * 60);
    let decided = |seen| Sent::new(&tenant, "/plan", json!({ "plan": "pro" }), Some(seen));
    let late = decided(seen).to(&landlord).await;
    late.problem(412, "precondition_failed");
    let preview = landlord
        .request(Method::POST, &subscription(&tenant, "/plan/preview"))
        .header("If-Match", format!("\"{seen}\""))
        .json(&json!({ "plan": "pro" }));
    let late = send(preview).await;
    late.problem(412, "precondition_failed");
    // Read again, there is something to decide on.
    let now = version(&service, &tenant).await;
    assert_eq!(now, seen + 1, "the trial's end is recorded");
    decided(now).to(&landlord).await.expect(200);
}

#[tokio::test]
async fn nothing_that_comes_late_brings_back_a_cancelled_subscription() {
    let service = Service::shared();
    let landlord = service.landlord();
    let mut chance = Chance::of("BILLING_SEED");
    for effective in ["now", "period_end"] {
        let tenant = service.tenant("pro").await;
        let first = version(&service, &tenant).await;
        let send = |rest, body, seen| Sent::new(&tenant, rest, body, seen);
        // Before the cancellation, so that they can be delivered again after it.
        let before = [
            send(
                "/plan",
                json!({ "plan": "enterprise", "effective": "period_end" }),
                None,
            ),
            send("/payment-failed", json!({}), None),
            send("/reinstate", json!({}), None),
        ];
        for sent in &before {
            sent.to(&landlord).await.expect(200);
        }
        let cancel = send("/cancel", json!({ "effective": effective }), None);
        let cancelled = cancel.to(&landlord).await.expect(200).json();
        let last = version(&service, &tenant).await;

        let mut late = vec![cancel.clone(), cancel];
        late.extend(before.clone());
        late.extend(before);
        for seen in [None, Some(first), Some(last)] {
            late.push(send("/plan", json!({ "plan": "enterprise" }), seen));
            late.push(send(
                "/plan",
                json!({ "plan": "free", "effective": "period_end" }),
                seen,
            ));
            late.push(send("/payment-failed", json!({ "grace_days": 0 }), seen));
            late.push(send("/suspend", json!({}), seen));
            late.push(send("/reinstate", json!({}), seen));
            late.push(send(
                "/features/cards.stats",
                json!({ "value": true }),
                seen,
            ));
            late.push(send("/cancel", json!({ "effective": "period_end" }), seen));
        }
        for place in (1..late.len()).rev() {
            let other = usize::try_from(chance.below(place as u64 + 1)).expect("a place");
            late.swap(place, other);
        }
        for sent in &late {
            let answer = sent.to(&landlord).await;
            assert!([200, 409, 412].contains(&answer.status), "{answer}");
        }
        // And at the same instant.
        let at_once = late.iter().map(|sent| sent.to(&landlord));
        for answer in futures::future::join_all(at_once).await {
            assert!([200, 409, 412].contains(&answer.status), "{answer}");
        }
        let trial = json!({ "plan": "enterprise" });
        let path = subscription(&tenant, "/trial");
        landlord
            .post(&path, &trial)
            .await
            .problem(409, "invalid_transition");

        let seen = landlord.get(&subscription(&tenant, "")).await;
        assert_eq!(seen.version(), last, "nothing has happened: {seen}");
        let seen = seen.json();
        for field in ["state", "plan", "ends_at", "scheduled", "trial"] {
            assert_eq!(seen[field], cancelled[field], "{field}: {seen}");
        }
        assert!(seen["scheduled"].is_null(), "{seen}");
    }
}
