//! What a subscriber has no use for here.

use application::cards::{Card, CardFilter, CardPage, DueCard};
use application::ports::checkpoints::{Checkpoints, Turn};
use application::ports::{CardsView, Clock, Unavailable};
use async_trait::async_trait;
use chrono::{DateTime, Utc};
use domain::ids::{CardId, Position};

pub struct NoCards;

#[async_trait]
impl CardsView for NoCards {
    async fn get(&self, _: CardId) -> Result<Option<Card>, Unavailable> {
        Ok(None)
    }

    async fn list(&self, _: &CardFilter) -> Result<CardPage, Unavailable> {
        Ok(CardPage {
            items: vec![],
            next: None,
        })
    }

    async fn due(&self, _: DateTime<Utc>, _: usize) -> Result<Vec<DueCard>, Unavailable> {
        Ok(vec![])
    }

    async fn next_due(&self) -> Result<Option<DateTime<Utc>>, Unavailable> {
        Ok(None)
    }
}

pub struct NoCheckpoints;

#[async_trait]
impl Checkpoints for NoCheckpoints {
    async fn position(&self, _: &'static str) -> Result<Position, Unavailable> {
        Ok(0)
    }

    async fn turn(&self, _: &'static str) -> Result<Turn, Unavailable> {
        Ok(Turn::Here)
    }

    async fn advance(&self, _: &'static str, _: Position) -> Result<(), Unavailable> {
        Ok(())
    }
}

pub struct Epoch;

impl Clock for Epoch {
    fn now(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }
}
