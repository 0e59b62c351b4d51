//! Cards: the commands of their life, and the queries.

use chrono::{DateTime, Utc};
use domain::card::{CardCommand, DigitalCard, Holder, Issue, Status};
use domain::catalogue::feature;
use domain::event::AggregateKind;
use domain::ids::{CardId, CardNumber, Position, Version};
use domain::text::{ExternalRef, Tier};
use serde::{Deserialize, Serialize};

use crate::Application;
use crate::commands::{Decided, Done};
use crate::error::Error;
use crate::ports::{HistoryFilter, StoredEvent, TenantStore};
use crate::scope::{Command, Role, Scope};
use crate::subscribers::CARDS;

/// The roles that may change cards.
const CHANGE: &[Role] = &[Role::TenantAdmin];
/// The roles that may read cards.
const READ: &[Role] = &[Role::TenantAdmin, Role::TenantViewer];

/// A card to issue.
#[derive(Clone, Debug, PartialEq)]
pub struct NewCard {
    /// Who holds it.
    pub holder: Holder,
    /// The tenant's own reference.
    pub external_ref: Option<ExternalRef>,
    /// Its kind.
    pub tier: Tier,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether it is active from the start.
    pub activate: bool,
}

/// A change of one card.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Put an issued card to use.
    Activate,
    /// Take an active card out of use for a while.
    Suspend,
    /// Put a suspended card back to use.
    Reinstate,
    /// End it for good.
    Revoke,
    /// Give it a new end.
    Renew(DateTime<Utc>),
    /// Change who holds it.
    UpdateHolder(Holder),
}

/// A card as its tenant sees it. Nothing serialises it as it is: whom it names is in its events,
/// and in the read model, and nowhere else.
#[derive(Clone, Debug, PartialEq)]
pub struct Card {
    /// Its id.
    pub id: CardId,
    /// 16 digits, unique in the tenant.
    pub number: CardNumber,
    /// Where it is in its life.
    pub status: Status,
    /// Who holds it.
    pub holder: Holder,
    /// The tenant's own reference.
    pub external_ref: Option<ExternalRef>,
    /// Its kind.
    pub tier: Tier,
    /// When it was issued.
    pub issued_at: DateTime<Utc>,
    /// When it ends by itself.
    pub expires_at: Option<DateTime<Utc>>,
    /// The card whose place it took.
    pub replaces: Option<CardId>,
    /// The card that took its place.
    pub replaced_by: Option<CardId>,
    /// How many events it has.
    pub version: Version,
}

impl Card {
    /// The card that an aggregate tells of; `None` before it was issued.
    pub fn of(id: CardId, card: &DigitalCard, version: Version) -> Option<Self> {
        let particulars = card.particulars()?.clone();
        Some(Self {
            id,
            number: particulars.number,
            status: card.status()?,
            holder: particulars.holder,
            external_ref: particulars.external_ref,
            tier: particulars.tier,
            issued_at: particulars.issued_at,
            expires_at: particulars.expires_at,
            replaces: particulars.replaces,
            replaced_by: card.replaced_by(),
            version,
        })
    }
}

/// An answer that is a card, of which only the id is recorded. Answers recorded by version 0.1 are
/// whole cards; all but the id is passed over.
#[derive(Serialize, Deserialize)]
struct CardAnswer {
    id: CardId,
    /// If it was decided just now; else it is in the card's events.
    #[serde(skip)]
    card: Option<Card>,
}

impl From<Card> for CardAnswer {
    fn from(card: Card) -> Self {
        Self {
            id: card.id,
            card: Some(card),
        }
    }
}

/// Which cards are asked for, and in which order.
#[derive(Clone, Debug, PartialEq)]
pub struct CardFilter {
    /// Only cards of this status.
    pub status: Option<Status>,
    /// Only cards whose name, e-mail address, number or reference has this in it, in any case.
    pub q: Option<String>,
    /// Only cards of this kind.
    pub tier: Option<Tier>,
    /// In this order.
    pub sort: CardSort,
    /// Only cards after this place in that order.
    pub after: Option<CardCursor>,
    /// At most so many.
    pub limit: usize,
}

/// An order of cards; the id breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CardSort {
    /// Oldest first.
    #[serde(rename = "issued_at")]
    IssuedAt,
    /// Newest first.
    #[serde(rename = "-issued_at")]
    IssuedAtDescending,
    /// By the holder's name, in any case.
    #[serde(rename = "name")]
    Name,
    /// By the holder's name, in any case, backwards.
    #[serde(rename = "-name")]
    NameDescending,
}

/// A place in an order of cards: that of the last card of a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CardCursor {
    /// The sort key of that card: its time of issue in microseconds, or its holder's name in
    /// lower case.
    pub key: CardCursorKey,
    /// That card.
    pub id: CardId,
}

/// A sort key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum CardCursorKey {
    /// Microseconds since 1970-01-01 UTC.
    IssuedAt(i64),
    /// Lower case.
    Name(String),
}

/// A page of cards.
#[derive(Clone, Debug, PartialEq)]
pub struct CardPage {
    /// The cards.
    pub items: Vec<Card>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<CardCursor>,
}

/// A card whose time is over, as far as it takes to record that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueCard {
    /// Which.
    pub id: CardId,
    /// Where it is in its life.
    pub status: Status,
    /// When its time was over.
    pub expires_at: DateTime<Utc>,
    /// How many events it has.
    pub version: Version,
}

impl Application {
    /// Issues a card.
    pub async fn issue_card(&self, command: &Command, new: NewCard) -> Result<Done<Card>, Error> {
        let store = self.tenant_store(&command.scope, CHANGE).await?;
        self.commit_card(&store, command, || async {
            let now = self.clock.now();
            self.require_feature(&store, feature::CARDS_LIFECYCLE, now)?;
            let id = CardId::new(self.random.id());
            let issue = Issue {
                number: CardNumber::from_serial(store.ledger.next_card_serial().await?),
                holder: new.holder.clone(),
                external_ref: new.external_ref.clone(),
                tier: new.tier.clone(),
                expires_at: new.expires_at,
                activate: new.activate,
                replaces: None,
                at: now,
            };
            self.decide_issue(&store, command, id, issue).await
        })
        .await
    }

    /// Changes a card. Repeating a change that is done already is a success without an event.
    pub async fn change_card(
        &self,
        command: &Command,
        id: CardId,
        change: Change,
    ) -> Result<Done<Card>, Error> {
        let store = self.tenant_store(&command.scope, CHANGE).await?;
        self.commit_card(&store, command, || async {
            let at = self.clock.now();
            if change.is_service() {
                self.require_feature(&store, feature::CARDS_LIFECYCLE, at)?;
            }
            let staged = self
                .stage::<DigitalCard>(
                    &store,
                    &id.to_string(),
                    false,
                    change.clone().into_command(at),
                    command.metadata(),
                    command.if_match,
                )
                .await?;
            Ok(Decided {
                value: issued(id, &staged.aggregate, staged.version)?,
                version: staged.version,
                streams: vec![staged.stream],
            })
        })
        .await
    }

    /// Replaces a card by a new one of the same holder; answers the new one.
    pub async fn replace_card(&self, command: &Command, id: CardId) -> Result<Done<Card>, Error> {
        let store = self.tenant_store(&command.scope, CHANGE).await?;
        self.commit_card(&store, command, || async {
            let at = self.clock.now();
            self.require_feature(&store, feature::CARDS_LIFECYCLE, at)?;
            let by = CardId::new(self.random.id());
            let old = self
                .stage::<DigitalCard>(
                    &store,
                    &id.to_string(),
                    false,
                    CardCommand::Replace { by, at },
                    command.metadata(),
                    command.if_match,
                )
                .await?;
            let particulars = old
                .aggregate
                .particulars()
                .ok_or(Error::NotFound("card"))?
                .clone();
            let issue = Issue {
                number: CardNumber::from_serial(store.ledger.next_card_serial().await?),
                holder: particulars.holder,
                external_ref: particulars.external_ref,
                tier: particulars.tier,
                expires_at: particulars.expires_at,
                activate: false,
                replaces: Some(id),
                at,
            };
            let mut decided = self.decide_issue(&store, command, by, issue).await?;
            decided.streams.insert(0, old.stream);
            Ok(decided)
        })
        .await
    }

    /// One card.
    pub async fn card(&self, scope: &Scope, id: CardId, at_least: Position) -> Result<Card, Error> {
        let store = self.tenant_store(scope, READ).await?;
        self.subscribers.reached(CARDS, &store, at_least).await?;
        store.cards.get(id).await?.ok_or(Error::NotFound("card"))
    }

    /// The cards that match, a page of them.
    pub async fn cards(
        &self,
        scope: &Scope,
        filter: &CardFilter,
        at_least: Position,
    ) -> Result<CardPage, Error> {
        let store = self.tenant_store(scope, READ).await?;
        self.subscribers.reached(CARDS, &store, at_least).await?;
        Ok(store.cards.list(filter).await?)
    }

    /// What happened to one card, oldest first: up to `limit` events after a position, once the
    /// ledger is at `at_least` or after it.
    pub async fn card_history(
        &self,
        scope: &Scope,
        id: CardId,
        after: Position,
        limit: usize,
        at_least: Position,
    ) -> Result<Vec<StoredEvent>, Error> {
        let store = self.tenant_store(scope, READ).await?;
        Self::head_at(&store, at_least).await?;
        let filter = HistoryFilter {
            after,
            kind: Some(AggregateKind::Card),
            aggregate_id: Some(id.to_string()),
            ..HistoryFilter::default()
        };
        let events = store.ledger.history(&filter, limit).await?;
        match events.is_empty() && after == 0 {
            true => Err(Error::NotFound("card")),
            false => Ok(events),
        }
    }

    /// Commits what becomes of a card. Of the answer, only which card it was is recorded: when it is
    /// asked for again, its events tell the rest.
    async fn commit_card<F, Fut>(
        &self,
        store: &TenantStore,
        command: &Command,
        attempt: F,
    ) -> Result<Done<Card>, Error>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<Decided<Card>, Error>>,
    {
        let attempt = || async { Ok(attempt().await?.map(CardAnswer::from)) };
        let Done {
            value: CardAnswer { id, card },
            version,
            position,
            replayed,
        } = self.commit(store, command, attempt).await?;
        let card = match card {
            Some(card) => card,
            None => {
                let card = self.as_of(store, &id.to_string(), version).await?;
                issued(id, &card, version)?
            }
        };
        Ok(Done {
            value: card,
            version,
            position,
            replayed,
        })
    }

    async fn decide_issue(
        &self,
        store: &TenantStore,
        command: &Command,
        id: CardId,
        issue: Issue,
    ) -> Result<Decided<Card>, Error> {
        let staged = self
            .stage::<DigitalCard>(
                store,
                &id.to_string(),
                true,
                CardCommand::Issue(issue),
                command.metadata(),
                None,
            )
            .await?;
        Ok(Decided {
            value: issued(id, &staged.aggregate, staged.version)?,
            version: staged.version,
            streams: vec![staged.stream],
        })
    }
}

impl Change {
    /// Whether the change is a service that needs a subscription in good standing. Taking a
    /// card out of use and correcting its holder are always possible.
    const fn is_service(&self) -> bool {
        match self {
            Self::Activate | Self::Reinstate | Self::Renew(_) => true,
            Self::Suspend | Self::Revoke | Self::UpdateHolder(_) => false,
        }
    }

    fn into_command(self, at: DateTime<Utc>) -> CardCommand {
        match self {
            Self::Activate => CardCommand::Activate { at },
            Self::Suspend => CardCommand::Suspend { at },
            Self::Reinstate => CardCommand::Reinstate { at },
            Self::Revoke => CardCommand::Revoke { at },
            Self::Renew(expires_at) => CardCommand::Renew { expires_at, at },
            Self::UpdateHolder(holder) => CardCommand::UpdateHolder { holder, at },
        }
    }
}

fn issued(id: CardId, card: &DigitalCard, version: Version) -> Result<Card, Error> {
    Card::of(id, card, version).ok_or(Error::NotFound("card"))
}
