//! Plans of a subscription: changing them now or later, seeing what that would do, trying one.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::catalogue::{FeatureSlug, Kill, PlanKey};
use domain::ids::TenantId;
use domain::subscription::preview::Difference;
use domain::subscription::{Effective, SubscriptionCommand};
use serde::{Deserialize, Serialize};

use super::state::over;
use super::{CHANGE, SubscriptionState};
use crate::Application;
use crate::commands::{Decided, Done};
use crate::error::Error;
use crate::scope::Command;

/// What a plan change would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanPreview {
    /// Whose.
    pub tenant: TenantId,
    /// The plan it would go over from.
    pub from: PlanKey,
    /// The plan it would go over to.
    pub to: PlanKey,
    /// The version of that plan's terms.
    pub to_version: u32,
    /// When.
    pub effective_at: DateTime<Utc>,
    /// The price level before.
    pub price_level_before: u32,
    /// The price level after.
    pub price_level_after: u32,
    /// What would be gained, lost and changed.
    pub difference: Difference,
    /// Those of these features that are off for everybody, before and after.
    #[serde(default)]
    pub killed: BTreeMap<FeatureSlug, Kill>,
    /// The cards that are in circulation now.
    pub in_circulation: u64,
    /// The most cards in circulation before; none is without limit.
    pub limit_before: Option<u64>,
    /// The most cards in circulation after; none is without limit.
    pub limit_after: Option<u64>,
    /// By how many the cards that are in circulation now exceed the limit after.
    pub over_limit_by: u64,
}

impl Application {
    /// Puts a tenant on another plan: now, at the end of the paid period, or at a time.
    pub async fn change_plan(
        &self,
        command: &Command,
        tenant: TenantId,
        plan: &PlanKey,
        effective: Effective,
    ) -> Result<Done<SubscriptionState>, Error> {
        let to = self.plan_for_sale(plan)?;
        self.change_subscription(command, tenant, |at| SubscriptionCommand::ChangePlan {
            to: to.clone(),
            effective,
            at,
        })
        .await
    }

    /// What that would do, without doing it.
    pub async fn preview_plan(
        &self,
        command: &Command,
        tenant: TenantId,
        plan: &PlanKey,
        effective: Effective,
    ) -> Result<Done<PlanPreview>, Error> {
        command.scope.require(CHANGE)?;
        let to = self.plan_for_sale(plan)?;
        let store = self.known_store(tenant).await?;
        self.commit(&store, command, || async {
            let now = self.clock.now();
            if command.if_match.is_some() {
                self.bring_up_to_date(&store).await?;
            }
            let head = store.ledger.head();
            let version = head.subscription_version;
            if command.if_match.is_some_and(|seen| seen != version) {
                return Err(Error::PreconditionFailed { current: version });
            }
            let preview = head.subscription.preview(to.clone(), effective, now)?;
            let moment = preview.effective_at;
            let (before, after) = (&preview.before, &preview.after);
            let from = before.terms().ok_or(Error::NotFound("tenant"))?;
            let limit_after = after.card_limit(moment);
            let in_circulation = head.usage.in_circulation();
            let difference = preview.difference();
            let edition = self.catalogue.current();
            Ok(Decided {
                value: PlanPreview {
                    tenant,
                    from: from.plan_at(moment).key.clone(),
                    to: to.key.clone(),
                    to_version: to.version,
                    effective_at: moment,
                    price_level_before: before.price_level(moment),
                    price_level_after: after.price_level(moment),
                    killed: edition.catalogue.killed_of(difference.features()),
                    difference,
                    in_circulation,
                    limit_before: before.card_limit(moment),
                    limit_after,
                    over_limit_by: over(limit_after, in_circulation),
                },
                version,
                streams: vec![],
            })
        })
        .await
    }

    /// Takes off the plan change to come.
    pub async fn unschedule_plan_change(
        &self,
        command: &Command,
        tenant: TenantId,
    ) -> Result<Done<SubscriptionState>, Error> {
        self.change_subscription(command, tenant, |at| {
            SubscriptionCommand::UnschedulePlanChange { at }
        })
        .await
    }

    /// Lets a tenant try a plan for some days.
    pub async fn start_trial(
        &self,
        command: &Command,
        tenant: TenantId,
        plan: &PlanKey,
        days: u32,
    ) -> Result<Done<SubscriptionState>, Error> {
        let plan = self.plan_for_sale(plan)?;
        self.change_subscription(command, tenant, |at| SubscriptionCommand::StartTrial {
            plan: plan.clone(),
            days,
            at,
        })
        .await
    }

    /// Ends a trial before its end.
    pub async fn cancel_trial(
        &self,
        command: &Command,
        tenant: TenantId,
    ) -> Result<Done<SubscriptionState>, Error> {
        self.change_subscription(command, tenant, |at| SubscriptionCommand::CancelTrial {
            at,
        })
        .await
    }
}
