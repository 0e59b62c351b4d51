//! Chance, for tests that try moments nobody chose.

use crate::support::now;

/// Chance whose seed is printed, so that a failure can be run again (`SEED=… cargo test`).
pub struct Chance(u64);

impl Chance {
    pub fn new() -> Self {
        let given = std::env::var("SEED").ok();
        let given = given.and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| now().timestamp_micros().unsigned_abs());
        println!("SEED={seed}");
        Self(seed)
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    /// A number below this one.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}
