//! A store that is broken: told apart from the others, by the command line and by the service.

use crate::support::service::{command, run};
use crate::support::{Client, Options, Service, eventually};

/// Two tenants with a card each on a stopped service; the first one's store is broken, which will
/// be told in these words.
async fn one_broken_of_two(service: &mut Service) -> (Client, Client, &'static str) {
    let (broken, whole) = (service.tenant("free").await, service.tenant("free").await);
    for tenant in [&broken, &whole] {
        tenant.issue("Before").await;
    }
    service.terminate();
    service.stopped();
    let told = service.store().break_tenant(broken.id());
    (broken, whole, told)
}

#[tokio::test]
async fn a_broken_store_is_named_the_others_are_done_and_the_command_fails() {
    let mut service = Service::start();
    let (broken, whole, told) = one_broken_of_two(&mut service).await;
    let store = service.store().url();
    for arguments in [
        vec!["migrate"],
        vec!["rebuild", "cards"],
        vec!["rebuild", "landlord"],
    ] {
        let (status, said) = run(command().args(&arguments).args(["--store", &store]));
        assert!(!status.success(), "{arguments:?}: {said}");
        assert!(said.contains("1 of 2 tenants failed"), "{said}");
        let of_broken: Vec<_> = said.lines().filter(|l| l.contains(broken.id())).collect();
        assert_eq!(of_broken.len(), 1, "{said}");
        assert!(of_broken[0].contains(told), "{said}");
        if arguments.len() > 1 {
            assert!(said.contains(whole.id()), "the other is done: {said}");
        }
    }
    let of_broken = ["rebuild", "cards", "--tenant", broken.id()];
    let (status, said) = run(command().args(of_broken).args(["--store", &store]));
    assert!(!status.success(), "{said}");
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_seen_and_disturbs_nobody_else() {
    let options = Options::default().with("READY_LAG_MAX_S", "0.001");
    let mut service = Service::start_with(options);
    let (broken, whole, told) = one_broken_of_two(&mut service).await;
    service.restart();
    let (broken, whole) = (broken.at(service.base()), whole.at(service.base()));
    let path = format!("/v1/landlord/subscribers?tenant={}", broken.id());
    let behind = eventually("every subscriber says that it cannot go on", || async {
        let all = service.landlord().all(&path).await;
        let said = |one: &serde_json::Value| {
            one["behind_since"].is_string()
                && one["last_error"]
                    .as_str()
                    .is_some_and(|why| why.contains(told))
        };
        (all.len() == 3 && all.iter().all(said)).then_some(all)
    })
    .await;
    assert!(
        behind.iter().all(|one| one["checkpoint"].is_null()),
        "{behind:?}"
    );
    let ready = service.stranger().get("/readyz").await;
    let problem = ready.problem(503, "not_ready");
    assert!(problem.to_string().contains(broken.id()), "{problem}");
    broken.get("/v1/cards").await.problem(503, "unavailable");
    broken
        .get("/v1/cards/stats")
        .await
        .problem(503, "unavailable");
    whole.issue("After").await;
    assert_eq!(whole.all("/v1/cards").await.len(), 2);

    // Among enough others it is one tenant's trouble, and no reason to take the node away.
    for _ in 0..2 {
        service.tenant("free").await;
    }
    let named = eventually("the others are served", || async {
        let ready = service.stranger().get("/readyz").await;
        (ready.status == 200).then(|| ready.json()["errors"].to_string())
    })
    .await;
    assert!(named.contains(broken.id()), "{named}");
}
