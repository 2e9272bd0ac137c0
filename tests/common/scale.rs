//! How often a test repeats itself, and its random numbers.

#![allow(dead_code)] // each test binary uses a part

/// `quick` in the usual test run, `full` in `tests/reliability.sh`, which sets `HLX_RELIABILITY=full`.
pub fn count(quick: usize, full: usize) -> usize {
    match std::env::var("HLX_RELIABILITY") {
        Err(_) => quick,
        Ok(value) if value == "full" => full,
        Ok(value) => panic!("HLX_RELIABILITY is {value:?}, and only `full` means something"),
    }
}

/// A line for the table of results; `tests/reliability.sh` collects them.
pub fn report(what: &str, result: impl std::fmt::Display) {
    println!("\nresult: {what}: {result}");
}

/// SplitMix64: every failure can be had again from its seed.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Below `end`, which is not 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}
