//! The contract of messages: the AsyncAPI document, made from the types that are published.
//!
//! It is committed as `api/asyncapi.json`, and a test fails when the two differ.

use application::messages::{
    self, BILLED, BILLING_DEAD_LETTERS, BILLING_QUEUE, CONTENT_TYPE, EXCHANGE, MessageType,
};
use serde_json::{Map, Value, json};

const DESCRIPTION: &str = "What happens to tenants and their cards, for other systems.\n\n\
    CloudEvents 1.0, structured JSON, persistent, over RabbitMQ. Per tenant in the order of its \
    ledger, at least once: a message may come again, also after later ones, so tell repetitions by \
    `id` (also the property `message_id`). `sequence` grows from message to message, not always by \
    one. No personal data. A new shape is a new type, published beside the old one; fields may be \
    added to a type, so pass over what you do not know.";

/// The whole contract.
pub fn contract() -> Value {
    let types = messages::types();
    let billed = types.iter().filter(|one| is_billed(one.kind));
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Digital Card",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
        },
        "defaultContentType": CONTENT_TYPE,
        "channels": {
            "events": events(&types),
            "billing": {
                "address": BILLING_QUEUE,
                "description": format!(
                    "The billing consumers' queue: {}. A message that is rejected, or given back too \
                     often, goes to the queue {BILLING_DEAD_LETTERS}.", BILLED.join(", ")
                ),
                "messages": references(billed, "#/components/messages/"),
                "bindings": { "amqp": {
                    "is": "queue",
                    "queue": { "name": BILLING_QUEUE, "durable": true, "exclusive": false, "autoDelete": false },
                    "bindingVersion": "0.3.0",
                } },
            },
        },
        "operations": {
            "publish": {
                "action": "send",
                "channel": { "$ref": "#/channels/events" },
                "summary": "Every message, confirmed by the broker before the next start passes it over",
                "bindings": { "amqp": { "deliveryMode": 2, "mandatory": true, "bindingVersion": "0.3.0" } },
            },
            "bill": {
                "action": "receive",
                "channel": { "$ref": "#/channels/billing" },
                "summary": "What a biller acknowledges once it has kept it",
                "bindings": { "amqp": { "ack": true, "bindingVersion": "0.3.0" } },
            },
        },
        "components": { "messages": described(&types) },
    })
}

/// The whole contract, as it is committed.
pub fn contract_text() -> String {
    format!("{:#}\n", contract())
}

fn events(types: &[MessageType]) -> Value {
    json!({
        "address": "{type}.{tenant}",
        "description": "The routing key: bind a queue of your own to `card.#`, or to `#.<tenant id>`.",
        "parameters": {
            "type": { "description": "The type of the message, with its version" },
            "tenant": { "description": "The tenant's id" },
        },
        "messages": references(types.iter(), "#/components/messages/"),
        "bindings": { "amqp": {
            "is": "routingKey",
            "exchange": { "name": EXCHANGE, "type": "topic", "durable": true, "autoDelete": false },
            "bindingVersion": "0.3.0",
        } },
    })
}

fn references<'a>(types: impl Iterator<Item = &'a MessageType>, to: &str) -> Map<String, Value> {
    let reference = |one: &MessageType| {
        let reference = json!({ "$ref": format!("{to}{}", one.kind) });
        (one.kind.to_owned(), reference)
    };
    types.map(reference).collect()
}

fn described(types: &[MessageType]) -> Map<String, Value> {
    let message = |one: &MessageType| {
        let example: Value = serde_json::from_slice(&one.example.body())
            .unwrap_or_else(|_| unreachable!("a message is JSON"));
        let message = json!({
            "name": one.kind,
            "summary": one.summary,
            "contentType": CONTENT_TYPE,
            "payload": one.schema,
            "examples": [{ "payload": example }],
        });
        (one.kind.to_owned(), message)
    };
    types.iter().map(message).collect()
}

/// Whether the billing queue's bindings take the type.
fn is_billed(kind: &str) -> bool {
    let prefixes = BILLED.iter().map(|pattern| pattern.trim_end_matches('#'));
    prefixes.into_iter().any(|prefix| kind.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_contract_of_messages_is_the_code() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/asyncapi.json");
        if std::env::var_os("UPDATE_CONTRACTS").is_some() {
            std::fs::write(path, contract_text()).expect("a writable contract");
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        let committed: Value = serde_json::from_str(&committed).unwrap_or_default();
        assert!(
            committed == contract(),
            "api/asyncapi.json is not what the code says. Is the change meant, and in \
             api/CHANGELOG.md? Then run: UPDATE_CONTRACTS=1 cargo test -p api contract"
        );
    }

    #[test]
    fn a_biller_is_told_what_changes_a_bill() {
        for (kind, billed) in [
            ("card.issued.v1", true),
            ("card.activated.v1", false),
            ("subscription.cancelled.v1", true),
        ] {
            assert_eq!(is_billed(kind), billed, "{kind}");
        }
    }
}
