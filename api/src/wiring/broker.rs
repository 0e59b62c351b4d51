//! The broker that the configuration names, read from where it says.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use application::ports::Unavailable;
pub use infrastructure::rabbitmq::address::Address;

use crate::config::{AmqpAddress, Broker};

/// The most bytes of a file that a knob names.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Where the broker is; `None` if none is configured.
///
/// # Errors
///
/// Which knob is wrong, and why; what it says is not shown.
pub fn address(knobs: &Broker) -> Result<Option<Address>, Unavailable> {
    let Some(address) = knobs.address() else {
        return Ok(None);
    };
    let certificates = match &knobs.amqp_ca_file {
        Some(file) => Some(read("AMQP_CA_FILE", file)?),
        None => None,
    };
    let (knob, url) = match address {
        AmqpAddress::Url(url) => ("AMQP_URL", url.reveal().to_owned()),
        AmqpAddress::File(file) => ("AMQP_URL_FILE", read("AMQP_URL_FILE", &file)?),
    };
    let address = Address::parse(url.trim(), certificates.as_deref());
    let address = address.map_err(|error| {
        let knob = if error.is_of_certificates() {
            "AMQP_CA_FILE"
        } else {
            knob
        };
        Unavailable::because(knob, error)
    })?;
    Ok(Some(address))
}

fn read(knob: &'static str, path: &Path) -> Result<String, Unavailable> {
    let unreadable = |error| Unavailable::because(knob, format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX).read_to_string(&mut text);
    read.map_err(unreadable)?;
    Ok(text)
}
