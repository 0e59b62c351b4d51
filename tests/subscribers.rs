//! What follows the ledgers: seen, resumed, rebuilt; over HTTP and on the command line.

use serde_json::{Value, json};

use crate::support::recount::everything_agrees;
use crate::support::service::{command, run};
use crate::support::{Client, Service, eventually};

async fn progress(service: &Service, tenant: &Client) -> Vec<Value> {
    let path = format!("/v1/landlord/subscribers?tenant={}", tenant.id());
    service.landlord().all(&path).await
}

#[tokio::test]
async fn every_subscriber_shows_how_far_it_is_with_a_tenant() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let body = json!({ "holder": { "name": "Followed" } });
    let position = tenant.post("/v1/cards", &body).await.position();
    let all = eventually("all subscribers are there", || async {
        let all = progress(&service, &tenant).await;
        all.iter()
            .all(|one| one["checkpoint"] == position)
            .then_some(all)
    })
    .await;
    let names: Vec<_> = all.iter().filter_map(|one| one["name"].as_str()).collect();
    assert_eq!(names, ["cards", "landlord", "thresholds"]);
    for one in &all {
        assert_eq!(one["head"], position, "{one}");
        assert_eq!(one["lag"], 0, "{one}");
        assert!(one["last_error"].is_null(), "{one}");
    }
}

#[tokio::test]
async fn rebuilding_a_read_model_changes_nothing_that_can_be_seen() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    for index in 0..30 {
        let card = tenant.issue_active(&format!("Rebuilt {index}")).await;
        if index % 2 == 0 {
            tenant.change(&card, "suspend").await.expect(200);
        }
    }
    let before = tenant.all("/v1/cards").await;
    let landlord = service.landlord();
    for name in ["cards", "landlord", "thresholds"] {
        let path = format!("/v1/landlord/subscribers/{name}/rebuild");
        let body = json!({ "tenant": tenant.id() });
        landlord.put(&path, &body).await.expect(200);
    }
    assert_eq!(tenant.all("/v1/cards").await, before);
    everything_agrees(&service, &tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_goes_on_during_a_rebuild() {
    let service = Service::shared();
    let tenant = service.tenant("pro").await;
    for index in 0..100 {
        tenant.issue(&format!("Before {index}")).await;
    }
    let traffic = tokio::spawn({
        let tenant = tenant.clone();
        async move {
            for index in 0..100 {
                let card = tenant.issue(&format!("During {index}")).await;
                let path = format!("/v1/cards/{}", crate::support::client::id(&card));
                assert_eq!(tenant.get(&path).await.expect(200).json(), card);
            }
        }
    });
    for _ in 0..5 {
        let body = json!({ "tenant": tenant.id() });
        let path = "/v1/landlord/subscribers/cards/rebuild";
        service.landlord().put(path, &body).await.expect(200);
    }
    traffic.await.expect("the traffic goes on");
    assert_eq!(tenant.all("/v1/cards?limit=500").await.len(), 200);
    everything_agrees(&service, &tenant).await;
}

#[tokio::test]
async fn a_subscriber_that_does_not_stand_still_may_be_resumed_all_the_same() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    tenant.issue("Resumed").await;
    let path = "/v1/landlord/subscribers/cards/resume";
    let body = json!({ "tenant": tenant.id() });
    let answer = service.landlord().put(path, &body).await;
    assert_eq!(answer.status / 100, 2, "{answer}");
    tenant.issue("And on").await;
    assert_eq!(tenant.all("/v1/cards").await.len(), 2);
}

#[tokio::test]
async fn the_command_line_rebuilds_a_view_of_a_stopped_service() {
    let mut service = Service::start();
    let tenant = service.tenant("free").await;
    for index in 0..20 {
        tenant.issue(&format!("Rebuilt {index}")).await;
    }
    let before = tenant.all("/v1/cards").await;
    service.terminate();
    service.stopped();
    let store = service.store().url();
    for arguments in [
        vec!["rebuild", "cards", "--tenant", tenant.id()],
        vec!["rebuild", "cards"],
        vec!["rebuild", "landlord"],
    ] {
        let (status, said) = run(command().args(&arguments).args(["--store", &store]));
        assert!(status.success(), "{arguments:?}: {said}");
    }
    let (status, said) = run(command().args(["rebuild", "nothing", "--store", &store]));
    assert!(!status.success() && said.contains("nothing"), "{said}");
    service.restart();
    let tenant = tenant.at(service.base());
    assert_eq!(tenant.all("/v1/cards").await, before);
    everything_agrees(&service, &tenant).await;
}

#[tokio::test]
async fn how_long_events_waited_for_their_subscribers_is_measured() {
    let service = Service::shared();
    let tenant = service.tenant("free").await;
    let card = tenant.issue("Rung").await;
    let path = format!("/v1/cards/{}", card["id"].as_str().expect("an id"));
    tenant.get(&path).await.expect(200);
    let metrics = service.stranger().get("/metrics").await;
    let text = String::from_utf8(metrics.expect(200).body.clone()).expect("UTF-8");
    assert!(
        text.lines()
            .any(|line| line.contains("subscriber_delay_seconds")),
        "{text}"
    );
}
