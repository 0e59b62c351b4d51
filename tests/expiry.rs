//! What happens because time has passed, also while nobody was there.

use chrono::DateTime;
use futures::StreamExt;
use futures::stream;
use serde_json::{Value, json};

use crate::support::client::id;
use crate::support::clock::WallClock;
use crate::support::recount::{count, everything_agrees, history};
use crate::support::{Client, Options, Service, eventually, in_seconds, now};

#[tokio::test]
async fn a_card_expires_by_itself_when_its_time_is_over() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant
        .issue_as(&json!({
            "holder": { "name": "Brief" }, "expires_at": in_seconds(1), "activate": true,
        }))
        .await;
    let path = format!("/v1/cards/{}", id(&card));
    eventually("the card expires", || async {
        let read = tenant.get(&path).await.json();
        (read["status"] == "expired").then_some(())
    })
    .await;
    let history = tenant
        .get(&format!("{path}/history"))
        .await
        .expect(200)
        .json();
    let last = history["items"]
        .as_array()
        .and_then(|all| all.last())
        .cloned();
    let last = last.expect("a history");
    assert!(last.to_string().contains("CardExpired"), "{last}");
    assert_eq!(tenant.usage().await["in_circulation"], 0);

    // Renewed, it is in circulation again.
    let renewed = tenant
        .put(
            &format!("{path}/renew"),
            &json!({ "expires_at": "2099-01-01T00:00:00Z" }),
        )
        .await;
    assert_eq!(renewed.expect(200).json()["status"], "active");
    assert_eq!(tenant.usage().await["in_circulation"], 1);
}

#[tokio::test]
async fn what_was_due_while_the_process_was_down_is_recorded_with_its_due_time() {
    let mut service = Service::start();
    let tenant = service.tenant("free").await;
    let due = in_seconds(1);
    let body = json!({ "holder": { "name": "Overdue" }, "expires_at": due });
    let card = tenant.issue_as(&body).await;
    service.kill();
    let due = DateTime::parse_from_rfc3339(&due).expect("RFC 3339");
    eventually("the card is due", || async { (now() > due).then_some(()) }).await;
    service.restart();
    let tenant = tenant.at(service.base());
    let path = format!("/v1/cards/{}", id(&card));
    eventually("the expiry is recorded", || async {
        let read = tenant.get(&path).await.json();
        (read["status"] == "expired").then_some(())
    })
    .await;
    let events = history(&service, tenant.id()).await;
    let expired = events.last().expect("a history");
    assert_eq!(expired["type"], "CardExpired");
    let at = expired["payload"]["CardExpired"]["at"]
        .as_str()
        .expect("a time");
    let at = DateTime::parse_from_rfc3339(at).expect("RFC 3339");
    assert_eq!(at.timestamp_micros(), due.timestamp_micros());
    everything_agrees(&service, &tenant).await;
}

#[tokio::test]
async fn a_renewed_card_does_not_expire_at_its_old_end() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let end = in_seconds(1);
    let body = json!({ "holder": { "name": "Renewed" }, "expires_at": end, "activate": true });
    let renewed = tenant.issue_as(&body).await;
    let body = json!({ "holder": { "name": "Left" }, "expires_at": end });
    let left = tenant.issue_as(&body).await;
    let renewal = json!({ "expires_at": "2099-01-01T00:00:00Z" });
    let path = format!("/v1/cards/{}/renew", id(&renewed));
    tenant.put(&path, &renewal).await.expect(200);
    eventually("the other one expires", || async {
        let read = tenant.get(&format!("/v1/cards/{}", id(&left))).await.json();
        (read["status"] == "expired").then_some(())
    })
    .await;
    let read = tenant
        .get(&format!("/v1/cards/{}", id(&renewed)))
        .await
        .json();
    assert_eq!(read["status"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_cards_that_expire_at_once_hold_up_no_other_tenant() {
    const MANY: usize = 3_500;
    const DAY_SECONDS: i64 = 24 * 60 * 60;
    let clock = WallClock::new();
    let mut service = Service::start_with(clock.of(Options::default()));
    let (many, one) = (service.tenant("pro").await, service.tenant("free").await);
    let (first, second) = (in_seconds(DAY_SECONDS), in_seconds(DAY_SECONDS + 1));
    let ending = |end: &str| json!({ "holder": { "name": "Brief" }, "expires_at": end });
    let body = ending(&first);
    stream::iter(0..MANY)
        .for_each_concurrent(64, |_| async {
            many.issue_as(&body).await;
        })
        .await;
    one.issue_as(&ending(&second)).await;

    // Else cards would come into the agenda only when the subscribers have caught up.
    everything_agrees(&service, &many).await;
    everything_agrees(&service, &one).await;
    // All of them are due when it starts again.
    service.kill();
    clock.set_apart(DAY_SECONDS + 60);
    service.restart();
    let (many, one) = (many.at(service.base()), one.at(service.base()));
    many.issue("Meanwhile").await;
    eventually("all of them expire", || async {
        (count(&many.usage().await, "expired") == MANY as u64).then_some(())
    })
    .await;
    everything_agrees(&service, &many).await;
    let recorded = expiries(&service, &many).await;
    let due = DateTime::parse_from_rfc3339(&first).expect("RFC 3339");
    for event in &recorded {
        let at = event["payload"]["CardExpired"]["at"].as_str();
        let at = DateTime::parse_from_rfc3339(at.expect("a time")).expect("RFC 3339");
        assert_eq!(at.timestamp_micros(), due.timestamp_micros());
    }
    // The other tenant's card had its turn in between, although it was due later.
    let other = expiries(&service, &one).await;
    assert!(recorded_at(&other[0]) < recorded_at(&recorded[MANY - 1]));
}

async fn expiries(service: &Service, tenant: &Client) -> Vec<Value> {
    let mut events = history(service, tenant.id()).await;
    events.retain(|event| event["type"] == "CardExpired");
    events
}

fn recorded_at(event: &Value) -> DateTime<chrono::FixedOffset> {
    let text = event["recorded_at"].as_str().expect("a time");
    DateTime::parse_from_rfc3339(text).expect("RFC 3339")
}
