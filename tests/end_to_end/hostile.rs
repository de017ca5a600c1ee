//! Ten thousand damaged recipes, rows, weights, configurations and tokenizers. Whatever a file contains, the result is a
//! plan or one error that names a file: never a panic, a hang, or unbounded memory.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use spo_api::Registry;
use spo_backend_candle as _;
use spo_objectives as _;
use spo_runtime::testing::{self, exit_code};
use test_support::Place;

use crate::project;
use crate::recipes::with_model;

/// Damaged inputs of each of the six kinds.
const CASES: usize = 1700;

/// The longest time for one case.
const PATIENCE: Duration = Duration::from_secs(30);

/// The peak memory allowed for this process, in KiB. It needs about 100 MiB.
const MEMORY: u64 = 1 << 20;

const RECIPE: &str = r#"
[run]
seed = 3

[model]
path = "MODEL"

[data]
train = { path = "ROWS", columns = { prompt = "question" }, take = 12 }
max_length = 32

[checkpoint]
every = 10

[[stage]]
name = "align"
objective = [{ name = "dpo", beta = 0.1 }, { name = "sft", weight = 0.2, schedule = { from = 0.0, steps = 3 } }]
bilevel = { step = "penalty", lambda = { ramp = { to = 1.0, steps = 4 } }, value = "reference" }
reference = { moving = { sync_steps = 2, mixup_alpha = 0.5 } }
steps = 3
batch_size = 2
micro_batch = { tokens = 40 }
optimizer = { lr = 1e-4, schedule = "cosine", warmup = 0.1 }
"#;

/// A model, and rows that fit it.
fn with_model_and_rows() -> Place {
    let place = with_model();
    let rows =
        (0..16).map(|i| format!(r#"{{"question": "{i}+1=", "chosen": "{}", "rejected": "{i}"}}"#, i + 1));
    place.write("rows.jsonl", rows.collect::<Vec<_>>().join("\n"));
    let parquet = project("spo-runtime/data/tests/fixtures/chat.parquet");
    std::fs::copy(parquet, place.path("rows.parquet")).unwrap();
    place.write("made/sft/chat_template.jinja", "{% for m in messages %}{{ m.content }}\n{% endfor %}");
    place
}

fn recipe(place: &Place, rows: &str) -> String {
    let path = |name: &str| place.path(name).display().to_string();
    let recipe = RECIPE.replace("MODEL", &path("made/sft")).replace("ROWS", &path(rows));
    if rows.ends_with("parquet") {
        recipe.replace("columns = { prompt = \"question\" }, ", "")
    } else {
        recipe
    }
}

/// Pseudo-random numbers that depend only on the seed.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n.max(1)
    }
}

/// Values that are put in place of others.
const SPLINTERS: [&[u8]; 18] = [
    b"0",
    b"-1",
    b"1e308",
    b"1e-308",
    b"9223372036854775807",
    b"18446744073709551615",
    b"4294967296",
    b"NaN",
    b"null",
    b"true",
    b"\"\"",
    b"[]",
    b"{}",
    b"[[[[[[[[[[[[[[[[[[[[[[[[",
    b"\xff\xfe\x00",
    b"\"\xed\xa0\x80\"",
    b"\n\n",
    b"{% for x in y %}",
];

/// Damages a file: flips a bit, truncates it, removes, repeats or inserts a piece, or replaces a number or word.
fn damage(whole: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = whole.to_vec();
    for _ in 0..=random.below(3) {
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(24)).min(bytes.len());
        match random.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..end)),
            3 => {
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece.repeat(1 + random.below(3)));
            }
            4 => drop(bytes.splice(at..at, SPLINTERS[random.below(SPLINTERS.len())].iter().copied())),
            _ => {
                // The next number or word.
                let is_word = |b: &u8| b.is_ascii_alphanumeric() || b"._-".contains(b);
                let Some(start) = bytes[at..].iter().position(is_word).map(|i| at + i) else { continue };
                let end = bytes[start..].iter().position(|b| !is_word(b)).map_or(bytes.len(), |i| start + i);
                bytes.splice(start..end, SPLINTERS[random.below(SPLINTERS.len())].iter().copied());
            }
        }
    }
    bytes
}

/// Makes plans from inputs of which one file is damaged, each time in another way.
fn besiege(kind: &str, file: &str, rows: &str) {
    let place = with_model_and_rows();
    let registry = std::cell::RefCell::new(Registry::linked().unwrap());
    place.write("recipe.toml", recipe(&place, rows));
    let plan = || testing::plan(&mut registry.borrow_mut(), &place.path("recipe.toml"));
    plan().unwrap();
    let target = place.path(file);
    let whole = std::fs::read(&target).unwrap();

    // If a case takes too long, this prints its number and ends the program.
    let (alive, watched) = mpsc::channel::<usize>();
    let watchdog = std::thread::spawn(move || {
        let mut last = 0;
        loop {
            match watched.recv_timeout(PATIENCE) {
                Ok(case) => last = case,
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    eprintln!("case {last} hangs");
                    std::process::exit(101);
                }
            }
        }
    });
    let mut random = Random(kind.bytes().map(u64::from).sum());
    let mut refused = 0;
    for case in 0..CASES {
        alive.send(case).unwrap();
        let damaged = damage(&whole, &mut random);
        std::fs::write(&target, &damaged).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(plan));
        let shown = || {
            let kept = std::env::temp_dir().join(format!("spo-hostile-{kind}-{case}"));
            std::fs::write(&kept, &damaged).unwrap();
            format!("{kind} {case}, kept as {}", kept.display())
        };
        let Ok(planned) = outcome else { panic!("a panic: {}", shown()) };
        if let Err(error) = planned {
            refused += 1;
            let said = format!("{error:#}");
            assert_eq!(exit_code(&error), 2, "{}: {said}", shown());
            let name = target.file_name().unwrap().to_str().unwrap();
            let named = [name, "recipe.toml"].iter().any(|name| said.contains(name));
            assert!(named && said.len() < 4000, "{}: {said}", shown());
        }
    }
    drop(alive);
    watchdog.join().unwrap();
    assert!(refused > CASES / 10, "only {refused} of {CASES} were damaged at all");
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches("kB").trim().parse().unwrap();
        assert!(peak < MEMORY, "{peak} KiB");
    }
    println!("{kind}: {refused} of {CASES} refused");
}

#[test]
fn damaged_recipes() {
    besiege("recipe", "recipe.toml", "rows.jsonl");
}

#[test]
fn damaged_json_lines() {
    besiege("rows", "rows.jsonl", "rows.jsonl");
}

#[test]
fn damaged_parquet() {
    besiege("parquet", "rows.parquet", "rows.parquet");
}

#[test]
fn damaged_weights() {
    besiege("weights", "made/sft/model.safetensors", "rows.jsonl");
}

#[test]
fn damaged_configurations() {
    besiege("configuration", "made/sft/config.json", "rows.jsonl");
}

#[test]
fn damaged_tokenizers() {
    besiege("tokenizer", "made/sft/tokenizer.json", "rows.jsonl");
}
