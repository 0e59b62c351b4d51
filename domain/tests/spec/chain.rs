//! The hash is fixed for ever (signed checkpoints rest on it) and covers everything.

use domain::chain::{Hash, InvalidHash, Link};
use proptest::prelude::*;

fn link() -> Link<'static> {
    Link {
        position: 7,
        aggregate_type: "DigitalCard",
        aggregate_id: "0199aaaa-0000-7000-8000-000000000001",
        sequence: 2,
        event_type: "CardActivated",
        event_version: "1.0.0",
        payload: r#"{"CardActivated":{"at":"2026-01-01T09:00:00Z"}}"#,
        metadata: "{}",
        recorded_at_micros: 1_767_258_000_000_000,
    }
}

#[test]
fn the_hash_of_a_known_event_never_changes() {
    // Computed apart from this code, from the description of `Link::hash`.
    assert_eq!(
        link().hash(&Hash::GENESIS).to_string(),
        "5f3478b87c259f1014d05216b426139f3e65bf2d5e5cd41967e062ade249c026"
    );
}

#[test]
fn every_part_of_an_event_is_covered() {
    let changed = [
        Link {
            position: 8,
            ..link()
        },
        Link {
            aggregate_type: "TenantSubscription",
            ..link()
        },
        Link {
            aggregate_id: "0199aaaa-0000-7000-8000-000000000002",
            ..link()
        },
        Link {
            sequence: 3,
            ..link()
        },
        Link {
            event_type: "CardSuspended",
            ..link()
        },
        Link {
            event_version: "1.0.1",
            ..link()
        },
        Link {
            payload: "{}",
            ..link()
        },
        Link {
            metadata: "{ }",
            ..link()
        },
        Link {
            recorded_at_micros: 0,
            ..link()
        },
    ];
    let original = link().hash(&Hash::GENESIS);
    for changed in changed {
        assert_ne!(changed.hash(&Hash::GENESIS), original, "{changed:?}");
    }
    assert_ne!(link().hash(&original), original);
}

#[test]
fn text_moved_from_one_part_to_the_next_changes_the_hash() {
    let moved = |event_type, event_version| {
        Link {
            event_type,
            event_version,
            ..link()
        }
        .hash(&Hash::GENESIS)
    };
    assert_ne!(
        moved("CardActivated", "1.0.0"),
        moved("CardActivated1", ".0.0")
    );
}

#[test]
fn a_hash_is_64_hexadecimal_digits() {
    for bad in ["", "00", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64)] {
        assert_eq!(bad.parse::<Hash>(), Err(InvalidHash));
    }
    assert_eq!("0".repeat(64).parse(), Ok(Hash::GENESIS));
    assert_eq!(Hash::try_from([0; 31].as_slice()), Err(InvalidHash));
}

proptest! {
    #[test]
    fn any_hash_is_read_back_from_its_text_its_json_and_its_bytes(bytes: [u8; 32]) {
        let hash = Hash::try_from(bytes.as_slice()).expect("32 bytes");
        prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        let json = serde_json::to_string(&hash).expect("JSON");
        prop_assert_eq!(serde_json::from_str::<Hash>(&json).expect("a hash"), hash);
        prop_assert_eq!(hash.as_bytes(), &bytes);
    }
}
