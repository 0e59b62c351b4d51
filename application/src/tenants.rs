//! Tenants: provisioning them, knowing them, and what the landlord sees of them.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use domain::catalogue::PlanKey;
use domain::event::{AggregateKind, Event, Metadata};
use domain::ids::{KeyId, Position, Slug, TenantId};
use domain::subscription::{SubscriptionEvent, TenantSubscription};
use domain::text::DisplayName;
use domain::usage::Usage;
use serde::{Deserialize, Serialize};

use crate::Application;
use crate::commands::Done;
use crate::error::Error;
use crate::keys::{ApiKey, Nonce, Secret, Seed};
use crate::ports::{
    Append, AppendError, IdempotencyRecord, Recorded, StreamAppend, TenantStore, Unavailable,
};
use crate::scope::{Command, Role, Scope};
use crate::subscribers::LANDLORD;

const READ: &[Role] = &[Role::Landlord, Role::Billing];

/// A tenant to provision.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTenant {
    /// Its name.
    pub name: DisplayName,
    /// Its short name, unique.
    pub slug: Slug,
    /// The plan it starts on.
    pub plan: PlanKey,
    /// How its store is kept apart.
    pub isolation: Isolation,
}

/// How a tenant's store is kept apart from others'. On the embedded store every tenant has a
/// file of its own, whichever is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Isolation {
    /// In a database with others, in a schema of its own.
    #[default]
    Shared,
    /// In a database of its own.
    Dedicated,
}

impl Isolation {
    /// As clients see it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Dedicated => "dedicated",
        }
    }
}

/// A tenant as the landlord records it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Its name.
    pub name: DisplayName,
    /// Its short name, unique.
    pub slug: Slug,
    /// The plan it started on; its plan now is in its subscription.
    pub first_plan: PlanKey,
    /// How its store is kept apart.
    pub isolation: Isolation,
    /// The shard that its store is in; `None` if it is a file of its own.
    #[serde(default)]
    pub shard: Option<Slug>,
    /// When it was recorded.
    pub created_at: DateTime<Utc>,
    /// Whether its store is there and its subscription has started.
    pub ready: bool,
}

/// A new tenant and its first key.
#[derive(Clone, Debug)]
pub struct Provisioned {
    /// The tenant.
    pub tenant: Tenant,
    /// A key of role `tenant_admin`: shown here and never again, except to a repetition of the
    /// same request.
    pub api_key: Secret,
}

/// What the landlord sees of a tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantOverview {
    /// The landlord's record.
    pub tenant: Tenant,
    /// Its subscription.
    pub subscription: TenantSubscription,
    /// Its cards by status.
    pub usage: Usage,
    /// The ledger position up to which this is.
    pub position: Position,
}

/// Which tenants are asked for, oldest first.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantFilter {
    /// Only tenants on this plan.
    pub plan: Option<PlanKey>,
    /// Only tenants whose name or slug has this in it, in any case.
    pub q: Option<String>,
    /// Only tenants after this one.
    pub after: Option<TenantId>,
    /// At most so many.
    pub limit: usize,
}

/// A page of tenants.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantPage {
    /// The tenants.
    pub items: Vec<TenantOverview>,
    /// The tenant after which the next page begins; `None` on the last.
    pub next: Option<TenantId>,
}

/// Which tenants exist: all of them, in memory, so that a tenant's request needs no look-up.
#[derive(Default)]
pub struct Directory {
    tenants: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    /// Held from before a record is read or changed until the change is in memory, so that what
    /// was read never takes the place of what is newer.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

impl Directory {
    /// A directory of these tenants.
    pub fn new(tenants: Vec<Tenant>) -> Self {
        let directory = Self::default();
        directory.replace(tenants);
        directory
    }

    /// The tenant with this id.
    pub fn get(&self, id: TenantId) -> Option<Arc<Tenant>> {
        self.tenants
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&id)
            .cloned()
    }

    /// Every tenant, in no order.
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        self.tenants
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// How many tenants each shard has.
    pub fn count_by_shard(&self) -> HashMap<Slug, usize> {
        let mut counts = HashMap::new();
        for shard in self.all().iter().filter_map(|tenant| tenant.shard.clone()) {
            *counts.entry(shard).or_default() += 1;
        }
        counts
    }

    /// The tenant as it is known; as it is given, if it was not known.
    fn get_or_put(&self, tenant: Tenant) -> Arc<Tenant> {
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        let known = tenants.entry(tenant.id).or_insert_with(|| tenant.into());
        Arc::clone(known)
    }

    /// Whether a tenant has this slug.
    pub(crate) fn has_slug(&self, slug: &Slug) -> bool {
        self.tenants
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .any(|tenant| tenant.slug == *slug)
    }

    pub(crate) fn put(&self, tenant: Tenant) {
        self.tenants
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(tenant.id, Arc::new(tenant));
    }

    pub(crate) fn remove(&self, id: TenantId) {
        self.tenants
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
    }

    /// These are all tenants.
    pub(crate) fn replace(&self, tenants: Vec<Tenant>) {
        let all = tenants
            .into_iter()
            .map(|tenant| (tenant.id, Arc::new(tenant)))
            .collect();
        *self.tenants.write().unwrap_or_else(PoisonError::into_inner) = all;
    }
}

/// What is remembered of a provisioning, to answer the same request the same way.
#[derive(Serialize, Deserialize)]
struct ProvisioningOutcome {
    tenant: Tenant,
    nonce: Nonce,
}

impl Application {
    /// Makes a tenant: its record and first key, its store, its subscription.
    ///
    /// The record comes first, so that a crash in the middle leaves a tenant that is not ready,
    /// which any node (or the repeated request) finishes later.
    pub async fn provision_tenant(
        &self,
        command: &Command,
        new: NewTenant,
        seed: &Seed,
    ) -> Result<Done<Provisioned>, Error> {
        command.scope.require(&[Role::Landlord])?;
        match self.plan_for_sale(&new.plan) {
            Ok(_) => {}
            // Refused today; but what was done under the same key is answered again.
            Err(_) if self.is_answered(command).await? => {}
            Err(refusal) => return Err(refusal),
        }
        let now = self.clock.now();
        let shard = match self.place(new.isolation).await {
            Ok(shard) => shard,
            // Refused today; but what was done under the same key is answered again.
            Err(_) if self.is_answered(command).await? => None,
            Err(error) => return Err(error),
        };
        let tenant = Tenant {
            id: TenantId::new(self.random.id()),
            name: new.name,
            slug: new.slug,
            first_plan: new.plan,
            isolation: new.isolation,
            shard,
            created_at: now,
            ready: false,
        };
        let nonce = Nonce(self.random.secret());
        let name = DisplayName::try_from("first key".to_owned())
            .map_err(|error| Error::Internal(error.to_string()))?;
        let api_key = ApiKey {
            id: KeyId::new(self.random.id()),
            hash: seed.derive(&nonce).hash(),
            role: Role::TenantAdmin,
            tenant: Some(tenant.id),
            name,
            created_at: now,
        };
        let outcome = ProvisioningOutcome {
            tenant: tenant.clone(),
            nonce,
        };
        let record = landlord_record(command, &outcome)?;
        let one_at_a_time = self.keys.changing.lock().await;
        let recorded = self
            .landlord
            .add_tenant(&tenant, &api_key, record.as_ref())
            .await?;
        let (outcome, replayed) = match recorded {
            Recorded::New => (outcome, false),
            Recorded::Replayed(before) => (
                serde_json::from_str(&before.outcome)
                    .map_err(|error| Error::Internal(format!("a recorded outcome: {error}")))?,
                true,
            ),
        };
        if !replayed {
            self.keys.put(api_key);
        }
        drop(one_at_a_time);
        let (tenant, position) = self
            .finish_provisioning(outcome.tenant, command.metadata())
            .await?;
        Ok(Done {
            value: Provisioned {
                tenant,
                api_key: seed.derive(&outcome.nonce),
            },
            version: 1,
            position,
            replayed,
        })
    }

    /// Whether the landlord has answered under the command's idempotency key before.
    async fn is_answered(&self, command: &Command) -> Result<bool, Error> {
        match landlord_record(command, &())? {
            Some(record) => Ok(self.landlord.outcome(&record.key).await?.is_some()),
            None => Ok(false),
        }
    }

    /// Makes a recorded tenant's store and starts its subscription, as far as that is not done.
    /// Safe to repeat and to race.
    pub async fn finish_provisioning(
        &self,
        tenant: Tenant,
        metadata: Metadata,
    ) -> Result<(Tenant, Position), Error> {
        // Known from now on, though not served yet: its store is found through it.
        let one_at_a_time = self.directory.changing.lock().await;
        let tenant = self.directory.get_or_put(tenant);
        drop(one_at_a_time);
        let edition = Arc::clone(&self.catalogue.current());
        let plan = edition.catalogue.plan(tenant.first_plan.as_str());
        let plan = plan.ok_or_else(|| Error::unknown_plan(&tenant.first_plan))?;
        self.stores.create(tenant.id).await?;
        let store = self.stores.open(tenant.id).await?;
        let started = SubscriptionEvent::SubscriptionStarted {
            plan: plan.clone(),
            attribution: metadata.attribution(),
            at: tenant.created_at,
        };
        let append = Append {
            streams: vec![StreamAppend {
                kind: AggregateKind::Subscription,
                id: tenant.id.to_string(),
                expected: 0,
                events: vec![Event::Subscription(started)],
                metadata: serde_json::to_string(&metadata)
                    .map_err(|error| Error::Internal(error.to_string()))?,
            }],
            idempotency: None,
        };
        match store.ledger.append(append).await {
            Ok(_) | Err(AppendError::VersionConflict) => {}
            Err(error) => return Err(Error::of_append(tenant.id, error)),
        }
        let one_at_a_time = self.directory.changing.lock().await;
        self.landlord.mark_ready(tenant.id).await?;
        let tenant = Tenant {
            ready: true,
            ..Tenant::clone(&tenant)
        };
        self.directory.put(tenant.clone());
        drop(one_at_a_time);
        Ok((tenant, store.ledger.head().position))
    }

    /// What the landlord sees of one tenant, at or after the newest position that this node has
    /// seen of its ledger.
    pub async fn tenant_overview(
        &self,
        scope: &Scope,
        id: TenantId,
        at_least: Position,
    ) -> Result<TenantOverview, Error> {
        scope.require(READ)?;
        let store = self.known_store(id).await?;
        self.subscribers.reached(LANDLORD, &store, at_least).await?;
        let overview = self.overviews.tenant(id).await?;
        overview.ok_or(Error::NotFound("tenant"))
    }

    /// What the landlord sees of its tenants, a page of them, after everything that this node has
    /// seen of their ledgers.
    pub async fn tenant_overviews(
        &self,
        scope: &Scope,
        filter: &TenantFilter,
    ) -> Result<TenantPage, Error> {
        scope.require(READ)?;
        self.subscribers.reached_everywhere(LANDLORD).await?;
        Ok(self.overviews.list(filter).await?)
    }

    /// The store of the tenant whose key this is, if its role is one of `roles`.
    pub(crate) async fn tenant_store(
        &self,
        scope: &Scope,
        roles: &[Role],
    ) -> Result<Arc<TenantStore>, Error> {
        scope.require(roles)?;
        self.known_store(scope.own_tenant()?).await
    }

    /// The store of a tenant that exists.
    pub(crate) async fn known_store(&self, id: TenantId) -> Result<Arc<TenantStore>, Error> {
        match self.directory.get(id) {
            Some(tenant) if tenant.ready => Ok(self.stores.open(id).await?),
            Some(_) => Err(Unavailable::new("the tenant is still being provisioned").into()),
            None => Err(Error::NotFound("tenant")),
        }
    }
}

/// The idempotency record of a landlord's record that hands out a secret. Its name space is the
/// asker's key, because the secret is derived from it.
pub(crate) fn landlord_record(
    command: &Command,
    outcome: &impl Serialize,
) -> Result<Option<IdempotencyRecord>, Error> {
    command
        .idempotency
        .as_ref()
        .map(|idempotency| {
            Ok(IdempotencyRecord {
                key: format!("{}:{}", command.scope.key, idempotency.key),
                fingerprint: idempotency.fingerprint,
                outcome: serde_json::to_string(outcome)
                    .map_err(|error| Error::Internal(error.to_string()))?,
            })
        })
        .transpose()
}
