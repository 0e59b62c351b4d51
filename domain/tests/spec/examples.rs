//! The people, plans and moments that the sentences speak of.

use chrono::{DateTime, TimeDelta, Utc};
use domain::card::{CardCommand, CardEvent, Holder, Issue};
use domain::catalogue::{Catalogue, FeatureSlug, FeatureValue, PlanTerms};
use domain::ids::{CardId, CardNumber, TenantId};
use domain::subscription::{Attribution, Grant, GrantKind, SubscriptionEvent, SuspensionCause};
use domain::text::{Email, HolderName, Tier};

/// Nine in the morning of the `n`-th day of 2026, from 0.
pub fn day(n: i64) -> DateTime<Utc> {
    let first = DateTime::from_timestamp(1_767_258_000, 0).expect("a time chrono can hold");
    first + TimeDelta::days(n)
}

/// The smallest step that a stored time can show.
pub fn just_before(time: DateTime<Utc>) -> DateTime<Utc> {
    time - TimeDelta::microseconds(1)
}

/// The `n`-th card's id.
pub fn card_id(n: u16) -> CardId {
    format!("0199aaaa-0000-7000-8000-{n:012}")
        .parse()
        .expect("a UUID")
}

/// The `n`-th tenant's id.
pub fn tenant_id(n: u16) -> TenantId {
    format!("0199bbbb-0000-7000-8000-{n:012}")
        .parse()
        .expect("a UUID")
}

/// A holder who gave an e-mail address.
pub fn ada() -> Holder {
    Holder {
        email: Some(Email::try_from("ada@example.com".to_owned()).expect("an address")),
        ..holder("Ada Lovelace")
    }
}

/// A holder who gave a name only.
pub fn holder(name: &str) -> Holder {
    Holder {
        name: HolderName::try_from(name.to_owned()).expect("a name"),
        email: None,
    }
}

/// The particulars of Ada's card, issued on day 0, without an end.
pub fn adas_card() -> Issue {
    Issue {
        number: CardNumber::from_serial(1),
        holder: ada(),
        external_ref: None,
        tier: Tier::default(),
        expires_at: None,
        activate: false,
        replaces: None,
        at: day(0),
    }
}

/// The command that issues Ada's card.
pub fn issue() -> CardCommand {
    CardCommand::Issue(adas_card())
}

/// The event that issuing this card leads to.
pub fn issued(issue: Issue) -> CardEvent {
    CardEvent::CardIssued {
        number: issue.number,
        holder: issue.holder,
        external_ref: issue.external_ref,
        tier: issue.tier,
        expires_at: issue.expires_at,
        replaces: issue.replaces,
        at: issue.at,
    }
}

/// Ada's card was issued, without an end.
pub fn issued_for_ever() -> CardEvent {
    issued(adas_card())
}

/// Ada's card was issued, to end at `end`.
pub fn issued_until(end: DateTime<Utc>) -> CardEvent {
    issued(Issue {
        expires_at: Some(end),
        ..adas_card()
    })
}

/// A plan of the standard catalogue.
pub fn plan(key: &str) -> PlanTerms {
    Catalogue::standard()
        .plan(key)
        .expect("a plan that is for sale")
        .clone()
}

/// A feature's slug.
pub fn slug(text: &str) -> FeatureSlug {
    FeatureSlug::try_from(text.to_owned()).expect("a slug")
}

/// Granted on top of the plan.
pub fn add_on(value: FeatureValue, expires_at: Option<DateTime<Utc>>) -> Grant {
    Grant {
        value,
        kind: GrantKind::AddOn,
        expires_at,
    }
}

/// Granted in the plan's place.
pub fn override_with(value: FeatureValue, expires_at: Option<DateTime<Utc>>) -> Grant {
    Grant {
        value,
        kind: GrantKind::Override,
        expires_at,
    }
}

/// The subscription began on this plan, on day 0.
pub fn started(key: &str) -> SubscriptionEvent {
    SubscriptionEvent::SubscriptionStarted {
        plan: plan(key),
        attribution: Attribution::default(),
        at: day(0),
    }
}

/// The tenant went over from one plan to a higher one, on the `n`-th day.
pub fn upgraded(from: &str, to: &str, n: i64) -> SubscriptionEvent {
    SubscriptionEvent::PlanUpgraded {
        from: plan(from).key,
        to: plan(to),
        attribution: Attribution::default(),
        at: day(n),
    }
}

/// The landlord suspended it on the `n`-th day.
pub fn suspended(n: i64) -> SubscriptionEvent {
    SubscriptionEvent::SubscriptionSuspended {
        cause: SuspensionCause::Landlord,
        at: day(n),
    }
}

/// A feature was granted beside the plan, on day 1.
pub fn granted(feature: &str, grant: Grant) -> SubscriptionEvent {
    SubscriptionEvent::AddOnGranted {
        feature: slug(feature),
        grant,
        attribution: Attribution::default(),
        at: day(1),
    }
}
