//! The landlord's records: tenants, keys and the answers to repeat.

use std::sync::Arc;

use application::keys::{ApiKey, Secret};
use application::ports::{IdempotencyRecord, Landlord as _, LandlordError, Recorded};
use application::scope::Role;
use application::tenants::{Isolation, Tenant};
use domain::ids::{KeyId, Slug};
use domain::text::DisplayName;
use infrastructure::database::{Database, Older};
use infrastructure::landlord::{self, LandlordDatabase};
use infrastructure::portable::{Engine as _, statement};

use crate::history::day;
use crate::landlords::{LandlordUnderTest, on_both_engines};
use crate::store::tenant_id;

on_both_engines! {
    what_was_recorded_is_found_as_it_was,
    of_many_tenants_that_race_for_a_slug_exactly_one_gets_it,
    who_lost_the_slug_is_not_remembered_and_may_try_again_under_the_same_key,
    the_same_request_at_the_same_time_makes_one_tenant_and_one_answer,
    a_key_that_is_made_again_is_made_once_and_another_request_under_its_key_is_refused,
    a_key_is_revoked_once_and_is_then_in_force_no_more,
}

/// The `n`-th tenant.
pub fn tenant(n: u64, name: &str, slug: &str) -> Tenant {
    Tenant {
        id: tenant_id(n),
        name: DisplayName::try_from(name.to_owned()).expect("a name"),
        slug: Slug::try_from(slug.to_owned()).expect("a slug"),
        first_plan: "free".to_owned().try_into().expect("a plan's key"),
        isolation: Isolation::Dedicated,
        shard: Some(Slug::try_from("eu-1".to_owned()).expect("a slug")),
        created_at: day(0),
        ready: false,
    }
}

/// The `n`-th tenant's key.
pub fn key(n: u64) -> ApiKey {
    let id: KeyId = format!("0199cccc-0000-7000-8000-{n:012}")
        .parse()
        .expect("a UUID");
    ApiKey {
        id,
        hash: Secret::new(format!("secret {n}")).hash(),
        role: Role::TenantAdmin,
        tenant: Some(tenant_id(n)),
        name: DisplayName::try_from("first key".to_owned()).expect("a name"),
        created_at: day(0),
    }
}

fn record(key: &str, fingerprint: u8, outcome: &str) -> IdempotencyRecord {
    IdempotencyRecord {
        key: key.to_owned(),
        fingerprint: [fingerprint; 32],
        outcome: outcome.to_owned(),
    }
}

#[tokio::test]
async fn a_record_in_a_file_is_on_disk_before_it_is_answered_whatever_was_written_before() {
    const NORMAL: i64 = 1;
    const FULL: i64 = 2;
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("landlord.db");
    let database = landlord::open(&file, Older::Migrate).await;
    let database = Arc::new(database.expect("a database"));
    let records = LandlordDatabase::new(Arc::clone(&database));
    let replayable = || database.write_replayable(statement("select 1"));

    replayable().await.expect("written");
    assert_eq!(synchronous(&database).await, NORMAL);
    records.add_key(&key(1), None).await.expect("added");
    assert_eq!(synchronous(&database).await, FULL);
    replayable().await.expect("written");
    let revoked = records.revoke_key(key(1).id, day(1)).await;
    assert!(revoked.expect("an answer"));
    assert_eq!(synchronous(&database).await, FULL);
}

/// The level of `synchronous` that the last commit was written at.
async fn synchronous(database: &Database) -> i64 {
    let mut writer = database.writer().await.expect("the writer");
    let level = sqlx::query_scalar("pragma synchronous");
    level.fetch_one(&mut *writer).await.expect("a level")
}

async fn what_was_recorded_is_found_as_it_was<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    let (acme, acmes_key) = (tenant(1, "Acme & Söhne", "acme"), key(1));
    let staff = ApiKey {
        role: Role::Landlord,
        tenant: None,
        ..key(2)
    };
    let records = &landlord.records;
    let added = records.add_tenant(&acme, &acmes_key, None).await;
    assert_eq!(added.expect("added"), Recorded::New);
    records.add_key(&staff, None).await.expect("added");
    assert_eq!(
        records.tenants().await.expect("tenants"),
        vec![acme.clone()]
    );
    let found = records.tenant(acme.id).await.expect("an answer");
    assert_eq!(found, Some(acme.clone()));
    assert_eq!(records.tenant(tenant_id(9)).await.expect("an answer"), None);
    let found = records.key(staff.id).await.expect("an answer");
    assert_eq!(found, Some(staff.clone()));
    assert_eq!(records.key(key(9).id).await.expect("an answer"), None);
    assert_eq!(records.keys().await.expect("keys"), [acmes_key, staff]);

    records.mark_ready(acme.id).await.expect("marked");
    let ready = Tenant {
        ready: true,
        ..acme
    };
    assert_eq!(records.tenants().await.expect("tenants"), [ready]);
}

async fn of_many_tenants_that_race_for_a_slug_exactly_one_gets_it<E: LandlordUnderTest>() {
    let landlord = Arc::new(E::landlord().await);
    let racers: Vec<_> = (0..20)
        .map(|n| {
            let landlord = Arc::clone(&landlord);
            tokio::spawn(async move {
                let records = &landlord.records;
                let idempotency = record(&format!("key {n}"), 1, "{}");
                let racer = tenant(n, "Acme", "acme");
                records
                    .add_tenant(&racer, &key(n), Some(&idempotency))
                    .await
            })
        })
        .collect();
    let mut winners = 0;
    for racer in racers {
        match racer.await.expect("no panic") {
            Ok(Recorded::New) => winners += 1,
            Err(LandlordError::SlugTaken) => {}
            other => panic!("neither won nor lost: {other:?}"),
        }
    }
    assert_eq!(winners, 1);
    assert_eq!(landlord.records.tenants().await.expect("tenants").len(), 1);
    assert_eq!(landlord.records.keys().await.expect("keys").len(), 1);
}

async fn who_lost_the_slug_is_not_remembered_and_may_try_again_under_the_same_key<
    E: LandlordUnderTest,
>() {
    let landlord = E::landlord().await;
    let records = &landlord.records;
    let first = tenant(1, "Acme", "acme");
    records
        .add_tenant(&first, &key(1), None)
        .await
        .expect("added");
    let again = record("again", 1, "{}");
    let lost = records
        .add_tenant(&tenant(2, "Other", "acme"), &key(2), Some(&again))
        .await;
    assert!(matches!(lost, Err(LandlordError::SlugTaken)));
    assert_eq!(records.outcome("again").await.expect("an answer"), None);
    let won = records
        .add_tenant(&tenant(2, "Other", "other"), &key(2), Some(&again))
        .await;
    assert_eq!(won.expect("added"), Recorded::New);
}

async fn the_same_request_at_the_same_time_makes_one_tenant_and_one_answer<E: LandlordUnderTest>() {
    let landlord = Arc::new(E::landlord().await);
    let requests: Vec<_> = (0..20)
        .map(|n| {
            let landlord = Arc::clone(&landlord);
            tokio::spawn(async move {
                let outcome = record("once", 1, &format!("{{\"n\":{n}}}"));
                let slug = format!("acme-{n}");
                let acme = tenant(n, "Acme", &slug);
                landlord
                    .records
                    .add_tenant(&acme, &key(n), Some(&outcome))
                    .await
            })
        })
        .collect();
    let (mut new, mut answers) = (0, Vec::new());
    for request in requests {
        match request.await.expect("no panic").expect("an answer") {
            Recorded::New => new += 1,
            Recorded::Replayed(outcome) => answers.push(outcome),
        }
    }
    assert_eq!((new, answers.len()), (1, 19));
    let remembered = landlord.records.outcome("once").await.expect("an answer");
    assert!(
        answers
            .iter()
            .all(|answer| Some(answer) == remembered.as_ref())
    );
    assert_eq!(landlord.records.tenants().await.expect("tenants").len(), 1);
}

async fn a_key_that_is_made_again_is_made_once_and_another_request_under_its_key_is_refused<
    E: LandlordUnderTest,
>() {
    let landlord = E::landlord().await;
    let records = &landlord.records;
    let outcome = record("once", 1, "{\"made\":true}");
    let made = records.add_key(&key(1), Some(&outcome)).await;
    assert_eq!(made.expect("made"), Recorded::New);
    let again = records.add_key(&key(2), Some(&outcome)).await;
    let Recorded::Replayed(before) = again.expect("an answer") else {
        panic!("the same request has made another key");
    };
    assert_eq!(before.outcome, outcome.outcome);
    let other = record("once", 2, "{}");
    let refused = records.add_key(&key(3), Some(&other)).await;
    assert!(matches!(refused, Err(LandlordError::KeyReused)));
    assert_eq!(records.keys().await.expect("keys"), [key(1)]);
}

async fn a_key_is_revoked_once_and_is_then_in_force_no_more<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    let records = &landlord.records;
    records.add_key(&key(1), None).await.expect("made");
    assert!(
        records
            .revoke_key(key(1).id, day(1))
            .await
            .expect("an answer")
    );
    assert!(
        !records
            .revoke_key(key(1).id, day(1))
            .await
            .expect("an answer")
    );
    assert!(
        !records
            .revoke_key(key(9).id, day(1))
            .await
            .expect("an answer")
    );
    assert_eq!(records.keys().await.expect("keys"), []);
    assert_eq!(records.key(key(1).id).await.expect("an answer"), None);
}
