//! Every knob: its flag, its variable, its default, what it does. In this one place.
//!
//! A flag wins over its variable, a variable over the default. Bad configuration ends the process
//! at once with one line that names the knob and what is wrong with it.

mod billing;
mod broker;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use application::keys::Secret;
use application::usage_audits::nightly::TimeOfDay;
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use domain::ids::TenantId;

pub use self::billing::{BillingReport, Source};
pub use self::broker::{AmqpAddress, AmqpUrl, Broker};

/// The fewest characters of a configured landlord key: tenants see an id that is made from it, from
/// which a shorter one could be guessed.
const LANDLORD_KEY_LENGTH_MIN: usize = 32;
/// Where `serve` keeps its data.
const STORE_DEFAULT: &str = "sqlite:./data";
/// How many tenants' files are open unless it is said.
const OPEN_FILES_MAX: usize = 192;
/// The same of tenants' schemas.
const OPEN_SCHEMAS_MAX: usize = 1_024;
/// Where `demo` keeps its data.
const STORE_OF_DEMO: &str = "sqlite:./data-demo";

/// Digital cards for many tenants: each with a ledger of its own, paid by plan.
///
/// Without a command it serves: on its first start it makes its data directory and a landlord
/// key, and prints the first steps.
#[derive(Debug, Parser)]
#[command(name = "digital-card", version, max_term_width = 100)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub command: Option<Role>,
    /// The knobs.
    #[command(flatten)]
    pub config: Config,
}

/// What the process does.
#[derive(Clone, Debug, Default, Subcommand)]
pub enum Role {
    /// Serve HTTP (the default)
    #[default]
    Serve,
    /// Serve with a landlord, three tenants (free, pro, enterprise) and their cards to try
    /// everything on; safe to repeat
    Demo,
    /// Bring the schema of every store up to date, and stop
    Migrate,
    /// Build a read model anew from the ledgers, and stop
    Rebuild {
        /// Which: `cards` or `landlord`
        view: String,
        /// Only of this tenant
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Check the chain of hashes of a downloaded history (NDJSON), offline
    Verify {
        /// The file; `-` is standard input
        file: PathBuf,
    },
    /// Carry tenants from one service to another, or from shard to shard
    #[command(subcommand)]
    Tenants(Tenants),
    /// Take what the broker holds for billing, and print what each tenant owes for a period: plan
    /// days by price level, cards issued, the peak in circulation, add-on days. Days are UTC and
    /// count from their start; the rules are in domain/src/billing.rs. Nobody else may take from the
    /// queue: of two billers each would bill too little
    BillingReport(BillingReport),
    /// Print the HTTP contract (OpenAPI 3.1)
    Openapi,
    /// Print the contract of messages (AsyncAPI 3.0)
    Asyncapi,
}

/// What is done with a tenant as a whole.
#[derive(Clone, Debug, Subcommand)]
pub enum Tenants {
    /// Write a tenant to a file: its history with the chain, what was answered to its requests,
    /// its keys' hashes. `digital-card verify` reads it too
    Export {
        /// Its id or slug
        tenant: String,
        /// The file; `-` is standard output
        file: PathBuf,
    },
    /// Import a tenant from such a file, verified on the way in, or every tenant of a stopped
    /// embedded service; safe to repeat
    Import {
        /// The file, `-` for standard input, or a data directory
        file: PathBuf,
    },
    /// Move a tenant to another shard, while it is served; its changes are answered 503 while the
    /// latest events and all remembered answers are copied and the cards are built. What was interrupted is finished by the same command, or undone by
    /// naming the shard that the tenant comes from
    Move {
        /// Its id or slug
        tenant: String,
        /// The shard's name
        shard: String,
    },
}

/// Every knob.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options (each also as a variable)")]
pub struct Config {
    /// Where everything is kept: sqlite:DIR, or postgres://… (the landlord's database and the first
    /// shard; prefer the variable) [default: sqlite:./data; demo: sqlite:./data-demo]
    #[arg(long, env, global = true, value_name = "STORE", hide_env_values = true)]
    store: Option<String>,

    /// Whether older schemas are brought up to date when they are opened. With false the service does
    /// not start on an older landlord's schema, and answers 503 for a tenant with an older one: for
    /// whoever runs `migrate` first
    #[arg(
        long,
        env,
        global = true,
        value_name = "MIGRATE",
        default_value = "true",
        action = clap::ArgAction::Set
    )]
    pub migrate: bool,

    /// Address to listen on; port 0 takes a free one
    #[arg(
        long,
        env,
        global = true,
        value_name = "LISTEN",
        default_value = "127.0.0.1:8080"
    )]
    pub listen: SocketAddr,

    /// Accepted as a landlord key: at least 32 visible characters (`openssl rand
    /// -hex 32` draws some). Prefer the variable: flags can
    /// be seen by others on the machine [default: one is generated and printed at the first start]
    #[arg(
        long,
        env,
        global = true,
        value_name = "LANDLORD_API_KEY",
        hide_env_values = true
    )]
    landlord_api_key: Option<String>,

    /// Where tenants go to buy what they lack; part of every 402 [default: the page of codes]
    #[arg(long, env, global = true, value_name = "UPGRADE_URL")]
    pub upgrade_url: Option<String>,

    /// The form of log lines, on standard error; RUST_LOG says how much (info)
    #[arg(
        long,
        env,
        global = true,
        value_name = "LOG_FORMAT",
        default_value = "text"
    )]
    pub log_format: LogFormat,

    /// Where the broker is.
    #[command(flatten)]
    pub broker: Broker,

    /// Bounds on requests.
    #[command(flatten)]
    pub limits: Limits,
}

/// Bounds on connections and requests.
#[derive(Clone, Debug, Args)]
pub struct Limits {
    /// Open connections; more wait in the listener's queue
    #[arg(long = "connections-max", env = "CONNECTIONS_MAX", global = true, value_name = "CONNECTIONS_MAX", default_value = "4096", value_parser = at_least_one)]
    pub connections_max: usize,

    /// Requests being worked on; more are answered 503 with Retry-After
    #[arg(long = "requests-in-flight-max", env = "REQUESTS_IN_FLIGHT_MAX", global = true, value_name = "REQUESTS_IN_FLIGHT_MAX", default_value = "2048", value_parser = at_least_one)]
    pub requests_in_flight_max: usize,

    /// Requests of one tenant being worked on; more are answered 429 with Retry-After
    #[arg(long = "tenant-requests-in-flight-max", env = "TENANT_REQUESTS_IN_FLIGHT_MAX", global = true, value_name = "TENANT_REQUESTS_IN_FLIGHT_MAX", default_value = "1024", value_parser = at_least_one)]
    pub tenant_requests_in_flight_max: usize,

    /// Bytes of a JSON body
    #[arg(long = "body-bytes-max", env = "BODY_BYTES_MAX", global = true, value_name = "BODY_BYTES_MAX", default_value = "65536", value_parser = at_least_one)]
    pub body_bytes_max: usize,

    /// Seconds for a request's head to arrive, from its first byte
    #[arg(long = "header-timeout-s", env = "HEADER_TIMEOUT_S", global = true, value_name = "HEADER_TIMEOUT_S", default_value = "10", value_parser = seconds)]
    pub header_timeout: Duration,

    /// Seconds for a request's whole body to arrive; then 408
    #[arg(long = "body-timeout-s", env = "BODY_TIMEOUT_S", global = true, value_name = "BODY_TIMEOUT_S", default_value = "30", value_parser = seconds)]
    pub body_timeout: Duration,

    /// Seconds that a connection may rest between requests
    #[arg(long = "idle-timeout-s", env = "IDLE_TIMEOUT_S", global = true, value_name = "IDLE_TIMEOUT_S", default_value = "75", value_parser = seconds)]
    pub idle_timeout: Duration,

    /// Seconds that a client may take nothing of an answer
    #[arg(long = "write-timeout-s", env = "WRITE_TIMEOUT_S", global = true, value_name = "WRITE_TIMEOUT_S", default_value = "30", value_parser = seconds)]
    pub write_timeout: Duration,

    /// Seconds that requests in flight have when the process is asked to stop
    #[arg(long = "drain-timeout-s", env = "DRAIN_TIMEOUT_S", global = true, value_name = "DRAIN_TIMEOUT_S", default_value = "20", value_parser = seconds)]
    pub drain_timeout: Duration,

    /// Seconds that a subscriber may be behind before /readyz says so
    #[arg(long = "ready-lag-max-s", env = "READY_LAG_MAX_S", global = true, value_name = "READY_LAG_MAX_S", default_value = "30", value_parser = seconds)]
    pub ready_lag_max: Duration,

    /// Seconds between looks for what was missed: rings that were lost, tenants left half made
    #[arg(long = "sweep-interval-s", env = "SWEEP_INTERVAL_S", global = true, value_name = "SWEEP_INTERVAL_S", default_value = "60", value_parser = seconds)]
    pub sweep_interval: Duration,

    /// Changes that may wait for one tenant's ledger; more are answered 503 with Retry-After
    #[arg(long = "appends-waiting-max", env = "APPENDS_WAITING_MAX", global = true, value_name = "APPENDS_WAITING_MAX", default_value = "2048", value_parser = at_least_one)]
    pub appends_waiting_max: usize,

    /// Tenants whose stores are kept open [default: 192, of 1 MiB each; on PostgreSQL 1024, of less
    /// than 0.1 MiB each]
    #[arg(long = "open-tenants-max", env = "OPEN_TENANTS_MAX", global = true, value_name = "OPEN_TENANTS_MAX", value_parser = at_least_one)]
    pub open_tenants_max: Option<usize>,

    /// When every ledger is counted again and compared with what else says how many cards there
    /// are, each night on one node: HH:MM in UTC, or with an offset (03:00+02:00), which does not
    /// follow summer time; `off` for only when asked
    #[arg(long = "usage-audit-at", env = "USAGE_AUDIT_AT", global = true, value_name = "USAGE_AUDIT_AT", default_value = "03:00", value_parser = nightly)]
    pub usage_audit_at: Nightly,

    /// Connections of this node to the landlord's PostgreSQL database
    #[arg(long = "landlord-connections-max", env = "LANDLORD_CONNECTIONS_MAX", global = true, value_name = "LANDLORD_CONNECTIONS_MAX", default_value = "8", value_parser = connections)]
    pub landlord_connections_max: u32,

    /// Connections of this node to each shard, shared by its tenants; the doorbell has two more
    #[arg(long = "shard-connections-max", env = "SHARD_CONNECTIONS_MAX", global = true, value_name = "SHARD_CONNECTIONS_MAX", default_value = "16", value_parser = connections)]
    pub shard_connections_max: u32,

    /// Connections of this node to the database of each tenant with one of its own; closed when
    /// unused for 30 s, or when the tenant's store is closed (OPEN_TENANTS_MAX)
    #[arg(long = "dedicated-connections-max", env = "DEDICATED_CONNECTIONS_MAX", global = true, value_name = "DEDICATED_CONNECTIONS_MAX", default_value = "4", value_parser = connections)]
    pub dedicated_connections_max: u32,
}

/// When something is done each night.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nightly {
    /// At this time.
    At(TimeOfDay),
    /// Never.
    Off,
}

impl Nightly {
    /// The time, if there is one.
    pub const fn time(self) -> Option<TimeOfDay> {
        match self {
            Self::At(time) => Some(time),
            Self::Off => None,
        }
    }
}

impl Limits {
    /// Tenants whose stores are kept open where they are files.
    pub fn open_files_max(&self) -> usize {
        self.open_tenants_max.unwrap_or(OPEN_FILES_MAX)
    }

    /// Tenants whose stores are kept open where they are schemas.
    pub fn open_schemas_max(&self) -> usize {
        self.open_tenants_max.unwrap_or(OPEN_SCHEMAS_MAX)
    }
}

/// Where everything is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Store {
    /// A directory of SQLite files.
    Sqlite(PathBuf),
    /// The landlord's PostgreSQL database.
    Postgres(PostgresUrl),
}

/// The address of a PostgreSQL database. It may have a password in it, so it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(String);

impl PostgresUrl {
    /// The address itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgresUrl(…)")
    }
}

/// The form of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl FromStr for Store {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("sqlite", path)) if !path.is_empty() => Ok(Self::Sqlite(path.into())),
            Some(("postgres" | "postgresql", rest)) if rest.starts_with("//") => {
                Ok(Self::Postgres(PostgresUrl(text.to_owned())))
            }
            _ => Err("must be sqlite:DIR or postgres://…".to_owned()),
        }
    }
}

/// What is wrong with the configuration, in one line; or the help that was asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Stop {
    /// Asked for: text for standard output.
    Help(String),
    /// One line that names the knob and what is wrong with it.
    Bad(String),
}

impl CommandLine {
    /// Reads flags and variables.
    ///
    /// # Errors
    ///
    /// [`Stop`] if the process must not go on.
    pub fn read<I>(arguments: I) -> Result<Self, Stop>
    where
        I: IntoIterator<Item: Into<std::ffi::OsString> + Clone>,
    {
        let line = Self::try_parse_from(arguments).map_err(|error| match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                Stop::Help(error.render().to_string())
            }
            _ => Stop::Bad(one_line(&error.render().to_string())),
        })?;
        line.check().map_err(Stop::Bad)?;
        Ok(line)
    }

    /// What to do.
    pub fn role(&self) -> Role {
        self.command.clone().unwrap_or_default()
    }

    /// Where everything is kept.
    pub fn store(&self) -> Store {
        let default = match self.role() {
            Role::Demo => STORE_OF_DEMO,
            _ => STORE_DEFAULT,
        };
        // Checked when it was read.
        let configured = self.config.store.as_deref().and_then(|it| it.parse().ok());
        configured.unwrap_or_else(|| Store::Sqlite(default.trim_start_matches("sqlite:").into()))
    }

    fn check(&self) -> Result<(), String> {
        // Their values may be secret, so they are not checked where clap would quote them.
        if let Some(store) = &self.config.store {
            store
                .parse::<Store>()
                .map_err(|why| format!("STORE: {why}"))?;
        }
        if let Some(key) = &self.config.landlord_api_key
            && (key.len() < LANDLORD_KEY_LENGTH_MIN || !key.bytes().all(|b| b.is_ascii_graphic()))
        {
            return Err(format!(
                "LANDLORD_API_KEY: must be at least {LANDLORD_KEY_LENGTH_MIN} visible ASCII \
                 characters without spaces"
            ));
        }
        self.config.broker.check()?;
        if let Some(Role::BillingReport(report)) = &self.command {
            report.check(&self.config.broker)?;
        }
        let known_key = self.config.landlord_api_key.is_none();
        if matches!(self.role(), Role::Demo) && known_key && !self.config.listen.ip().is_loopback()
        {
            return Err(
                "LISTEN: the demo's keys are public, so it listens on a loopback address only; \
                 set LANDLORD_API_KEY to open it"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

impl Config {
    /// The configured landlord key.
    pub fn landlord_api_key(&self) -> Option<Secret> {
        self.landlord_api_key.clone().map(Secret::new)
    }
}

/// The first line of clap's message, without its prefix; it names the flag and, as the flag's
/// placeholder, the variable.
fn one_line(message: &str) -> String {
    let message = message.trim().trim_start_matches("error: ");
    let mut lines = message.lines().take_while(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| format!("{text} {}", line.trim()))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("must be a whole number of at least 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

fn connections(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(number @ 2..=1000) => Ok(number),
        _ => Err("must be a whole number, 2 to 1000".to_owned()),
    }
}

fn nightly(text: &str) -> Result<Nightly, String> {
    match text {
        "off" => Ok(Nightly::Off),
        time => time
            .parse()
            .map(Nightly::At)
            .map_err(|error| format!("{error}; or off")),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.001..=86_400.0).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err("must be a number of seconds, 0.001 to 86400".to_owned()),
    }
}

#[cfg(test)]
mod tests;
