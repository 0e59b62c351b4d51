//! A tenant's store in which cards are kept, whatever the engine.

use application::cards::Card;
use application::ports::checkpoints::Turn;
use application::ports::{Ledger, Subscriber, TenantStore};
use domain::card::CardEvent;
use domain::ids::CardId;
use futures::future::join_all;

use crate::world::*;

/// A ledger, the cards beside it, and who keeps them when no append does.
pub struct Kept {
    pub store: TenantStore,
    pub subscriber: Box<dyn Subscriber>,
}

impl Kept {
    pub fn ledger(&self) -> &dyn Ledger {
        self.store.ledger.as_ref()
    }

    pub async fn issue(&self) -> CardId {
        let id = new_id();
        let issue = append(vec![card(id, 0, vec![issued()])]);
        committed(self.ledger().append(issue).await);
        id
    }

    /// Activates new cards, in one append.
    pub async fn activate(&self, ids: &[CardId]) {
        let activated = |id: &CardId| card(*id, 1, vec![CardEvent::CardActivated { at: at() }]);
        let activate = append(ids.iter().map(activated).collect());
        committed(self.ledger().append(activate).await);
    }

    pub async fn shown(&self, id: CardId) -> Option<Card> {
        self.store.cards.get(id).await.expect("an answer")
    }

    /// Where the subscriber is told that the table is.
    pub async fn turn(&self) -> Turn {
        self.subscriber.turn(&self.store).await.expect("a turn")
    }

    /// The subscriber's work, as after a ring.
    pub async fn catch_up(&self) {
        let checkpoint = self.subscriber.checkpoint(&self.store).await;
        let events = self.ledger().read(checkpoint.expect("a checkpoint"), 1_000);
        let events = events.await.expect("events");
        let handled = self.subscriber.handle(&self.store, &events).await;
        handled.expect("handled");
    }

    /// Builds the table anew.
    pub async fn build_anew(&self) {
        let built = self.subscriber.rebuild(&self.store, &|_| {}).await;
        assert_eq!(built.expect("built"), self.ledger().head().position);
    }

    /// The cards are there, and are what building the table anew makes of the ledger.
    pub async fn assert_as_built_anew(&self, ids: &[CardId]) {
        let before = join_all(ids.iter().map(|id| self.shown(*id))).await;
        assert!(before.iter().all(Option::is_some));
        self.build_anew().await;
        let after = join_all(ids.iter().map(|id| self.shown(*id))).await;
        assert_eq!(after, before);
    }
}
