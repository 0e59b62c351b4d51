//! What the command line does to stores: bring schemas up to date, build read models anew, move
//! tenants.
//!
//! One broken store is no reason to leave the others as they are: each failure is told with its
//! tenant, the rest goes on, and the end says how many failed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use application::Application;
use application::error::{Error, causes};
use application::moves::{MoveError, Moved};
use application::tenants::Tenant;
use domain::ids::{InvalidSlug, Position, Slug, TenantId};
use futures::stream::{self, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::archive;
use crate::wiring::Service;

/// After how many events a rebuild says how far it is.
const PROGRESS_EVENTS: u64 = 100_000;
/// After how many tenants a migration says how far it is.
const PROGRESS_TENANTS: usize = 100;
/// How many tenants are migrated at a time: each needs a connection of its own, beside those of the
/// nodes that serve.
const MIGRATIONS_AT_A_TIME: usize = 8;

/// Why not everything was done.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// There is no such read model.
    #[error("there is no view {0}; there are cards and landlord")]
    UnknownView(String),
    /// There is no such tenant.
    #[error("there is no tenant {0}")]
    UnknownTenant(TenantId),
    /// It failed for some tenants; each was told when it happened.
    #[error("{failed} of {total} tenants failed")]
    Tenants {
        /// For how many.
        failed: usize,
        /// Of how many.
        total: usize,
    },
}

/// Why a tenant was not moved.
#[derive(Debug, thiserror::Error)]
pub enum MoveFailed {
    /// There is no such tenant.
    #[error(transparent)]
    UnknownTenant(#[from] archive::Failed),
    /// No shard can have this name.
    #[error("{0:?}: {1}")]
    InvalidShard(String, InvalidSlug),
    /// What the move says.
    #[error(transparent)]
    Move(#[from] MoveError),
}

/// What is told while the work goes on.
pub trait Teller: Sync {
    /// Something was done.
    fn done(&self, line: &str);
    /// Something goes on, or failed.
    fn note(&self, line: &str);
}

/// Opens every tenant's store once, which brings its schema up to date.
///
/// # Errors
///
/// [`Failed::Tenants`].
pub async fn migrate(application: &Application, teller: &dyn Teller) -> Result<(), Failed> {
    let tenants = oldest_first(application);
    let (total, done) = (tenants.len(), AtomicUsize::new(0));
    let work = async |tenant: &Tenant| {
        let opened = application.stores.open(tenant.id).await.map(drop);
        let done = done.fetch_add(1, Ordering::Relaxed) + 1;
        if done.is_multiple_of(PROGRESS_TENANTS) && done < total {
            teller.note(&format!("{done} of {total} tenants"));
        }
        opened
    };
    for_each(tenants, MIGRATIONS_AT_A_TIME, teller, work).await?;
    teller.done(&format!("up to date: the landlord and {total} tenants"));
    Ok(())
}

/// Moves a tenant, named by its id or slug, to another shard; undone if it is told to stop before
/// the tenant is there.
///
/// # Errors
///
/// [`MoveFailed`].
pub async fn move_tenant(
    service: &Service,
    tenant: &str,
    shard: &str,
    stop: CancellationToken,
    teller: &(dyn Teller + Send),
) -> Result<(), MoveFailed> {
    let application = &service.application;
    let tenant = archive::find(application, tenant)?.id;
    let to = Slug::try_from(shard.to_owned())
        .map_err(|error| MoveFailed::InvalidShard(shard.to_owned(), error))?;
    let (stopped, tell) = (|| stop.is_cancelled(), |line: String| teller.note(&line));
    let moved = application
        .move_tenant(service.mover.as_ref(), tenant, &to, &stopped, &tell)
        .await?;
    let line = match moved {
        Moved::There => format!("{tenant} is in {shard}"),
        Moved::BeforeThis => format!("{tenant} was in {shard} already"),
        Moved::Back => format!("{tenant} is in {shard} again"),
    };
    teller.done(&line);
    Ok(())
}

/// Builds the read model `view` anew: of one tenant, or of all.
///
/// # Errors
///
/// [`Failed`].
pub async fn rebuild(
    application: &Application,
    view: &str,
    tenant: Option<TenantId>,
    teller: &dyn Teller,
) -> Result<(), Failed> {
    if !application.subscribers.is_read_model(view) {
        return Err(Failed::UnknownView(view.to_owned()));
    }
    let tenants = match tenant {
        Some(id) => vec![
            application
                .directory
                .get(id)
                .ok_or(Failed::UnknownTenant(id))?,
        ],
        None => oldest_first(application),
    };
    let work = async |tenant: &Tenant| {
        let progress = progress(teller, format!("{view} of {}", tenant.id));
        let rebuilt = application.subscribers.rebuild(view, tenant.id, &progress);
        let position = rebuilt.await?;
        teller.done(&format!("{view} of {}: position {position}", tenant.id));
        Ok::<_, Error>(())
    };
    for_each(tenants, 1, teller, work).await
}

/// Tells now and then how far the work on `what` is.
pub(crate) fn progress(
    teller: &dyn Teller,
    what: String,
) -> impl Fn(Position) + Send + Sync + use<'_> {
    let told = AtomicU64::new(0);
    move |position| {
        let step = position / PROGRESS_EVENTS;
        if told.fetch_max(step, Ordering::Relaxed) < step {
            teller.note(&format!("{what}: at position {position}"));
        }
    }
}

pub(crate) fn oldest_first(application: &Application) -> Vec<Arc<Tenant>> {
    let mut tenants = application.directory.all();
    tenants.sort_by_key(|tenant| tenant.id);
    tenants
}

/// Does the work for `at_a_time` tenants at a time, whatever becomes of the others.
pub(crate) async fn for_each<E: std::error::Error + 'static>(
    tenants: Vec<Arc<Tenant>>,
    at_a_time: usize,
    teller: &dyn Teller,
    work: impl AsyncFn(&Tenant) -> Result<(), E>,
) -> Result<(), Failed> {
    let total = tenants.len();
    let done = stream::iter(tenants).map(async |tenant| {
        let failed = match tenant.ready {
            true => work(&tenant).await.map_err(|error| causes(&error)),
            false => Err("half made; the next `serve` finishes it".to_owned()),
        };
        if let Err(why) = &failed {
            teller.note(&format!("tenant {}: {why}", tenant.id));
        }
        usize::from(failed.is_err())
    });
    let done = done.buffer_unordered(at_a_time);
    match done.fold(0, async |all, one| all + one).await {
        0 => Ok(()),
        failed => Err(Failed::Tenants { failed, total }),
    }
}
