//! The quota holds exactly, whatever comes at once.

use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};

use crate::support::client::id;
use crate::support::recount::{count, everything_agrees};
use crate::support::{Answer, Client, Service, eventually, in_seconds, unique};

const FREE: u64 = 500;

#[tokio::test(flavor = "multi_thread")]
async fn of_600_concurrent_issuances_exactly_500_succeed() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let answers = burst(&tenant, 600).await;
    let (issued, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(issued.len(), 500);
    assert_eq!(refused.len(), 100);
    for answer in &refused {
        let problem = answer.problem(402, "quota_exceeded");
        assert_eq!(problem["limit"], FREE);
        assert_eq!(problem["used"], FREE);
        assert_eq!(problem["requested"], 1);
        assert_eq!(problem["tenant"], tenant.id());
        assert!(problem["upgrade_url"].is_string(), "{problem}");
    }

    let events = everything_agrees(&service, &tenant).await;
    let issuances = events.iter().filter(|event| event["type"] == "CardIssued");
    assert_eq!(issuances.count(), 500);
    let usage = tenant.usage().await;
    assert_eq!(usage["in_circulation"], FREE);
    assert_eq!(usage["limit"], FREE);
    assert_eq!(usage["issued_total"], FREE);
    assert_eq!(usage["percent"].as_f64(), Some(100.0));
    let overview = overview(&service, &tenant).await;
    assert_eq!(overview["usage"]["in_circulation"], FREE, "{overview}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quota_holds_among_revocations_replacements_renewals_and_reinstatements() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let brief = expired(&tenant, 20).await;
    let cards = issued(burst(&tenant, 480).await);
    assert_eq!(cards.len(), 480);
    for card in &cards[80..100] {
        for verb in ["activate", "suspend"] {
            tenant.change(card, verb).await.expect(200);
        }
    }

    // 40 leave circulation, 40 are replaced and 20 reinstated (no place more or less), while 20
    // expired ones and 200 new ones want to come in.
    let at_once = |cards: &[Value], verb: &'static str, body: Value| {
        let ask = |card: &Value| {
            let path = format!("/v1/cards/{}/{verb}", id(card));
            let (tenant, body) = (tenant.clone(), body.clone());
            tokio::spawn(async move {
                match verb {
                    "replace" => tenant.post(&path, &body).await,
                    _ => tenant.put(&path, &body).await,
                }
            })
        };
        cards.iter().map(ask).collect::<Vec<_>>()
    };
    let mut others = at_once(&cards[..40], "revoke", json!({}));
    others.extend(at_once(&cards[40..80], "replace", json!({})));
    others.extend(at_once(&cards[80..100], "reinstate", json!({})));
    let renewals = at_once(&brief, "renew", renewal());
    let answers = burst(&tenant, 200).await;
    for other in others {
        let answer = other.await.expect("an answer");
        assert_eq!(answer.status / 100, 2, "no place is asked for: {answer}");
    }
    let mut renewed = 0;
    for renewal in renewals {
        match renewal.await.expect("an answer") {
            answer if answer.status == 200 => renewed += 1,
            answer => drop(answer.problem(402, "quota_exceeded")),
        }
    }
    for answer in answers.iter().filter(|answer| answer.status != 201) {
        answer.problem(402, "quota_exceeded");
    }
    // Depending on the order, some places were free too late for the burst: fill them.
    let rest = burst(&tenant, 100).await;
    let came_in = issued(answers).len() + issued(rest).len() + renewed;
    assert_eq!(came_in, 60, "480 - 40 leaves 60 places");

    everything_agrees(&service, &tenant).await;
    let usage = tenant.usage().await;
    assert_eq!(usage["in_circulation"], FREE);
    assert_eq!(count(&usage, "revoked"), 40);
    assert_eq!(count(&usage, "replaced"), 40);
    assert_eq!(count(&usage, "suspended"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_tenant_may_reinstate_and_replace_but_not_renew_an_expired_card() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let brief = expired(&tenant, 20).await;
    let cards = issued(burst(&tenant, 600).await);
    assert_eq!(cards.len(), 500);

    let renewal = renewal();
    for card in &brief {
        let path = format!("/v1/cards/{}/renew", id(card));
        let problem = tenant
            .put(&path, &renewal)
            .await
            .problem(402, "quota_exceeded");
        assert_eq!(problem["used"], FREE);
    }
    for card in &cards[..10] {
        for verb in ["activate", "suspend", "reinstate"] {
            tenant.change(card, verb).await.expect(200);
        }
        let path = format!("/v1/cards/{}/replace", id(card));
        tenant.post(&path, &json!({})).await.expect(201);
    }
    // A renewal that takes no place is allowed; so is one for which a place was made.
    let path = format!("/v1/cards/{}/renew", id(&cards[20]));
    tenant.put(&path, &renewal).await.expect(200);
    tenant.change(&cards[21], "revoke").await.expect(200);
    let path = |card: &Value| format!("/v1/cards/{}/renew", id(card));
    tenant.put(&path(&brief[0]), &renewal).await.expect(200);
    tenant
        .put(&path(&brief[1]), &renewal)
        .await
        .problem(402, "quota_exceeded");

    everything_agrees(&service, &tenant).await;
    assert_eq!(tenant.usage().await["in_circulation"], FREE);
}

#[tokio::test(flavor = "multi_thread")]
async fn downgrading_a_tenant_with_2000_cards_deletes_nothing_and_blocks_issuing() {
    let service = Service::shared();
    let tenant = service.tenant("pro").await;
    let mut cards = issued(burst(&tenant, 1_000).await);
    cards.extend(issued(burst(&tenant, 1_000).await));
    assert_eq!(cards.len(), 2_000);
    let plan = format!("/v1/landlord/tenants/{}/subscription/plan", tenant.id());
    let foretold = service
        .landlord()
        .post(&format!("{plan}/preview"), &json!({ "plan": "free" }))
        .await;
    assert_eq!(foretold.expect(200).json()["over_limit_by"], 1_500);
    let changed = service
        .landlord()
        .put(&plan, &json!({ "plan": "free" }))
        .await;
    let changed = changed.expect(200).json();
    assert_eq!(changed["over_limit_by"], 1_500, "{changed}");

    let refused = tenant
        .post("/v1/cards", &json!({ "holder": { "name": "One more" } }))
        .await;
    let problem = refused.problem(402, "quota_exceeded");
    assert_eq!(problem["limit"], FREE);
    assert_eq!(problem["used"], 2_000);
    assert_eq!(tenant.all("/v1/cards?limit=500").await.len(), 2_000);
    assert_eq!(tenant.usage().await["in_circulation"], 2_000);

    // What takes no place goes on.
    tenant.change(&cards[0], "activate").await.expect(200);
    tenant.change(&cards[0], "suspend").await.expect(200);
    let replace = format!("/v1/cards/{}/replace", id(&cards[1]));
    tenant.post(&replace, &json!({})).await.expect(201);
    tenant.change(&cards[2], "revoke").await.expect(200);
    everything_agrees(&service, &tenant).await;
    let overview = overview(&service, &tenant).await;
    assert_eq!(overview["usage"]["in_circulation"], 1_999, "{overview}");
}

/// So many cards whose time is over already.
async fn expired(tenant: &Client, size: u64) -> Vec<Value> {
    let brief: Vec<_> = stream::iter(0..size)
        .map(|_| async {
            tenant
                .issue_as(&json!({ "holder": { "name": "Brief" }, "expires_at": in_seconds(2) }))
                .await
        })
        .buffer_unordered(20)
        .collect()
        .await;
    eventually("all of them expire", || async {
        (count(&tenant.usage().await, "expired") == size).then_some(())
    })
    .await;
    brief
}

fn renewal() -> Value {
    json!({ "expires_at": "2099-01-01T00:00:00Z" })
}

/// So many issuances at once, each in flight with all others, over many connections.
async fn burst(tenant: &Client, size: usize) -> Vec<Answer> {
    let asking: Vec<_> = (0..size)
        .map(|index| {
            let tenant = tenant.clone();
            tokio::spawn(async move {
                let body = json!({ "holder": { "name": format!("Holder {index}") } });
                tenant.post_once("/v1/cards", &unique("burst"), &body).await
            })
        })
        .collect();
    futures::future::join_all(asking)
        .await
        .into_iter()
        .map(|answer| answer.expect("an answer"))
        .collect()
}

fn issued(answers: Vec<Answer>) -> Vec<Value> {
    let issued = answers.iter().filter(|answer| answer.status == 201);
    issued.map(Answer::json).collect()
}

async fn overview(service: &Service, tenant: &Client) -> Value {
    let path = format!("/v1/landlord/tenants/{}", tenant.id());
    service.landlord().get(&path).await.expect(200).json()
}
