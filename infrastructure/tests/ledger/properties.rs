//! Whatever is appended in whatever order: the ledger stays sound, within its quota, and answers
//! each append as a ledger without batches would.

use application::ports::{Append, AppendError, Appended};
use domain::card::{CardEvent, Status};
use domain::catalogue::{FeatureValue, feature};
use domain::ids::CardId;
use domain::subscription::{Attribution, Grant, GrantKind, SubscriptionEvent};
use domain::usage::AdmissionRefusal;
use futures::future::join_all;
use proptest::prelude::*;
use proptest::sample::Index;
use tokio::runtime::Runtime;

use crate::postgres::PostgresUnderTest;
use crate::world::*;

/// The most cards in circulation: so few that the steps alone ask for more.
const LIMIT: u64 = 3;

/// One append, on one of a few cards, so that appends meet.
#[derive(Clone, Debug)]
enum Step {
    Issue(Index),
    Activate(Index, u64),
    Revoke(Index, u64),
    Replace(Index, u64),
    Keyed(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<Index>().prop_map(Step::Issue),
        2 => (any::<Index>(), 0..3_u64).prop_map(|(card, version)| Step::Activate(card, version)),
        1 => (any::<Index>(), 0..3_u64).prop_map(|(card, version)| Step::Revoke(card, version)),
        1 => (any::<Index>(), 0..3_u64).prop_map(|(card, version)| Step::Replace(card, version)),
        2 => (0..3_u8, 0..2_u8).prop_map(|(key, request)| Step::Keyed(key, request)),
    ]
}

fn to_append(step: &Step, cards: &[CardId]) -> Append {
    let on = |card: &Index, expected, event| append(vec![card_of(cards, card, expected, event)]);
    match step {
        Step::Issue(card) => on(card, 0, issued()),
        Step::Activate(card, version) => on(card, *version, CardEvent::CardActivated { at: at() }),
        Step::Revoke(card, version) => {
            let from = Status::Issued;
            on(card, *version, CardEvent::CardRevoked { from, at: at() })
        }
        Step::Replace(card, version) => replace(*card.get(cards), *version, Status::Issued),
        Step::Keyed(key, request) => issue_under(&key.to_string(), *request),
    }
}

fn card_of(
    cards: &[CardId],
    index: &Index,
    expected: u64,
    event: CardEvent,
) -> application::ports::StreamAppend {
    card(*index.get(cards), expected, vec![event])
}

/// An answer without its reasons' details.
fn gist(answer: &Result<Appended, AppendError>) -> String {
    match answer {
        Ok(Appended::Committed(position)) => format!("committed {position}"),
        Ok(Appended::Replayed(outcome)) => format!("replayed {}", outcome.position),
        Err(error) => error.to_string(),
    }
}

/// A ledger whose tenant may have so few cards.
async fn limited<L: LedgerUnderTest>() -> L {
    let world = on_plan::<L>("free").await;
    let few = SubscriptionEvent::AddOnGranted {
        feature: feature::MAX_CARDS.to_owned().try_into().expect("a slug"),
        grant: Grant {
            value: FeatureValue::Limit(LIMIT),
            kind: GrantKind::Override,
            expires_at: None,
        },
        attribution: Attribution::default(),
        at: at(),
    };
    let limit = subscription(world.tenant(), 1, vec![few]);
    committed(world.ledger().append(limit).await);
    world
}

/// The answers of appends given one by one, or all at once. The last does not fit in any more.
async fn answers<L: LedgerUnderTest>(appends: &[Append], at_once: bool) -> Vec<String> {
    let world = limited::<L>().await;
    let ledger = world.ledger();
    let appends = appends.iter().cloned().map(|it| ledger.append(it));
    let answers = match at_once {
        true => join_all(appends).await,
        false => {
            let mut answers = Vec::new();
            for append in appends {
                answers.push(append.await);
            }
            answers
        }
    };
    assert_sound(&*ledger).await;
    assert_eq!(ledger.head().usage.in_circulation(), LIMIT);
    let full = AdmissionRefusal::QuotaExceeded {
        limit: LIMIT,
        used: LIMIT,
        requested: 1,
    };
    let last = answers.last().expect("an answer");
    assert!(
        matches!(last, Err(AppendError::NotAdmitted(it)) if *it == full),
        "{last:?}"
    );
    answers.iter().map(gist).collect()
}

fn compare<L: LedgerUnderTest>(steps: &[Step]) -> Result<(), TestCaseError> {
    let cards: Vec<_> = (0..5).map(|_| new_id()).collect();
    let steps = steps.iter().map(|step| to_append(step, &cards));
    let more = (0..=LIMIT).map(|_| issue());
    let appends: Vec<_> = steps.chain(more).collect();
    let runtime = Runtime::new().expect("a runtime");
    let one_by_one = runtime.block_on(answers::<L>(&appends, false));
    let at_once = runtime.block_on(answers::<L>(&appends, true));
    prop_assert_eq!(one_by_one, at_once);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn a_batch_answers_as_one_append_after_the_other_on_sqlite(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        compare::<SqliteUnderTest>(&steps)?;
    }

    #[test]
    fn a_batch_answers_as_one_append_after_the_other_on_postgresql(
        steps in prop::collection::vec(step(), 1..80),
    ) {
        compare::<PostgresUnderTest>(&steps)?;
    }
}
