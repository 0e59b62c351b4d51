//! A tenant's subscription: what the landlord may do to it, what then happened, what it is now.
//!
//! One subscription a tenant, in the tenant's own ledger, so that a plan change and a card have
//! an order. What the subscription allows at a given moment is in [`crate::entitlements`].

mod event;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use self::event::{Grant, GrantKind, SubscriptionEvent};
use crate::catalogue::{FeatureSlug, PlanTerms};
use crate::ids::Position;

/// What may be asked of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub enum SubscriptionCommand {
    /// Begin, on a plan.
    Start {
        /// The plan's terms.
        plan: PlanTerms,
        /// When.
        at: DateTime<Utc>,
    },
    /// Go over to another plan, or to another version of the same.
    ChangePlan {
        /// The new plan's terms.
        to: PlanTerms,
        /// When.
        at: DateTime<Utc>,
    },
    /// Grant a feature beside the plan; a second grant of the same feature replaces the first.
    GrantAddOn {
        /// Which.
        feature: FeatureSlug,
        /// How much of it, and how.
        grant: Grant,
        /// When.
        at: DateTime<Utc>,
    },
    /// Take a granted feature back.
    RevokeAddOn {
        /// Which.
        feature: FeatureSlug,
        /// When.
        at: DateTime<Utc>,
    },
    /// Stop service until reinstated.
    Suspend {
        /// When.
        at: DateTime<Utc>,
    },
    /// Resume service exactly as it was.
    Reinstate {
        /// When.
        at: DateTime<Utc>,
    },
    /// End the subscription, for good. One that is suspended ends at once: there is no service
    /// left to run out.
    Cancel {
        /// When service ends; an end before `at` is `at`.
        ends_at: DateTime<Utc>,
        /// When.
        at: DateTime<Utc>,
    },
    /// Publish again what was published, whatever became of the subscription. That `from` is in
    /// the ledger is for the asker to see to.
    RequestRepublish {
        /// The position of the first event.
        from: Position,
        /// When.
        at: DateTime<Utc>,
    },
}

/// Why a subscription did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionRefusal {
    /// It has not begun.
    #[error("the subscription has not started")]
    NotStarted,
    /// It began before.
    #[error("the subscription has started already")]
    AlreadyStarted,
    /// It was ended, for good.
    #[error("the subscription was cancelled")]
    Cancelled,
    /// The feature was not granted beside the plan.
    #[error("the feature {0} was not granted beside the plan")]
    NotGranted(FeatureSlug),
    /// The asked end lies in the past.
    #[error("expires_at must lie in the future")]
    ExpiryNotInFuture,
}

/// A subscription as its events tell it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum TenantSubscription {
    /// Nothing happened yet.
    #[default]
    NotStarted,
    /// In service.
    Active(Terms),
    /// Out of service until reinstated.
    Suspended(Terms),
    /// Ended.
    Cancelled {
        /// The terms in force until the end.
        terms: Terms,
        /// When service ends.
        ends_at: DateTime<Utc>,
    },
}

/// What a tenant has bought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// The plan.
    pub plan: PlanTerms,
    /// What was granted beside it.
    pub grants: BTreeMap<FeatureSlug, Grant>,
    /// When the subscription began.
    pub started_at: DateTime<Utc>,
}

impl TenantSubscription {
    /// What happens when `command` is given to this subscription.
    ///
    /// # Errors
    ///
    /// A [`SubscriptionRefusal`] if its state does not allow the command; nothing happens then.
    pub fn decide(
        &self,
        command: SubscriptionCommand,
    ) -> Result<Vec<SubscriptionEvent>, SubscriptionRefusal> {
        use SubscriptionCommand as Command;
        use SubscriptionEvent as Event;

        let (terms, suspended) = match (self, &command) {
            (Self::NotStarted, Command::Start { plan, at }) => {
                let plan = plan.clone();
                return Ok(vec![Event::SubscriptionStarted { plan, at: *at }]);
            }
            (Self::NotStarted, _) => return Err(SubscriptionRefusal::NotStarted),
            (_, Command::Start { .. }) => return Err(SubscriptionRefusal::AlreadyStarted),
            (Self::Cancelled { .. }, Command::Cancel { .. }) => return Ok(vec![]),
            (Self::Cancelled { terms, .. }, Command::RequestRepublish { .. }) => (terms, false),
            (Self::Cancelled { .. }, _) => return Err(SubscriptionRefusal::Cancelled),
            (Self::Active(terms), _) => (terms, false),
            (Self::Suspended(terms), _) => (terms, true),
        };
        match command {
            Command::Start { .. } => Err(SubscriptionRefusal::AlreadyStarted),
            Command::RequestRepublish { from, at } => {
                Ok(vec![Event::RepublishRequested { from, at }])
            }
            Command::ChangePlan { to, .. } if to == terms.plan => Ok(vec![]),
            Command::ChangePlan { to, at } => {
                let from = terms.plan.key.clone();
                Ok(vec![match to.rank < terms.plan.rank {
                    true => Event::PlanDowngraded { from, to, at },
                    false => Event::PlanUpgraded { from, to, at },
                }])
            }
            Command::GrantAddOn { grant, at, .. }
                if grant.expires_at.is_some_and(|end| end <= at) =>
            {
                Err(SubscriptionRefusal::ExpiryNotInFuture)
            }
            Command::GrantAddOn { feature, grant, .. }
                if terms.grants.get(&feature) == Some(&grant) =>
            {
                Ok(vec![])
            }
            Command::GrantAddOn { feature, grant, at } => {
                Ok(vec![Event::AddOnGranted { feature, grant, at }])
            }
            Command::RevokeAddOn { feature, at } => match terms.grants.contains_key(&feature) {
                true => Ok(vec![Event::AddOnRevoked { feature, at }]),
                false => Err(SubscriptionRefusal::NotGranted(feature)),
            },
            Command::Suspend { .. } if suspended => Ok(vec![]),
            Command::Suspend { at } => Ok(vec![Event::SubscriptionSuspended { at }]),
            Command::Reinstate { .. } if !suspended => Ok(vec![]),
            Command::Reinstate { at } => Ok(vec![Event::SubscriptionReinstated { at }]),
            Command::Cancel { ends_at, at } => {
                // A future end would put a tenant that did not pay back into service until then.
                let ends_at = if suspended { at } else { ends_at.max(at) };
                Ok(vec![Event::SubscriptionCancelled { ends_at, at }])
            }
        }
    }

    /// Applies what happened. A subscription that never started stays so, whatever a broken
    /// history says of it.
    pub fn evolve(&mut self, event: SubscriptionEvent) {
        use SubscriptionEvent as Event;

        match event {
            Event::SubscriptionStarted { plan, at } => {
                *self = Self::Active(Terms {
                    plan,
                    grants: BTreeMap::new(),
                    started_at: at,
                });
            }
            Event::PlanUpgraded { to, .. } | Event::PlanDowngraded { to, .. } => {
                self.amend(|terms| terms.plan = to);
            }
            Event::AddOnGranted { feature, grant, .. } => {
                self.amend(|terms| {
                    terms.grants.insert(feature, grant);
                });
            }
            Event::AddOnRevoked { feature, .. } => {
                self.amend(|terms| {
                    terms.grants.remove(&feature);
                });
            }
            Event::SubscriptionSuspended { .. } => self.enter(Self::Suspended),
            Event::SubscriptionReinstated { .. } => self.enter(Self::Active),
            Event::SubscriptionCancelled { ends_at, .. } => {
                self.enter(|terms| Self::Cancelled { terms, ends_at });
            }
            Event::RepublishRequested { .. } => {}
        }
    }

    /// What the tenant has bought; `None` before the subscription started.
    pub const fn terms(&self) -> Option<&Terms> {
        match self {
            Self::NotStarted => None,
            Self::Active(terms) | Self::Suspended(terms) | Self::Cancelled { terms, .. } => {
                Some(terms)
            }
        }
    }

    fn amend(&mut self, change: impl FnOnce(&mut Terms)) {
        match self {
            Self::NotStarted => {}
            Self::Active(terms) | Self::Suspended(terms) | Self::Cancelled { terms, .. } => {
                change(terms);
            }
        }
    }

    fn enter(&mut self, stage: impl FnOnce(Terms) -> Self) {
        match std::mem::take(self) {
            Self::NotStarted => {}
            Self::Active(terms) | Self::Suspended(terms) | Self::Cancelled { terms, .. } => {
                *self = stage(terms);
            }
        }
    }
}

impl Aggregate for TenantSubscription {
    const TYPE: &'static str = "TenantSubscription";
    type Command = SubscriptionCommand;
    type Event = SubscriptionEvent;
    type Error = SubscriptionRefusal;
    type Services = ();

    /// [`TenantSubscription::decide`] behind the framework's signature. The sink applies what
    /// it is given, and the store applies it again; writing against a clone keeps that to once.
    async fn handle(
        &mut self,
        command: SubscriptionCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), SubscriptionRefusal> {
        let mut scratch = self.clone();
        for event in self.decide(command)? {
            sink.write(event, &mut scratch).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: SubscriptionEvent) {
        self.evolve(event);
    }
}
