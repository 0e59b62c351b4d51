//! A published message as a biller reads it: CloudEvents 1.0, structured mode, JSON.
//!
//! Shares nothing with the code that publishes: a biller has the documented contract and no more.
//! Fields that are not needed are not looked at, so that messages can gain some.

use chrono::{DateTime, SubsecRound, Utc};
use domain::billing::BilledPlan;
use domain::billing::accountant::Fact;
use domain::card::Status;
use domain::catalogue::{FeatureSlug, PlanKey};
use domain::ids::{Position, TenantId};
use domain::subscription::GrantKind;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// The longest message, in bytes. The publisher's are far below.
pub const BYTES_MAX: usize = 64 * 1024;

/// A message whose envelope and, if its type is known, content are as documented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The tenant whose ledger it is from.
    pub tenant: TenantId,
    /// Its position there.
    pub sequence: Position,
    /// Its type: `card.issued.v1`.
    pub name: String,
    /// When it happened, to the microsecond.
    pub at: DateTime<Utc>,
    /// Its content: JSON.
    pub data: String,
}

/// Not a message as documented. Says where, never what: it may hold anything.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// It is too long.
    #[error("longer than {BYTES_MAX} bytes")]
    TooLong,
    /// It is not the JSON of a CloudEvent with the extensions `tenantid` and `sequence`.
    #[error("the envelope: line {}, column {}", .0.line(), .0.column())]
    Envelope(serde_json::Error),
    /// It is of another version of CloudEvents.
    #[error("specversion: must be 1.0")]
    SpecVersion,
    /// The property `message_id` and the content name different messages, or there is none.
    #[error("message_id: must be <tenantid>/<sequence>")]
    Id,
    /// The content is not what the type promises.
    #[error("data: not that of its type: line {}, column {}", .0.line(), .0.column())]
    Data(serde_json::Error),
}

#[derive(Deserialize)]
struct Envelope<'a> {
    specversion: String,
    #[serde(rename = "type")]
    name: String,
    time: DateTime<Utc>,
    tenantid: TenantId,
    #[serde(deserialize_with = "position")]
    sequence: Position,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
}

impl Message {
    /// Reads a message: its property `message_id`, and its body.
    ///
    /// # Errors
    ///
    /// [`Malformed`]; reading it again will not help.
    pub fn parse(id: Option<&str>, body: &[u8]) -> Result<Self, Malformed> {
        if body.len() > BYTES_MAX {
            return Err(Malformed::TooLong);
        }
        let envelope: Envelope = serde_json::from_slice(body).map_err(Malformed::Envelope)?;
        if envelope.specversion != "1.0" {
            return Err(Malformed::SpecVersion);
        }
        let message = Self {
            tenant: envelope.tenantid,
            sequence: envelope.sequence,
            name: envelope.name,
            at: envelope.time.trunc_subsecs(6),
            data: envelope.data.map_or("{}", RawValue::get).to_owned(),
        };
        if id != Some(&message.id()) {
            return Err(Malformed::Id);
        }
        fact(&message.name, &message.data).map_err(Malformed::Data)?;
        Ok(message)
    }

    /// The key to tell repetitions by.
    pub fn id(&self) -> String {
        format!("{}/{}", self.tenant, self.sequence)
    }
}

/// What a message of the type `name` says. A type that is not known here is [`Fact::Unknown`]: it
/// is kept and told of, and counts once a program knows it.
///
/// # Errors
///
/// `data` is not what the type promises.
pub fn fact(name: &str, data: &str) -> serde_json::Result<Fact> {
    Ok(match name {
        "card.issued.v1" => Fact::CardMoved {
            from: None,
            to: Status::Issued,
        },
        "card.revoked.v1" => moved(data, Status::Revoked)?,
        "card.expired.v1" => moved(data, Status::Expired)?,
        "card.replaced.v1" => moved(data, Status::Replaced)?,
        "card.renewed.v1" => {
            let Renewed { from, to } = read(data)?;
            let from = Some(from);
            Fact::CardMoved { from, to }
        }
        "subscription.started.v1" => Fact::Started(read::<Started>(data)?.plan.into()),
        "subscription.plan_upgraded.v1" | "subscription.plan_downgraded.v1" => {
            Fact::PlanChanged(read::<PlanChanged>(data)?.to.into())
        }
        "subscription.add_on_granted.v1" => {
            let granted: Granted = read(data)?;
            Fact::Granted {
                feature: granted.feature,
                kind: granted.kind,
                expires_at: granted.expires_at,
            }
        }
        "subscription.add_on_revoked.v1" | "subscription.add_on_expired.v1" => {
            Fact::GrantRevoked(read::<GrantEnded>(data)?.feature)
        }
        "subscription.suspended.v1" => Fact::Suspended,
        "subscription.reinstated.v1" => Fact::Reinstated,
        "subscription.cancelled.v1" => Fact::Cancelled {
            ends_at: read::<Cancelled>(data)?.ends_at,
        },
        // What is to come is billed when it comes; grace is service, and a trial costs nothing.
        "subscription.plan_change_scheduled.v1"
        | "subscription.plan_change_unscheduled.v1"
        | "subscription.trial_started.v1"
        | "subscription.trial_expired.v1"
        | "subscription.trial_converted.v1"
        | "subscription.trial_cancelled.v1"
        | "subscription.payment_failed.v1"
        | "subscription.ended.v1"
        | "usage.threshold_reached.v1"
        | "usage.reconciled.v1" => Fact::WithoutEffect,
        // The queue is not bound to these; whoever binds it to more gets more.
        "card.activated.v1"
        | "card.suspended.v1"
        | "card.reinstated.v1"
        | "card.holder_updated.v1" => Fact::WithoutEffect,
        unknown => Fact::Unknown(unknown.to_owned()),
    })
}

#[derive(Deserialize)]
struct Moved {
    from: Status,
}

#[derive(Deserialize)]
struct Renewed {
    from: Status,
    to: Status,
}

#[derive(Deserialize)]
struct Started {
    plan: Plan,
}

#[derive(Deserialize)]
struct PlanChanged {
    to: Plan,
}

#[derive(Deserialize)]
struct Plan {
    key: PlanKey,
    price_level: u32,
    rank: u32,
}

#[derive(Deserialize)]
struct Granted {
    feature: FeatureSlug,
    kind: GrantKind,
    expires_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct GrantEnded {
    feature: FeatureSlug,
}

#[derive(Deserialize)]
struct Cancelled {
    ends_at: DateTime<Utc>,
}

impl From<Plan> for BilledPlan {
    fn from(plan: Plan) -> Self {
        Self {
            price_level: plan.price_level,
            rank: plan.rank,
            key: plan.key,
        }
    }
}

fn read<T: DeserializeOwned>(data: &str) -> serde_json::Result<T> {
    serde_json::from_str(data)
}

fn moved(data: &str, to: Status) -> serde_json::Result<Fact> {
    let from = Some(read::<Moved>(data)?.from);
    Ok(Fact::CardMoved { from, to })
}

/// A position, as a number or (as CloudEvents' own extension `sequence` has it) as text.
fn position<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Position, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(Position),
        Text(String),
    }
    let position = match Written::deserialize(deserializer)? {
        Written::Number(number) => Some(number),
        Written::Text(text) => text.parse().ok(),
    };
    // What no ledger can hold is no position.
    position
        .filter(|position| i64::try_from(*position).is_ok())
        .ok_or_else(|| serde::de::Error::custom("not a position"))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TENANT: &str = "0199aaaa-0000-7000-8000-000000000001";

    fn issued() -> Value {
        json!({
            "specversion": "1.0",
            "id": format!("{TENANT}/7"),
            "source": "/digital-card",
            "type": "card.issued.v1",
            "time": "2026-01-02T09:00:00.123456789Z",
            "tenantid": TENANT,
            "sequence": 7,
            "data": { "tier": "standard" },
        })
    }

    fn parse(message: &Value) -> Result<Message, Malformed> {
        Message::parse(Some(&format!("{TENANT}/7")), message.to_string().as_bytes())
    }

    #[test]
    fn an_envelope_says_whose_message_it_is_and_where_it_belongs() {
        let message = parse(&issued()).expect("a message");
        assert_eq!(message.id(), format!("{TENANT}/7"));
        assert_eq!(message.sequence, 7);
        assert_eq!(message.at.timestamp_subsec_nanos(), 123_456_000);
    }

    #[test]
    fn positions_may_be_numbers_or_text() {
        let mut message = issued();
        message["sequence"] = "7".into();
        assert_eq!(parse(&message).ok(), parse(&issued()).ok());
    }

    #[test]
    fn what_is_not_as_documented_is_refused_without_being_shown() {
        for (field, value) in [
            ("specversion", json!("0.3")),
            ("tenantid", json!("opensesame")),
            ("sequence", json!(-1)),
            ("sequence", json!(9)),
            ("sequence", json!(u64::MAX)),
            ("sequence", json!("seven")),
            ("time", json!("yesterday")),
            ("type", Value::Null),
        ] {
            let mut message = issued();
            message[field] = value;
            let error = parse(&message).expect_err(field).to_string();
            assert!(!error.contains("opensesame"), "{error}");
        }
        let text = issued().to_string();
        assert!(Message::parse(None, text.as_bytes()).is_err(), "no id");
        let long = format!("{text}{}", " ".repeat(BYTES_MAX));
        assert!(Message::parse(None, long.as_bytes()).is_err(), "too long");
        assert!(Message::parse(None, b"\xff{}").is_err(), "no JSON");
    }

    #[test]
    fn known_types_must_have_their_content_and_others_are_unknown() {
        let plan = json!({ "key": "pro", "version": 1, "price_level": 1, "rank": 1 });
        let moment = "2026-02-01T00:00:00Z";
        for (name, data) in [
            ("card.revoked.v1", json!({ "from": "active" })),
            ("card.expired.v1", json!({ "from": "issued" })),
            ("card.replaced.v1", json!({ "from": "suspended" })),
            (
                "card.renewed.v1",
                json!({ "from": "expired", "to": "active" }),
            ),
            ("subscription.started.v1", json!({ "plan": plan })),
            ("subscription.plan_upgraded.v1", json!({ "to": plan })),
            ("subscription.plan_downgraded.v1", json!({ "to": plan })),
            (
                "subscription.add_on_granted.v1",
                json!({ "feature": "export_csv", "kind": "add_on", "value": true }),
            ),
            (
                "subscription.add_on_revoked.v1",
                json!({ "feature": "export_csv" }),
            ),
            (
                "subscription.add_on_expired.v1",
                json!({ "feature": "export_csv" }),
            ),
            ("subscription.cancelled.v1", json!({ "ends_at": moment })),
        ] {
            let fact = fact(name, &data.to_string()).expect(name);
            assert!(!matches!(fact, Fact::Unknown(_) | Fact::WithoutEffect));
            assert!(super::fact(name, "{}").is_err(), "{name} without its data");
        }
        for newer in [
            "subscription.renamed.v1",
            "card.issued.v2",
            "invoice.sent.v1",
        ] {
            let known = fact(newer, r#"{"what": "ever"}"#).ok();
            assert_eq!(known, Some(Fact::Unknown(newer.to_owned())));
        }
    }

    /// Who adds a type says here what it means for a bill; that it means nothing is an answer too.
    #[test]
    fn every_type_that_is_published_is_known() {
        for kind in crate::messages::types() {
            let published = kind.example;
            let read = Message::parse(Some(&published.id()), &published.body()).expect(kind.kind);
            assert_eq!((read.id(), &*read.name), (published.id(), kind.kind));
            assert_eq!(read.at, published.time);
            let fact = fact(&read.name, &read.data).expect(kind.kind);
            assert!(!matches!(fact, Fact::Unknown(_)), "{}", kind.kind);
        }
    }
}
