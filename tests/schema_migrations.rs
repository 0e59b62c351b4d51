//! Schemas of other versions than the program's: brought up to date, or refused, never guessed at.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use crate::shards::{database, node};
use crate::support::cluster::Cluster;
use crate::support::service::{LANDLORD_KEY, command, run, run_within};
use crate::support::store::in_file;
use crate::support::{Client, Options, Service, Store, eventually, unique};

/// The program, on the stores of a stopped service.
fn on(store: &str, arguments: &[&str]) -> Command {
    let mut command = command();
    command
        .args(arguments)
        .args(["--listen", "127.0.0.1:0"])
        .env("STORE", store)
        .env("LANDLORD_API_KEY", LANDLORD_KEY);
    command
}

/// Ends with this in one line.
fn refused(command: &mut Command, why: &str) {
    let (status, said) = run(command);
    assert!(!status.success(), "{said}");
    let lines: Vec<_> = said.lines().filter(|l| l.contains(why)).collect();
    assert_eq!(lines.len(), 1, "{why} is not in one line of:\n{said}");
}

/// A stopped service with tenants: where its store is, and they.
struct Stopped {
    store: String,
    tenants: Vec<Client>,
    /// What its directory lives by.
    _service: Service,
}

impl Stopped {
    async fn with_tenants(count: usize, mut service: Service, store: String) -> Self {
        let mut tenants = Vec::new();
        for _ in 0..count {
            let tenant = service.tenant("free").await;
            tenant.issue("Before").await;
            tenants.push(tenant);
        }
        service.terminate();
        service.stopped();
        Self {
            store,
            tenants,
            _service: service,
        }
    }

    async fn on_files(count: usize) -> Self {
        let service = Service::node_of(&Arc::new(Store::files()), Options::default());
        let store = service.store().url();
        Self::with_tenants(count, service, store).await
    }

    async fn on_postgres(count: usize) -> Self {
        let store = database();
        Self::with_tenants(count, Service::started_by(&mut node(&store)), store).await
    }

    fn landlords_file(&self) -> PathBuf {
        Path::new(self.store.trim_start_matches("sqlite:")).join("landlord.db")
    }

    fn file(&self, tenant: &Client) -> PathBuf {
        let file = format!("tenants/{}.db", tenant.id());
        self.landlords_file().with_file_name(file)
    }
}

fn schema(tenant: &Client) -> String {
    format!("t_{}", tenant.id().replace('-', ""))
}

fn name(store: &str) -> &str {
    store.split(['/', '?']).nth(3).expect("a database")
}

#[tokio::test]
async fn an_older_landlords_schema_is_refused_until_migrate_was_run() {
    let files = Stopped::on_files(0).await;
    let back = "alter table tenants drop column shard; drop table shards; drop table moves; \
                drop table usage_audits; alter table tenant_overviews drop column revision; \
                delete from _sqlx_migrations where version > 1;";
    let of_file = format!("{back} pragma user_version = 1");
    in_file(&files.landlords_file(), &of_file).await;
    let postgres = Stopped::on_postgres(0).await;
    Cluster::shared().run(name(&postgres.store), back);
    for store in [&files.store, &postgres.store] {
        let needs = "run `digital-card migrate`";
        refused(on(store, &["serve"]).env("MIGRATE", "false"), needs);
        refused(&mut on(store, &["serve", "--migrate", "false"]), needs);
        refused(
            &mut on(store, &["rebuild", "cards", "--migrate=false"]),
            needs,
        );
        let (status, said) = run(on(store, &["migrate"]).env("MIGRATE", "false"));
        assert!(status.success(), "{said}");
        let service = Service::started_by(on(store, &["serve"]).env("MIGRATE", "false"));
        service.tenant("free").await.issue("After").await;
    }
}

#[tokio::test]
async fn a_store_that_is_not_there_yet_is_not_made_where_nothing_may_be_migrated() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = format!("sqlite:{}", directory.path().display());
    for store in [files, database()] {
        let needs = "schema is version 0";
        refused(on(&store, &["serve"]).env("MIGRATE", "false"), needs);
        assert!(!directory.path().join("landlord.db").exists());
    }
}

#[tokio::test]
async fn an_older_tenants_schema_is_answered_503_until_migrate_was_run() {
    let files = Stopped::on_files(2).await;
    // The first version has no older one: none, as far as is noted.
    let file = files.file(&files.tenants[0]);
    in_file(&file, "pragma user_version = 0").await;
    let postgres = Stopped::on_postgres(2).await;
    let back = "alter table head drop column moved_to; drop table processes; \
                alter table checkpoints drop column holder, drop column held_until; \
                delete from _sqlx_migrations where version > 1";
    let path = format!("set search_path to {}", schema(&postgres.tenants[0]));
    Cluster::shared().run(name(&postgres.store), &format!("{path}; {back}"));
    for Stopped { store, tenants, .. } in [&files, &postgres] {
        let mut service = Service::started_by(on(store, &["serve"]).env("MIGRATE", "false"));
        let at = |nth: usize, service: &Service| tenants[nth].clone().at(service.base());
        let later = at(0, &service).get("/v1/cards").await;
        later.problem(503, "unavailable");
        assert!(later.headers.contains_key("retry-after"), "{later}");
        at(1, &service).issue("After").await;
        eventually("the log says why", || async {
            let said = service.output();
            said.contains("run `digital-card migrate`").then_some(())
        })
        .await;
        service.kill();
        let (status, said) = run(&mut on(store, &["migrate"]));
        assert!(status.success(), "{said}");
        let service = Service::started_by(on(store, &["serve"]).env("MIGRATE", "false"));
        at(0, &service).issue("After").await;
        assert_eq!(at(0, &service).all("/v1/cards").await.len(), 2);
    }
}

#[tokio::test]
async fn an_answer_recorded_as_a_whole_card_is_given_again_and_its_holder_forgotten() {
    let (files, postgres) = (Stopped::on_files(1).await, Stopped::on_postgres(1).await);
    let change = async |store: &str, statements: &str| match store == files.store {
        true => in_file(&files.file(&files.tenants[0]), statements).await,
        false => {
            let path = format!("set search_path to {}", schema(&postgres.tenants[0]));
            let all = format!("{path}; {statements}");
            Cluster::shared().run(name(store), &all);
        }
    };
    for (stopped, back) in [
        (&files, "pragma user_version = 3"),
        (&postgres, "set search_path to public"),
    ] {
        let store = &stopped.store;
        let (key, body) = (unique("key"), json!({ "holder": { "name": "Known" } }));
        let issue = async || {
            let mut service = Service::started_by(&mut on(store, &["serve"]));
            let tenant = stopped.tenants[0].clone().at(service.base());
            let answer = tenant.post_once("/v1/cards", &key, &body).await;
            service.kill();
            answer
        };
        let first = issue().await;
        let whole = json!({ "value": first.expect(201).json(), "version": 1 });
        let id = first.text("id");
        let older =
            format!("update idempotency set outcome = '{whole}' where outcome like '%{id}%'");
        let holders = |count: u32| {
            format!(
                "create temporary table holders (count int check (count = {count})); \
                 insert into holders select count(*) from idempotency where outcome like '%Known%'"
            )
        };
        for before in [
            String::new(),
            format!(
                "delete from _sqlx_migrations where description = 'answers name cards'; {back}"
            ),
        ] {
            change(store, &format!("{older}; {}; {before}", holders(1))).await;
            let again = issue().await;
            assert!(again.expect(201).is_replayed(), "{again}");
            assert_eq!(again.body, first.body);
            assert_eq!(again.header("etag"), first.header("etag"));
        }
        change(store, &holders(0)).await;
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused_in_one_line() {
    let files = Stopped::on_files(2).await;
    in_file(&files.file(&files.tenants[0]), "pragma user_version = 99").await;
    let postgres = Stopped::on_postgres(2).await;
    let newer = |of: &str| {
        format!(
            "insert into {of}_sqlx_migrations (version, description, success, checksum, \
             execution_time) values (99, 'newer', true, '', 0)"
        )
    };
    let of_tenant = newer(&format!("{}.", schema(&postgres.tenants[0])));
    Cluster::shared().run(name(&postgres.store), &of_tenant);
    for Stopped { store, tenants, .. } in [&files, &postgres] {
        let (status, said) = run(&mut on(store, &["migrate"]));
        assert!(!status.success(), "{said}");
        assert!(said.contains("1 of 2 tenants failed"), "{said}");
        let line = said.lines().find(|l| l.contains(tenants[0].id()));
        let told = line.is_some_and(|l| l.contains("schema is version 99"));
        assert!(told, "{said}");
    }
    in_file(&files.landlords_file(), "pragma user_version = 99").await;
    Cluster::shared().run(name(&postgres.store), &newer(""));
    for store in [&files.store, &postgres.store] {
        for role in ["serve", "migrate"] {
            refused(&mut on(store, &[role]), "schema is version 99");
        }
    }
}

#[tokio::test]
async fn many_tenants_are_migrated_by_two_at_once_and_one_that_fails_is_named() {
    const TENANTS: usize = 205;
    let stopped = Stopped::on_postgres(1).await;
    let (store, tenants) = (&stopped.store, &stopped.tenants);
    let cluster = Cluster::shared();
    // Recorded tenants without schemas are half made; these have empty ones, which are older.
    let more = format!(
        "insert into tenants select \
         '018f0000-0000-7000-8000-' || lpad(n::text, 12, '0'), 'A tenant', 'tenant-' || n, '', \
         'free', 'shared', 0, 1, 'main' from generate_series(2, {TENANTS}) n"
    );
    cluster.run(name(store), &more);
    let schemas = "do $$ declare name text; begin for n in 2..$2 loop \
         name := 't_018f0000000070008000' || lpad(n::text, 12, '0'); \
         execute 'create role ' || name; \
         execute 'create schema ' || name || ' authorization ' || name; \
         execute 'create table ' || name || \
         '._sqlx_migrations (like ' || $1 || '._sqlx_migrations including all)'; \
         execute 'alter table ' || name || '._sqlx_migrations owner to ' || name; \
         end loop; end $$";
    cluster.run(
        name(store),
        &schemas
            .replace("' || $1 || '", &schema(&tenants[0]))
            .replace("$2", &TENANTS.to_string()),
    );
    // One has something where a table must be.
    let broken = "018f0000-0000-7000-8000-000000000077";
    let in_its_place = "create table t_018f0000000070008000000000000077.head (id int)";
    cluster.run(name(store), in_its_place);
    let migrate = || {
        let mut command = on(store, &["migrate"]);
        tokio::task::spawn_blocking(move || run_within(&mut command, Duration::from_secs(90)))
    };
    let (one, other) = tokio::join!(migrate(), migrate());
    for done in [one, other] {
        let (status, said) = done.expect("run");
        assert!(!status.success(), "{said}");
        assert!(
            said.contains(&format!("1 of {TENANTS} tenants failed")),
            "{said}"
        );
        assert!(said.contains(&format!("tenant {broken}: ")), "{said}");
        assert!(
            said.contains(&format!("100 of {TENANTS} tenants")),
            "{said}"
        );
    }
    let done = "select count(*) from pg_tables \
                where tablename = 'checkpoints' and schemaname like 't\\_%'";
    let expected = (TENANTS - 1).to_string();
    assert_eq!(cluster.run(name(store), done).trim(), expected);
    cluster.run(
        name(store),
        "drop table t_018f0000000070008000000000000077.head",
    );
    let (status, said) = run(&mut on(store, &["migrate"]));
    assert!(status.success(), "{said}");
}
