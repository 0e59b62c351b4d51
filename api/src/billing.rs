//! The invoice lines of each tenant, as text or as CSV.
//!
//! Lines go to standard output, doubts to standard error; a bill that may be wrong is shown, marked,
//! and ends the process with an error, so that nobody sends it by oversight.

use std::io::{self, Write};

use application::Application;
use application::error::Error;
use application::messages::BILLING_DEAD_LETTERS;
use application::ports::Unavailable;
use chrono::{DateTime, Days, Utc};
use domain::billing::accountant::Account;
use domain::billing::{Bill, Line, Period};
use domain::ids::TenantId;

use crate::config::BillingReport;
use crate::maintenance::{self, Teller, for_each, oldest_first, progress};
use crate::wiring::billing::Received;

/// Lines come in the order of the tenants.
const ONE_AT_A_TIME: usize = 1;

/// Why there is no report, or one that may be wrong.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// Days cannot be billed before they have begun.
    #[error("--to: must not be later than {0}, which is tomorrow in UTC")]
    NotBegun(chrono::NaiveDate),
    /// Some bills may be wrong; why was told.
    #[error(
        "the report may be wrong: tenants with doubts: {tenants}, rejected messages: {rejected}, \
         dead letters: {dead}"
    )]
    Doubtful {
        /// Of how many tenants.
        tenants: usize,
        /// How many messages were rejected and have not come again.
        rejected: usize,
        /// How many messages are among the dead letters.
        dead: u32,
    },
    /// There is no such tenant.
    #[error("there is no tenant {0}")]
    UnknownTenant(TenantId),
    /// For some tenants there is no bill; why was told.
    #[error(transparent)]
    Tenants(#[from] maintenance::Failed),
    /// The biller's file or the broker does not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// The lines could not be written.
    #[error("standard output")]
    Output(#[from] io::Error),
}

/// Refuses a period with days that have not begun at `now`.
///
/// # Errors
///
/// [`Failed::NotBegun`].
pub fn require_begun(period: Period, now: DateTime<Utc>) -> Result<(), Failed> {
    let tomorrow = now.date_naive() + Days::new(1);
    match period.to() <= tomorrow {
        true => Ok(()),
        false => Err(Failed::NotBegun(tomorrow)),
    }
}

/// Writes what the biller's file says to standard output.
///
/// # Errors
///
/// [`Failed::Doubtful`] if anything is in doubt; everything was written all the same.
pub async fn report_received(
    report: &BillingReport,
    period: Period,
    teller: &(dyn Teller + Sync),
) -> Result<(), Failed> {
    let received = Received::open(&report.file).await?;
    let mut invoice = Invoice::begin(io::stdout(), report.csv, period)?;
    let reported = from_received(&received, &mut invoice, report.tenant, teller).await;
    invoice.end()?;
    reported
}

/// Writes what the ledgers say to standard output.
///
/// # Errors
///
/// [`Failed`]; one tenant's is no reason to leave the others out.
pub async fn report_ledgers(
    application: &Application,
    report: &BillingReport,
    period: Period,
    teller: &dyn Teller,
) -> Result<(), Failed> {
    let mut invoice = Invoice::begin(io::stdout(), report.csv, period)?;
    let counted = from_ledgers(application, &mut invoice, report.tenant, teller).await;
    invoice.end()?;
    counted
}

/// Where lines are written to.
struct Invoice<W: Write> {
    period: Period,
    form: Form<W>,
}

enum Form<W: Write> {
    Text(W),
    Csv(Box<csv::Writer<W>>),
}

impl<W: Write> Invoice<W> {
    /// Begins to write about `period`, as CSV or as text.
    fn begin(out: W, csv: bool, period: Period) -> io::Result<Self> {
        let form = match csv {
            false => Form::Text(out),
            true => {
                let mut out = csv::Writer::from_writer(out);
                out.write_record(COLUMNS)?;
                Form::Csv(Box::new(out))
            }
        };
        let mut invoice = Self { period, form };
        if let Form::Text(out) = &mut invoice.form {
            writeln!(out, "{} to {} (UTC)", period.from(), period.to())?;
        }
        Ok(invoice)
    }

    /// Writes a tenant's lines; `sure` says whether nothing is in doubt.
    fn tenant(&mut self, tenant: TenantId, bill: &Bill, sure: bool) -> io::Result<()> {
        match &mut self.form {
            Form::Text(out) => text(out, tenant, bill, sure),
            Form::Csv(out) => csv_rows(out, self.period, tenant, bill, sure),
        }
    }

    /// Everything is written.
    fn end(self) -> io::Result<()> {
        match self.form {
            Form::Text(mut out) => out.flush(),
            Form::Csv(mut out) => out.flush(),
        }
    }
}

const COLUMNS: [&str; 8] = [
    "tenant",
    "from",
    "to",
    "charge",
    "item",
    "price_level",
    "quantity",
    "complete",
];

fn csv_rows<W: Write>(
    out: &mut csv::Writer<W>,
    period: Period,
    tenant: TenantId,
    bill: &Bill,
    sure: bool,
) -> io::Result<()> {
    let tenant = tenant.to_string();
    let (from, to) = (period.from().to_string(), period.to().to_string());
    for line in bill.lines() {
        let level = line.price_level.map(|level| level.to_string());
        out.write_record([
            &tenant,
            &from,
            &to,
            line.charge,
            line.item.as_deref().unwrap_or_default(),
            level.as_deref().unwrap_or_default(),
            &line.quantity.to_string(),
            &sure.to_string(),
        ])?;
    }
    Ok(())
}

fn text<W: Write>(out: &mut W, tenant: TenantId, bill: &Bill, sure: bool) -> io::Result<()> {
    let doubt = if sure { "" } else { ", in doubt" };
    writeln!(out, "tenant {tenant}{doubt}")?;
    for line in bill.lines() {
        let Line {
            charge, quantity, ..
        } = line;
        let item = line.item.map(|item| format!("  {item}"));
        let level = line.price_level.map(|level| format!(" (level {level})"));
        let (item, level) = (item.unwrap_or_default(), level.unwrap_or_default());
        writeln!(out, "  {charge:<20}{quantity:>10}{item}{level}")?;
    }
    Ok(())
}

/// Writes what messages say that one tenant, or each, owes.
async fn from_received<W: Write>(
    received: &Received,
    invoice: &mut Invoice<W>,
    tenant: Option<TenantId>,
    teller: &(dyn Teller + Sync),
) -> Result<(), Failed> {
    let known = received.tenants().await?;
    let asked = match tenant {
        Some(id) if !known.contains(&id) => return Err(Failed::UnknownTenant(id)),
        Some(id) => vec![id],
        None => known,
    };
    let (mut rejected, dead) = (received.rejected().await?, received.dead().await?);
    // A dead letter that is none of the rejected messages may be anybody's.
    let unknown = dead.saturating_sub(u32::try_from(rejected.len()).unwrap_or(u32::MAX));
    let dead_of_concern = match tenant {
        Some(_) => unknown,
        None => dead,
    };
    if let Some(tenant) = tenant {
        rejected.retain(|one| one.tenant().is_none_or(|its| its == tenant));
    }
    for one in &rejected {
        teller.note(&one.to_string());
    }
    if dead > 0 {
        teller.note(&format!(
            "{BILLING_DEAD_LETTERS} holds {dead} messages, or did when messages were last taken: what \
             they are, somebody must see; republished, they count; then empty it"
        ));
    }
    // What names no tenant concerns the whole report, and no single tenant's.
    rejected.retain(|one| tenant.is_none() || one.tenant().is_some());
    let mut tenants = 0;
    for tenant in asked {
        let progress = progress(teller, format!("tenant {tenant}"));
        let account = received.account(tenant, invoice.period, &progress).await?;
        tell_extent(tenant, &account, teller);
        tell_doubts(tenant, &account, teller);
        let rejected = rejected.iter().any(|one| one.tenant() == Some(tenant));
        let sure = account.doubts.is_empty() && !rejected && unknown == 0;
        tenants += usize::from(!sure);
        invoice.tenant(tenant, &account.bill, sure)?;
    }
    match (tenants, rejected.len(), dead_of_concern) {
        (0, 0, 0) => Ok(()),
        (tenants, rejected, dead) => Err(Failed::Doubtful {
            tenants,
            rejected,
            dead,
        }),
    }
}

/// So that a bill is not taken for complete whose messages end before its period does.
fn tell_extent(tenant: TenantId, account: &Account, teller: &dyn Teller) {
    if let Some(latest) = account.latest {
        let (through, latest) = (account.through, latest.format("%Y-%m-%dT%H:%M:%SZ"));
        teller.note(&format!(
            "tenant {tenant}: messages up to {through}, of {latest}"
        ));
    }
}

fn tell_doubts(tenant: TenantId, account: &Account, teller: &dyn Teller) {
    for doubt in &account.doubts {
        teller.note(&format!("tenant {tenant}: {doubt}"));
    }
    if account.doubts_more > 0 {
        let more = account.doubts_more;
        teller.note(&format!("tenant {tenant}: and {more} doubts more"));
    }
}

/// Writes what the ledgers say that one tenant, or each, owes.
async fn from_ledgers<W: Write>(
    application: &Application,
    invoice: &mut Invoice<W>,
    tenant: Option<TenantId>,
    teller: &dyn Teller,
) -> Result<(), Failed> {
    let tenants = match tenant {
        Some(id) => {
            let one = application.directory.get(id);
            vec![one.ok_or(Failed::UnknownTenant(id))?]
        }
        None => oldest_first(application),
    };
    let period = invoice.period;
    let invoice = std::cell::RefCell::new(invoice);
    for_each(tenants, ONE_AT_A_TIME, teller, async |tenant| {
        let progress = progress(teller, format!("tenant {}", tenant.id));
        let bill = application.recount_bill(tenant.id, period, &progress);
        let bill = bill.await?;
        let mut invoice = invoice.borrow_mut();
        let written = invoice.tenant(tenant.id, &bill, true);
        written.map_err(|error| Error::Internal(format!("standard output: {error}")))
    })
    .await?;
    Ok(())
}
