//! A tenant and an event, of which only what the loop looks at matters.

use application::ports::{RecordedEvent, StoredEvent};
use application::tenants::{Isolation, Tenant};
use chrono::DateTime;
use domain::card::CardEvent;
use domain::chain::Hash;
use domain::event::Event;
use domain::ids::{Position, TenantId};

pub fn tenant(id: TenantId) -> Tenant {
    Tenant {
        id,
        name: "A tenant".to_owned().try_into().expect("a name"),
        slug: "a-tenant".to_owned().try_into().expect("a slug"),
        first_plan: "free".to_owned().try_into().expect("a plan's key"),
        isolation: Isolation::Shared,
        shard: None,
        created_at: DateTime::UNIX_EPOCH,
        ready: true,
    }
}

pub fn event(position: Position) -> RecordedEvent {
    RecordedEvent {
        stored: StoredEvent {
            position,
            aggregate_type: "DigitalCard".to_owned(),
            aggregate_id: String::new(),
            sequence: position,
            event_type: "CardActivated".to_owned(),
            event_version: "1.0.0".to_owned(),
            payload: String::new(),
            metadata: String::new(),
            recorded_at: DateTime::UNIX_EPOCH,
            hash: Hash::GENESIS,
        },
        event: Event::Card(CardEvent::CardActivated {
            at: DateTime::UNIX_EPOCH,
        }),
    }
}
