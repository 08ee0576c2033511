//! Random numbers that a seed makes again, and what is derived from an event's own number.

/// splitmix64: every seed gives a good sequence, and the sequence of the seed after it is another.
#[derive(Clone, Debug)]
pub struct Rng(u64);

/// Mixes the bits of a number.
pub fn mix(v: u64) -> u64 {
    let v = (v ^ v >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let v = (v ^ v >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    v ^ v >> 31
}

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// A sequence of its own, for the `n`-th of something.
    pub fn fork(&self, n: u64) -> Rng {
        Rng(mix(self.0 ^ mix(n.wrapping_add(0x5e11))))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Whether one of `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Lengths at which texts have gone wrong: beside powers of two, beside the bounds of a text.
const LENGTHS: [usize; 26] = [
    0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 255, 256, 257, 999, 1022, 1023, 1024,
    1025, 1500, 2000,
];

/// The text of the event `n`: a part of one long text with characters of one to four bytes.
pub fn text_of(n: u64) -> &'static str {
    let h = mix(n);
    part(h >> 32, LENGTHS[(h % LENGTHS.len() as u64) as usize])
}

/// The text of the log `n`: as a rule a short one, seldom one beyond the longest that is kept.
pub fn log_of(n: u64) -> &'static str {
    let h = mix(n ^ 0x10c);
    match h % 256 {
        0 => part(h >> 32, 40_000),
        1..8 => part(h >> 32, 1000 + (h >> 16) as usize % 6000),
        _ => text_of(n ^ 0x10c),
    }
}

fn part(from: u64, len: usize) -> &'static str {
    static LONG: std::sync::LazyLock<String> = std::sync::LazyLock::new(|| {
        let word =
            |i: u64| ["a", "bc ", "ä", "→", "𝄞", "\n", "\u{1b}[2J", "0"][mix(i) as usize % 8];
        (0..40_000).map(word).collect()
    });
    let long = LONG.as_str();
    let boundary = |mut at: usize| {
        while !long.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let from = boundary((from % 10_000) as usize);
    &long[from..boundary(from + len)]
}

/// Makes the long text, so that a handler finds it made.
pub fn prepare() {
    assert!(part(9_999, 40_000).len() > 39_000);
}
