//! The landlord's records from elsewhere: as they were, all or none, and never over what is there.

use application::keys::ApiKey;
use application::ports::restore::StoredOutcome;
use application::ports::{Landlord as _, LandlordError};
use application::scope::Role;
use application::tenants::Tenant;

use crate::history::day;
use crate::landlords::{LandlordUnderTest, on_both_engines};
use crate::records::{key, tenant};

on_both_engines! {
    a_tenant_from_elsewhere_comes_with_its_keys_and_answers,
    a_tenant_whose_slug_or_id_is_taken_brings_nothing,
    a_key_that_was_revoked_here_stays_revoked_and_an_answer_stays_the_first,
    answers_are_read_page_by_page_between_two_keys,
}

fn answer(key: &str, fingerprint: u8) -> StoredOutcome {
    StoredOutcome {
        key: key.to_owned(),
        fingerprint: [fingerprint; 32],
        outcome: format!("{{ \"n\":  {fingerprint}.0 }}"),
        position: 0,
        recorded_at: day(3),
    }
}

fn ready(n: u64, slug: &str) -> Tenant {
    Tenant {
        ready: true,
        ..tenant(n, "Acme", slug)
    }
}

async fn a_tenant_from_elsewhere_comes_with_its_keys_and_answers<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    let records = &landlord.records;
    let acme = ready(1, "acme");
    let viewer = ApiKey {
        role: Role::TenantViewer,
        tenant: Some(acme.id),
        ..key(2)
    };
    let keys = [key(1), viewer];
    let answers = [answer("a", 1), answer("b", 2)];
    let restored = records.restore(Some(&acme), &keys, &answers).await;
    restored.expect("restored");
    assert_eq!(records.tenants().await.expect("tenants"), [acme]);
    assert_eq!(records.keys().await.expect("keys"), keys);
    let kept = records.answers("", None, 10).await.expect("answers");
    assert_eq!(kept, answers);
    let remembered = records.outcome("b").await.expect("an answer");
    assert_eq!(remembered.expect("known").outcome, answers[1].outcome);
}

async fn a_tenant_whose_slug_or_id_is_taken_brings_nothing<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    let records = &landlord.records;
    let acme = ready(1, "acme");
    records
        .restore(Some(&acme), &[], &[])
        .await
        .expect("restored");
    for other in [ready(2, "acme"), ready(1, "other")] {
        let (keys, answers) = ([key(2)], [answer("a", 1)]);
        let refused = records.restore(Some(&other), &keys, &answers).await;
        assert!(
            matches!(refused, Err(LandlordError::SlugTaken)),
            "{refused:?}"
        );
    }
    assert_eq!(records.tenants().await.expect("tenants"), [acme]);
    assert_eq!(records.keys().await.expect("keys"), []);
    assert_eq!(records.outcome("a").await.expect("an answer"), None);
}

async fn a_key_that_was_revoked_here_stays_revoked_and_an_answer_stays_the_first<
    E: LandlordUnderTest,
>() {
    let landlord = E::landlord().await;
    let records = &landlord.records;
    let first = [answer("a", 1)];
    records
        .restore(None, &[key(1)], &first)
        .await
        .expect("added");
    assert!(
        records
            .revoke_key(key(1).id, day(4))
            .await
            .expect("revoked")
    );
    let (keys, second) = ([key(1), key(2)], [answer("a", 2)]);
    records.restore(None, &keys, &second).await.expect("added");
    assert_eq!(records.keys().await.expect("keys"), [key(2)]);
    assert_eq!(records.answers("", None, 10).await.expect("answers"), first);
}

async fn answers_are_read_page_by_page_between_two_keys<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    let records = &landlord.records;
    let all = ["A:1", "a:", "a:1", "a:2", "a:3", "a;", "b:1"].map(|key| answer(key, 1));
    records.restore(None, &[], &all).await.expect("added");
    let page = records.answers("a:", Some("a;"), 2).await.expect("answers");
    assert_eq!(page, all[2..4]);
    let rest = records
        .answers("a:2", Some("a;"), 2)
        .await
        .expect("answers");
    assert_eq!(rest, all[4..5]);
    assert_eq!(records.answers("", None, 10).await.expect("answers"), all);
}
