//! What other systems are told over the broker: everything, in order, as documented; and again on
//! request.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::shards::{database, node};
use crate::support::client::id;
use crate::support::clock::WallClock;
use crate::support::messages::{IN_HAND_MAX, Message, Reader, SCHEMAS, contract, in_order};
use crate::support::rabbitmq::Broker;
use crate::support::recount::history;
use crate::support::service::{command, run};
use crate::support::{Client, Options, Service, eventually, in_seconds, unique};
use crate::usage_audits::{AUDITS, audit};

/// One node for all tests that leave it as it is.
pub static BROKER: LazyLock<Broker> = LazyLock::new(Broker::start);

/// A part of the broker of one's own, by its address.
pub fn virtual_host() -> String {
    let name = unique("v");
    BROKER.ctl(&format!("add_vhost {name}"));
    BROKER.ctl(&format!("set_permissions -p {name} guest .* .* .*"));
    format!("{}/{name}", BROKER.url())
}

/// Publishing to this broker.
pub fn publishing_to(url: &str) -> Options {
    Options::default().with("AMQP_URL", url)
}

/// Waits until everything of the tenant's is confirmed by the broker.
pub async fn published(service: &Service, tenant: &Client) {
    let head = history(service, tenant.id()).await.len();
    eventually("everything is published", || async {
        let broker = broker_line(service, tenant).await?;
        (broker["checkpoint"] == head && broker["lag"] == 0).then_some(())
    })
    .await;
}

/// How far the publisher is with a tenant.
pub async fn broker_line(service: &Service, tenant: &Client) -> Option<Value> {
    let path = format!(
        "/v1/landlord/subscribers?name=broker&tenant={}",
        tenant.id()
    );
    service.landlord().all(&path).await.pop()
}

/// What `/readyz` names, though the service is ready.
pub async fn ready_errors(service: &Service) -> Vec<Value> {
    let ready = service.stranger().get("/readyz").await.expect(200).json();
    ready["errors"].as_array().cloned().unwrap_or_default()
}

/// Everything that can happen to a tenant.
async fn lives_through_everything(service: &Service, tenant: &Client) {
    let brief = json!({ "holder": { "name": "Unpublishable" }, "expires_at": in_seconds(1) });
    let brief = tenant.issue_as(&brief).await;
    let card = tenant.issue_active("Unpublishable").await;
    for verb in ["suspend", "reinstate", "revoke"] {
        tenant.change(&card, verb).await.expect(200);
    }
    let replaced = tenant.issue("Unpublishable").await;
    let path = format!("/v1/cards/{}/holder", id(&replaced));
    let holder = json!({ "name": "Unpublishable Too", "email": "un@publishable.example" });
    tenant.put(&path, &holder).await.expect(200);
    let path = format!("/v1/cards/{}/replace", id(&replaced));
    tenant.post(&path, &json!({})).await.expect(201);

    let subscription = format!("/v1/landlord/tenants/{}/subscription", tenant.id());
    let change = async |method: &str, what: &str, body: Value| {
        let path = format!("{subscription}/{what}");
        let method = method.parse().expect("a method");
        let landlord = service.landlord();
        let asked = landlord.command(method, &path, &unique("key"), &body);
        let answer = crate::support::client::send(asked).await;
        assert!([200, 201].contains(&answer.status), "{answer}");
    };
    change("PUT", "plan", json!({ "plan": "pro" })).await;
    change("PUT", "plan", json!({ "plan": "free" })).await;
    let later = json!({ "plan": "pro", "effective": "period_end" });
    change("PUT", "plan", later).await;
    change("DELETE", "plan/scheduled", json!({})).await;
    let trial = |plan: &str| json!({ "plan": plan, "days": 1, "reason": "Unpublishable" });
    change("POST", "trial", trial("enterprise")).await;
    change("DELETE", "trial", json!({})).await;
    change("POST", "trial", trial("pro")).await;
    change("PUT", "plan", json!({ "plan": "pro" })).await;
    let brief_export = json!({ "value": true, "expires_at": in_seconds(1) });
    change("PUT", "features/export_csv", brief_export).await;
    let grant = json!({ "value": 1_000, "reason": "Unpublishable" });
    change("PUT", "features/max_cards", grant).await;
    change("DELETE", "features/max_cards", json!({})).await;
    change("PUT", "suspend", json!({ "reason": "Unpublishable" })).await;
    change("PUT", "reinstate", json!({})).await;
    change("PUT", "payment-failed", json!({})).await;
    change("PUT", "reinstate", json!({})).await;

    let tiny = json!({
        "price_level": 1, "rank": 0, "features": { "max_cards": 1, "cards.lifecycle": true },
    });
    let landlord = service.landlord();
    landlord
        .put("/v1/landlord/plans/tiny", &tiny)
        .await
        .expect(200);
    tenant.issue("Unpublishable").await;
    change("PUT", "plan", json!({ "plan": "tiny" })).await;
    has_happened(service, tenant, "UsageThresholdReached").await;
    change("PUT", "plan", json!({ "plan": "free" })).await;
    has_happened(service, tenant, "AddOnExpired").await;

    let path = format!("/v1/cards/{}", id(&brief));
    eventually("the brief card expires", || async {
        let expired = tenant.get(&path).await.json()["status"] == "expired";
        (expired && history_has(service, tenant, "CardExpired").await).then_some(())
    })
    .await;
    let renewal = json!({ "expires_at": in_seconds(3_600) });
    let renewed = tenant.put(&format!("{path}/renew"), &renewal).await;
    renewed.expect(200);
    change("PUT", "cancel", json!({ "effective": in_seconds(1) })).await;
    has_happened(service, tenant, "SubscriptionEnded").await;
}

/// What takes a day, or a counter that is wrong: a tenant to whom both happen.
async fn lives_through_what_is_rare(service: &mut Service, clock: &WallClock) -> Client {
    let tenant = service.tenant("free").await;
    let path = format!("/v1/landlord/tenants/{}/subscription/trial", tenant.id());
    let trial = json!({ "plan": "enterprise", "days": 1, "reason": "Unpublishable" });
    service.landlord().post(&path, &trial).await.expect(201);
    service.terminate();
    service.stopped();
    service.store().miscount(tenant.id()).await;
    clock.set_apart(25 * 60 * 60);
    service.restart();
    let tenant = tenant.at(service.base());
    has_happened(service, &tenant, "TrialExpired").await;
    let report = audit(service, &json!({ "tenant": tenant.id() })).await;
    let repair = format!("{AUDITS}/{}/repair", report["id"].as_str().expect("an id"));
    let reason = json!({ "reason": "Unpublishable" });
    service.landlord().put(&repair, &reason).await.expect(200);
    has_happened(service, &tenant, "UsageReconciled").await;
    tenant
}

async fn has_happened(service: &Service, tenant: &Client, kind: &str) {
    eventually(kind, || async {
        let has = history_has(service, tenant, kind).await;
        has.then_some(())
    })
    .await;
}

async fn history_has(service: &Service, tenant: &Client, kind: &str) -> bool {
    let events = history(service, tenant.id()).await;
    events.iter().any(|event| event["type"] == kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_happens_is_told_in_ledger_order_as_documented() {
    let mut reader = Reader::of(&BROKER.url(), &["#"]).await;
    let clock = WallClock::new();
    let options = publishing_to(&BROKER.url()).with("USAGE_AUDIT_AT", "off");
    let mut service = Service::start_with(clock.of(options));
    let tenant = service.tenant("free").await;
    lives_through_everything(&service, &tenant).await;
    let other = lives_through_what_is_rare(&mut service, &clock).await;
    let (mut all, mut told) = (Vec::new(), Vec::new());
    for tenant in [tenant.id(), other.id()] {
        let last = history(&service, tenant).await.len() as u64;
        let is_its = |it: &&Message| it.tenant == tenant;
        while !all.iter().any(|it| is_its(&it) && it.sequence == last) {
            all.push(reader.next().await);
        }
        let its: Vec<Message> = all.iter().filter(is_its).cloned().collect();
        let places: Vec<_> = (1..=last).collect();
        assert_eq!(in_order(&its), places, "each of these events has a message");
        told.extend(its);
    }
    let kinds: BTreeSet<_> = told.iter().map(|message| &*message.kind).collect();
    let documented: BTreeSet<_> = SCHEMAS.keys().map(|kind| &**kind).collect();
    assert_eq!(kinds, documented, "each type is documented");
    for message in &told {
        let text = message.body.to_string();
        for private in [
            "Unpublishable",
            "un@publishable",
            "holder\"",
            "reason",
            "actor",
        ] {
            assert!(!text.contains(private), "{private} is in {text}");
        }
    }
}

#[test]
fn every_example_of_the_contract_is_as_its_schema_says() {
    for (kind, message) in contract()["components"]["messages"]
        .as_object()
        .expect("messages")
    {
        let example = &message["examples"][0]["payload"];
        let schema = &SCHEMAS[kind];
        assert!(schema.is_valid(example), "{kind}: {example}");
        let mut other = example.clone();
        other["type"] = "card.lost.v1".into();
        assert!(!schema.is_valid(&other), "{kind} takes another type");
    }
    let (status, said) = run(command().arg("asyncapi"));
    assert!(status.success(), "{said}");
    let printed: Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(printed, contract());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_configured_later_is_told_everything_from_the_first_event() {
    let store = std::sync::Arc::new(crate::support::Store::new());
    let mut before = Service::node_of(&store, Options::default());
    let tenant = before.tenant("pro").await;
    for index in 0..40 {
        tenant.issue_active(&format!("Before {index}")).await;
    }
    let none = broker_line(&before, &tenant).await;
    assert!(
        none.is_none(),
        "nothing publishes without an address: {none:?}"
    );
    before.terminate();
    before.stopped();
    let mut reader = Reader::of_tenant(&BROKER.url(), tenant.id()).await;
    let service = Service::node_of(&store, publishing_to(&BROKER.url()));
    let tenant = tenant.at(service.base());
    let body = json!({ "holder": { "name": "After" } });
    let last = tenant.post("/v1/cards", &body).await;
    let last = last.expect(201).position();
    let told = reader.up_to(last).await;
    assert_eq!(in_order(&told), (1..=last).collect::<Vec<_>>());
    published(&service, &tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_messages_are_published_again_from_where_it_is_asked() {
    let service = Service::start_with(publishing_to(&BROKER.url()));
    let tenant = service.tenant("pro").await;
    for index in 0..4 {
        tenant.issue(&format!("Again {index}")).await;
    }
    published(&service, &tenant).await;
    let mut reader = Reader::of_tenant(&BROKER.url(), tenant.id()).await;
    let landlord = service.landlord();
    let path = format!("/v1/landlord/tenants/{}/republish", tenant.id());
    let body = json!({ "from": 3, "reason": "a disk was lost" });
    let key = unique("republish");
    let asked = landlord.post_once(&path, &key, &body).await;
    assert_eq!(asked.expect(200).json()["to"], 5);
    let repeated = landlord.post_once(&path, &key, &body).await;
    assert!(repeated.is_replayed(), "{repeated}");
    assert_eq!(repeated.body, asked.body);
    tenant.issue("And on").await;
    let told = reader.up_to(7).await;
    let places: Vec<_> = told.iter().map(|message| message.sequence).collect();
    assert_eq!(
        places,
        [3, 4, 5, 7],
        "once, and the request itself is private"
    );
    let events = history(&service, tenant.id()).await;
    assert_eq!(events[5]["type"], "RepublishRequested");
    assert_eq!(events[5]["metadata"]["reason"], "a disk was lost");

    for (from, code) in [(json!(0), "out_of_range"), (json!(8), "out_of_range")] {
        let refused = landlord.post(&path, &json!({ "from": from })).await;
        let problem = refused.problem(422, "validation_failed");
        assert_eq!(problem["errors"][0]["code"], code);
    }
    for body in [json!({}), json!({ "from": "1" }), json!({ "from": -1 })] {
        let refused = landlord.post(&path, &body).await;
        refused.problem(422, "validation_failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_moved_is_published_on_from_where_it_was() {
    let (store, second) = (database(), database());
    let service = Service::started_by(
        node(&store)
            .env("SECOND", &second)
            .env("AMQP_URL", BROKER.url()),
    );
    let shard = json!({ "name": "second", "url": "env:SECOND", "open": false });
    let added = service.landlord().post("/v1/landlord/shards", &shard).await;
    added.expect(201);
    let tenant = service.tenant("pro").await;
    for index in 0..10 {
        tenant.issue(&format!("Before {index}")).await;
    }
    published(&service, &tenant).await;
    let mut reader = Reader::of_tenant(&BROKER.url(), tenant.id()).await;
    let mut mover = command();
    mover.args(["tenants", "move", tenant.id(), "second"]);
    let (status, said) = run(mover.env("STORE", &store).env("SECOND", &second));
    assert!(status.success(), "{said}");
    tenant.issue("After").await;
    let told = reader.up_to(12).await;
    assert_eq!(in_order(&told), [12], "nothing from before came again");
}

/// A tenant whose messages go to a part of the broker of their own, and its service.
async fn alone() -> (String, Service, Client) {
    let url = virtual_host();
    let service = Service::start_with(publishing_to(&url));
    let tenant = service.tenant("pro").await;
    published(&service, &tenant).await;
    (url, service, tenant)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_takes_nothing_slows_nobody() {
    const CARDS_A_ROUND: u16 = 25;
    let (slow, quick) = (alone().await, alone().await);
    // It has as many in hand as it may, and acknowledges none.
    let _reader = Reader::of_tenant(&slow.0, slow.2.id()).await;
    let (mut slowed, mut unslowed) = (Duration::ZERO, Duration::ZERO);
    // By turns, so that whatever else the machine does slows both.
    for round in 0..=IN_HAND_MAX / CARDS_A_ROUND {
        for (tenant, took) in [(&slow.2, &mut slowed), (&quick.2, &mut unslowed)] {
            let begun = Instant::now();
            for index in 0..CARDS_A_ROUND {
                tenant.issue_active(&format!("Card {round}/{index}")).await;
            }
            *took += begun.elapsed();
        }
    }
    let bound = unslowed * 2 + Duration::from_secs(1);
    assert!(slowed < bound, "{slowed:?} beside {unslowed:?}");
    published(&slow.1, &slow.2).await;
}
