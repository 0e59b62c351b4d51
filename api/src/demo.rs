//! The demo: a landlord, three tenants on the three plans, and cards in every state, made through
//! the same use cases as everything else.
//!
//! Every command has an idempotency key, and keys derive from the landlord's, so a second start
//! finds everything as it was and shows the same keys.

use std::fmt::Write;
use std::net::SocketAddr;

use application::Application;
use application::cards::{Change, NewCard};
use application::error::Error;
use application::keys::{NewKey, Secret, Seed};
use application::scope::{Command, Idempotency, Role, Scope};
use application::tenants::{Isolation, NewTenant};
use chrono::Duration;
use domain::card::Holder;
use domain::ids::CardId;
use domain::text::Tier;

use crate::config::Config;
use crate::first_minutes::reachable;

/// The demo's landlord key unless the configuration sets one. It is public, which is why the
/// demo then listens on a loopback address only.
const LANDLORD_KEY: &str = "dck_demo_landlord_key_for_this_machine_only";

/// Name, slug, plan, and how many cards.
const TENANTS: [(&str, &str, &str, usize); 3] = [
    ("Riverside Library", "riverside-library", "free", 14),
    ("Northside Climbing Club", "northside-climbing", "pro", 24),
    ("Harbour University", "harbour-university", "enterprise", 36),
];
const FIRST_NAMES: [&str; 12] = [
    "Ada",
    "Grace",
    "Alan",
    "Katherine",
    "Edsger",
    "Barbara",
    "Donald",
    "Radia",
    "Tony",
    "Frances",
    "Leslie",
    "Margaret",
];
const LAST_NAMES: [&str; 9] = [
    "Okafor",
    "Lindqvist",
    "Moreau",
    "Tanaka",
    "Novák",
    "Ferreira",
    "Haddad",
    "Kowalska",
    "Byrne",
];
const TIERS: [&str; 3] = ["standard", "gold", "student"];

/// The demo's landlord key.
pub fn landlord_key(config: &Config) -> Secret {
    config
        .landlord_api_key()
        .unwrap_or_else(|| Secret::new(LANDLORD_KEY))
}

/// Makes what is not there yet; the text that shows it.
///
/// # Errors
///
/// Why something could not be made.
pub async fn prepare(
    application: &Application,
    config: &Config,
    address: SocketAddr,
) -> Result<String, Error> {
    let secret = landlord_key(config);
    let landlord = caller(application, &secret)?;
    let seed = Seed::new(secret.clone());
    let mut keys = Vec::new();
    for (name, slug, plan, cards) in TENANTS {
        let new = NewTenant {
            name: text(name)?,
            slug: text(slug)?,
            plan: text(plan)?,
            isolation: Isolation::Shared,
        };
        let command = command(&landlord, &format!("demo-{slug}"));
        let done = application.provision_tenant(&command, new, &seed).await?;
        let admin = caller(application, &done.value.api_key)?;
        for place in 0..cards {
            issue(application, &admin, place).await?;
        }
        keys.push((name, plan, done.value.api_key));
    }
    let auditor = NewKey {
        role: Role::Auditor,
        name: text("demo auditor")?,
        tenant: None,
    };
    let command = command(&landlord, "demo-auditor");
    let auditor = application.create_key(&command, auditor, &seed).await?;
    Ok(shown(address, &secret, &keys, &auditor.value.secret))
}

/// One card, and what became of it.
async fn issue(application: &Application, admin: &Scope, place: usize) -> Result<(), Error> {
    let (first, last) = (
        FIRST_NAMES[place % FIRST_NAMES.len()],
        LAST_NAMES[place % LAST_NAMES.len()],
    );
    let email = format!("{}.{place}@example.com", first.to_lowercase());
    let expires = place.is_multiple_of(3);
    let new = NewCard {
        holder: Holder {
            name: text(&format!("{first} {last}"))?,
            email: Some(text(&email)?),
        },
        external_ref: Some(text(&format!("M-{:05}", 10_000 + place * 37))?),
        tier: text::<Tier>(TIERS[place % TIERS.len()])?,
        expires_at: expires.then(|| application.clock.now() + Duration::days(365)),
        activate: !place.is_multiple_of(4),
    };
    let key = format!("demo-card-{place}");
    let card = application
        .issue_card(&command(admin, &key), new)
        .await?
        .value
        .id;
    match place % 12 {
        5 => change(application, admin, &key, card, Change::Suspend).await,
        7 => change(application, admin, &key, card, Change::Revoke).await,
        11 => {
            let command = command(admin, &format!("{key}-replace"));
            application.replace_card(&command, card).await.map(drop)
        }
        _ => Ok(()),
    }
}

async fn change(
    application: &Application,
    admin: &Scope,
    key: &str,
    card: CardId,
    change: Change,
) -> Result<(), Error> {
    let command = command(admin, &format!("{key}-change"));
    application
        .change_card(&command, card, change)
        .await
        .map(drop)
}

fn caller(application: &Application, secret: &Secret) -> Result<Scope, Error> {
    let key = application
        .keys
        .authenticate(secret)
        .ok_or_else(|| Error::Internal("a demo key is not in force".to_owned()))?;
    let request_id = application.random.id().to_string();
    Ok(Scope {
        key: key.id,
        role: key.role,
        tenant: key.tenant,
        correlation_id: request_id.clone(),
        request_id,
    })
}

fn command(scope: &Scope, key: &str) -> Command {
    Command {
        scope: scope.clone(),
        reason: None,
        idempotency: Some(Idempotency {
            key: key.to_owned(),
            // The same key always means the same command here.
            fingerprint: [0; 32],
        }),
        if_match: None,
    }
}

fn text<T: TryFrom<String, Error: std::fmt::Display>>(text: &str) -> Result<T, Error> {
    T::try_from(text.to_owned()).map_err(|error| Error::Internal(format!("{text}: {error}")))
}

fn shown(
    address: SocketAddr,
    landlord: &Secret,
    tenants: &[(&str, &str, Secret)],
    auditor: &Secret,
) -> String {
    let url = format!("http://{}", reachable(address));
    let mut page = format!("listening on http://{address}\ndocumentation at {url}/docs\n\nkeys:\n");
    let mut line = |who: String, secret: &Secret| {
        // Writing to a string cannot fail.
        let _ = writeln!(page, "  {who:<40} {}", secret.reveal());
    };
    line("landlord".to_owned(), landlord);
    line("auditor".to_owned(), auditor);
    for (name, plan, secret) in tenants {
        line(format!("{name} ({plan})"), secret);
    }
    let key_of = |wanted: &str| {
        let found = tenants.iter().find(|(_, plan, _)| *plan == wanted);
        found.map_or("", |(_, _, secret)| secret.reveal())
    };
    let (free, pro, landlord) = (key_of("free"), key_of("pro"), landlord.reveal());
    let _ = write!(
        page,
        r#"
try:
  curl -s '{url}/v1/cards?q=ada&limit=5' -H 'Authorization: Bearer {free}'
  curl -s {url}/v1/cards -H 'Authorization: Bearer {pro}' -H 'Content-Type: application/json' -d '{{"holder":{{"name":"Ida Rhodes"}},"activate":true}}'
  curl -s {url}/v1/usage -H 'Authorization: Bearer {free}'
  curl -s {url}/v1/modules -H 'Authorization: Bearer {free}'
  curl -s {url}/v1/cards/stats -H 'Authorization: Bearer {free}'   # 402: what is missing, and where it is sold
  curl -s {url}/v1/landlord/tenants -H 'Authorization: Bearer {landlord}'
"#
    );
    page
}
