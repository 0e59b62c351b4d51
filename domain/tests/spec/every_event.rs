//! One of each event, with all of its fields filled.

use domain::card::{CardEvent, Status};
use domain::catalogue::{Catalogue, CatalogueEvent, FeatureValue, MigrationFailure, feature};
use domain::event::Event;
use domain::subscription::{Attribution, SubscriptionEvent, SuspensionCause};
use domain::text::{ExternalRef, Reason, Tier};
use domain::usage::{Usage, UsageEvent};

use crate::examples::{ada, adas_card, add_on, card_id, day, issued, plan, slug, tenant_id};

/// One of every event there is, each in its newest version and with all its fields.
pub fn every_event() -> Vec<Event> {
    let cards = std::iter::successors(Some(card_issued(gold())), next_card_event);
    let first = SubscriptionEvent::SubscriptionStarted {
        plan: plan("free"),
        attribution: attributed(),
        at: day(0),
    };
    let subscriptions = std::iter::successors(Some(first), next_subscription_event);
    let module = Catalogue::standard().modules.remove(0);
    let first = CatalogueEvent::ModuleDefined { module, at: day(0) };
    let catalogue = std::iter::successors(Some(first), next_catalogue_event);
    let first = UsageEvent::UsageThresholdReached {
        percent: 80,
        used: 400,
        limit: 500,
        at: day(1),
    };
    let usages = std::iter::successors(Some(first), next_usage_event);
    cards
        .map(Event::from)
        .chain(subscriptions.map(Event::from))
        .chain(catalogue.map(Event::from))
        .chain(usages.map(Event::from))
        .collect()
}

pub fn card_issued(tier: Tier) -> CardEvent {
    let external_ref = ExternalRef::try_from("member-4711".to_owned()).expect("a reference");
    issued(domain::card::Issue {
        external_ref: Some(external_ref),
        tier,
        expires_at: Some(day(365)),
        replaces: Some(card_id(1)),
        ..adas_card()
    })
}

fn gold() -> Tier {
    Tier::try_from("gold".to_owned()).expect("a tier")
}

/// The example after this one. A new event does not compile until it has its place here.
fn next_card_event(event: &CardEvent) -> Option<CardEvent> {
    let at = day(1);
    Some(match event {
        CardEvent::CardIssued { .. } => CardEvent::CardActivated { at },
        CardEvent::CardActivated { .. } => CardEvent::CardSuspended { at },
        CardEvent::CardSuspended { .. } => CardEvent::CardReinstated { at },
        CardEvent::CardReinstated { .. } => CardEvent::CardRevoked {
            from: Status::Active,
            at,
        },
        CardEvent::CardRevoked { .. } => CardEvent::CardExpired {
            from: Status::Suspended,
            at,
        },
        CardEvent::CardExpired { .. } => CardEvent::CardRenewed {
            from: Status::Expired,
            to: Status::Active,
            expires_at: day(730),
            at,
        },
        CardEvent::CardRenewed { .. } => CardEvent::CardReplaced {
            from: Status::Issued,
            by: card_id(2),
            at,
        },
        CardEvent::CardReplaced { .. } => CardEvent::CardHolderUpdated { holder: ada(), at },
        CardEvent::CardHolderUpdated { .. } => return None,
    })
}

/// As [`next_card_event`].
fn next_subscription_event(event: &SubscriptionEvent) -> Option<SubscriptionEvent> {
    use SubscriptionEvent as Event;

    let (at, attribution, plan_key) = (day(1), attributed(), plan("enterprise").key);
    Some(match event {
        Event::SubscriptionStarted { .. } => Event::PlanUpgraded {
            from: plan("free").key,
            to: plan("enterprise"),
            attribution,
            at,
        },
        Event::PlanUpgraded { .. } => Event::PlanDowngraded {
            from: plan("enterprise").key,
            to: plan("pro"),
            attribution,
            at,
        },
        Event::PlanDowngraded { .. } => Event::PlanChangeScheduled {
            to: plan("free"),
            effective_at: day(31),
            attribution,
            at,
        },
        Event::PlanChangeScheduled { .. } => Event::PlanChangeUnscheduled {
            to: plan("free").key,
            at,
        },
        Event::PlanChangeUnscheduled { .. } => Event::TrialStarted {
            plan: plan("enterprise"),
            ends_at: day(15),
            attribution,
            at,
        },
        Event::TrialStarted { .. } => Event::TrialExpired { plan: plan_key, at },
        Event::TrialExpired { .. } => Event::TrialConverted { plan: plan_key, at },
        Event::TrialConverted { .. } => Event::TrialCancelled { plan: plan_key, at },
        Event::TrialCancelled { .. } => Event::AddOnGranted {
            feature: slug(feature::MAX_CARDS),
            grant: add_on(FeatureValue::Limit(1_000), Some(day(30))),
            attribution,
            at,
        },
        Event::AddOnGranted { .. } => Event::AddOnRevoked {
            feature: slug(feature::MAX_CARDS),
            at,
        },
        Event::AddOnRevoked { .. } => Event::AddOnExpired {
            feature: slug(feature::MAX_CARDS),
            at,
        },
        Event::AddOnExpired { .. } => Event::GraceSet { days: 30, at },
        Event::GraceSet { .. } => Event::PaymentFailed {
            grace_ends_at: day(15),
            at,
        },
        Event::PaymentFailed { .. } => Event::SubscriptionSuspended {
            cause: SuspensionCause::Payment,
            at,
        },
        Event::SubscriptionSuspended { .. } => Event::SubscriptionReinstated { at },
        Event::SubscriptionReinstated { .. } => Event::SubscriptionCancelled {
            ends_at: day(30),
            at,
        },
        Event::SubscriptionCancelled { .. } => Event::SubscriptionEnded { at },
        Event::SubscriptionEnded { .. } => Event::RepublishRequested { from: 7, at },
        Event::RepublishRequested { .. } => return None,
    })
}

fn attributed() -> Attribution {
    Attribution {
        by: Some("0199aaaa-0000-7000-8000-00000000a001".to_owned()),
        why: Some(Reason::try_from("a sample".to_owned()).expect("a reason")),
    }
}

/// As [`next_card_event`].
fn next_catalogue_event(event: &CatalogueEvent) -> Option<CatalogueEvent> {
    use CatalogueEvent as Event;

    let at = day(1);
    let (slug, key) = (slug(feature::CARDS_STATS), plan("enterprise").key);
    let stats = || {
        let standard = Catalogue::standard();
        standard.feature(slug.as_str()).expect("a feature").clone()
    };
    let by = "0199aaaa-0000-7000-8000-00000000a001".to_owned();
    Some(match event {
        Event::ModuleDefined { .. } => Event::FeatureDefined {
            feature: stats(),
            at,
        },
        Event::FeatureDefined { .. } => Event::FeatureRevised {
            feature: stats(),
            at,
        },
        Event::FeatureRevised { .. } => Event::FeatureArchived { slug, at },
        Event::FeatureArchived { .. } => Event::FeatureRestored { slug, at },
        Event::FeatureRestored { .. } => Event::FeatureKilled {
            slug,
            by,
            reason: Some("it is slow today".to_owned()),
            at,
        },
        Event::FeatureKilled { .. } => Event::FeatureRevived { slug, at },
        Event::FeatureRevived { .. } => Event::PlanDefined {
            plan: plan("enterprise"),
            at,
        },
        Event::PlanDefined { .. } => Event::PlanRevised {
            plan: plan("enterprise"),
            at,
        },
        Event::PlanRevised { .. } => Event::PlanArchived { key, at },
        Event::PlanArchived { .. } => Event::PlanRestored { key, at },
        Event::PlanRestored { .. } => Event::PlanMigrationStarted {
            key,
            version: 2,
            by,
            at,
        },
        Event::PlanMigrationStarted { .. } => Event::PlanMigrationProgressed {
            key,
            after: tenant_id(2),
            migrated: 1,
            unchanged: 0,
            failed: vec![MigrationFailure {
                tenant: tenant_id(1),
                detail: "the tenant's store".to_owned(),
            }],
            at,
        },
        Event::PlanMigrationProgressed { .. } => Event::PlanMigrationFinished { key, at },
        Event::PlanMigrationFinished { .. } => return None,
    })
}

/// As [`next_card_event`].
fn next_usage_event(event: &UsageEvent) -> Option<UsageEvent> {
    let counts = |expired| Usage {
        issued: 1,
        active: 2,
        suspended: 3,
        revoked: 4,
        expired,
        replaced: 6,
    };
    match event {
        UsageEvent::UsageThresholdReached { .. } => Some(UsageEvent::UsageReconciled {
            before: counts(7),
            after: counts(5),
            at: day(1),
        }),
        UsageEvent::UsageReconciled { .. } => None,
    }
}
