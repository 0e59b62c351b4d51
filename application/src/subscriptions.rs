//! Subscriptions: what the landlord does to them.
//!
//! A change is an event in the tenant's own ledger and is in force for the tenant's next request
//! on this node, because the ledger's head in memory holds the folded subscription.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::catalogue::{FeatureSlug, FeatureValue, PlanKey};
use domain::entitlements::{Entitlement, Standing};
use domain::ids::TenantId;
use domain::subscription::{Grant, GrantKind, SubscriptionCommand, TenantSubscription};
use domain::usage::Usage;
use serde::{Deserialize, Serialize};

use crate::Application;
use crate::commands::{Decided, Done};
use crate::error::{Error, Refusal};
use crate::scope::{Command, Role};

const CHANGE: &[Role] = &[Role::Landlord];

/// A subscription as the landlord sees it after a change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SubscriptionState {
    /// Whose.
    pub tenant: TenantId,
    /// The plan.
    pub plan: PlanKey,
    /// The version of the plan's terms.
    pub plan_version: u32,
    /// The price level.
    pub price_level: u32,
    /// Whether the tenant is served.
    pub standing: Standing,
    /// When a cancelled subscription ends.
    pub ends_at: Option<DateTime<Utc>>,
    /// Every right.
    pub features: BTreeMap<FeatureSlug, Entitlement>,
    /// Cards in circulation.
    pub in_circulation: u64,
    /// The most cards in circulation; none is without limit.
    pub limit: Option<u64>,
    /// How many cards are in circulation beyond the limit. Nothing is deleted; none can be
    /// issued until it is 0 and a place is free.
    pub over_limit_by: u64,
}

impl SubscriptionState {
    /// The state at `now`; `None` before the subscription started.
    pub fn of(
        tenant: TenantId,
        subscription: &TenantSubscription,
        usage: &Usage,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let terms = subscription.terms()?;
        let limit = subscription.card_limit(now);
        let in_circulation = usage.in_circulation();
        Some(Self {
            tenant,
            plan: terms.plan.key.clone(),
            plan_version: terms.plan.version,
            price_level: terms.plan.price_level,
            standing: subscription.standing(now),
            ends_at: match subscription {
                TenantSubscription::Cancelled { ends_at, .. } => Some(*ends_at),
                _ => None,
            },
            features: subscription.entitlements(now),
            in_circulation,
            limit,
            over_limit_by: limit.map_or(0, |limit| in_circulation.saturating_sub(limit)),
        })
    }
}

impl Application {
    /// Puts a tenant on another plan, now.
    pub async fn change_plan(
        &self,
        command: &Command,
        tenant: TenantId,
        plan: &PlanKey,
    ) -> Result<Done<SubscriptionState>, Error> {
        let to = self.plan_for_sale(plan)?;
        self.change_subscription(command, tenant, |at| SubscriptionCommand::ChangePlan {
            to: to.clone(),
            at,
        })
        .await
    }

    /// Grants a feature beside the plan: as an add-on if the catalogue sells it as one, else as
    /// an override.
    pub async fn grant_feature(
        &self,
        command: &Command,
        tenant: TenantId,
        slug: &FeatureSlug,
        value: FeatureValue,
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
            kind: match feature.add_on {
                true => GrantKind::AddOn,
                false => GrantKind::Override,
            },
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

    /// Stops service until reinstated. Cards stay readable; nothing is deleted.
    pub async fn suspend_subscription(
        &self,
        command: &Command,
        tenant: TenantId,
    ) -> Result<Done<SubscriptionState>, Error> {
        self.change_subscription(command, tenant, |at| SubscriptionCommand::Suspend { at })
            .await
    }

    /// Resumes service exactly as it was.
    pub async fn reinstate_subscription(
        &self,
        command: &Command,
        tenant: TenantId,
    ) -> Result<Done<SubscriptionState>, Error> {
        self.change_subscription(command, tenant, |at| SubscriptionCommand::Reinstate { at })
            .await
    }

    /// Ends the subscription, now and for good.
    pub async fn cancel_subscription(
        &self,
        command: &Command,
        tenant: TenantId,
    ) -> Result<Done<SubscriptionState>, Error> {
        self.change_subscription(command, tenant, |at| SubscriptionCommand::Cancel {
            ends_at: at,
            at,
        })
        .await
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
            let state = SubscriptionState::of(tenant, &staged.aggregate, &usage, now)
                .ok_or(Error::NotFound("tenant"))?;
            Ok(Decided {
                value: state,
                version: staged.version,
                streams: vec![staged.stream],
            })
        })
        .await
    }
}
