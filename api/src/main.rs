//! The `digital-card` program: one binary, its roles as subcommands.

use std::io::{BufReader, IsTerminal, Read, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use api::config::{
    BillingReport, CommandLine, Config, LogFormat, Role, Source, Stop, Store, Tenants,
};
use api::crowd::Crowd;
use api::maintenance::{self, Teller};
use api::meter::{self, Meter};
use api::wiring::billing::{forget_rejected, now, take};
use api::wiring::{LandlordKey, Service, broker};
use api::{Api, archive, asyncapi, billing, demo, docs, files, first_minutes, server, verify};
use application::error::causes;
use domain::billing::Period;
use domain::ids::TenantId;
use mimalloc::MiMalloc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, registry};

/// A request allocates on one thread and frees on another, at which the C library's allocator is slow.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What is logged unless `RUST_LOG` says otherwise: PostgreSQL's notices tell nobody anything.
const LOG_DEFAULT: &str = "info,sqlx::postgres::notice=warn";
/// Whose words are not logged whatever `RUST_LOG` says: the broker's library shows every message
/// that comes back, and at its finest the login. What it has to say the publisher says.
const LOG_NEVER: [&str; 3] = ["lapin", "amq_protocol", "async_rs"];

fn main() -> ExitCode {
    let line = match CommandLine::read(std::env::args_os()) {
        Ok(line) => line,
        Err(Stop::Help(text)) => {
            print(&text);
            return ExitCode::SUCCESS;
        }
        Err(Stop::Bad(text)) => {
            complain(&text);
            return ExitCode::from(2);
        }
    };
    log_to_stderr(line.config.log_format);
    match run(&line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&causes(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn run(line: &CommandLine) -> anyhow::Result<()> {
    match line.role() {
        Role::Openapi => print(&docs::contract_text()),
        Role::Asyncapi => print(&asyncapi::contract_text()),
        Role::Verify { file } => return check(&file),
        Role::Serve => block_on(serve(line, false))?,
        Role::Demo => block_on(serve(line, true))?,
        Role::Migrate => block_on(migrate(line))?,
        Role::Tenants(Tenants::Export { tenant, file }) => block_on(export(line, &tenant, &file))?,
        Role::Tenants(Tenants::Import { file }) => block_on(import(line, &file))?,
        Role::Tenants(Tenants::Move { tenant, shard }) => {
            block_on(move_tenant(line, &tenant, &shard))?;
        }
        Role::BillingReport(report) => block_on(billing_report(line, &report))?,
        Role::Rebuild { view, tenant } => block_on(rebuild(line, &view, tenant))?,
    }
    Ok(())
}

fn block_on(work: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

async fn serve(line: &CommandLine, demo: bool) -> anyhow::Result<()> {
    meter::install();
    let config = &line.config;
    files::raise_limit(&line.store(), &config.limits);
    let service = open_with(line, broker::address(&config.broker)?).await?;
    let stop = stop_on_signal()?;
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("LISTEN: {}", config.listen))?;
    let address = listener.local_addr()?;
    let configured = match demo {
        true => Some(demo::landlord_key(config)),
        false => config.landlord_api_key(),
    };
    let key = service.landlord_key(configured).await?;
    service.start();
    let greeting = match demo {
        true => demo::prepare(&service.application, config, address).await?,
        false => first_minutes::greeting(address, &key),
    };
    let router = api::router(Arc::new(api_of(&service, config, address)));
    tokio::spawn(meter::keep_up());
    let shown = write(&greeting);
    if let LandlordKey::Generated(secret) = &key {
        // It is shown this once: one that nobody has seen must not keep the next from being made.
        shown.context("the landlord key cannot be shown")?;
        service.keep(secret).await?;
    }
    server::serve(listener, router, &config.limits, stop).await;
    service.stop().await;
    Ok(())
}

fn api_of(service: &Service, config: &Config, address: std::net::SocketAddr) -> Api {
    let here = first_minutes::reachable(address);
    Api {
        application: Arc::clone(&service.application),
        limits: config.limits.clone(),
        upgrade_url: config
            .upgrade_url
            .clone()
            .unwrap_or_else(|| format!("http://{here}/docs/problems#upgrade_required")),
        crowd: Arc::new(Crowd::new(
            config.limits.requests_in_flight_max,
            config.limits.tenant_requests_in_flight_max,
        )),
        meter: Meter::default(),
        stores_answer: service.stores_answer(),
    }
}

async fn migrate(line: &CommandLine) -> anyhow::Result<()> {
    let service = open(line).await?;
    let done = maintenance::migrate(&service.application, &Terminal).await;
    service.stop().await;
    Ok(done?)
}

async fn rebuild(line: &CommandLine, view: &str, tenant: Option<TenantId>) -> anyhow::Result<()> {
    let service = open(line).await?;
    let done = maintenance::rebuild(&service.application, view, tenant, &Terminal).await;
    service.stop().await;
    Ok(done?)
}

async fn export(line: &CommandLine, tenant: &str, file: &Path) -> anyhow::Result<()> {
    let service = open(line).await?;
    let done = archive::export(&service.application, tenant, file, &Terminal).await;
    service.stop().await;
    Ok(done?)
}

async fn import(line: &CommandLine, file: &Path) -> anyhow::Result<()> {
    let service = open(line).await?;
    let done = match file.is_dir() {
        true => import_all(line, file, &service).await,
        false => archive::import(&service.application, file, &Terminal)
            .await
            .map_err(Into::into),
    };
    service.stop().await;
    done
}

async fn import_all(line: &CommandLine, from: &Path, service: &Service) -> anyhow::Result<()> {
    archive::require_data_directory(from)?;
    let source = Service::open(
        &Store::Sqlite(from.into()),
        &line.config.limits,
        line.config.migrate,
        None,
    )
    .await?;
    let done = archive::import_all(&source.application, &service.application, &Terminal).await;
    source.stop().await;
    Ok(done?)
}

async fn move_tenant(line: &CommandLine, tenant: &str, shard: &str) -> anyhow::Result<()> {
    let service = open(line).await?;
    let stop = stop_on_signal()?;
    let done = maintenance::move_tenant(&service, tenant, shard, stop, &Terminal).await;
    service.stop().await;
    Ok(done?)
}

async fn billing_report(line: &CommandLine, report: &BillingReport) -> anyhow::Result<()> {
    let period = report.period().map_err(anyhow::Error::msg)?;
    if let Some(period) = period {
        billing::require_begun(period, now())?;
    }
    if report.forget_rejected {
        forget_rejected(&report.file, &Terminal).await?;
    }
    let source = report.source();
    if matches!(source, Source::Queue | Source::QueueForEver) {
        let for_ever = source == Source::QueueForEver;
        let stop = stop_on_signal()?;
        take(&line.config.broker, report, for_ever, &stop, &Terminal).await?;
        if stop.is_cancelled() && !for_ever {
            anyhow::bail!("stopped before all was taken that waited; what was taken is kept");
        }
    }
    match period {
        Some(period) if source == Source::Ledgers => recount(line, report, period).await,
        Some(period) => Ok(billing::report_received(report, period, &Terminal).await?),
        None => Ok(()),
    }
}

async fn recount(line: &CommandLine, report: &BillingReport, period: Period) -> anyhow::Result<()> {
    let service = open(line).await?;
    let done = billing::report_ledgers(&service.application, report, period, &Terminal).await;
    service.stop().await;
    Ok(done?)
}

/// Results on standard output, everything else on standard error.
struct Terminal;

impl Teller for Terminal {
    fn done(&self, line: &str) {
        print(&format!("{line}\n"));
    }

    fn note(&self, line: &str) {
        complain(line);
    }
}

fn check(file: &Path) -> anyhow::Result<()> {
    let source: Box<dyn Read> = match file.as_os_str() == "-" {
        true => Box::new(std::io::stdin()),
        false => Box::new(std::fs::File::open(file).with_context(|| file.display().to_string())?),
    };
    let verified = verify::verify(BufReader::with_capacity(1 << 20, source))?;
    print(&format!(
        "the chain holds: {} events, last hash {}\n",
        verified.events, verified.hash
    ));
    Ok(())
}

/// Only who serves publishes.
async fn open(line: &CommandLine) -> anyhow::Result<Service> {
    open_with(line, None).await
}

async fn open_with(line: &CommandLine, broker: Option<broker::Address>) -> anyhow::Result<Service> {
    let migrate = line.config.migrate || matches!(line.role(), Role::Migrate);
    Service::open(&line.store(), &line.config.limits, migrate, broker)
        .await
        .context("STORE")
}

/// Cancelled by SIGTERM or SIGINT.
fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};

    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let token = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        token.cancel();
        tracing::info!("stopping");
    });
    Ok(stop)
}

fn log_to_stderr(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(LOG_DEFAULT));
    // Beside that filter, not in it: there the longest target wins, `lapin::io_loop=trace` say.
    let may = filter_fn(|it| !LOG_NEVER.iter().any(|name| it.target().starts_with(name)));
    let filtered = registry().with(filter).with(may);
    let log = tracing_subscriber::fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // They would be told on standard error too, and panic where that has lost its reader.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => filtered.with(log).init(),
        LogFormat::Json => filtered.with(log.json().flatten_event(true)).init(),
    }
}

/// Writes to standard output at once; a reader that went away is no reason to stop.
fn print(text: &str) {
    let _ = write(text);
}

/// Writes to standard output at once.
fn write(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Writes a line to standard error; a reader that went away is no reason to stop.
fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "digital-card: {line}");
}
