//! What a newcomer reads on standard output: where the service is, the key (once), and lines to
//! paste that work.

use std::net::SocketAddr;

use crate::wiring::LandlordKey;

/// The text of a start. Its first line is for machines too: tests and scripts look for
/// `listening on http://`.
pub fn greeting(address: SocketAddr, key: &LandlordKey) -> String {
    let url = format!("http://{}", reachable(address));
    let mut text = format!("listening on http://{address}\n");
    text.push_str(&format!("documentation at {url}/docs\n"));
    match key {
        LandlordKey::Generated(secret) => {
            let secret = secret.reveal();
            text.push_str(&format!(
                "\nlandlord key, shown this once: {secret}\n\n{}\n",
                first_steps(&url, secret)
            ));
        }
        LandlordKey::Configured => {
            text.push_str(&format!("\n{}\n", first_steps(&url, "$LANDLORD_API_KEY")));
        }
        LandlordKey::Known => text.push_str(
            "\nthe landlord key was shown at the first start; LANDLORD_API_KEY sets another\n",
        ),
    }
    text
}

/// Two commands to paste: a tenant, and its first card.
fn first_steps(url: &str, landlord_key: &str) -> String {
    format!(
        r#"make a tenant, and issue its first card (paste both lines):

KEY=$(curl -s {url}/v1/landlord/tenants -H "Authorization: Bearer {landlord_key}" -H "Idempotency-Key: first-steps" -H "Content-Type: application/json" -d '{{"name":"First Tenant","slug":"first-tenant","plan":"free"}}' | sed 's/.*"api_key":"\([^"]*\)".*/\1/')
curl -s {url}/v1/cards -H "Authorization: Bearer $KEY" -H "Content-Type: application/json" -d '{{"holder":{{"name":"Ada Lovelace"}},"activate":true}}'"#
    )
}

/// An address that a client on this machine can use: a wildcard is not one everywhere.
pub fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            (std::net::Ipv6Addr::LOCALHOST, v6.port()).into()
        }
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use application::keys::Secret;

    use super::*;

    #[test]
    fn the_first_line_is_for_machines_and_a_generated_key_is_shown() {
        let address = ([127, 0, 0, 1], 8080).into();
        let key = LandlordKey::Generated(Secret::new("dck_secret"));
        let text = greeting(address, &key);
        assert!(text.starts_with("listening on http://127.0.0.1:8080\n"));
        assert!(text.contains("dck_secret"));
        assert!(!greeting(address, &LandlordKey::Known).contains("Bearer"));
    }
}
