//! The landlord's records of usage audits: one runs at a time, one a night, the newest are kept.

use application::ports::usage::{Begun, UsageAuditRecords};
use application::ports::{IdempotencyRecord, LandlordError, Recorded};
use application::usage_audits::nightly::TimeOfDay;
use application::usage_audits::{AuditState, Night, REPORTS_MAX, UsageAudit};
use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use crate::history::day;
use crate::landlords::{LandlordUnderTest, on_both_engines};
use crate::store::Landlord;

on_both_engines! {
    a_report_is_found_as_it_was_told_last,
    while_one_audit_runs_no_other_begins,
    an_audit_that_is_not_heard_of_any_more_was_interrupted,
    the_night_of_an_interrupted_audit_is_free_for_another,
    of_two_nodes_one_begins_the_audit_of_a_night,
    the_same_request_begins_one_audit_and_is_answered_the_same,
    the_newest_reports_are_kept_and_listed_in_pages,
    a_process_that_is_the_only_one_interrupts_what_was_running,
}

/// The `n`-th audit, begun on that day.
fn audit(n: i64) -> UsageAudit {
    UsageAudit {
        id: Uuid::from_u128(0x0199_dddd_0000_7000_8000_0000_0000_0000 + n as u128),
        state: AuditState::Running,
        tenant: None,
        started_at: day(n),
        heard_at: day(n),
        tenants: 7,
        tenants_done: 0,
        events: 0,
        drifted_total: 0,
        drifted: vec![],
        failed_total: 0,
        failed: vec![],
    }
}

fn long_ago() -> DateTime<Utc> {
    day(-1_000)
}

fn finished(audit: &UsageAudit) -> UsageAudit {
    UsageAudit {
        state: AuditState::Finished,
        tenants_done: 7,
        events: 700,
        ..audit.clone()
    }
}

fn night(n: i64) -> Night {
    let at: TimeOfDay = "03:00".parse().expect("a time of day");
    at.next_after(day(n)).1
}

async fn begun(landlord: &Landlord, audit: &UsageAudit) -> Begun {
    let begun = landlord.records.begin(audit, None, long_ago(), None).await;
    begun.expect("an answer")
}

/// The `n`-th audit, as that of a night.
async fn begun_at(landlord: &Landlord, n: i64, night: &Night) -> Begun {
    let (records, audit) = (&landlord.records, audit(n));
    let begun = records.begin(&audit, Some(night), long_ago(), None).await;
    begun.expect("an answer")
}

async fn state(landlord: &Landlord, audit: &UsageAudit) -> AuditState {
    let found = landlord.records.find(audit.id).await.expect("an answer");
    found.expect("an audit").state
}

async fn a_report_is_found_as_it_was_told_last<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    let first = audit(1);
    assert_eq!(
        begun(&landlord, &first).await,
        Begun::Recorded(Recorded::New)
    );
    let found = landlord.records.find(first.id).await.expect("an answer");
    assert_eq!(found, Some(first.clone()));
    let told = finished(&first);
    landlord.records.report(&told).await.expect("told");
    let found = landlord.records.find(first.id).await.expect("an answer");
    assert_eq!(found, Some(told));
    let found = landlord.records.find(audit(9).id).await;
    assert_eq!(found.expect("an answer"), None);
}

async fn while_one_audit_runs_no_other_begins<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    begun(&landlord, &audit(1)).await;
    assert_eq!(begun(&landlord, &audit(2)).await, Begun::Busy);
    assert_eq!(begun_at(&landlord, 2, &night(2)).await, Begun::Busy);
    let told = landlord.records.report(&finished(&audit(1))).await;
    told.expect("told");
    assert_eq!(
        begun(&landlord, &audit(2)).await,
        Begun::Recorded(Recorded::New)
    );
}

async fn an_audit_that_is_not_heard_of_any_more_was_interrupted<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    begun(&landlord, &audit(1)).await;
    let since = day(1) + TimeDelta::seconds(1);
    let second = landlord.records.begin(&audit(2), None, since, None).await;
    assert_eq!(second.expect("an answer"), Begun::Recorded(Recorded::New));
    assert_eq!(state(&landlord, &audit(1)).await, AuditState::Interrupted);
    // It was only slow, and says how it ended.
    let told = landlord.records.report(&finished(&audit(1))).await;
    told.expect("told");
    assert_eq!(state(&landlord, &audit(1)).await, AuditState::Finished);
}

async fn the_night_of_an_interrupted_audit_is_free_for_another<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    let tonight = night(1);
    begun_at(&landlord, 1, &tonight).await;
    let interrupted = UsageAudit {
        state: AuditState::Interrupted,
        ..audit(1)
    };
    let told = landlord.records.report(&interrupted).await;
    told.expect("told");
    let again = Begun::Recorded(Recorded::New);
    assert_eq!(begun_at(&landlord, 2, &tonight).await, again);
    // The second was left alone by its node.
    let (records, since) = (&landlord.records, day(2) + TimeDelta::seconds(1));
    let third = records.begin(&audit(3), Some(&tonight), since, None).await;
    assert_eq!(third.expect("an answer"), again);
}

async fn of_two_nodes_one_begins_the_audit_of_a_night<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    let tonight = night(1);
    let both = futures::future::join(
        begun_at(&landlord, 1, &tonight),
        begun_at(&landlord, 2, &tonight),
    );
    let (first, second) = both.await;
    let mut both = [first, second];
    let running = Begun::Taken(AuditState::Running);
    both.sort_by_key(|begun| *begun == running);
    assert_eq!(both, [Begun::Recorded(Recorded::New), running]);
    for n in [1, 2] {
        let told = landlord.records.report(&finished(&audit(n))).await;
        told.expect("told");
    }
    let over = Begun::Taken(AuditState::Finished);
    assert_eq!(begun_at(&landlord, 3, &tonight).await, over);
    let next = begun_at(&landlord, 3, &night(2)).await;
    assert_eq!(next, Begun::Recorded(Recorded::New));
}

async fn the_same_request_begins_one_audit_and_is_answered_the_same<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    let record = |fingerprint: u8| IdempotencyRecord {
        key: "landlord:audit".to_owned(),
        fingerprint: [fingerprint; 32],
        outcome: "the first".to_owned(),
    };
    let ask = async |n: i64, fingerprint: u8| {
        let (records, audit, record) = (&landlord.records, audit(n), record(fingerprint));
        let begun = records.begin(&audit, None, long_ago(), Some(&record));
        begun.await
    };
    let first = ask(1, 1).await.expect("an answer");
    assert_eq!(first, Begun::Recorded(Recorded::New));
    match ask(2, 1).await.expect("an answer") {
        Begun::Recorded(Recorded::Replayed(outcome)) => assert_eq!(outcome.outcome, "the first"),
        other => panic!("{other:?}"),
    }
    let other = ask(2, 2).await;
    assert!(matches!(other, Err(LandlordError::KeyReused)), "{other:?}");
    // Refused because another one runs, it is not remembered.
    let busy = IdempotencyRecord {
        key: "landlord:another".to_owned(),
        ..record(1)
    };
    for expected in [Begun::Busy, Begun::Recorded(Recorded::New)] {
        let records = &landlord.records;
        let begun = records
            .begin(&audit(2), None, long_ago(), Some(&busy))
            .await;
        assert_eq!(begun.expect("an answer"), expected);
        records.report(&finished(&audit(1))).await.expect("told");
    }
}

async fn the_newest_reports_are_kept_and_listed_in_pages<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    let last = REPORTS_MAX as i64 + 5;
    for n in 1..=last {
        begun(&landlord, &audit(n)).await;
        let told = landlord.records.report(&finished(&audit(n))).await;
        told.expect("told");
    }
    let (mut found, mut before) = (vec![], None);
    loop {
        let page = landlord.records.list(before, 30).await.expect("a page");
        let Some(end) = page.last() else { break };
        before = Some(end.id);
        found.extend(page);
    }
    let newest: Vec<_> = (6..=last).rev().map(|n| finished(&audit(n))).collect();
    assert_eq!(found, newest);
}

async fn a_process_that_is_the_only_one_interrupts_what_was_running<E: LandlordUnderTest>() {
    let landlord = E::landlord().await;
    begun(&landlord, &audit(1)).await;
    let interrupted = landlord.records.interrupt_usage_audits().await;
    interrupted.expect("interrupted");
    assert_eq!(state(&landlord, &audit(1)).await, AuditState::Interrupted);
    assert_eq!(
        begun(&landlord, &audit(2)).await,
        Begun::Recorded(Recorded::New)
    );
}
