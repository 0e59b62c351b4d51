//! Given a history, when a command comes, then these events or this refusal.

use std::fmt::Debug;

use cqrs_es::Aggregate;
use domain::card::DigitalCard;
use domain::catalogue::Catalogue;
use domain::subscription::TenantSubscription;

/// An aggregate with its pure decision, whatever the signature.
pub trait Decider: Aggregate {
    /// What happens when `command` is given to it.
    fn decision(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error>;
}

impl Decider for DigitalCard {
    fn decision(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error> {
        self.decide(&command)
    }
}

impl Decider for TenantSubscription {
    fn decision(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error> {
        self.decide(command)
    }
}

impl Decider for Catalogue {
    fn decision(&self, command: Self::Command) -> Result<Vec<Self::Event>, Self::Error> {
        self.decide(command)
    }
}

/// The aggregate that this history makes.
pub fn after<A: Decider>(history: impl IntoIterator<Item = A::Event>) -> A {
    let mut aggregate = A::default();
    for event in history {
        aggregate.apply(event);
    }
    aggregate
}

/// Begins a sentence: an aggregate with this history.
pub fn given<A: Decider>(history: impl IntoIterator<Item = A::Event>) -> Given<A> {
    Given(after(history))
}

/// An aggregate that waits for its command.
pub struct Given<A>(A);

impl<A: Decider> Given<A> {
    /// Gives the command.
    pub fn when(self, command: A::Command) -> When<A> {
        let outcome = self.0.decision(command);
        When(outcome)
    }
}

/// What the command led to.
pub struct When<A: Decider>(Result<Vec<A::Event>, A::Error>);

impl<A> When<A>
where
    A: Decider<Event: Debug + PartialEq, Error: Debug + PartialEq>,
{
    /// Exactly these events.
    #[track_caller]
    pub fn then(self, events: impl Into<Vec<A::Event>>) {
        assert_eq!(self.0, Ok(events.into()));
    }

    /// A success without events: the effect was there already.
    #[track_caller]
    pub fn then_nothing(self) {
        self.then([]);
    }

    /// This refusal.
    #[track_caller]
    pub fn refused(self, refusal: A::Error) {
        assert_eq!(self.0, Err(refusal));
    }
}
