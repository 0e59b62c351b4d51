//! Asking for cards: every order, every filter, page by page.

use std::collections::BTreeSet;

use application::cards::{Card, CardFilter, CardPage, CardSort};
use application::ports::CardsView;
use domain::card::{Issue, Status};
use domain::ids::CardId;
use domain::text::Tier;

use crate::history::{Ask, History, card_id, day, issue, issue_many};
use crate::store::{Engine, Tenant, tenant_on};

const SORTS: [CardSort; 4] = [
    CardSort::IssuedAt,
    CardSort::IssuedAtDescending,
    CardSort::Name,
    CardSort::NameDescending,
];

fn everything() -> CardFilter {
    CardFilter {
        status: None,
        q: None,
        tier: None,
        sort: CardSort::IssuedAt,
        after: None,
        limit: 1_000,
    }
}

async fn pages(view: &dyn CardsView, mut filter: CardFilter) -> Vec<Card> {
    let mut cards = Vec::new();
    loop {
        let CardPage { items, next } = view.list(&filter).await.expect("a page");
        assert!(items.len() <= filter.limit);
        cards.extend(items);
        filter.after = next;
        if filter.after.is_none() {
            return cards;
        }
    }
}

async fn found<E: Engine>(tenant: &Tenant<E>, q: &str) -> Vec<CardId> {
    let filter = CardFilter {
        q: Some(q.to_owned()),
        ..everything()
    };
    let page = tenant.view().list(&filter).await.expect("a page");
    page.items.into_iter().map(|card| card.id).collect()
}

async fn tenant_with_names<E: Engine>(names: &[&str]) -> Tenant<E> {
    let tenant = tenant_on::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    for (n, name) in (0_u16..).zip(names) {
        history.ask(&Ask::Issue(n, (*name).to_owned(), None, false));
    }
    tenant.follow(&tenant.cards, 100).await;
    tenant
}

pub async fn paging_visits_every_card_once_in_every_order_although_keys_are_tied<E: Engine>() {
    let tenant = tenant_on::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    for n in 0..60 {
        let name = ["ada", "Ada", "Émile", "émile", "zoe"][usize::from(n % 5)];
        history.issue(card_id(n), issue(n, name, day(i64::from(n / 20))));
    }
    tenant.follow(&tenant.cards, 7).await;
    for sort in SORTS {
        for limit in [1, 7, 59, 60, 61] {
            let filter = CardFilter {
                sort,
                limit,
                ..everything()
            };
            let cards = pages(tenant.view(), filter).await;
            let key = |card: &Card| match sort {
                CardSort::IssuedAt | CardSort::IssuedAtDescending => {
                    (card.issued_at.to_rfc3339(), card.id)
                }
                CardSort::Name | CardSort::NameDescending => {
                    (card.holder.name.as_str().to_lowercase(), card.id)
                }
            };
            let mut expected = history.expected();
            expected.sort_by_key(key);
            if matches!(
                sort,
                CardSort::IssuedAtDescending | CardSort::NameDescending
            ) {
                expected.reverse();
            }
            assert_eq!(cards, expected, "{sort:?}, {limit} a page");
        }
    }
}

pub async fn the_last_page_says_that_it_is_the_last_even_if_it_is_full<E: Engine>() {
    let tenant = tenant_with_names::<E>(&["Ada", "Bo"]).await;
    let filter = CardFilter {
        limit: 2,
        ..everything()
    };
    let page = tenant.view().list(&filter).await.expect("a page");
    assert_eq!((page.items.len(), page.next), (2, None));
}

pub async fn cards_are_filtered_by_status_and_kind_together<E: Engine>() {
    let tenant = tenant_on::<E>().await;
    let mut history = History::begin(&tenant.ledger);
    issue_many(&mut history, 0..10);
    let gold = Tier::try_from("gold".to_owned()).expect("a tier");
    for n in 10..14 {
        history.issue(
            card_id(n),
            Issue {
                tier: gold.clone(),
                activate: n % 2 == 0,
                ..issue(n, "Ada", day(1))
            },
        );
    }
    tenant.follow(&tenant.cards, 100).await;
    for status in Status::ALL {
        for tier in [None, Some(gold.clone())] {
            let filter = CardFilter {
                status: Some(status),
                tier: tier.clone(),
                limit: 2,
                ..everything()
            };
            let cards = pages(tenant.view(), filter).await;
            let ids: BTreeSet<_> = cards.iter().map(|card| card.id).collect();
            let expected: BTreeSet<_> = history
                .expected()
                .into_iter()
                .filter(|card| card.status == status)
                .filter(|card| tier.as_ref().is_none_or(|tier| card.tier == *tier))
                .map(|card| card.id)
                .collect();
            assert_eq!(ids, expected, "{status:?} {tier:?}");
            assert_eq!(cards.len(), ids.len());
        }
    }
}

pub async fn a_search_finds_part_of_a_name_in_any_case_beyond_ascii_too<E: Engine>() {
    let tenant = tenant_with_names::<E>(&["Ärzte Öl", "Éva Szabó", "ΟΔΥΣΣΕΥΣ Ομήρου", "Ada"]).await;
    assert_eq!(found(&tenant, "ÄRZTE ö").await, [card_id(0)]);
    assert_eq!(found(&tenant, "SZABÓ").await, [card_id(1)]);
    assert_eq!(found(&tenant, "οδυσσευς").await, [card_id(2)]);
    assert_eq!(found(&tenant, "Οδυσσευσ").await, [card_id(2)]);
    assert_eq!(found(&tenant, "adA").await, [card_id(3)]);
}

pub async fn a_search_takes_wildcards_and_quotes_for_what_they_are<E: Engine>() {
    let tenant =
        tenant_with_names::<E>(&["100% Ada", "100 Bo", "a_b", "axb", r"back\slash", "O'Hara"])
            .await;
    assert_eq!(found(&tenant, "100%").await, [card_id(0)]);
    assert_eq!(found(&tenant, "a_b").await, [card_id(2)]);
    assert_eq!(found(&tenant, r"k\s").await, [card_id(4)]);
    assert_eq!(found(&tenant, "o'h").await, [card_id(5)]);
    assert_eq!(found(&tenant, "%").await, [card_id(0)]);
    assert_eq!(found(&tenant, "Ada\0").await, []);
}

pub async fn a_search_looks_at_address_number_and_reference_but_never_across_two_of_them<
    E: Engine,
>() {
    let tenant = tenant_with_names::<E>(&["Ada", "Bo"]).await;
    let card = tenant.view().get(card_id(1)).await.expect("an answer");
    let number = card.expect("a card").number;
    assert_eq!(found(&tenant, &number.as_str()[4..12]).await, [card_id(1)]);
    assert_eq!(found(&tenant, "HOLDER1@").await, [card_id(1)]);
    assert_eq!(found(&tenant, "ref-1").await, [card_id(1)]);
    assert_eq!(found(&tenant, "boholder1").await, []);
}
