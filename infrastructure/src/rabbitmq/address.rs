//! Where the broker is, and how to log in.

use std::fmt;
use std::str::FromStr;

use lapin::tcp::OwnedTLSConfig;
use lapin::uri::AMQPUri;

/// How often either side says that it is there, in seconds; silence of twice as long ends the
/// connection.
const HEARTBEAT_S: u16 = 10;

/// A broker's address. It may have a password in it, so it is never shown.
#[derive(Clone)]
pub struct Address {
    pub(super) uri: AMQPUri,
    pub(super) trust: OwnedTLSConfig,
}

/// The text is no broker's address. It is not said what is wrong: that might show a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be amqp://USER:PASSWORD@HOST[:PORT][/VHOST] or amqps://…")]
pub struct InvalidAddress;

impl Address {
    /// The broker at `url`. With `amqps` its certificate must be signed by one of the authorities in
    /// `certificates` (PEM), or else by one that the machine trusts.
    ///
    /// # Errors
    ///
    /// [`InvalidAddress`], which does not show it.
    pub fn parse(url: &str, certificates: Option<String>) -> Result<Self, InvalidAddress> {
        let mut uri = AMQPUri::from_str(url).map_err(|_| InvalidAddress)?;
        // A slash at the end would name a virtual host without a name, which nobody has.
        if uri.vhost.is_empty() {
            uri.vhost = "/".to_owned();
        }
        uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
        let trust = OwnedTLSConfig {
            identity: None,
            cert_chain: certificates,
        };
        Ok(Self { uri, trust })
    }

    /// The broker's host and port, for people.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
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
