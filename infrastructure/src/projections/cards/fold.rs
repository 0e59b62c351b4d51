//! From events to rows: a card's row is its aggregate, told by the aggregate itself. So the read
//! model cannot come to another state than the one that commands are decided on.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use application::cards::Card;
use application::ports::{HandlerError, RecordedEvent};
use domain::card::{CardEvent, DigitalCard, Particulars, Status};
use domain::event::Event;
use domain::ids::{CardId, Version};

/// What happened to one card, oldest first, with the card's version after each event.
pub type History<'a> = Vec<(&'a CardEvent, Version)>;

/// What happened to each card, in the order of ids: the order in which rows are then stored.
pub fn histories(
    events: &[Arc<RecordedEvent>],
) -> Result<BTreeMap<CardId, History<'_>>, HandlerError> {
    let mut histories = BTreeMap::<_, History<'_>>::new();
    for event in events {
        let Event::Card(card_event) = &event.event else {
            continue;
        };
        let stored = &event.stored;
        let id: CardId = stored.aggregate_id.parse().map_err(|error| {
            let (position, id) = (stored.position, &stored.aggregate_id);
            HandlerError::Failed(format!("event {position} of card {id:?}: {error}"))
        })?;
        histories
            .entry(id)
            .or_default()
            .push((card_event, stored.sequence));
    }
    Ok(histories)
}

/// The cards that may have a row already: those whose history here does not begin with issuing.
pub fn begun_before(histories: &BTreeMap<CardId, History<'_>>) -> Vec<CardId> {
    histories
        .iter()
        .filter(|(_, history)| !matches!(history.first(), Some((CardEvent::CardIssued { .. }, _))))
        .map(|(id, _)| *id)
        .collect()
}

/// The cards as they are after what happened to them.
pub fn fold(known: Vec<Card>, histories: BTreeMap<CardId, History<'_>>) -> Vec<Card> {
    let mut known: HashMap<_, _> = known.into_iter().map(|card| (card.id, card)).collect();
    histories
        .into_iter()
        .filter_map(|(id, history)| {
            let version = history.last().map(|(_, version)| *version)?;
            let mut card = known.remove(&id).map(restored).unwrap_or_default();
            for (event, _) in history {
                card.evolve(event.clone());
            }
            Card::of(id, &card, version)
        })
        .collect()
}

/// The aggregate that a row tells of.
fn restored(card: Card) -> DigitalCard {
    let particulars = Particulars {
        number: card.number,
        holder: card.holder,
        external_ref: card.external_ref,
        tier: card.tier,
        issued_at: card.issued_at,
        expires_at: card.expires_at,
        replaces: card.replaces,
    };
    match (card.status, card.replaced_by) {
        (Status::Issued, _) => DigitalCard::Issued(particulars),
        (Status::Active, _) => DigitalCard::Active(particulars),
        (Status::Suspended, _) => DigitalCard::Suspended(particulars),
        (Status::Revoked, _) => DigitalCard::Revoked(particulars),
        (Status::Expired, _) => DigitalCard::Expired(particulars),
        (Status::Replaced, Some(by)) => DigitalCard::Replaced(particulars, by),
        // A replaced card has a successor; `rows::card` refuses a row without.
        (Status::Replaced, None) => DigitalCard::Unissued,
    }
}
