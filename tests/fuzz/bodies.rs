//! Random bodies: as the contract's schemas have them or almost, cut off, or anything else.

use proptest::prelude::*;
use proptest::strategy::Union;
use serde_json::{Value, json};

/// Bytes for an operation whose body has this schema.
pub fn body(schema: &Value) -> impl Strategy<Value = Vec<u8>> + use<> {
    let text = |value: Value| value.to_string().into_bytes();
    prop_oneof![
        9 => like(schema).prop_map(text),
        1 => (like(schema), any::<prop::sample::Index>()).prop_map(move |(value, cut)| {
            let text = text(value);
            text[..cut.index(text.len() + 1)].to_vec()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => Just(Vec::new()),
    ]
}

/// What a schema asks for; now and then something else.
fn like(schema: &Value) -> BoxedStrategy<Value> {
    let list = |name: &str| schema[name].as_array();
    let kind = list("type").map_or(&schema["type"], |kinds| &kinds[0]);
    let asked = match kind.as_str() {
        _ if list("oneOf").is_some() => {
            Union::new(list("oneOf").into_iter().flatten().map(like)).boxed()
        }
        _ if list("enum").is_some() => {
            prop::sample::select(list("enum").cloned().unwrap_or_default()).boxed()
        }
        Some("object") => object(schema),
        Some("array") => prop::collection::vec(like(&schema["items"]), 0..4)
            .prop_map(Value::from)
            .boxed(),
        Some("boolean") => any::<bool>().prop_map(Value::from).boxed(),
        Some("integer") => prop_oneof![2 => 0..100_i64, 1 => any::<i64>()]
            .prop_map(Value::from)
            .boxed(),
        Some("string") => word().prop_map(Value::from).boxed(),
        _ => anything(),
    };
    prop_oneof![19 => asked, 1 => anything()].boxed()
}

/// With most of the fields that must be there, and some of those that may.
fn object(schema: &Value) -> BoxedStrategy<Value> {
    let any_name = &schema["additionalProperties"];
    if any_name.is_object() {
        return prop::collection::hash_map(word(), like(any_name), 0..4)
            .prop_map(|fields| fields.into_iter().collect())
            .boxed();
    }
    let required = schema["required"].as_array().cloned().unwrap_or_default();
    let fields = schema["properties"].as_object().into_iter().flatten();
    let fields = fields.map(|(name, schema)| {
        let often = match required.iter().any(|it| it == name) {
            true => 0.95,
            false => 0.4,
        };
        let name = name.clone();
        prop::option::weighted(often, like(schema))
            .prop_map(move |value| value.map(|value| (name.clone(), value)))
    });
    let fields: Vec<_> = fields.collect();
    fields
        .prop_map(|fields| fields.into_iter().flatten().collect())
        .boxed()
}

/// One that means something somewhere, or none.
fn word() -> BoxedStrategy<String> {
    let known = prop::sample::select(vec![
        "free",
        "enterprise",
        "max_cards",
        "cards.stats",
        "digital_card.advanced",
        "now",
        "period_end",
        "unlimited",
        "2099-01-01T00:00:00Z",
        "store",
        "Ada Lovelace",
        "ada@example.com",
    ]);
    let slug = "[a-z][a-z0-9]{2,10}";
    prop_oneof![3 => known.prop_map(str::to_owned), 1 => slug, 1 => "\\PC{0,30}", 1 => ".{0,10}"]
        .boxed()
}

/// Any JSON.
fn anything() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        word().prop_map(Value::from),
        Just(json!("x".repeat(10_000))),
    ];
    let tree = leaf.prop_recursive(3, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(word(), inner, 0..6)
                .prop_map(|fields| fields.into_iter().collect()),
        ]
    });
    tree.boxed()
}
