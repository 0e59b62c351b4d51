//! A digital card's life: what may be asked of it, what then happened, what it is now.
//!
//! `decide` answers a command with events or a refusal; `evolve` applies an event. Both are pure.
//! Time comes in with the command. A command whose effect is already there is a success without
//! events. What a *tenant* may do (its plan, its quota) is not decided here: see
//! [`crate::entitlements`] and [`crate::usage`].

mod event;
mod status;

use chrono::{DateTime, Utc};
use cqrs_es::Aggregate;
use cqrs_es::event_sink::EventSink;
use serde::{Deserialize, Serialize};

pub use self::event::CardEvent;
pub use self::status::Status;
use crate::ids::{CardId, CardNumber};
use crate::text::{Email, ExternalRef, HolderName, Tier};

/// What may be asked of a card.
#[derive(Clone, Debug, PartialEq)]
pub enum CardCommand {
    /// Bring a card into being.
    Issue(Issue),
    /// Put an issued card to use.
    Activate {
        /// When.
        at: DateTime<Utc>,
    },
    /// Take an active card out of use for a while.
    Suspend {
        /// When.
        at: DateTime<Utc>,
    },
    /// Put a suspended card back to use.
    Reinstate {
        /// When.
        at: DateTime<Utc>,
    },
    /// End a card for good.
    Revoke {
        /// When.
        at: DateTime<Utc>,
    },
    /// Record that a card's time is over, if it is.
    Expire {
        /// Now; the event records the moment the card was due.
        at: DateTime<Utc>,
    },
    /// Give a card more time; an expired one becomes active again.
    Renew {
        /// The new end.
        expires_at: DateTime<Utc>,
        /// When.
        at: DateTime<Utc>,
    },
    /// End a card in favour of another, which must be issued in the same append. Repeating it
    /// with the same card is a success, with another a refusal.
    Replace {
        /// The card that takes its place.
        by: CardId,
        /// When.
        at: DateTime<Utc>,
    },
    /// Correct or change who holds the card.
    UpdateHolder {
        /// The new holder, whole.
        holder: Holder,
        /// When.
        at: DateTime<Utc>,
    },
}

/// The particulars of a new card.
#[derive(Clone, Debug, PartialEq)]
pub struct Issue {
    /// Its number, unique within the tenant.
    pub number: CardNumber,
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
    /// The card whose place it takes.
    pub replaces: Option<CardId>,
    /// When.
    pub at: DateTime<Utc>,
}

/// The person who holds a card. All personal data of a card's events is in this one object, so
/// that it can be sealed apart from the rest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Name.
    pub name: HolderName,
    /// E-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<Email>,
}

/// Why a card did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CardRefusal {
    /// No such card.
    #[error("there is no such card")]
    NotIssued,
    /// The id is taken.
    #[error("a card with this id was issued before")]
    AlreadyIssued,
    /// The card's status does not allow it.
    #[error("a card that is {} cannot be {verb}", from.as_str())]
    InvalidTransition {
        /// The status it has.
        from: Status,
        /// What was asked, as a participle: `activated`.
        verb: &'static str,
    },
    /// The asked end lies in the past.
    #[error("expires_at must lie in the future")]
    ExpiryNotInFuture,
    /// The card's time is not over.
    #[error("the card is not due to expire")]
    NotDue,
}

/// A card as its events tell it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub enum DigitalCard {
    /// Nothing happened yet.
    #[default]
    Unissued,
    /// In circulation, not yet in use.
    Issued(Particulars),
    /// In circulation and in use.
    Active(Particulars),
    /// In circulation, out of use for a while.
    Suspended(Particulars),
    /// Ended for good.
    Revoked(Particulars),
    /// Its time is over.
    Expired(Particulars),
    /// Another card took its place.
    Replaced(Particulars, CardId),
}

/// What stays with a card through its life.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Particulars {
    /// 16 digits, unique within the tenant.
    pub number: CardNumber,
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
}

impl DigitalCard {
    /// What happens when `command` is given to this card.
    ///
    /// A card whose time is over by the command's time expires first, whether or not that had
    /// been recorded; the command then meets an expired card.
    ///
    /// # Errors
    ///
    /// A [`CardRefusal`] if the card's state does not allow the command; nothing happens then.
    pub fn decide(&self, command: &CardCommand) -> Result<Vec<CardEvent>, CardRefusal> {
        match self.lapse(command.at()) {
            None => self.answer(command),
            Some(expired) => {
                let mut card = self.clone();
                card.evolve(expired.clone());
                let mut events = vec![expired];
                events.extend(card.answer(command)?);
                Ok(events)
            }
        }
    }

    /// Applies what happened. A card that was never issued stays unissued, whatever a broken
    /// history says of it.
    pub fn evolve(&mut self, event: CardEvent) {
        match event {
            CardEvent::CardIssued {
                number,
                holder,
                external_ref,
                tier,
                expires_at,
                replaces,
                at,
            } => {
                *self = Self::Issued(Particulars {
                    number,
                    holder,
                    external_ref,
                    tier,
                    issued_at: at,
                    expires_at,
                    replaces,
                });
            }
            CardEvent::CardActivated { .. } | CardEvent::CardReinstated { .. } => {
                self.enter(Self::Active);
            }
            CardEvent::CardSuspended { .. } => self.enter(Self::Suspended),
            CardEvent::CardRevoked { .. } => self.enter(Self::Revoked),
            CardEvent::CardExpired { .. } => self.enter(Self::Expired),
            CardEvent::CardReplaced { by, .. } => self.enter(|card| Self::Replaced(card, by)),
            CardEvent::CardRenewed { to, expires_at, .. } => {
                if let Some(card) = self.particulars_mut() {
                    card.expires_at = Some(expires_at);
                }
                if to == Status::Active {
                    self.enter(Self::Active);
                }
            }
            CardEvent::CardHolderUpdated { holder, .. } => {
                if let Some(card) = self.particulars_mut() {
                    card.holder = holder;
                }
            }
        }
    }

    /// Where the card is in its life; `None` before it was issued.
    pub const fn status(&self) -> Option<Status> {
        match self {
            Self::Unissued => None,
            Self::Issued(_) => Some(Status::Issued),
            Self::Active(_) => Some(Status::Active),
            Self::Suspended(_) => Some(Status::Suspended),
            Self::Revoked(_) => Some(Status::Revoked),
            Self::Expired(_) => Some(Status::Expired),
            Self::Replaced(..) => Some(Status::Replaced),
        }
    }

    /// What stays with the card through its life; `None` before it was issued.
    pub const fn particulars(&self) -> Option<&Particulars> {
        match self {
            Self::Unissued => None,
            Self::Issued(card)
            | Self::Active(card)
            | Self::Suspended(card)
            | Self::Revoked(card)
            | Self::Expired(card)
            | Self::Replaced(card, _) => Some(card),
        }
    }

    /// The card that took this one's place.
    pub const fn replaced_by(&self) -> Option<CardId> {
        match self {
            Self::Replaced(_, by) => Some(*by),
            _ => None,
        }
    }

    /// The expiry that is due at `now` and not yet recorded.
    fn lapse(&self, now: DateTime<Utc>) -> Option<CardEvent> {
        Self::expiry(self.status()?, self.particulars()?.expires_at?, now)
    }

    /// The expiry of a card of this status and end, if it is due at `now`. For many cards at a
    /// time, of which no more than this is at hand.
    pub fn expiry(from: Status, end: DateTime<Utc>, now: DateTime<Utc>) -> Option<CardEvent> {
        (from.in_circulation() && end <= now).then_some(CardEvent::CardExpired { from, at: end })
    }

    /// The command's own events, for a card whose status is up to date.
    fn answer(&self, command: &CardCommand) -> Result<Vec<CardEvent>, CardRefusal> {
        let refuse = |from: Status, verb| Err(CardRefusal::InvalidTransition { from, verb });
        let (status, card) = match (self.status(), self.particulars(), command) {
            (_, _, CardCommand::Issue(issue)) => return self.issue(issue),
            (Some(status), Some(card), _) => (status, card),
            (None, _, _) | (_, None, _) => return Err(CardRefusal::NotIssued),
        };
        match *command {
            CardCommand::Issue(_) => Err(CardRefusal::AlreadyIssued),
            CardCommand::Activate { at } => match status {
                Status::Issued => Ok(vec![CardEvent::CardActivated { at }]),
                Status::Active => Ok(vec![]),
                Status::Suspended | Status::Revoked | Status::Expired | Status::Replaced => {
                    refuse(status, "activated")
                }
            },
            CardCommand::Suspend { at } => match status {
                Status::Active => Ok(vec![CardEvent::CardSuspended { at }]),
                Status::Suspended => Ok(vec![]),
                Status::Issued | Status::Revoked | Status::Expired | Status::Replaced => {
                    refuse(status, "suspended")
                }
            },
            CardCommand::Reinstate { at } => match status {
                Status::Suspended => Ok(vec![CardEvent::CardReinstated { at }]),
                Status::Active => Ok(vec![]),
                Status::Issued | Status::Revoked | Status::Expired | Status::Replaced => {
                    refuse(status, "reinstated")
                }
            },
            CardCommand::Revoke { at } => match status {
                Status::Issued | Status::Active | Status::Suspended | Status::Expired => {
                    Ok(vec![CardEvent::CardRevoked { from: status, at }])
                }
                Status::Revoked => Ok(vec![]),
                Status::Replaced => refuse(status, "revoked"),
            },
            CardCommand::Expire { .. } => match status {
                Status::Expired => Ok(vec![]),
                _ => Err(CardRefusal::NotDue),
            },
            CardCommand::Renew { expires_at, at } => match status {
                Status::Revoked | Status::Replaced => refuse(status, "renewed"),
                _ if expires_at <= at => Err(CardRefusal::ExpiryNotInFuture),
                _ if card.expires_at == Some(expires_at) && status != Status::Expired => Ok(vec![]),
                _ => {
                    let to = match status {
                        Status::Expired => Status::Active,
                        unchanged => unchanged,
                    };
                    Ok(vec![CardEvent::CardRenewed {
                        from: status,
                        to,
                        expires_at,
                        at,
                    }])
                }
            },
            CardCommand::Replace { by, at } => match status {
                Status::Issued | Status::Active | Status::Suspended => {
                    Ok(vec![CardEvent::CardReplaced {
                        from: status,
                        by,
                        at,
                    }])
                }
                Status::Replaced if self.replaced_by() == Some(by) => Ok(vec![]),
                Status::Revoked | Status::Expired | Status::Replaced => refuse(status, "replaced"),
            },
            CardCommand::UpdateHolder { ref holder, at } => match status {
                Status::Revoked | Status::Replaced => refuse(status, "changed"),
                _ if card.holder == *holder => Ok(vec![]),
                _ => Ok(vec![CardEvent::CardHolderUpdated {
                    holder: holder.clone(),
                    at,
                }]),
            },
        }
    }

    fn issue(&self, issue: &Issue) -> Result<Vec<CardEvent>, CardRefusal> {
        if *self != Self::Unissued {
            return Err(CardRefusal::AlreadyIssued);
        }
        if issue.expires_at.is_some_and(|end| end <= issue.at) {
            return Err(CardRefusal::ExpiryNotInFuture);
        }
        let issued = CardEvent::CardIssued {
            number: issue.number.clone(),
            holder: issue.holder.clone(),
            external_ref: issue.external_ref.clone(),
            tier: issue.tier.clone(),
            expires_at: issue.expires_at,
            replaces: issue.replaces,
            at: issue.at,
        };
        let activated = issue
            .activate
            .then_some(CardEvent::CardActivated { at: issue.at });
        Ok(std::iter::once(issued).chain(activated).collect())
    }

    fn enter(&mut self, stage: impl FnOnce(Particulars) -> Self) {
        if let Some(card) = std::mem::take(self).into_particulars() {
            *self = stage(card);
        }
    }

    fn particulars_mut(&mut self) -> Option<&mut Particulars> {
        match self {
            Self::Unissued => None,
            Self::Issued(card)
            | Self::Active(card)
            | Self::Suspended(card)
            | Self::Revoked(card)
            | Self::Expired(card)
            | Self::Replaced(card, _) => Some(card),
        }
    }

    fn into_particulars(self) -> Option<Particulars> {
        match self {
            Self::Unissued => None,
            Self::Issued(card)
            | Self::Active(card)
            | Self::Suspended(card)
            | Self::Revoked(card)
            | Self::Expired(card)
            | Self::Replaced(card, _) => Some(card),
        }
    }
}

impl CardCommand {
    /// When the command is given.
    pub const fn at(&self) -> DateTime<Utc> {
        match self {
            Self::Issue(issue) => issue.at,
            Self::Activate { at }
            | Self::Suspend { at }
            | Self::Reinstate { at }
            | Self::Revoke { at }
            | Self::Expire { at }
            | Self::Renew { at, .. }
            | Self::Replace { at, .. }
            | Self::UpdateHolder { at, .. } => *at,
        }
    }
}

impl Aggregate for DigitalCard {
    const TYPE: &'static str = "DigitalCard";
    type Command = CardCommand;
    type Event = CardEvent;
    type Error = CardRefusal;
    type Services = ();

    /// [`DigitalCard::decide`] behind the framework's signature. The sink applies what it is
    /// given, and the store applies it again; writing against a clone keeps that to once.
    async fn handle(
        &mut self,
        command: CardCommand,
        (): &(),
        sink: &EventSink<Self>,
    ) -> Result<(), CardRefusal> {
        let mut scratch = self.clone();
        for event in self.decide(&command)? {
            sink.write(event, &mut scratch).await;
        }
        Ok(())
    }

    fn apply(&mut self, event: CardEvent) {
        self.evolve(event);
    }
}
