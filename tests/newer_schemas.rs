//! A PostgreSQL store that a newer program has migrated: this one says so, and leaves it alone.

use std::sync::Arc;

use crate::support::service::{command, run};
use crate::support::store::{Database, schema};
use crate::support::{Client, Options, Service, Store};

/// Notes a migration that no program has yet.
const NEWER: &str = "insert into _sqlx_migrations \
    (version, description, installed_on, success, checksum, execution_time) \
    values (9999, 'newer', now(), true, '', 0)";

fn database(store: &Store) -> &Database {
    match store {
        Store::Database(database) => database,
        Store::Directory(_) => unreachable!("made as a database"),
    }
}

fn store() -> Arc<Store> {
    Arc::new(Store::Database(Database::new()))
}

#[tokio::test]
async fn a_node_refuses_a_newer_landlord_schema_in_one_clear_line() {
    let store = store();
    let mut service = Service::node_of(&store, Options::default());
    service.terminate();
    service.stopped();
    database(&store).run(NEWER);
    for role in ["serve", "migrate"] {
        let url = store.url();
        let arguments = [role, "--store", &url, "--listen", "127.0.0.1:0"];
        let (status, said) = run(command().args(arguments));
        assert!(!status.success(), "{role}: {said}");
        assert_eq!(said.trim().lines().count(), 1, "{role}: {said}");
        assert!(said.contains("9999") && said.contains("schema"), "{said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[tokio::test]
async fn a_tenant_with_a_newer_schema_is_named_and_disturbs_nobody_else() {
    let store = store();
    let mut service = Service::node_of(&store, Options::default());
    let (newer, known) = (service.tenant("free").await, service.tenant("free").await);
    for tenant in [&newer, &known] {
        tenant.issue("Before").await;
    }
    service.terminate();
    service.stopped();
    let schema = schema(newer.id());
    database(&store).run(&format!("set search_path = {schema}; {NEWER}"));

    let (status, said) = run(command().args(["migrate", "--store", &store.url()]));
    assert!(!status.success(), "{said}");
    assert!(said.contains("1 of 2 tenants failed"), "{said}");
    let of_newer: Vec<_> = said.lines().filter(|it| it.contains(newer.id())).collect();
    assert_eq!(of_newer.len(), 1, "{said}");
    assert!(of_newer[0].contains("9999"), "{said}");

    service.restart();
    let at_service = |tenant: Client| tenant.at(service.base());
    let (newer, known) = (at_service(newer), at_service(known));
    let body = serde_json::json!({ "holder": { "name": "No" } });
    for answer in [
        newer.get("/v1/cards").await,
        newer.post("/v1/cards", &body).await,
    ] {
        answer.problem(503, "unavailable");
        assert!(answer.headers.contains_key("retry-after"), "{answer}");
    }
    known.issue("After").await;
    assert_eq!(known.all("/v1/cards").await.len(), 2);
}
