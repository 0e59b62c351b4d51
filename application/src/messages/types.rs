//! Every type of message, with its schema and an example: what the contract is made from.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use domain::ids::TenantId;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Value, json};
use uuid::Uuid;

use super::content::{
    AddOnGranted, Amount, Beside, CardCounts, CardEnded, CardIssued, CardRenewed, CardReplaced,
    CardStatus, Cause, Content, Nothing, OfAddOn, OfCard, OfTrial, PaymentFailed, Plan,
    PlanChangeScheduled, PlanChangeUnscheduled, PlanChanged, SubscriptionCancelled,
    SubscriptionStarted, SubscriptionSuspended, ThresholdReached, TrialStarted, Unlimited,
    UsageReconciled,
};
use super::{Message, SOURCE};

const TENANT: Uuid = Uuid::from_u128(0x0199_aaaa_0000_7000_8000_0000_0000_0001);
const CARD: &str = "0199aaaa-0000-7000-8000-00000000c001";
const ANOTHER_CARD: &str = "0199aaaa-0000-7000-8000-00000000c002";

/// A type of message.
#[derive(Clone, Debug, PartialEq)]
pub struct MessageType {
    /// Its name, with the version: `card.issued.v1`.
    pub kind: &'static str,
    /// What it tells.
    pub summary: String,
    /// The JSON Schema (2020-12) of its body.
    pub schema: Value,
    /// A message of it.
    pub example: Message,
}

/// Every type that is published, in the order of the contract.
pub fn types() -> Vec<MessageType> {
    let examples = std::iter::successors(Some(first()), next).enumerate();
    let described = examples.map(|(index, content)| {
        let of_card = content.kind().starts_with("card.");
        let tenant = TenantId::new(TENANT);
        let (summary, data) = schema(&content);
        MessageType {
            kind: content.kind(),
            schema: envelope(content.kind(), data),
            summary,
            example: Message {
                tenant,
                position: index as u64 + 1,
                time: day(2),
                subject: match of_card {
                    true => CARD.to_owned(),
                    false => tenant.to_string(),
                },
                content,
            },
        }
    });
    described.collect()
}

fn first() -> Content {
    Content::CardIssued(CardIssued {
        card_id: CARD.to_owned(),
        tier: "gold".to_owned(),
        expires_at: Some(day(400)),
        replaces: Some(ANOTHER_CARD.to_owned()),
    })
}

/// The example after this one. A new message does not compile until it has its place here.
fn next(content: &Content) -> Option<Content> {
    let card = || OfCard {
        card_id: CARD.to_owned(),
    };
    let ended = |from| CardEnded {
        card_id: CARD.to_owned(),
        from,
    };
    Some(match content {
        Content::CardIssued(_) => Content::CardActivated(card()),
        Content::CardActivated(_) => Content::CardSuspended(card()),
        Content::CardSuspended(_) => Content::CardReinstated(card()),
        Content::CardReinstated(_) => Content::CardRevoked(ended(CardStatus::Active)),
        Content::CardRevoked(_) => Content::CardExpired(ended(CardStatus::Suspended)),
        Content::CardExpired(_) => Content::CardRenewed(CardRenewed {
            card_id: CARD.to_owned(),
            from: CardStatus::Expired,
            to: CardStatus::Active,
            expires_at: day(730),
        }),
        Content::CardRenewed(_) => Content::CardReplaced(CardReplaced {
            card_id: CARD.to_owned(),
            from: CardStatus::Issued,
            by: ANOTHER_CARD.to_owned(),
        }),
        Content::CardReplaced(_) => Content::CardHolderUpdated(card()),
        Content::CardHolderUpdated(_) => Content::SubscriptionStarted(SubscriptionStarted {
            plan: plan("free", 0, Amount::Limit(500)),
        }),
        Content::SubscriptionStarted(_) => Content::PlanUpgraded(PlanChanged {
            from: "free".to_owned(),
            to: plan("pro", 1, Amount::Unlimited(Unlimited::Unlimited)),
        }),
        Content::PlanUpgraded(_) => Content::PlanDowngraded(PlanChanged {
            from: "pro".to_owned(),
            to: plan("free", 0, Amount::Limit(500)),
        }),
        Content::PlanDowngraded(_) => Content::PlanChangeScheduled(PlanChangeScheduled {
            to: plan("pro", 1, Amount::Unlimited(Unlimited::Unlimited)),
            effective_at: day(32),
        }),
        Content::PlanChangeScheduled(_) => Content::PlanChangeUnscheduled(PlanChangeUnscheduled {
            to: "pro".to_owned(),
        }),
        Content::PlanChangeUnscheduled(_) => Content::TrialStarted(TrialStarted {
            plan: plan("pro", 1, Amount::Unlimited(Unlimited::Unlimited)),
            ends_at: day(16),
        }),
        Content::TrialStarted(_) => Content::TrialExpired(trial()),
        Content::TrialExpired(_) => Content::TrialConverted(trial()),
        Content::TrialConverted(_) => Content::TrialCancelled(trial()),
        Content::TrialCancelled(_) => Content::AddOnGranted(AddOnGranted {
            feature: "max_cards".to_owned(),
            value: Amount::Limit(1_000),
            kind: Beside::AddOn,
            expires_at: Some(day(32)),
        }),
        Content::AddOnGranted(_) => Content::AddOnRevoked(add_on()),
        Content::AddOnRevoked(_) => Content::AddOnExpired(add_on()),
        Content::AddOnExpired(_) => Content::PaymentFailed(PaymentFailed {
            grace_ends_at: day(16),
        }),
        Content::PaymentFailed(_) => Content::SubscriptionSuspended(SubscriptionSuspended {
            cause: Cause::Payment,
        }),
        Content::SubscriptionSuspended(_) => Content::SubscriptionReinstated(Nothing {}),
        Content::SubscriptionReinstated(_) => {
            Content::SubscriptionCancelled(SubscriptionCancelled { ends_at: day(32) })
        }
        Content::SubscriptionCancelled(_) => Content::SubscriptionEnded(Nothing {}),
        Content::SubscriptionEnded(_) => Content::ThresholdReached(ThresholdReached {
            percent: 80,
            used: 400,
            limit: 500,
        }),
        Content::ThresholdReached(_) => Content::UsageReconciled(UsageReconciled {
            before: counts(401),
            after: counts(400),
        }),
        Content::UsageReconciled(_) => return None,
    })
}

fn trial() -> OfTrial {
    OfTrial {
        plan: "pro".to_owned(),
    }
}

fn add_on() -> OfAddOn {
    OfAddOn {
        feature: "max_cards".to_owned(),
    }
}

fn counts(active: u64) -> CardCounts {
    CardCounts {
        issued: 0,
        active,
        suspended: 0,
        revoked: 7,
        expired: 0,
        replaced: 0,
    }
}

fn plan(key: &str, rank: u32, max_cards: Amount) -> Plan {
    Plan {
        key: key.to_owned(),
        version: 1,
        price_level: 1,
        rank,
        features: BTreeMap::from([
            ("cards.lifecycle".to_owned(), Amount::On(true)),
            ("max_cards".to_owned(), max_cards),
        ]),
    }
}

/// So many days into 2026.
fn day(day: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + chrono::Duration::days(20_453 + day)
}

/// What the message tells, and the schema of its data.
fn schema(content: &Content) -> (String, Value) {
    match content {
        Content::CardIssued(_) => of::<CardIssued>("A card came into circulation, not yet in use."),
        Content::CardActivated(_) => of::<OfCard>("An issued card was put to use."),
        Content::CardSuspended(_) => of::<OfCard>(
            "An active card was taken out of use for a while; it stays in circulation.",
        ),
        Content::CardReinstated(_) => of::<OfCard>("A suspended card was put back to use."),
        Content::CardRevoked(_) => of::<CardEnded>(
            "A card was ended for good and left circulation, unless it had expired before.",
        ),
        Content::CardExpired(_) => {
            of::<CardEnded>("A card's time was over (`time` says when) and it left circulation.")
        }
        Content::CardRenewed(_) => of::<CardRenewed>(
            "A card got a new end; an expired one is active and in circulation again.",
        ),
        Content::CardReplaced(_) => {
            of::<CardReplaced>("A card left circulation in favour of another.")
        }
        Content::CardHolderUpdated(_) => {
            of::<OfCard>("The holder was corrected or changed. Who it is, is not told.")
        }
        Content::SubscriptionStarted(_) => of::<SubscriptionStarted>("A subscription began."),
        Content::PlanUpgraded(_) => of::<PlanChanged>(
            "The tenant went over to a plan of a higher rank, or to a newer version of its own.",
        ),
        Content::PlanDowngraded(_) => {
            of::<PlanChanged>("The tenant went over to a plan of a lower rank.")
        }
        Content::PlanChangeScheduled(_) => of::<PlanChangeScheduled>(
            "A change to another plan was scheduled, in place of one that was scheduled before.",
        ),
        Content::PlanChangeUnscheduled(_) => {
            of::<PlanChangeUnscheduled>("The plan change that was scheduled will not happen.")
        }
        Content::TrialStarted(_) => of::<TrialStarted>("The tenant tries a plan beside its own."),
        Content::TrialExpired(_) => of::<OfTrial>("A trial was over (`time` says when)."),
        Content::TrialConverted(_) => of::<OfTrial>(
            "The tenant went over to the plan that it tried; the change of the plan follows.",
        ),
        Content::TrialCancelled(_) => of::<OfTrial>("A trial was ended before its end."),
        Content::AddOnGranted(_) => of::<AddOnGranted>(
            "A feature was granted beside the plan, in place of an earlier grant of the same.",
        ),
        Content::AddOnRevoked(_) => of::<OfAddOn>("A granted feature was taken back."),
        Content::AddOnExpired(_) => {
            of::<OfAddOn>("The time of a granted feature was over (`time` says when).")
        }
        Content::PaymentFailed(_) => {
            of::<PaymentFailed>("A payment failed; service goes on until the grace is over.")
        }
        Content::SubscriptionSuspended(_) => {
            of::<SubscriptionSuspended>("Service stopped until reinstated; nothing was deleted.")
        }
        Content::SubscriptionReinstated(_) => of::<Nothing>("Service resumed exactly as it was."),
        Content::SubscriptionCancelled(_) => {
            of::<SubscriptionCancelled>("The subscription was ended, now or at a time to come.")
        }
        Content::SubscriptionEnded(_) => {
            of::<Nothing>("The time that was left to a cancelled subscription was over.")
        }
        Content::ThresholdReached(_) => of::<ThresholdReached>(
            "The cards in circulation came to a part of the limit from below.",
        ),
        Content::UsageReconciled(_) => of::<UsageReconciled>(
            "The counters of the cards, which the quota rests on, were put right after a recount.",
        ),
    }
}

fn of<T: JsonSchema>(summary: &str) -> (String, Value) {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.meta_schema = None);
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    // The type's name and its doc comment are this program's own.
    schema.remove("title");
    schema.remove("description");
    (summary.to_owned(), schema.to_value())
}

/// The schema of a body: CloudEvents' attributes, the two extensions, and the data.
fn envelope(kind: &str, data: Value) -> Value {
    json!({
        "type": "object",
        "required": ["specversion", "id", "source", "type", "subject", "time", "datacontenttype",
                     "tenantid", "sequence", "data"],
        "properties": {
            "specversion": { "const": "1.0" },
            "id": {
                "type": "string",
                "description": "`<tenantid>/<sequence>`, also the property `message_id`: the key \
                                to tell repetitions by",
            },
            "source": { "const": SOURCE },
            "type": { "const": kind },
            "subject": {
                "type": "string",
                "description": "The card's id, or the tenant's for what is about its subscription or usage",
            },
            "time": {
                "type": "string", "format": "date-time",
                "description": "When it happened",
            },
            "datacontenttype": { "const": "application/json" },
            "tenantid": { "type": "string", "format": "uuid", "description": "Whose it is" },
            "sequence": {
                "type": "integer", "minimum": 1,
                "description": "The position in the tenant's ledger. It grows from message to \
                                message, not always by one: not every event is published",
            },
            "data": data,
        },
    })
}
