//! Subscriptions: what the landlord does to them, and how it sees them.
//!
//! A change is an event in the tenant's own ledger and is in force for the tenant's next request
//! on this node, because the ledger's head in memory holds the folded subscription.

mod plans;
mod state;

use chrono::{DateTime, Utc};
use domain::catalogue::{FeatureSlug, FeatureValue};
use domain::ids::{Position, TenantId, Version};
use domain::subscription::{Effective, Grant, GrantKind, SubscriptionCommand, TenantSubscription};
use domain::usage::Usage;

pub use self::plans::PlanPreview;
pub use self::state::{ScheduledPlan, SubscriptionState, TrialState};
use crate::Application;
use crate::commands::{Decided, Done};
use crate::error::{Error, Refusal};
use crate::ports::TenantStore;
use crate::scope::{Command, Role, Scope};

const CHANGE: &[Role] = &[Role::Landlord];
const READ: &[Role] = &[Role::Landlord, Role::Billing];

/// A subscription as it is, and where that stands in its history.
#[derive(Clone, Debug, PartialEq)]
pub struct SubscriptionSeen {
    /// The subscription.
    pub state: SubscriptionState,
    /// How many events it has.
    pub version: Version,
    /// The ledger position up to which this is.
    pub as_of: Position,
}

impl Application {
    /// A tenant's subscription, at position `at_least` or after it.
    pub async fn subscription(
        &self,
        scope: &Scope,
        tenant: TenantId,
        at_least: Position,
    ) -> Result<SubscriptionSeen, Error> {
        scope.require(READ)?;
        let store = self.known_store(tenant).await?;
        let head = Self::head_at(&store, at_least).await?;
        let now = self.clock.now();
        let state = self
            .subscription_state(tenant, &head.subscription, &head.usage, now)
            .ok_or(Error::NotFound("tenant"))?;
        Ok(SubscriptionSeen {
            state,
            version: head.subscription_version,
            as_of: head.position,
        })
    }

    /// Grants a feature beside the plan, in place of what was granted of it before. If nothing is
    /// said: as an add-on if the catalogue sells it as one, else as an override.
    pub async fn grant_feature(
        &self,
        command: &Command,
        tenant: TenantId,
        slug: &FeatureSlug,
        value: FeatureValue,
        kind: Option<GrantKind>,
        expires_at: Option<DateTime<Utc>>,
    ) -> Result<Done<SubscriptionState>, Error> {
        let feature = self.feature_for_sale(slug)?;
        if !feature.accepts(value) {
            return Err(Refusal::Invalid {
                field: "value",
                code: "wrong_type",
                detail: format!("{slug} takes another kind of value"),
            }
            .into());
        }
        let grant = Grant {
            value,
            kind: kind.unwrap_or(match feature.add_on {
                true => GrantKind::AddOn,
                false => GrantKind::Override,
            }),
            expires_at,
        };
        self.change_subscription(command, tenant, |at| SubscriptionCommand::GrantAddOn {
            feature: slug.clone(),
            grant: grant.clone(),
            at,
        })
        .await
    }

    /// Takes back a feature that was granted beside the plan.
    pub async fn revoke_feature(
        &self,
        command: &Command,
        tenant: TenantId,
        slug: &FeatureSlug,
    ) -> Result<Done<SubscriptionState>, Error> {
        self.change_subscription(command, tenant, |at| SubscriptionCommand::RevokeAddOn {
            feature: slug.clone(),
            at,
        })
        .await
    }

    /// Gives a tenant so many days of grace after each payment that fails from now on.
    pub async fn set_grace(
        &self,
        command: &Command,
        tenant: TenantId,
        days: u32,
    ) -> Result<Done<SubscriptionState>, Error> {
        self.change_subscription(command, tenant, |at| SubscriptionCommand::SetGrace {
            days,
            at,
        })
        .await
    }

    /// Begins the days of grace after a failed payment: so many, or the tenant's own.
    pub async fn fail_payment(
        &self,
        command: &Command,
        tenant: TenantId,
        grace_days: Option<u32>,
    ) -> Result<Done<SubscriptionState>, Error> {
        self.change_subscription(command, tenant, |at| SubscriptionCommand::FailPayment {
            grace_days,
            at,
        })
        .await
    }

    /// Stops service until reinstated. Cards stay readable; nothing is deleted.
    pub async fn suspend_subscription(
        &self,
        command: &Command,
        tenant: TenantId,
    ) -> Result<Done<SubscriptionState>, Error> {
        self.change_subscription(command, tenant, |at| SubscriptionCommand::Suspend { at })
            .await
    }

    /// Resumes service exactly as it was, or ends the grace because the payment came.
    pub async fn reinstate_subscription(
        &self,
        command: &Command,
        tenant: TenantId,
    ) -> Result<Done<SubscriptionState>, Error> {
        self.change_subscription(command, tenant, |at| SubscriptionCommand::Reinstate { at })
            .await
    }

    /// Ends the subscription for good: now, at the end of the paid period, or at a time.
    pub async fn cancel_subscription(
        &self,
        command: &Command,
        tenant: TenantId,
        effective: Effective,
    ) -> Result<Done<SubscriptionState>, Error> {
        self.change_subscription(command, tenant, |at| SubscriptionCommand::Cancel {
            effective,
            at,
        })
        .await
    }

    /// A subscription as the landlord sees it at `now`, with what is off for everybody.
    pub fn subscription_state(
        &self,
        tenant: TenantId,
        subscription: &TenantSubscription,
        usage: &Usage,
        now: DateTime<Utc>,
    ) -> Option<SubscriptionState> {
        let edition = self.catalogue.current();
        SubscriptionState::of(tenant, subscription, usage, &edition.catalogue, now)
    }

    pub(crate) async fn change_subscription(
        &self,
        command: &Command,
        tenant: TenantId,
        change: impl Fn(DateTime<Utc>) -> SubscriptionCommand + Sync,
    ) -> Result<Done<SubscriptionState>, Error> {
        command.scope.require(CHANGE)?;
        let store = self.known_store(tenant).await?;
        self.commit(&store, command, || async {
            let now = self.clock.now();
            if command.if_match.is_some() {
                self.bring_up_to_date(&store).await?;
            }
            let staged = self
                .stage::<TenantSubscription>(
                    &store,
                    &tenant.to_string(),
                    false,
                    change(now),
                    command.metadata(),
                    command.if_match,
                )
                .await?;
            let usage = store.ledger.head().usage;
            let state = self
                .subscription_state(tenant, &staged.aggregate, &usage, now)
                .ok_or(Error::NotFound("tenant"))?;
            Ok(Decided {
                value: state,
                version: staged.version,
                streams: vec![staged.stream],
            })
        })
        .await
    }

    /// Records what has happened by itself up to now, at least, before a version is compared: whoever
    /// decided on what was before has not seen it.
    pub(crate) async fn bring_up_to_date(&self, store: &TenantStore) -> Result<(), Error> {
        store.ledger.heard(0).await?;
        self.record_due_of_subscription(store).await
    }

    /// Records what has happened to a subscription by itself. Whoever else does so meanwhile, a
    /// command or another node, has recorded the same.
    pub(crate) async fn record_due_of_subscription(
        &self,
        store: &TenantStore,
    ) -> Result<(), Error> {
        let at = self.clock.now();
        let next = store.ledger.head().subscription.next_due();
        if next.is_none_or(|due| at < due) {
            return Ok(());
        }
        let staged = self
            .stage::<TenantSubscription>(
                store,
                &store.tenant.to_string(),
                false,
                SubscriptionCommand::RecordDue { at },
                self.metadata_of("subscription-timer"),
                None,
            )
            .await?;
        self.append_unless_moved(store, vec![staged.stream]).await
    }
}
