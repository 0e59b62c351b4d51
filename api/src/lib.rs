//! The HTTP door of Digital Card: who comes in, what they may ask, how it is answered.
//!
//! [`routes()`] lists every route. A handler reads top to bottom as *parse, scope, call, answer*;
//! the rules are in the `application` and `domain` crates. Every refusal becomes a problem
//! document in [`problem`], and everything that happens to every request alike (its id, its key,
//! its log line, its metrics) happens in [`door`].
//!
//! Absent on purpose: SQL, adapters (only [`wiring`] names them) and rules of the product.

pub mod cards;
pub mod checks;
pub mod entitlements;
pub mod keys;

pub mod advanced;
pub mod gate;

pub mod audit;
pub mod landlord;

pub mod asyncapi;
pub mod docs;
pub mod health;

pub mod answer;
pub mod crowd;
pub mod door;
pub mod extract;
pub mod meter;
pub mod problem;
pub mod scope;

pub mod archive;
pub mod billing;
pub mod config;
pub mod demo;
pub mod files;
pub mod first_minutes;
pub mod maintenance;
pub mod server;
pub mod verify;
pub mod wiring;

use std::sync::Arc;
use std::time::Duration;

use application::Application;
use application::error::Error;
use axum::Router;
use domain::ids::Slug;
use futures::future::BoxFuture;
use tokio::sync::oneshot;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::config::Limits;
use crate::crowd::Crowd;
use crate::meter::Meter;
use crate::problem::Problem;

/// What every handler may need.
pub struct Api {
    /// The use cases.
    pub application: Arc<Application>,
    /// Bounds on requests.
    pub limits: Limits,
    /// Where a tenant goes to buy what it lacks; part of every 402.
    pub upgrade_url: String,
    /// Who is being answered.
    pub crowd: Arc<Crowd>,
    /// What is measured.
    pub meter: Meter,
    /// Cheaply asks whether the stores can be reached.
    pub stores_answer: StoresAnswer,
}

/// A cheap question to the stores: which of them do not answer in time.
pub type StoresAnswer = Box<dyn Fn(Duration) -> BoxFuture<'static, Silent> + Send + Sync>;

/// The stores that did not answer.
pub struct Silent {
    /// Whether the landlord's did not.
    pub landlord: bool,
    /// The tenants' shards that did not.
    pub shards: Vec<Slug>,
    /// Whether no tenant's did.
    pub all_tenants: bool,
}

impl Api {
    /// Does `work` to its end even if the client hangs up meanwhile, which drops the handler.
    ///
    /// For what changes the landlord's records and then what is known of them in memory: left
    /// half done, a revoked key would go on opening doors until the next start.
    ///
    /// # Errors
    ///
    /// What the work says.
    pub async fn to_its_end<T, W>(
        &self,
        work: impl FnOnce(Arc<Application>) -> W,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (done, answer) = oneshot::channel();
        let work = work(Arc::clone(&self.application));
        self.application.subscribers.spawn(async move {
            // Nobody waits for the answer if the client hung up.
            let _ = done.send(work.await);
        });
        Ok(answer.await.map_err(Problem::internal)??)
    }
}

/// Every route. The paths are with the handlers, in the contract's order.
pub fn routes() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::with_openapi(docs::outline())
        // A tenant's cards, level 1.
        .routes(routes!(cards::list_cards, cards::commands::issue_card))
        .routes(routes!(cards::get_card))
        .routes(routes!(cards::card_history))
        .routes(routes!(cards::commands::activate_card))
        .routes(routes!(cards::commands::suspend_card))
        .routes(routes!(cards::commands::reinstate_card))
        .routes(routes!(cards::commands::revoke_card))
        .routes(routes!(cards::commands::renew_card))
        .routes(routes!(cards::commands::update_holder))
        .routes(routes!(cards::commands::replace_card))
        // What a tenant has.
        .routes(routes!(entitlements::get_entitlements))
        .routes(routes!(checks::check_feature))
        .routes(routes!(entitlements::list_modules))
        .routes(routes!(entitlements::get_usage))
        .routes(routes!(keys::list_keys, keys::create_key))
        .routes(routes!(keys::revoke_key))
        // A tenant's cards, level 2.
        .routes(routes!(advanced::start_bulk_job))
        .routes(routes!(advanced::list_bulk_jobs))
        .routes(routes!(advanced::get_bulk_job))
        .routes(routes!(advanced::bulk_job_failures))
        .routes(routes!(advanced::cancel_bulk_job))
        .routes(routes!(advanced::export_cards))
        .routes(routes!(advanced::card_stats))
        .routes(routes!(advanced::live))
        // The landlord.
        .routes(routes!(
            landlord::tenants::list_tenants,
            landlord::tenants::provision_tenant
        ))
        .routes(routes!(landlord::tenants::get_tenant))
        .routes(routes!(landlord::subscriptions::get_subscription))
        .routes(routes!(landlord::subscriptions::plans::change_plan))
        .routes(routes!(landlord::subscriptions::plans::preview_plan))
        .routes(routes!(landlord::subscriptions::plans::unschedule))
        .routes(routes!(
            landlord::subscriptions::plans::start_trial,
            landlord::subscriptions::plans::cancel_trial
        ))
        .routes(routes!(
            landlord::subscriptions::grant_feature,
            landlord::subscriptions::revoke_feature
        ))
        .routes(routes!(landlord::subscriptions::set_grace))
        .routes(routes!(landlord::subscriptions::fail_payment))
        .routes(routes!(landlord::subscriptions::suspend))
        .routes(routes!(landlord::subscriptions::reinstate))
        .routes(routes!(landlord::subscriptions::cancel))
        .routes(routes!(landlord::migrations::migrate_tenant))
        .routes(routes!(landlord::migrations::preview_tenant))
        .routes(routes!(checks::query_entitlements))
        .routes(routes!(landlord::republish::republish))
        .routes(routes!(
            landlord::shards::list_shards,
            landlord::shards::add_shard
        ))
        .routes(routes!(landlord::shards::change_shard))
        .routes(routes!(landlord::catalogue::plans::list_plans))
        .routes(routes!(
            landlord::catalogue::plans::get_plan,
            landlord::catalogue::plans::define_plan
        ))
        .routes(routes!(
            landlord::migrations::plan_migration,
            landlord::migrations::migrate_plan
        ))
        .routes(routes!(landlord::migrations::preview_plan))
        .routes(routes!(landlord::catalogue::features::list_features))
        .routes(routes!(
            landlord::catalogue::features::get_feature,
            landlord::catalogue::features::define_feature
        ))
        .routes(routes!(
            landlord::catalogue::features::kill_feature,
            landlord::catalogue::features::revive_feature
        ))
        .routes(routes!(landlord::catalogue::modules::list_modules))
        .routes(routes!(
            landlord::catalogue::modules::get_module,
            landlord::catalogue::modules::define_module
        ))
        .routes(routes!(landlord::subscribers::list_subscribers))
        .routes(routes!(landlord::subscribers::resume_subscriber))
        .routes(routes!(landlord::subscribers::rebuild_subscriber))
        .routes(routes!(
            landlord::usage_audits::list_usage_audits,
            landlord::usage_audits::start_usage_audit
        ))
        .routes(routes!(landlord::usage_audits::get_usage_audit))
        .routes(routes!(landlord::usage_audits::repair_usage))
        .routes(routes!(
            landlord::keys::list_keys,
            landlord::keys::create_key
        ))
        .routes(routes!(landlord::keys::revoke_key))
        // The auditor.
        .routes(routes!(audit::list_events))
        // The process.
        .routes(routes!(health::healthz))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

/// The service behind the socket: every route, the documentation, and the door around them.
pub fn router(api: Arc<Api>) -> Router {
    let (router, openapi) = routes().split_for_parts();
    router
        .merge(docs::pages(docs::complete(openapi)))
        .layer(door::Door::new(Arc::clone(&api)))
        .with_state(api)
}
