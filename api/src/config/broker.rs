//! The knobs of the broker.

use std::fmt;
use std::path::PathBuf;

use clap::Args;

/// Where the broker is; without it, nothing is published.
#[derive(Clone, Debug, Args)]
pub struct Broker {
    /// The broker: amqp://USER:PASSWORD@HOST[:PORT][/VHOST], or amqps://…. Prefer the variable or a
    /// file: flags can be seen by others on the machine [default: nothing is published]
    #[arg(
        long,
        env,
        global = true,
        value_name = "AMQP_URL",
        hide_env_values = true
    )]
    amqp_url: Option<AmqpUrl>,

    /// A file that holds the broker's address, instead of AMQP_URL
    #[arg(long, env, global = true, value_name = "AMQP_URL_FILE")]
    amqp_url_file: Option<PathBuf>,

    /// A file (PEM) with the only authorities that may vouch for a broker at amqps://
    /// [default: those that the machine trusts]
    #[arg(long, env, global = true, value_name = "AMQP_CA_FILE")]
    pub amqp_ca_file: Option<PathBuf>,
}

/// Where the broker's address is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AmqpAddress {
    /// Here.
    Url(AmqpUrl),
    /// In a file.
    File(PathBuf),
}

/// The address of a broker. It may have a password in it, so it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct AmqpUrl(String);

impl AmqpUrl {
    /// The address itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for AmqpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AmqpUrl(…)")
    }
}

/// Takes any text: clap would quote one that it refuses.
impl From<String> for AmqpUrl {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Broker {
    /// Where the broker's address is; none is configured by default.
    pub fn address(&self) -> Option<AmqpAddress> {
        let url = self.amqp_url.clone().map(AmqpAddress::Url);
        url.or_else(|| self.amqp_url_file.clone().map(AmqpAddress::File))
    }

    /// What can be said without reading files, which is for whoever connects.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.amqp_url.is_some() && self.amqp_url_file.is_some() {
            return Err("AMQP_URL, AMQP_URL_FILE: only one of them".to_owned());
        }
        match &self.amqp_url {
            Some(AmqpUrl(url)) if !url.starts_with("amqp://") && !url.starts_with("amqps://") => {
                Err("AMQP_URL: must be amqp://… or amqps://…".to_owned())
            }
            _ => Ok(()),
        }
    }
}
