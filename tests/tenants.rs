//! Many tenants: provisioned, listed, kept apart, more than there are open stores.

use serde_json::json;

use crate::support::client::id;
use crate::support::recount::everything_agrees;
use crate::support::{Options, Service, eventually, unique};

const PATH: &str = "/v1/landlord/tenants";

#[tokio::test]
async fn a_tenant_is_ready_when_it_is_provisioned_and_its_key_is_shown_once() {
    let service = Service::shared();
    let slug = unique("new");
    let body = json!({ "name": "Neu", "slug": slug, "plan": "free", "isolation": "dedicated" });
    let made = service.landlord().post(PATH, &body).await;
    let shown = made.expect(201).json();
    assert_eq!(shown["slug"], slug);
    assert_eq!(shown["isolation"], "dedicated");
    assert_eq!(shown["plan"], "free");
    service.client(made.text("api_key")).issue("First").await;
    let again = service
        .landlord()
        .get(&format!("{PATH}/{}", made.text("id")))
        .await;
    assert!(!again.to_string().contains(made.text("api_key")));
}

#[tokio::test]
async fn tenants_are_listed_in_pages_and_filtered() {
    let service = Service::start();
    let landlord = service.landlord();
    for (name, plan) in [
        ("Alpha", "free"),
        ("Beta", "pro"),
        ("Gamma", "free"),
        ("Delta", "pro"),
    ] {
        let body = json!({ "name": name, "slug": unique(&name.to_lowercase()), "plan": plan });
        landlord.post(PATH, &body).await.expect(201);
    }
    let names = |query: String| {
        let landlord = landlord.clone();
        async move {
            let all = landlord.all(&format!("{PATH}?{query}")).await;
            let name = |one: &serde_json::Value| one["name"].as_str().map(str::to_owned);
            all.iter().filter_map(name).collect::<Vec<_>>()
        }
    };
    assert_eq!(
        names("limit=3".into()).await,
        ["Alpha", "Beta", "Gamma", "Delta"]
    );
    assert_eq!(names("limit=1&plan=pro".into()).await, ["Beta", "Delta"]);
    assert_eq!(names("q=AMM".into()).await, ["Gamma"]);
    assert!(names("plan=enterprise".into()).await.is_empty());
}

#[tokio::test]
async fn a_list_shows_what_was_changed_a_moment_ago() {
    let service = Service::start();
    let (tenant, landlord) = (service.tenant("free").await, service.landlord());
    let change = format!("{PATH}/{}/subscription/plan", tenant.id());
    for plan in ["pro", "free"].repeat(10) {
        let changed = landlord.put(&change, &json!({ "plan": plan })).await;
        changed.expect(200);
        let listed = landlord.all(&format!("{PATH}?plan={plan}")).await;
        assert_eq!(listed.len(), 1, "on {plan}: {listed:?}");
    }
}

#[tokio::test]
async fn what_is_read_at_a_position_is_at_it_or_answered_503() {
    let service = Service::shared();
    let (tenant, landlord) = (service.tenant("free").await, service.landlord());
    let body = json!({ "holder": { "name": "At a position" } });
    let reached = tenant.post("/v1/cards", &body).await.position();
    let overview = format!("{PATH}/{}", tenant.id());
    let subscription = format!("{overview}/subscription");
    for (client, path) in [
        (&tenant, "/v1/usage"),
        (&tenant, "/v1/entitlements"),
        (&tenant, "/v1/entitlements/max_cards"),
        (&tenant, "/v1/modules"),
        (&landlord, &overview),
        (&landlord, &subscription),
    ] {
        let at = async |position| client.get(&format!("{path}?at_least={position}")).await;
        at(reached).await.expect(200);
        let beyond = at(reached + 1).await;
        beyond.problem(503, "read_model_behind");
        assert!(beyond.headers.contains_key("retry-after"), "{beyond}");
    }
    let usage = tenant.get(&format!("/v1/usage?at_least={reached}")).await;
    assert_eq!(usage.json()["as_of"], reached);
    assert_eq!(usage.json()["in_circulation"], 1);
}

#[tokio::test]
async fn the_catalogue_shows_plans_and_features() {
    let service = Service::shared();
    let landlord = service.landlord();
    let free = landlord
        .get("/v1/landlord/plans/free")
        .await
        .expect(200)
        .json();
    assert_eq!(free["price_level"], 1);
    assert!(free.to_string().contains("500"), "{free}");
    let plans = landlord.all("/v1/landlord/plans").await;
    let keys: Vec<_> = plans
        .iter()
        .filter_map(|plan| plan["key"].as_str())
        .collect();
    for key in ["free", "pro", "enterprise"] {
        assert!(keys.contains(&key), "{keys:?}");
    }
    let feature = landlord
        .get("/v1/landlord/features/cards.bulk")
        .await
        .expect(200)
        .json();
    assert_eq!(feature["slug"], "cards.bulk");
    assert_eq!(feature["price_level"], 2);
    assert!(landlord.all("/v1/landlord/features").await.len() >= 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_tenants_than_open_stores_are_served_alike() {
    let mut service = Service::start_with(Options::default().with("OPEN_TENANTS_MAX", 2));
    let mut tenants = Vec::new();
    for _ in 0..8 {
        tenants.push(service.tenant("free").await);
    }
    let working = tenants.iter().cloned().map(|tenant| {
        tokio::spawn(async move {
            for index in 0..15 {
                let card = tenant.issue(&format!("Evicted {index}")).await;
                tenant.change(&card, "activate").await.expect(200);
                assert_eq!(tenant.all("/v1/cards").await.len(), index + 1);
            }
        })
    });
    for one in futures::future::join_all(working).await {
        one.expect("a tenant is served");
    }
    for tenant in &tenants {
        everything_agrees(&service, tenant).await;
    }
    service.kill();
    service.restart();
    for tenant in tenants {
        let tenant = tenant.at(service.base());
        everything_agrees(&service, &tenant).await;
        assert_eq!(tenant.usage().await["in_circulation"], 15);
    }
}

#[tokio::test]
async fn a_tenant_that_a_crash_left_half_made_is_finished_by_the_next_start() {
    let mut service = Service::start();
    let key = unique("half");
    let body = json!({ "name": "Half made", "slug": unique("half"), "plan": "pro" });
    // Its record can be made and its store cannot: what a crash between the two leaves behind.
    service.store().refuse_tenants();
    let half = service.landlord().post_once(PATH, &key, &body).await;
    half.problem(503, "unavailable");
    service.kill();
    service.store().accept_tenants();
    service.restart();

    let landlord = service.landlord();
    let finished = eventually("it is finished", || async {
        let listed = landlord.all(PATH).await;
        assert!(listed.len() <= 1, "{listed:?}");
        let one = format!("{PATH}/{}", id(listed.first()?));
        let finished = landlord.get(&one).await;
        (finished.status == 200).then_some(finished)
    })
    .await;
    assert_eq!(finished.json()["plan"], "pro");

    let made = service.landlord().post_once(PATH, &key, &body).await;
    assert!(made.expect(201).is_replayed());
    let tenant = service
        .client(made.text("api_key"))
        .of_tenant(made.text("id"));
    tenant.issue("First").await;
    everything_agrees(&service, &tenant).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_in_the_middle_of_provisioning_leave_no_tenant_half_made() {
    let mut service = Service::start();
    let mut asked = Vec::new();
    for round in 0..6_u32 {
        let landlord = service.landlord();
        let requests: Vec<_> = (0..8)
            .map(|_| {
                let slug = unique("kill");
                let body = json!({ "name": "Killed", "slug": slug.clone(), "plan": "free" });
                (slug, body)
            })
            .collect();
        let asking: Vec<_> = requests
            .iter()
            .map(|(key, body)| {
                let request = landlord.command(reqwest::Method::POST, PATH, key, body);
                tokio::spawn(crate::support::client::try_send(request))
            })
            .collect();
        // In the middle of it: later each round.
        let made =
            async { while landlord.all(PATH).await.len() <= asked.len() + round as usize {} };
        made.await;
        service.kill();
        futures::future::join_all(asking).await;
        asked.extend(requests);
        service.restart();
        for (key, body) in &asked[asked.len() - 8..] {
            let made = service.landlord().post_once(PATH, key, body).await;
            let tenant = service
                .client(made.expect(201).text("api_key"))
                .of_tenant(made.text("id"));
            tenant.issue("First").await;
            everything_agrees(&service, &tenant).await;
        }
    }
    assert_eq!(service.landlord().all(PATH).await.len(), asked.len());
}
