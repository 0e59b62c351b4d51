//! The biller: the broker's queue and the biller's own file. Nothing of the service is opened.

use std::path::Path;
use std::sync::Arc;

use application::billing::rejected::Rejected;
use application::ports::{Clock, Unavailable};
use chrono::{DateTime, Utc};
use domain::billing::Period;
use domain::billing::accountant::Account;
use domain::ids::{Position, TenantId};
use infrastructure::billing;
use infrastructure::billing::journal::{Books, Journal, Kept};
use infrastructure::billing::queue::Until;
use infrastructure::clock::SystemClock;
use tokio_util::sync::CancellationToken;

use super::broker::address;
use crate::config::{BillingReport, Broker};
use crate::maintenance::Teller;

const THE_FILE: &str = "the biller's file";
/// After how many messages each it is said how many there were.
const PROGRESS_MESSAGES: u64 = 10_000;

/// Now.
pub fn now() -> DateTime<Utc> {
    SystemClock.now()
}

/// Takes messages into the biller's file: those that wait, or, `for_ever`, until told to stop.
///
/// # Errors
///
/// What cannot be had, and why. What was taken until then is in the file.
pub async fn take(
    broker: &Broker,
    report: &BillingReport,
    for_ever: bool,
    stop: &CancellationToken,
    teller: &(dyn Teller + Sync),
) -> Result<(), Unavailable> {
    let broker = address(broker)?.ok_or_else(|| Unavailable::new("AMQP_URL"))?;
    let journal = Journal::open(&report.file).await;
    let journal = journal.map_err(|error| Unavailable::because(THE_FILE, error))?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (mut all, mut told) = (Kept::default(), 0);
    let mut count = |kept: Kept| {
        all += kept;
        let step = all.messages() / PROGRESS_MESSAGES;
        if told < step {
            told = step;
            teller.note(&said(all));
        }
    };
    let taken = match for_ever {
        true => billing::follow(&broker, &journal, &clock, stop, &mut count).await,
        false => {
            let until = Until::Taken(report.idle);
            billing::queue::take(&broker, &journal, &clock, until, stop, &mut count).await
        }
    };
    teller.note(&said(all));
    let closed = journal.close().await;
    taken.map_err(|error| Unavailable::because("the queue was not taken to its end", error))?;
    closed.map_err(|error| Unavailable::because(THE_FILE, error))
}

fn said(all: Kept) -> String {
    let Kept {
        new,
        late,
        repeated,
        contradicted,
        rejected,
    } = all;
    format!(
        "messages: new: {new} (late: {late}), repeated: {repeated} (saying something else: \
         {contradicted}), rejected: {rejected}"
    )
}

/// Forgets the messages that could not be read, and says which they were.
///
/// # Errors
///
/// The biller's file cannot be written, or is in use.
pub async fn forget_rejected(file: &Path, teller: &dyn Teller) -> Result<(), Unavailable> {
    let journal = Journal::open(file).await;
    let journal = journal.map_err(|error| Unavailable::because(THE_FILE, error))?;
    let forgotten = journal.forget_rejected().await;
    let forgotten = forgotten.map_err(|error| Unavailable::because(THE_FILE, error))?;
    for one in forgotten {
        teller.note(&format!("forgotten: {one}"));
    }
    let closed = journal.close().await;
    closed.map_err(|error| Unavailable::because(THE_FILE, error))
}

/// What has been received.
pub struct Received(Books);

impl Received {
    /// Opens the biller's file, which may be in use.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub async fn open(file: &Path) -> Result<Self, Unavailable> {
        let books = Books::open(file).await;
        books
            .map(Self)
            .map_err(|error| Unavailable::because(THE_FILE, error))
    }

    /// The tenants of whom there is any message, oldest first.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub async fn tenants(&self) -> Result<Vec<TenantId>, Unavailable> {
        let tenants = self.0.tenants().await;
        tenants.map_err(|error| Unavailable::because(THE_FILE, error))
    }

    /// A tenant's bill; `progress` hears now and then how far it is.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub async fn account(
        &self,
        tenant: TenantId,
        period: Period,
        progress: &(dyn Fn(Position) + Sync),
    ) -> Result<Account, Unavailable> {
        let account = self.0.account(tenant, period, progress).await;
        account.map_err(|error| Unavailable::because(THE_FILE, error))
    }

    /// The messages that could not be read.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub async fn rejected(&self) -> Result<Vec<Rejected>, Unavailable> {
        let rejected = self.0.rejected().await;
        rejected.map_err(|error| Unavailable::because(THE_FILE, error))
    }

    /// How many messages were among the dead letters when they were last looked at.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub async fn dead(&self) -> Result<u32, Unavailable> {
        let dead = self.0.dead().await;
        dead.map_err(|error| Unavailable::because(THE_FILE, error))
    }
}
