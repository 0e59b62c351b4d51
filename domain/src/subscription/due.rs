//! What happens to a subscription because time passes, each at its moment.
//!
//! Rights never wait for this: they are evaluated against the clock. What is here records it, with
//! the moment it was due, before anything else happens to the subscription, so that its history
//! never contradicts the clock.

use chrono::{DateTime, Utc};

use super::{SubscriptionEvent, SuspensionCause, TenantSubscription};

impl TenantSubscription {
    /// When the next thing happens by itself, which may be over already.
    pub fn next_due(&self) -> Option<DateTime<Utc>> {
        let of_terms = match self {
            Self::NotStarted | Self::Ended { .. } => return None,
            Self::Active(terms)
            | Self::InGrace { terms, .. }
            | Self::Suspended { terms, .. }
            | Self::Cancelled { terms, .. } => {
                let grants = terms.grants.values();
                grants
                    .filter_map(|granted| granted.grant.expires_at)
                    .chain(terms.trial.as_ref().map(|trial| trial.ends_at))
                    .chain(terms.scheduled.as_ref().map(|change| change.effective_at))
                    .min()
            }
        };
        let of_stage = match self {
            Self::InGrace { ends_at, .. } | Self::Cancelled { ends_at, .. } => Some(*ends_at),
            Self::NotStarted | Self::Active(_) | Self::Suspended { .. } | Self::Ended { .. } => {
                None
            }
        };
        of_terms.into_iter().chain(of_stage).min()
    }

    /// Brings the subscription to what it is at `now`; what happened by itself on the way, in the
    /// order of the moments.
    pub(super) fn catch_up(&mut self, now: DateTime<Utc>) -> Vec<SubscriptionEvent> {
        let mut happened = Vec::new();
        while let Some(due) = self.next_due().filter(|due| *due <= now) {
            let events = self.due_at(due);
            for event in &events {
                self.evolve(event.clone());
            }
            happened.extend(events);
        }
        happened
    }

    /// What happens at `due`, the next moment at which anything does. One thing at a time: a plan
    /// change before the end of the trial that it converts, the end of everything last.
    fn due_at(&self, due: DateTime<Utc>) -> Vec<SubscriptionEvent> {
        let Some(terms) = self.terms() else {
            return vec![];
        };
        if let Some(change) = terms.due_change(due) {
            return terms.go_over(change.to.clone(), change.attribution.clone(), due);
        }
        if let Some(trial) = terms.trial.as_ref().filter(|trial| trial.ends_at <= due) {
            let plan = trial.plan.key.clone();
            return vec![SubscriptionEvent::TrialExpired { plan, at: due }];
        }
        let over = |end: Option<DateTime<Utc>>| end.is_some_and(|end| end <= due);
        let mut grants = terms.grants.iter();
        if let Some((feature, _)) = grants.find(|(_, granted)| over(granted.grant.expires_at)) {
            let feature = feature.clone();
            return vec![SubscriptionEvent::AddOnExpired { feature, at: due }];
        }
        match self {
            Self::InGrace { .. } => vec![SubscriptionEvent::SubscriptionSuspended {
                cause: SuspensionCause::Payment,
                at: due,
            }],
            Self::Cancelled { .. } => vec![SubscriptionEvent::SubscriptionEnded { at: due }],
            Self::NotStarted | Self::Active(_) | Self::Suspended { .. } | Self::Ended { .. } => {
                vec![]
            }
        }
    }
}
