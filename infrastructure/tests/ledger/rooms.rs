//! Tenants that share a shard: what PostgreSQL keeps apart, whoever has the connection.

use std::slice::from_ref;
use std::time::Duration;

use application::ports::Random;
use cqrs_es::persist::PersistedEventRepository;
use domain::card::DigitalCard;
use domain::event::AggregateKind;
use domain::ids::TenantId;
use futures::future::join_all;
use futures::poll;
use infrastructure::clock::SystemRandom;
use infrastructure::projections::cards::postgres::PostgresCards;
use infrastructure::shard::schema::Schema;
use infrastructure::shard::{Room, Shard};
use postgres_es::PostgresEventRepository;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Executor, PgConnection};

use crate::cluster::Cluster;
use crate::world::*;

const A_WHILE: Duration = Duration::from_secs(30);

fn shard(connections_max: usize) -> Shard {
    Shard::new(Cluster::shared().shard(), connections_max, A_WHILE, A_WHILE)
}

fn name(tenant: TenantId) -> String {
    if tenant == TenantId::LANDLORD {
        return "landlord_ledger".to_owned();
    }
    format!("t_{}", tenant.to_string().replace('-', ""))
}

/// A tenant with all its tables.
async fn tenant_in(options: &PgConnectOptions, shard: &Shard) -> TenantId {
    let tenant = TenantId::new(SystemRandom.id());
    let migrated = Schema::of(tenant).migrate(options).await;
    migrated.expect("a schema");
    let cards = PostgresCards::open(tenant, shard).await;
    cards.expect("the cards");
    tenant
}

async fn tenants(shard: &Shard) -> [TenantId; 2] {
    let options = Cluster::shared().shard();
    [
        tenant_in(&options, shard).await,
        tenant_in(&options, shard).await,
    ]
}

/// Whatever a statement can do to the tables of a tenant.
fn trespasses(tenant: TenantId) -> Vec<String> {
    let schema = name(tenant);
    let tables = ["events", "head", "idempotency", "checkpoints", "cards"];
    let to_each = |table| {
        [
            format!("select from {schema}.{table}"),
            format!("insert into {schema}.{table} select * from {schema}.{table}"),
            format!("delete from {schema}.{table}"),
            format!("truncate {schema}.{table}"),
            format!("drop table {schema}.{table}"),
        ]
    };
    let mut trespasses: Vec<_> = tables.into_iter().flat_map(to_each).collect();
    trespasses.push(format!("update {schema}.head set issued = 0"));
    trespasses.push(format!("create table {schema}.mine (id text)"));
    trespasses
}

async fn assert_refused(connection: &mut PgConnection, statement: &str) {
    let answer = connection.execute(statement).await;
    let error = answer.expect_err(statement);
    let error = error.as_database_error().expect("PostgreSQL's");
    assert_eq!(
        error.code().as_deref(),
        Some("42501"),
        "{statement}: {error}"
    );
}

/// The server process of a connection in a room, and the role that it acts under.
async fn who(room: &Room) -> (i32, String) {
    let mut connection = room.connection().await.expect("a connection");
    let who = sqlx::query_as("select pg_backend_pid(), current_user::text")
        .fetch_one(connection.work())
        .await;
    connection.done(who).expect("an answer")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_tried_on_another_tenants_tables_is_refused_in_a_room() {
    let shard = shard(1);
    let [own, other] = tenants(&shard).await;
    let room = shard.room(own);
    let mut connection = room.connection().await.expect("a connection");
    for statement in trespasses(other) {
        assert_refused(connection.work(), &statement).await;
    }
    let mut separate = room.separate().await.expect("a connection");
    for statement in trespasses(other) {
        assert_refused(&mut separate, &statement).await;
    }
    let own = format!("select from {}.events", name(own));
    connection.work().execute(&*own).await.expect("its own");
    separate.execute(&*own).await.expect("its own");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_tried_on_the_landlords_own_ledger_is_refused_in_a_room() {
    let shard = shard(1);
    let [own, _] = tenants(&shard).await;
    let landlord = Schema::of(TenantId::LANDLORD);
    for _ in 0..2 {
        let migrated = landlord.migrate(&Cluster::shared().shard()).await;
        migrated.expect("a schema");
    }
    let mut connection = shard.room(own).connection().await.expect("a connection");
    for statement in trespasses(TenantId::LANDLORD) {
        assert_refused(connection.work(), &statement).await;
    }
    connection.rest();
    drop(connection);
    // The same connection, as the login itself: no role of a tenant's is needed, or made.
    let room = shard.room(TenantId::LANDLORD);
    let mut connection = room.connection().await.expect("a connection");
    let events = "select from landlord_ledger.events";
    let read = connection.work().execute(events).await;
    connection.done(read).expect("its own");
    let (_, role) = who(&room).await;
    assert!(!role.starts_with("t_"), "{role}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_tried_on_a_tenants_tables_is_refused_in_no_room() {
    let options = Cluster::shared().shard();
    let tenant = tenant_in(&options, &shard(1)).await;
    let mut connection = options.connect().await.expect("a connection");
    for statement in trespasses(tenant) {
        assert_refused(&mut connection, &statement).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_serves_tenants_in_turn_is_always_in_the_room_of_the_one_it_serves() {
    let shard = shard(1);
    let tenants = tenants(&shard).await;
    let rooms = tenants.map(|tenant| shard.room(tenant));
    let (first, _) = who(&rooms[0]).await;
    let serve = |nth: usize| {
        let (room, role) = (&rooms[nth % 2], name(tenants[nth % 2]));
        async move { assert_eq!(who(room).await, (first, role)) }
    };
    for nth in 0..20 {
        serve(nth).await;
    }
    join_all((0..20).map(serve)).await;
}

/// A ledger of any size is copied, counted and built anew on one.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_separate_connection_may_take_its_time() {
    let options = Cluster::shared().shard();
    let options = options.options([("statement_timeout", "60s")]);
    let shard = Shard::new(options, 1, A_WHILE, A_WHILE);
    let [tenant, _] = tenants(&shard).await;
    let room = shard.room(tenant);
    let mut separate = room.separate().await.expect("a connection");
    let mut connection = room.connection().await.expect("a connection");
    for (connection, limit) in [(&mut separate, "0"), (connection.work(), "1min")] {
        let found = sqlx::query_scalar::<_, String>("show statement_timeout");
        assert_eq!(found.fetch_one(connection).await.expect("shown"), limit);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_room_is_not_entered_again_by_a_connection_that_is_in_it() {
    let shard = shard(1);
    let [tenant, _] = tenants(&shard).await;
    let room = shard.room(tenant);
    let (process, _) = who(&room).await;
    let connection = room.connection().await.expect("a connection");
    let mut outside = Cluster::shared().options().connect().await.expect("one");
    let last: String = sqlx::query_scalar("select query from pg_stat_activity where pid = $1")
        .bind(process)
        .fetch_one(&mut outside)
        .await
        .expect("the activity");
    assert_eq!(last, "select pg_backend_pid(), current_user::text");
    drop(connection);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_was_given_up_on_its_way_to_a_room_is_not_used_again() {
    let shard = shard(1);
    let tenants = tenants(&shard).await;
    let rooms = tenants.map(|tenant| shard.room(tenant));
    let (first, _) = who(&rooms[0]).await;
    let mut process = first;
    // The answer may be there before it is looked for; then it is tried again.
    while process == first {
        let mut entering = Box::pin(rooms[1].connection());
        let _ = poll!(&mut entering);
        drop(entering);
        let role;
        (process, role) = who(&rooms[0]).await;
        assert_eq!(role, name(tenants[0]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_with_an_open_transaction_is_not_used_again() {
    let shard = shard(1);
    let [tenant, _] = tenants(&shard).await;
    let room = shard.room(tenant);
    let mut connection = room.connection().await.expect("a connection");
    connection.work().execute("begin").await.expect("begun");
    let process = sqlx::query_scalar("select pg_backend_pid()");
    let process: i32 = process
        .fetch_one(connection.work())
        .await
        .expect("a process");
    drop(connection);
    assert_ne!(who(&room).await.0, process);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_no_more_than_allowed_and_a_tenant_finds_its_own_again() {
    let application = format!("rooms-{}", SystemRandom.id());
    let options = Cluster::shared().shard().application_name(&application);
    let shard = Shard::new(options.clone(), 3, A_WHILE, A_WHILE);
    let mut tenants = Vec::new();
    for _ in 0..6 {
        tenants.push(tenant_in(&options, &shard).await);
    }
    let rooms: Vec<_> = tenants.iter().map(|tenant| shard.room(*tenant)).collect();
    join_all((0..120).map(|nth| who(&rooms[nth % 6]))).await;
    let mut outside = Cluster::shared().options().connect().await.expect("one");
    let open = "select count(*) from pg_stat_activity where application_name = $1";
    let open: i64 = sqlx::query_scalar(open)
        .bind(&application)
        .fetch_one(&mut outside)
        .await
        .expect("the activity");
    assert_eq!(open, 3);
    let mut found = std::collections::HashMap::new();
    for nth in 0..96 {
        let (process, _) = who(&rooms[nth % 6]).await;
        // Who came in between is on any; whoever is then sent away finds the one agreed on.
        if nth < 36 {
            continue;
        }
        assert_eq!(*found.entry(nth % 6).or_insert(process), process);
    }
}

/// As when PostgreSQL was restarted: of all that are lost, one is found out by its failing.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_lost_while_idle_fail_once() {
    let shard = shard(4);
    let [tenant, _] = tenants(&shard).await;
    let room = shard.room(tenant);
    let held = join_all((0..4).map(|_| room.connection())).await;
    drop(held);
    let mut outside = Cluster::shared().options().connect().await.expect("one");
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where query like $1";
    sqlx::query(cut)
        .bind(format!("%{}%", name(tenant)))
        .execute(&mut outside)
        .await
        .expect("cut");
    let mut failures = 0;
    for _ in 0..8 {
        let mut connection = room.connection().await.expect("a connection");
        let answer = connection.work().execute("select 1").await;
        failures += usize::from(connection.done(answer).is_err());
    }
    assert!(failures <= 1, "{failures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_connection_is_refused_in_time_and_after_closing_at_once() {
    let shard = Shard::new(
        Cluster::shared().shard(),
        1,
        Duration::from_secs(2),
        Duration::from_secs(2),
    );
    let [tenant, _] = tenants(&shard).await;
    let room = shard.room(tenant);
    let held = room.connection().await.expect("a connection");
    let late = room.connection().await.err();
    assert!(matches!(late, Some(sqlx::Error::PoolTimedOut)), "{late:?}");
    drop(held);
    shard.close().await;
    let closed = room.connection().await.err();
    assert!(
        matches!(closed, Some(sqlx::Error::PoolClosed)),
        "{closed:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_migrate_a_schema_at_the_same_time_make_one() {
    let tenant = TenantId::new(SystemRandom.id());
    let options = Cluster::shared().shard();
    let schema = Schema::of(tenant);
    for migrated in join_all((0..8).map(|_| schema.migrate(&options))).await {
        migrated.expect("migrated");
    }
    who(&shard(1).room(tenant)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_one_role_in_two_databases_of_a_cluster() {
    let database = format!("second_{}", SystemRandom.id().simple());
    let mut outside = Cluster::shared().options().connect().await.expect("one");
    let create = format!("create database {database} owner shards");
    outside.execute(&*create).await.expect("a database");
    let tenant = TenantId::new(SystemRandom.id());
    let databases = [
        Cluster::shared().shard(),
        Cluster::shared().shard().database(&database),
    ];
    let schema = Schema::of(tenant);
    for migrated in join_all(databases.iter().map(|it| schema.migrate(it))).await {
        migrated.expect("migrated");
    }
    for options in databases {
        let shard = Shard::new(options, 1, A_WHILE, A_WHILE);
        assert_eq!(who(&shard.room(tenant)).await.1, name(tenant));
    }
}

/// From 16 on a server may be set up so that whoever makes a role inherits from it.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_inherits_from_what_it_makes_is_refused_in_no_room() {
    let login = format!("login_{}", SystemRandom.id().simple());
    let mut outside = Cluster::shared().options().connect().await.expect("one");
    let create = format!(
        "create role {login} login noinherit createrole; \
         grant create on database postgres to {login}"
    );
    outside.execute(&*create).await.expect("a role");
    let version = "select current_setting('server_version_num')::integer";
    let version: i32 = sqlx::query_scalar(version)
        .fetch_one(&mut outside)
        .await
        .expect("a version");
    if version >= 160_000 {
        let inherit = format!("alter role {login} set createrole_self_grant = 'set, inherit'");
        outside.execute(&*inherit).await.expect("set");
    }
    let options = Cluster::shared().shard().username(&login);
    let tenant = tenant_in(&options, &Shard::new(options.clone(), 1, A_WHILE, A_WHILE)).await;
    let mut connection = options.connect().await.expect("a connection");
    for statement in trespasses(tenant) {
        assert_refused(&mut connection, &statement).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_lacks_something_is_told_what() {
    for (attributes, what) in [
        ("noinherit", "createrole"),
        ("inherit createrole", "noinherit"),
    ] {
        let login = format!("login_{}", SystemRandom.id().simple());
        let mut outside = Cluster::shared().options().connect().await.expect("one");
        let create = format!(
            "create role {login} login {attributes}; grant create on database postgres to {login}"
        );
        outside.execute(&*create).await.expect("a role");
        let options = Cluster::shared().shard().username(&login);
        let tenant = TenantId::new(SystemRandom.id());
        let error = Schema::of(tenant).migrate(&options).await;
        let error = error.expect_err("it lacks something").to_string();
        let advice = format!("alter role {login} {what}");
        assert!(error.contains(&advice), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_es_loads_the_same_events() {
    let world = on_plan::<crate::postgres::PostgresUnderTest>("pro").await;
    let id = new_id();
    let ledger = world.ledger();
    committed(
        ledger
            .append(append(vec![card(id, 0, vec![issued()])]))
            .await,
    );
    let schema = name(world.tenant());
    let options = Cluster::shared().shard().options([("role", &schema)]);
    let pool = PgPoolOptions::new().connect_lazy_with(options);
    let repository = PostgresEventRepository::new(pool)
        .with_tables(&format!("{schema}.events"), &format!("{schema}.snapshots"));
    let theirs = repository.get_events::<DigitalCard>(&id.to_string()).await;
    let theirs = theirs.expect("loaded");
    let ours = ledger.load(AggregateKind::Card, &id.to_string()).await;
    assert_eq!(from_ref(&ours.expect("loaded")), from_ref(&theirs));
    assert_eq!(theirs.len(), 1);
}
