//! The agenda: a hint that may be early, but is never late.

use application::ports::agenda::Agenda;
use chrono::TimeDelta;
use domain::catalogue::Catalogue;
use domain::ids::Position;
use domain::subscription::{Effective, SubscriptionCommand};
use futures::FutureExt;

use crate::history::{Ask, History, day};
use crate::landlords::{LandlordUnderTest, on_both_engines};
use crate::store::{Landlord, Tenant, tenant, tenant_id};

on_both_engines! {
    the_earliest_end_of_any_card_comes_first,
    what_was_found_takes_the_place_of_what_was_noted_before,
    what_was_noted_after_the_look_is_not_lost,
    a_tenant_that_is_always_busy_still_gets_rid_of_a_moment_that_is_over,
    a_tenant_can_be_put_off_whatever_its_position,
    a_tenant_of_which_nothing_is_known_has_no_moment,
    whoever_waits_is_woken_by_an_earlier_moment_and_by_nothing_else,
    what_comes_next_of_the_subscription_is_noted_beside_the_cards,
}

struct Setting {
    landlord: Landlord,
    tenant: Tenant,
    history: History,
}

impl Setting {
    async fn new<E: LandlordUnderTest>() -> Self {
        let (landlord, tenant) = (E::landlord().await, tenant().await);
        let history = History::begin(&tenant.ledger);
        Self {
            landlord,
            tenant,
            history,
        }
    }

    /// Issues a card that ends after so many days, or never; answers when.
    async fn issue(&mut self, n: u16, days: Option<i64>) -> Option<chrono::DateTime<chrono::Utc>> {
        self.history
            .ask(&Ask::Issue(n, "Ada".to_owned(), days, false));
        self.tenant.follow(&self.landlord.model, 100).await;
        self.history.expected().last().expect("a card").expires_at
    }

    async fn next(&self) -> Option<chrono::DateTime<chrono::Utc>> {
        let next = self.landlord.model.next(&[]).await.expect("an answer");
        next.map(|(tenant, moment)| {
            assert_eq!(tenant, tenant_id(1));
            moment
        })
    }

    async fn replace(&self, as_of: Position, next: Option<chrono::DateTime<chrono::Utc>>) {
        let replaced = self.landlord.model.replace(tenant_id(1), as_of, next).await;
        replaced.expect("an answer");
    }
}

async fn the_earliest_end_of_any_card_comes_first<E: LandlordUnderTest>() {
    let mut setting = Setting::new::<E>().await;
    assert_eq!(setting.next().await, None);
    setting.issue(1, None).await;
    assert_eq!(setting.next().await, None);
    let late = setting.issue(2, Some(9)).await;
    assert_eq!(setting.next().await, late);
    let early = setting.issue(3, Some(2)).await;
    assert_eq!(setting.next().await, early);
    setting.issue(4, Some(5)).await;
    assert_eq!(setting.next().await, early);
    let except = [tenant_id(2), tenant_id(1)];
    let other = setting.landlord.model.next(&except).await;
    assert_eq!(other.expect("an answer"), None);
}

async fn what_was_found_takes_the_place_of_what_was_noted_before<E: LandlordUnderTest>() {
    let mut setting = Setting::new::<E>().await;
    setting.issue(1, Some(2)).await;
    let found = Some(day(20));
    setting.replace(setting.history.position(), found).await;
    assert_eq!(setting.next().await, found);
    setting.replace(setting.history.position(), None).await;
    assert_eq!(setting.next().await, None);
}

async fn what_was_noted_after_the_look_is_not_lost<E: LandlordUnderTest>() {
    let mut setting = Setting::new::<E>().await;
    setting.issue(1, Some(9)).await;
    let looked = setting.history.position();
    let noted = setting.issue(2, Some(1)).await;
    setting.replace(looked, None).await;
    assert_eq!(setting.next().await, noted);
}

async fn a_tenant_that_is_always_busy_still_gets_rid_of_a_moment_that_is_over<
    E: LandlordUnderTest,
>() {
    let mut setting = Setting::new::<E>().await;
    let over = setting.issue(1, Some(1)).await;
    assert_eq!(setting.next().await, over);
    let mut last = None;
    for n in 2..5 {
        let looked = setting.history.position();
        last = setting.issue(n, Some(9)).await;
        setting.replace(looked, None).await;
    }
    assert!(setting.next().await > over);
    assert!(setting.next().await <= last);
}

async fn a_tenant_can_be_put_off_whatever_its_position<E: LandlordUnderTest>() {
    let mut setting = Setting::new::<E>().await;
    setting.issue(1, Some(1)).await;
    setting.replace(Position::MAX, Some(day(40))).await;
    assert_eq!(setting.next().await, Some(day(40)));
    let noted = setting.issue(2, Some(3)).await;
    assert_eq!(setting.next().await, noted);
}

async fn a_tenant_of_which_nothing_is_known_has_no_moment<E: LandlordUnderTest>() {
    let setting = Setting::new::<E>().await;
    setting.replace(7, Some(day(1))).await;
    assert_eq!(setting.next().await, None);
}

async fn whoever_waits_is_woken_by_an_earlier_moment_and_by_nothing_else<E: LandlordUnderTest>() {
    let mut setting = Setting::new::<E>().await;
    let woken = |setting: &Setting| setting.landlord.model.changed().now_or_never().is_some();
    setting.issue(1, None).await;
    assert!(!woken(&setting));
    setting.issue(2, Some(5)).await;
    assert!(woken(&setting));
    setting.issue(3, Some(9)).await;
    assert!(!woken(&setting));
    setting.issue(4, Some(2)).await;
    assert!(woken(&setting));
    setting
        .replace(setting.history.position(), Some(day(30)))
        .await;
    assert!(!woken(&setting));
}

async fn what_comes_next_of_the_subscription_is_noted_beside_the_cards<E: LandlordUnderTest>() {
    let mut setting = Setting::new::<E>().await;
    let end = setting.issue(1, Some(20)).await;
    let at = setting.history.now;
    let plan = |key| Catalogue::standard().plan(key).expect("a plan").clone();
    setting.history.tell(SubscriptionCommand::StartTrial {
        plan: plan("enterprise"),
        days: 14,
        at,
    });
    setting.tenant.follow(&setting.landlord.model, 100).await;
    let trial_ends = at + TimeDelta::days(14);
    assert_eq!(setting.next().await, Some(trial_ends));
    setting.history.tell(SubscriptionCommand::ChangePlan {
        to: plan("pro"),
        effective: Effective::At(day(3)),
        at,
    });
    setting.tenant.follow(&setting.landlord.model, 100).await;
    assert_eq!(setting.next().await, Some(day(3)));
    setting.replace(setting.history.position(), end).await;
    assert_eq!(setting.next().await, end);
}
