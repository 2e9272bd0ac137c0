//! Inputs for loaders: committed ones, changed in the ways that break parsers.

use crate::scale::Random;

/// Pieces that mean something to one of the formats.
const WORDS: [&[u8]; 24] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b",",
    b":",
    b"\\u0000",
    b"\\ud800",
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"NaN",
    b"18446744073709551616",
    b"9223372036854775807",
    b"\n",
    b"\r\n",
    b"=",
    b"'''",
    b"\xef\xbb\xbf",
    b"\xff",
    b"<|endoftext|>",
    b"\xf4\x8f\xbf\xbf",
];

/// Lengths and offsets at which arithmetic goes wrong.
const NUMBERS: [u64; 8] = [0, 1, 7, 0x7FFF_FFFF, 0xFFFF_FFFF, i64::MAX as u64, u64::MAX - 7, u64::MAX];

/// No input grows past this.
const LONGEST: usize = 1 << 16;

/// An endless row of inputs, the same for the same seed.
pub struct Mutator {
    random: Random,
    seeds: Vec<Vec<u8>>,
    input: Vec<u8>,
}

impl Mutator {
    pub fn new(random: Random, seeds: Vec<Vec<u8>>) -> Mutator {
        Mutator { random, seeds, input: Vec::new() }
    }

    /// A committed input after one to eight changes.
    pub fn next(&mut self) -> &[u8] {
        let seed = self.random.below(self.seeds.len());
        self.input.clear();
        self.input.extend_from_slice(&self.seeds[seed]);
        for _ in 0..1 + self.random.below(8) {
            self.change();
        }
        self.input.truncate(LONGEST);
        &self.input
    }

    fn change(&mut self) {
        let at = self.random.below(self.input.len() + 1);
        match self.random.below(10) {
            0 | 1 => self.flip(),
            2 => self.input.truncate(at),
            3 => {
                let byte = self.random.next() as u8;
                self.replace(at, 0, &[byte]);
            }
            4 => {
                let length = self.random.below(16);
                self.replace(at, length, b"");
            }
            5 => self.repeat(at),
            6 => self.splice(at),
            7 => {
                let number = NUMBERS[self.random.below(NUMBERS.len())];
                let at = if self.random.coin() { 0 } else { at };
                self.replace(at, 8, &number.to_le_bytes());
            }
            8 => {
                let word = WORDS[self.random.below(WORDS.len())];
                let length = self.random.below(2) * word.len();
                self.replace(at, length, word);
            }
            _ => self.digit(),
        }
    }

    fn flip(&mut self) {
        if !self.input.is_empty() {
            let at = self.random.below(self.input.len());
            self.input[at] ^= 1 << self.random.below(8);
        }
    }

    /// Puts bytes in the place of `length` others.
    fn replace(&mut self, at: usize, length: usize, bytes: &[u8]) {
        let end = (at + length).min(self.input.len());
        self.input.splice(at..end, bytes.iter().copied());
    }

    /// A piece again, from twice to, rarely, thousands of times: nesting, long names, long lists.
    fn repeat(&mut self, at: usize) {
        let end = (at + 1 + self.random.below(12)).min(self.input.len());
        let piece = self.input[at..end].to_vec();
        let times = if self.random.below(64) == 0 { 4000 } else { 1 + self.random.below(8) };
        self.replace(end, 0, &piece.repeat(times));
    }

    /// The rest of another committed input.
    fn splice(&mut self, at: usize) {
        let other = self.random.below(self.seeds.len());
        let from = self.random.below(self.seeds[other].len() + 1);
        self.input.truncate(at);
        self.input.extend_from_slice(&self.seeds[other][from..]);
    }

    /// Another digit in a number.
    fn digit(&mut self) {
        let digits: Vec<usize> =
            (0..self.input.len()).filter(|&i| self.input[i].is_ascii_digit()).take(4096).collect();
        if !digits.is_empty() {
            let at = digits[self.random.below(digits.len())];
            self.input[at] = b'0' + self.random.below(10) as u8;
        }
    }
}
