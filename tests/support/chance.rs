//! Chance whose seed is printed, so that a failure can be run again with the same draws.

use super::now;

/// A source of draws.
pub struct Chance(u64);

impl Chance {
    /// From the seed in an environment variable; else from a new one. Prints which.
    pub fn of(variable: &str) -> Self {
        let given = std::env::var(variable).ok();
        let given = given.map(|text| text.parse().expect("a seed is a number"));
        let seed = given.unwrap_or_else(|| now().timestamp_micros().unsigned_abs());
        println!("{variable}={seed}");
        Self(seed)
    }

    /// A number from 0 up to, not including, `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }

    /// Another source, whose draws do not depend on how often this one is asked.
    pub fn fork(&mut self) -> Self {
        Self(self.draw())
    }

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
