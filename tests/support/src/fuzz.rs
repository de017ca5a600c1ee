//! A fuzzer for the stable toolchain: inputs of a corpus are mutated for a while, and no input may panic, overflow the
//! stack, take seconds, or take memory without limit.
//!
//! It does not measure coverage. It knows the words of the format instead, and what numbers and nesting break.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

/// How long one input may take, in seconds.
const SLOW: f64 = 5.0;

/// After how long an input that does not end stops the process, in seconds.
const HANGS: Duration = Duration::from_secs(60);

/// The peak memory that the process may have, in KiB. Most needs about 100 MiB.
const MEMORY: u64 = 1 << 20;

/// Longest input, in bytes.
const LONGEST: usize = 1 << 16;

/// Numbers at the edges of their types, as text.
const EDGES: [&str; 14] = [
    "0",
    "-1",
    "1",
    "255",
    "65536",
    "2147483648",
    "4294967296",
    "9223372036854775807",
    "18446744073709551616",
    "1e308",
    "-1e999",
    "1e-999",
    "0.1",
    "NaN",
];

/// Tries the inputs of a corpus and mutations of them for `SPO_FUZZ_SECONDS` (two seconds unless given), and returns how
/// many. `words` are inserted now and then. The mutations are the same every time unless `SPO_FUZZ_SEED` is given.
///
/// The input that is being tried is in `target/fuzz/NAME`, so that one which ends the process can be found there.
///
/// # Panics
/// When an input panics, takes too long or too much memory. The message names the file that holds it.
pub fn fuzz(name: &str, corpus: &[Vec<u8>], words: &[&str], attempt: impl FnMut(&[u8])) -> u64 {
    run(name, corpus, words, u64::MAX, attempt)
}

/// [`fuzz`] for what keeps memory of every input for the rest of the process, as it must: ends early where half of the
/// memory is taken.
///
/// # Panics
/// As [`fuzz`].
pub fn fuzz_what_keeps_memory(
    name: &str,
    corpus: &[Vec<u8>],
    words: &[&str],
    attempt: impl FnMut(&[u8]),
) -> u64 {
    run(name, corpus, words, MEMORY / 2, attempt)
}

fn run(name: &str, corpus: &[Vec<u8>], words: &[&str], enough: u64, mut attempt: impl FnMut(&[u8])) -> u64 {
    let current = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/fuzz").join(name);
    std::fs::create_dir_all(current.parent().expect("a folder")).expect("a folder for inputs");
    let number =
        |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a whole number"));
    let limit = Duration::from_secs(number("SPO_FUZZ_SECONDS").unwrap_or(2));
    let seed = number("SPO_FUZZ_SEED").unwrap_or(1);
    let mut random = Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let (alive, watched) = mpsc::channel::<()>();
    let shown = current.display().to_string();
    std::thread::spawn(move || {
        loop {
            match watched.recv_timeout(HANGS) {
                Ok(()) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    eprintln!("the input in {shown} does not come to an end");
                    std::process::exit(101);
                }
            }
        }
    });
    let began = Instant::now();
    let mut tried = 0;
    while tried < corpus.len() as u64 || (began.elapsed() < limit && peak() < enough) {
        let input = match corpus.get(tried as usize) {
            Some(input) => input.clone(),
            None => mutated(corpus, words, &mut random),
        };
        std::fs::write(&current, &input).expect("a written input");
        let _ = alive.send(());
        let started = Instant::now();
        let outcome = catch_unwind(AssertUnwindSafe(|| attempt(&input)));
        let took = started.elapsed().as_secs_f64();
        assert!(outcome.is_ok(), "{name}: the input in {} fails (seed {seed})", current.display());
        assert!(took < SLOW, "{name}: the input in {} takes {took:.1} s (seed {seed})", current.display());
        assert!(
            peak() < MEMORY,
            "{name}: the input in {} takes {} KiB (seed {seed})",
            current.display(),
            peak()
        );
        tried += 1;
    }
    println!("fuzz {name}: {tried} inputs in {:.0} s, seed {seed}", began.elapsed().as_secs_f64());
    tried
}

/// The files of the corpus `tests/fuzz/NAME`, in a fixed order.
///
/// # Panics
/// When there are none.
pub fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(name);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.iter().map(|file| std::fs::read(file).expect("a file")).collect()
}

/// The peak memory of this process, in KiB; 0 where the system does not say.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or(0)
}

/// xorshift64*.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `bound`, or 0.
    fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound.max(1)
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// A piece of an input; mostly short.
    fn piece(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length + 1);
        let most = if self.below(4) == 0 { length - start } else { (length - start).min(12) };
        start..start + self.below(most + 1)
    }
}

fn mutated(corpus: &[Vec<u8>], words: &[&str], random: &mut Random) -> Vec<u8> {
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(10) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 if at < input.len() => input[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'{', b'\n'][random.below(8)],
            2 => drop(input.drain(random.piece(input.len()))),
            3 => {
                let piece = input[random.piece(input.len())].to_vec();
                input.splice(at..at, piece);
            }
            4 => {
                let other = &corpus[random.below(corpus.len())];
                let piece = other[random.piece(other.len())].to_vec();
                input.splice(at..at, piece);
            }
            5 if !words.is_empty() => drop(input.splice(at..at, random.one(words).bytes())),
            6 => number(&mut input, at, random),
            // Nesting and repetition.
            7 => {
                let (open, close) = [("[", "]"), ("{\"a\":", "}"), ("(", ")"), ("{{", "}}")][random.below(4)];
                let times = 1 << random.below(13);
                let nested = open.repeat(times) + &close.repeat(if random.below(2) == 0 { times } else { 0 });
                input.splice(at..at, nested.bytes());
            }
            8 => {
                let piece = input[random.piece(input.len())].repeat(1 << random.below(8));
                input.splice(at..at, piece);
            }
            _ => input.truncate(at),
        }
        input.truncate(LONGEST);
    }
    input
}

/// Replaces the number at or after a position: in text by another text, in binary data by extreme bytes.
fn number(input: &mut Vec<u8>, at: usize, random: &mut Random) {
    match input[at..].iter().position(u8::is_ascii_digit) {
        Some(offset) => {
            let start = at + offset;
            let length = input[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            input.splice(start..start + length, random.one(&EDGES).bytes());
        }
        None => {
            let end = (at + [1, 2, 4, 8][random.below(4)]).min(input.len());
            input[at..end].fill([0, 0xff, 0x7f][random.below(3)]);
        }
    }
}
