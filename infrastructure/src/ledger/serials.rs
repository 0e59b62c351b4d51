//! Serials for card numbers, handed out from memory in blocks that the head row has reserved.
//!
//! A block is reserved in the same update as the events of some batch, ahead of need, so that
//! nobody waits for it; what is left of a block when the ledger closes is never handed out.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// How many serials are reserved at a time: several batches' worth.
const BLOCK_SERIALS: u64 = 1_000;

/// Serials that are reserved, the end excluded.
pub(super) type Block = Range<u64>;

/// The serials that this node has reserved and not handed out.
#[derive(Default)]
pub(super) struct Serials {
    stock: Mutex<Stock>,
}

#[derive(Default)]
struct Stock {
    blocks: VecDeque<Block>,
    /// Whether anybody has ever asked: a ledger that issues nothing reserves nothing.
    asked: bool,
}

impl Serials {
    /// The next serial, if one is in stock.
    pub(super) fn take(&self) -> Option<u64> {
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        stock.asked = true;
        loop {
            let block = stock.blocks.front_mut()?;
            if let Some(serial) = block.next() {
                return Some(serial);
            }
            stock.blocks.pop_front();
        }
    }

    /// How many serials the next batch should reserve: none while more than a block is in stock.
    pub(super) fn wanted(&self) -> Option<u64> {
        let stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        let left: u64 = stock
            .blocks
            .iter()
            .map(|block| block.end - block.start)
            .sum();
        (stock.asked && left <= BLOCK_SERIALS).then_some(BLOCK_SERIALS)
    }

    /// Puts a block that is durably reserved in stock.
    pub(super) fn add(&self, block: Block) {
        let mut stock = self.stock.lock().unwrap_or_else(PoisonError::into_inner);
        stock.blocks.push_back(block);
    }
}
