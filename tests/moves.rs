//! Tenants move between shards while they are served: nothing acknowledged is lost, whoever is
//! interrupted when.

mod deployment;
mod load;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;

use self::deployment::{Deployment, name, other_cluster, schema};
use self::load::{Load, nothing_is_lost};
use crate::support::cluster::Cluster;
use crate::support::service::{command, run};
use crate::support::{Chance, Options, Service, Store, eventually};

const ROUNDS: u64 = 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_moves_under_load_and_nothing_acknowledged_is_lost() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    let load = Load::begin(&deployment, &tenant);
    load.more(200).await;
    for (from, to) in [("main", "second"), ("second", "main")] {
        let moving = tokio::task::spawn_blocking({
            let mut mover = deployment.mover(&tenant, to);
            move || run(&mut mover)
        });
        let (status, said) = moving.await.expect("run");
        assert!(status.success(), "{said}");
        assert_eq!(deployment.left_at(from, &tenant), "", "{said}");
        load.more(200).await;
        for nth in [0, 1] {
            eventually("the node knows where the tenant is", || async {
                (deployment.shard_of(&tenant, nth).await == to).then_some(())
            })
            .await;
        }
    }
    println!(
        "{} were refused meanwhile",
        load.refused.load(Ordering::SeqCst)
    );
    let issued = load.end().await;
    nothing_is_lost(&deployment, &tenant, &issued).await;
    assert!(deployment.moves(&tenant, "main").contains("already"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_killed_at_any_moment_is_finished_or_undone() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    let mut chance = Chance::of("MOVES_SEED");
    let load = Load::begin(&deployment, &tenant);
    load.more(200).await;
    let begun = load.answers();
    deployment.moves(&tenant, "second");
    let whole = load.answers() - begun;
    for round in 1..=ROUNDS {
        let to = ["main", "second"][chance.below(2) as usize];
        let mut mover = deployment.mover(&tenant, to).spawn().expect("a mover");
        // The load is the clock; the larger part of a move is waiting after the switch.
        load.answer_more(chance.below(whole / (1 + round % 4)))
            .await;
        mover.kill().expect("killed");
        mover.wait().expect("gone");
    }
    // Whatever was left is finished or undone by asking for either.
    let (status, said) = deployment.move_to(&tenant, "main");
    if !status.success() {
        assert!(said.contains("asking for it again"), "{said}");
        deployment.moves(&tenant, "second");
        deployment.moves(&tenant, "main");
    }
    load.more(100).await;
    let issued = load.end().await;
    nothing_is_lost(&deployment, &tenant, &issued).await;
    assert_eq!(deployment.left_at("second", &tenant), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_tenant_is_read_and_takes_no_changes_until_the_move_is_undone() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    tenant.issue("Before").await;
    // As a mover leaves it that was killed right after it froze the ledger.
    let freeze = format!(
        "update {}.head set moved_to = 'second', revision = revision + 1; \
         insert into moves values ('{}', 'main', 'second', 'copying', \
         '018f0000-0000-7000-8000-000000000000')",
        schema(&tenant),
        tenant.id()
    );
    Cluster::shared().run(name(&deployment.store), &freeze);
    for node in &deployment.nodes {
        let tenant = tenant.clone().at(node.base());
        let body = json!({ "holder": { "name": "While frozen" } });
        let refused = tenant.post("/v1/cards", &body).await;
        refused.problem(503, "unavailable");
        assert!(refused.headers.contains_key("retry-after"), "{refused}");
        assert_eq!(tenant.all("/v1/cards").await.len(), 1);
        assert_eq!(tenant.usage().await["in_circulation"], 1);
    }
    let (status, said) = deployment.move_to(&tenant, "third");
    assert!(!status.success(), "{said}");
    assert!(said.contains("is being moved to second"), "{said}");
    assert!(deployment.moves(&tenant, "main").contains("again"));
    tenant.issue("After").await;
    assert_eq!(tenant.all("/v1/cards").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_place_that_has_the_history_is_never_dropped() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    tenant.issue("Before").await;
    // As a mover leaves it that was killed right after it switched, and then the copy is lost.
    let (schema, id) = (schema(&tenant), tenant.id());
    let row = "'018f0000-0000-7000-8000-000000000000'";
    let switched = format!(
        "update {schema}.head set moved_to = 'second', revision = revision + 1; \
         insert into moves values ('{id}', 'main', 'second', 'switched', {row}); \
         update tenants set shard = 'second' where id = '{id}'"
    );
    let main = |statement: &str| Cluster::shared().run(name(&deployment.store), statement);
    main(&switched);
    let (status, said) = deployment.move_to(&tenant, "second");
    assert!(!status.success(), "{said}");
    assert!(
        said.contains("is not where it should be (second)"),
        "{said}"
    );
    let events = format!("select count(*) from {schema}.events where event_type = 'CardIssued'");
    assert_eq!(main(&events).trim(), "1");
    // The same, undone: the copy is all there is.
    let undoing = format!(
        "update moves set source = 'second', target = 'main', stage = 'copying' \
         where tenant_id = '{id}'"
    );
    main(&undoing);
    let (status, said) = deployment.move_to(&tenant, "second");
    assert!(!status.success(), "{said}");
    assert!(
        said.contains("is not where it should be (second)"),
        "{said}"
    );
    assert_eq!(main(&events).trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_told_to_stop_undoes_itself() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    for nth in 0..20 {
        tenant.issue(&format!("Card {nth}")).await;
    }
    let (mut holder, statements) = deployment.hold_head(&tenant).await;
    let mover = deployment.mover_that_waits_for_head(&tenant).await;
    kill(Pid::from_raw(mover.id().cast_signed()), Signal::SIGTERM).expect("signalled");
    drop(statements);
    holder.wait().expect("gone");
    let ended = mover.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(
        said.contains("the move was undone: it was told to stop"),
        "{said}"
    );
    tenant.issue("After").await;
    assert_eq!(deployment.left_at("second", &tenant), "");
    deployment.moves(&tenant, "second");
    assert_eq!(tenant.all("/v1/cards").await.len(), 21);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mover_that_freezes_after_its_move_was_undone_thaws_again() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    tenant.issue("Before").await;
    let (mut holder, statements) = deployment.hold_head(&tenant).await;
    let mover = deployment.mover_that_waits_for_head(&tenant).await;
    // As somebody does who takes the move over and undoes it.
    let undone = format!("delete from moves where tenant_id = '{}'", tenant.id());
    Cluster::shared().run(name(&deployment.store), &undone);
    drop(statements);
    holder.wait().expect("gone");
    let ended = mover.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{said}");
    assert!(
        said.contains("another process has taken the move over"),
        "{said}"
    );
    tenant.issue("After").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_stays_in_its_database_where_both_shards_lead_to_it() {
    let deployment = Deployment::start().await;
    let shared = deployment.tenant().await;
    let dedicated = deployment.dedicated().await;
    // The first shard once more, as it was not refused before.
    let twin = "insert into shards values ('twin', 'store', 0)";
    Cluster::shared().run(name(&deployment.store), twin);
    for (tenant, to) in [(&dedicated, "third"), (&shared, "twin")] {
        tenant.issue("Before").await;
        for to in [to, "main", to] {
            deployment.moves(tenant, to);
            for nth in [0, 1] {
                eventually("the node knows where the tenant is", || async {
                    (deployment.shard_of(tenant, nth).await == to).then_some(())
                })
                .await;
            }
        }
        // As a mover leaves it that was killed before, or right after, it switched.
        for stage in ["copying", "undoing"] {
            let row = format!(
                "insert into moves values ('{}', '{to}', 'main', '{stage}', \
                 '018f0000-0000-7000-8000-000000000000')",
                tenant.id()
            );
            Cluster::shared().run(name(&deployment.store), &row);
            deployment.moves(tenant, to);
        }
        tenant.issue("After").await;
        assert_eq!(tenant.all("/v1/cards").await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dedicated_tenant_takes_its_database_along() {
    let deployment = Deployment::start().await;
    let tenant = deployment.dedicated().await;
    let load = Load::begin(&deployment, &tenant);
    load.more(20).await;
    // Nodes that use the tenant let go of its old database.
    let moving = tokio::task::spawn_blocking({
        let mut mover = deployment.mover(&tenant, "second");
        move || run(&mut mover)
    });
    let (status, said) = moving.await.expect("run");
    assert!(status.success(), "{said}");
    let issued = load.end().await;
    nothing_is_lost(&deployment, &tenant, &issued).await;
    let schema = schema(&tenant);
    let there = format!("select count(*) from pg_database where datname = '{schema}'");
    assert_eq!(Cluster::shared().run("postgres", &there).trim(), "0");
    assert_eq!(other_cluster().run("postgres", &there).trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_is_told_in_one_line() {
    let deployment = Deployment::start().await;
    let tenant = deployment.tenant().await;
    for (tenant, to, why) in [
        (tenant.id(), "fourth", "there is no shard fourth"),
        (tenant.id(), "!", "must be 3 to 40 characters"),
        ("nobody", "second", "no tenant with the id or slug"),
    ] {
        let mut mover = command();
        let mover = mover
            .args(["tenants", "move", tenant, to])
            .env("STORE", &deployment.store)
            .env("SECOND", &deployment.second)
            .env("THIRD", &deployment.third);
        let (status, said) = run(mover);
        assert!(!status.success(), "{said}");
        assert!(said.contains(why), "{why}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
    let mut embedded = Service::node_of(&Arc::new(Store::files()), Options::default());
    let of_file = embedded.tenant("free").await;
    embedded.terminate();
    embedded.stopped();
    let mut mover = command();
    let mover = mover
        .args(["tenants", "move", of_file.id(), "main", "--store"])
        .arg(embedded.store().url());
    let (status, said) = run(mover);
    assert!(!status.success(), "{said}");
    assert!(said.contains("the embedded store has no shards"), "{said}");
}
