//! Where the broker is, and how to log in.

use std::fmt;
use std::io;
use std::str::FromStr;

use lapin::tcp::{RustlsConnector, RustlsConnectorConfig};
use lapin::uri::{AMQPScheme, AMQPUri};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// How often either side says that it is there, in seconds; silence of twice as long ends the
/// connection.
const HEARTBEAT_S: u16 = 10;

/// A broker's address. It may have a password in it, so it is never shown.
#[derive(Clone)]
pub struct Address {
    pub(super) uri: AMQPUri,
    trust: Trust,
}

/// Who may vouch for the broker at an encrypted address.
#[derive(Clone)]
enum Trust {
    Machine,
    Authorities(Vec<CertificateDer<'static>>),
}

/// Why there is no address. What was given is not shown: a password may be in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// It is no broker's address.
    #[error("must be amqp://USER:PASSWORD@HOST[:PORT][/VHOST] or amqps://…, percent-encoded")]
    Url,
    /// The library would take another host.
    #[error("must have a name or an IPv4 address as host")]
    Ipv6,
    /// There is no certificate to be read.
    #[error("must hold certificates (PEM)")]
    Certificates,
    /// Certificates are of no use without encryption.
    #[error("is for an address that begins with amqps://")]
    NotEncrypted,
}

impl InvalidAddress {
    /// Whether it is the certificates that are wrong.
    pub const fn is_of_certificates(self) -> bool {
        matches!(self, Self::Certificates | Self::NotEncrypted)
    }
}

impl Address {
    /// The broker at `url`. With `amqps` its certificate must be signed by one of the authorities in
    /// `certificates` (PEM), or without them by one that the machine trusts.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`], which does not show it.
    pub fn parse(url: &str, certificates: Option<&str>) -> Result<Self, InvalidAddress> {
        let mut uri = AMQPUri::from_str(url).map_err(|_| InvalidAddress::Url)?;
        if url.contains("://[") || url.contains("@[") {
            return Err(InvalidAddress::Ipv6);
        }
        // A slash at the end would name a virtual host without a name, which nobody has.
        if uri.vhost.is_empty() {
            uri.vhost = "/".to_owned();
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let trust = match certificates {
            None => Trust::Machine,
            Some(_) if uri.scheme == AMQPScheme::AMQP => return Err(InvalidAddress::NotEncrypted),
            Some(pem) => Trust::Authorities(authorities(pem)?),
        };
        Ok(Self { uri, trust })
    }

    /// The broker's host and port, for people.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }

    /// What makes a connection an encrypted one.
    pub(super) fn encryption(&self) -> io::Result<RustlsConnector> {
        let config = match &self.trust {
            Trust::Machine => RustlsConnectorConfig::new_with_native_certs()?,
            Trust::Authorities(certificates) => {
                RustlsConnectorConfig::default().with_parsable_certificates(certificates.clone())
            }
        };
        config.connector_with_no_client_auth()
    }
}

fn authorities(pem: &str) -> Result<Vec<CertificateDer<'static>>, InvalidAddress> {
    let found = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(InvalidAddress::Certificates),
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Address(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_never_shown() {
        let address = Address::parse("amqp://us:opensesame@broker.example/v", None);
        let address = address.expect("an address");
        assert_eq!(format!("{address:?}"), "Address(…)");
        assert_eq!(address.place(), "broker.example:5672");
        for bad in ["http://opensesame", "opensesame", "amqp://:opensesame@[x/"] {
            let refused = Address::parse(bad, None).expect_err(bad);
            assert!(!refused.to_string().contains("opensesame"), "{bad}");
        }
    }

    #[test]
    fn what_would_connect_elsewhere_or_in_the_clear_is_refused() {
        let refused = |url, pem| Address::parse(url, pem).expect_err(url);
        assert_eq!(refused("amqp://[::1]:5672", None), InvalidAddress::Ipv6);
        assert_eq!(refused("amqps://u:p@[::1]/", None), InvalidAddress::Ipv6);
        let plain = refused("amqp://h", Some("certificates"));
        assert_eq!(plain, InvalidAddress::NotEncrypted);
        let empty = refused("amqps://h", Some("no certificates"));
        assert_eq!(empty, InvalidAddress::Certificates);
    }

    #[test]
    fn silence_ends_a_connection_unless_the_address_says_otherwise() {
        let heartbeat = |url| {
            Address::parse(url, None)
                .expect("an address")
                .uri
                .query
                .heartbeat
        };
        assert_eq!(heartbeat("amqp://h"), Some(HEARTBEAT_S));
        assert_eq!(heartbeat("amqp://h/%2f?heartbeat=3"), Some(3));
    }
}
