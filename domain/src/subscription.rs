//! A tenant's subscription: what the landlord may do to it, what then happened, what it is now.
//!
//! One subscription a tenant, in the tenant's own ledger, so that a plan change and a card have
//! an order. What the subscription allows at a given moment is in [`crate::entitlements`].

mod command;
mod due;
mod event;
pub mod payment;
pub mod preview;
pub mod schedule;
pub mod trial;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use self::command::{SubscriptionCommand, SubscriptionRefusal};
pub use self::event::{Attribution, Grant, GrantKind, SubscriptionEvent, SuspensionCause};
pub use self::schedule::Effective;
use self::schedule::ScheduledChange;
use self::trial::Trial;
use crate::catalogue::{FeatureSlug, PlanKey, PlanTerms};

/// A subscription as its events tell it. What has happened since by itself, and is not recorded
/// yet, is left to whoever asks with a time: [`TenantSubscription::standing`] and the like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum TenantSubscription {
    /// Nothing happened yet.
    #[default]
    NotStarted,
    /// In service.
    Active(Terms),
    /// In service although a payment failed, for some days.
    InGrace {
        /// What was bought.
        terms: Terms,
        /// When service stops.
        ends_at: DateTime<Utc>,
    },
    /// Out of service until reinstated.
    Suspended {
        /// What was bought.
        terms: Terms,
        /// What stopped it.
        cause: SuspensionCause,
        /// When service would have stopped anyway, if a payment had failed before.
        #[serde(default)]
        grace_ends_at: Option<DateTime<Utc>>,
    },
    /// Cancelled, and in service until its end.
    Cancelled {
        /// What was bought.
        terms: Terms,
        /// When service ends.
        ends_at: DateTime<Utc>,
    },
    /// Over, for good.
    Ended {
        /// The terms in force at the end.
        terms: Terms,
        /// When service ended.
        ended_at: DateTime<Utc>,
    },
}

/// What a tenant has bought.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Terms {
    /// The plan.
    pub plan: PlanTerms,
    /// Since when it is the plan, by whom and why.
    pub plan_provenance: Provenance,
    /// What was granted beside it.
    pub grants: BTreeMap<FeatureSlug, Granted>,
    /// What was, until its time was over.
    pub lapsed: BTreeSet<FeatureSlug>,
    /// The trial that runs.
    pub trial: Option<Trial>,
    /// The plans that were ever tried.
    pub tried: BTreeSet<PlanKey>,
    /// The plan change to come.
    pub scheduled: Option<ScheduledChange>,
    /// How many days of grace follow a failed payment.
    pub grace_days: u32,
    /// When the subscription began, from which its periods are counted.
    pub started_at: DateTime<Utc>,
}

/// A feature that was granted beside the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Granted {
    /// How much of it, how, and until when.
    #[serde(flatten)]
    pub grant: Grant,
    /// Since when, by whom and why.
    pub provenance: Provenance,
}

/// Where something that a tenant has comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// Since when it has it.
    pub since: DateTime<Utc>,
    /// By whom, and why.
    #[serde(flatten)]
    pub attribution: Attribution,
}

impl TenantSubscription {
    /// What happens when `command` is given to this subscription: first whatever is due by then
    /// and not recorded yet, then the command's own events.
    ///
    /// # Errors
    ///
    /// A [`SubscriptionRefusal`] if its state does not allow the command; nothing happens then.
    pub fn decide(
        &self,
        command: SubscriptionCommand,
    ) -> Result<Vec<SubscriptionEvent>, SubscriptionRefusal> {
        let at = command.at();
        let mut present = self.clone();
        let mut events = present.catch_up(at);
        for event in present.answer(command)? {
            present.evolve(event.clone());
            events.push(event);
        }
        // Grace of no days is over with the command that begins it.
        events.extend(present.catch_up(at));
        Ok(events)
    }

    /// The command's own events, for a subscription that is up to date.
    fn answer(
        &self,
        command: SubscriptionCommand,
    ) -> Result<Vec<SubscriptionEvent>, SubscriptionRefusal> {
        use SubscriptionCommand as Command;
        use SubscriptionEvent as Event;

        let terms = match (self, &command) {
            (Self::NotStarted, Command::Start { plan, at }) => {
                return Ok(vec![Event::SubscriptionStarted {
                    plan: plan.clone(),
                    attribution: Attribution::default(),
                    at: *at,
                }]);
            }
            (Self::NotStarted, _) => return Err(SubscriptionRefusal::NotStarted),
            (_, Command::Start { .. }) => return Err(SubscriptionRefusal::AlreadyStarted),
            (_, Command::RecordDue { .. }) => return Ok(vec![]),
            (Self::Ended { .. }, Command::Cancel { .. }) => return Ok(vec![]),
            (Self::Cancelled { terms, .. }, Command::Cancel { .. }) => terms,
            (
                Self::Cancelled { terms, .. } | Self::Ended { terms, .. },
                Command::RequestRepublish { .. },
            ) => terms,
            (Self::Cancelled { .. } | Self::Ended { .. }, _) => {
                return Err(SubscriptionRefusal::Cancelled);
            }
            (
                Self::Active(terms) | Self::InGrace { terms, .. } | Self::Suspended { terms, .. },
                _,
            ) => terms,
        };
        match command {
            Command::Start { .. } => Err(SubscriptionRefusal::AlreadyStarted),
            Command::RecordDue { .. } => Ok(vec![]),
            Command::ChangePlan { to, effective, at } => self.change_plan(terms, to, effective, at),
            Command::MigratePlan { to, at } => Ok(terms.migrate(to, at)),
            Command::UnschedulePlanChange { at } => terms.unschedule(at),
            Command::StartTrial { plan, days, at } => self.start_trial(terms, plan, days, at),
            Command::CancelTrial { at } => terms.cancel_trial(at),
            Command::RequestRepublish { from, at } => {
                Ok(vec![Event::RepublishRequested { from, at }])
            }
            Command::GrantAddOn { grant, at, .. }
                if grant.expires_at.is_some_and(|end| end <= at) =>
            {
                Err(SubscriptionRefusal::ExpiryNotInFuture)
            }
            Command::GrantAddOn { feature, grant, at } => {
                let same = |granted: &Granted| granted.grant == grant;
                if terms.grants.get(&feature).is_some_and(same) {
                    return Ok(vec![]);
                }
                Ok(vec![Event::AddOnGranted {
                    feature,
                    grant,
                    attribution: Attribution::default(),
                    at,
                }])
            }
            Command::RevokeAddOn { feature, at } => match terms.grants.contains_key(&feature) {
                true => Ok(vec![Event::AddOnRevoked { feature, at }]),
                false => Err(SubscriptionRefusal::NotGranted(feature)),
            },
            Command::SetGrace { days, at } => terms.set_grace(days, at),
            Command::FailPayment { grace_days, at } => self.fail_payment(terms, grace_days, at),
            Command::Suspend { at } => Ok(self.suspend(at)),
            Command::Reinstate { at } => Ok(self.reinstate(at)),
            Command::Cancel { effective, at } => self.cancel(terms, effective, at),
        }
    }

    /// Applies what happened. A subscription that never started stays so, whatever a broken
    /// history says of it.
    pub fn evolve(&mut self, event: SubscriptionEvent) {
        use SubscriptionEvent as Event;

        match event {
            Event::SubscriptionStarted {
                plan,
                attribution,
                at,
            } => *self = Self::Active(Terms::begun(plan, attribution, at)),
            Event::PlanUpgraded {
                from,
                to,
                attribution,
                at,
            }
            | Event::PlanDowngraded {
                from,
                to,
                attribution,
                at,
            } => self.amend(|terms| {
                // New terms of the same plan leave what is to come, unless they are it.
                if from != to.key || terms.due_change(at).is_some() {
                    terms.scheduled = None;
                }
                terms.plan = to;
                terms.plan_provenance = Provenance::new(at, attribution);
            }),
            Event::PlanChangeScheduled {
                to,
                effective_at,
                attribution,
                at,
            } => self.amend(|terms| {
                terms.scheduled = Some(ScheduledChange {
                    to,
                    effective_at,
                    scheduled_at: at,
                    attribution,
                });
            }),
            Event::PlanChangeUnscheduled { .. } => self.amend(|terms| terms.scheduled = None),
            Event::TrialStarted {
                plan,
                ends_at,
                attribution,
                at,
            } => self.amend(|terms| {
                terms.tried.insert(plan.key.clone());
                terms.trial = Some(Trial {
                    plan,
                    ends_at,
                    provenance: Provenance::new(at, attribution),
                });
            }),
            Event::TrialExpired { .. }
            | Event::TrialConverted { .. }
            | Event::TrialCancelled { .. } => self.amend(|terms| terms.trial = None),
            Event::AddOnGranted {
                feature,
                grant,
                attribution,
                at,
            } => self.amend(|terms| {
                let provenance = Provenance::new(at, attribution);
                terms.lapsed.remove(&feature);
                terms.grants.insert(feature, Granted { grant, provenance });
            }),
            Event::AddOnRevoked { feature, .. } => self.amend(|terms| {
                terms.grants.remove(&feature);
            }),
            Event::AddOnExpired { feature, .. } => self.amend(|terms| {
                terms.grants.remove(&feature);
                terms.lapsed.insert(feature);
            }),
            Event::GraceSet { days, .. } => self.amend(|terms| terms.grace_days = days),
            Event::PaymentFailed { grace_ends_at, .. } => self.enter(|terms| Self::InGrace {
                terms,
                ends_at: grace_ends_at,
            }),
            Event::SubscriptionSuspended { cause, .. } => {
                let grace_ends_at = self.interrupted_grace(cause);
                self.enter(|terms| Self::Suspended {
                    terms,
                    cause,
                    grace_ends_at,
                });
            }
            Event::SubscriptionReinstated { at } => match self.remembered_grace() {
                Some(ends_at) if at < ends_at => {
                    self.enter(|terms| Self::InGrace { terms, ends_at })
                }
                Some(_) | None => self.enter(Self::Active),
            },
            Event::SubscriptionCancelled { ends_at, at } => self.enter(|mut terms| {
                terms.scheduled = None;
                match ends_at <= at {
                    true => Self::Ended {
                        terms,
                        ended_at: ends_at,
                    },
                    false => Self::Cancelled { terms, ends_at },
                }
            }),
            Event::SubscriptionEnded { at } => self.enter(|terms| Self::Ended {
                terms,
                ended_at: at,
            }),
            Event::RepublishRequested { .. } => {}
        }
    }

    /// What the tenant has bought, as recorded; `None` before the subscription started.
    pub const fn terms(&self) -> Option<&Terms> {
        match self {
            Self::NotStarted => None,
            Self::Active(terms)
            | Self::InGrace { terms, .. }
            | Self::Suspended { terms, .. }
            | Self::Cancelled { terms, .. }
            | Self::Ended { terms, .. } => Some(terms),
        }
    }

    fn amend(&mut self, change: impl FnOnce(&mut Terms)) {
        match self {
            Self::NotStarted => {}
            Self::Active(terms)
            | Self::InGrace { terms, .. }
            | Self::Suspended { terms, .. }
            | Self::Cancelled { terms, .. }
            | Self::Ended { terms, .. } => change(terms),
        }
    }

    fn enter(&mut self, stage: impl FnOnce(Terms) -> Self) {
        match std::mem::take(self) {
            Self::NotStarted => {}
            Self::Active(terms)
            | Self::InGrace { terms, .. }
            | Self::Suspended { terms, .. }
            | Self::Cancelled { terms, .. }
            | Self::Ended { terms, .. } => *self = stage(terms),
        }
    }
}

impl Terms {
    fn begun(plan: PlanTerms, attribution: Attribution, at: DateTime<Utc>) -> Self {
        Self {
            plan,
            plan_provenance: Provenance::new(at, attribution),
            grants: BTreeMap::new(),
            lapsed: BTreeSet::new(),
            trial: None,
            tried: BTreeSet::new(),
            scheduled: None,
            grace_days: payment::GRACE_DAYS,
            started_at: at,
        }
    }

    /// The plan in force at `now`: also one whose change was scheduled and is not recorded yet.
    pub fn plan_at(&self, now: DateTime<Utc>) -> &PlanTerms {
        self.due_change(now).map_or(&self.plan, |change| &change.to)
    }
}

impl Provenance {
    fn new(since: DateTime<Utc>, attribution: Attribution) -> Self {
        Self { since, attribution }
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
