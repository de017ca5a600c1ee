//! How the time and the memory of a training step grow: with the length of rows, the batch, the vocabulary, and what
//! the prompt that two answers share saves. And what share of the machine's speed in large matrix products it reaches.
//!
//! `cargo run --release -p spo-backend-candle --example growth FOLDER [TABLE ...]` prints Markdown tables, all or those
//! that are named, and writes pictures into FOLDER. Every case is a process of its own, for its peak memory: a forward and backward pass and an
//! AdamW step on random tokens, five times after one that is not counted.

use std::process::{Command, ExitCode};
use std::time::Instant;

use serde_json::json;
use spo_api::{Group, Kernel, ModelSource, ModelSpec, Session, Statistics, TokenBatch, Update};
use spo_backend_candle::FusedEngine;
use spo_report::chart::{Lines, Series, lines};
use spo_transformer::{Engine, Mat, Memory, Options, Precision, TransformerSession};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const REPEATS: usize = 5;
const HIDDEN: usize = 576;
const INNER: usize = 1536;

/// What a step works on. The model has SmolLM2-135M's widths.
#[derive(Clone, Copy)]
struct Case {
    layers: usize,
    vocabulary: usize,
    pairs: usize,
    prompt: usize,
    answer: usize,
    /// Whether both answers of a pair read one copy of the prompt.
    shared: bool,
}

/// What came of it. Tokens count the prompt with each answer, as a trainer without sharing computes it.
struct Found {
    seconds: Vec<f64>,
    peak_mib: f64,
    tokens: usize,
    gflop: f64,
    /// GFLOP/s of a large matrix product on the same threads, right after.
    yardstick: f64,
}

impl Case {
    const BASE: Case =
        Case { layers: 4, vocabulary: 16384, pairs: 1, prompt: 128, answer: 192, shared: true };

    fn arguments(&self) -> [String; 6] {
        let Case { layers, vocabulary, pairs, prompt, answer, shared } = *self;
        [layers, vocabulary, pairs, prompt, answer, usize::from(shared)].map(|n| n.to_string())
    }

    fn parse(arguments: &[String]) -> Option<Self> {
        let numbers: Option<Vec<usize>> = arguments.iter().map(|a| a.parse().ok()).collect();
        let [layers, vocabulary, pairs, prompt, answer, shared] = numbers?[..] else { return None };
        Some(Case { layers, vocabulary, pairs, prompt, answer, shared: shared == 1 })
    }

    fn batch(&self) -> TokenBatch {
        let tokens =
            |n: usize, salt: usize| (0..n).map(|i| ((i * 7919 + salt * 104_729) % 8000) as u32).collect();
        let groups = (0..self.pairs).flat_map(|pair| {
            let prompt: Vec<u32> = tokens(self.prompt, pair);
            let answers: Vec<Vec<u32>> = (1..3).map(|side| tokens(self.answer, 3 * pair + side)).collect();
            match self.shared {
                true => vec![Group { prompt, completions: answers }],
                false => answers
                    .into_iter()
                    .map(|answer| Group { prompt: prompt.clone(), completions: vec![answer] })
                    .collect(),
            }
        });
        TokenBatch { groups: groups.collect() }
    }

    /// Multiplications and additions in the matrix products of a step, in 10^9: 6 a weight and token.
    /// Attention is not counted.
    fn gflop(&self) -> f64 {
        let prompts = if self.shared { 1 } else { 2 };
        // An answer's last token is scored and never read.
        let packed = self.pairs * (prompts * self.prompt + 2 * (self.answer - 1));
        let block = HIDDEN * (2 * HIDDEN + 2 * 192 + 3 * INNER);
        let scored = self.pairs * 2 * self.answer;
        // The head's logits are computed again in the backward pass.
        let head = 8 * scored * self.vocabulary * HIDDEN;
        (6 * packed * self.layers * block + head) as f64 / 1e9
    }

    fn run(&self) -> Result<(), spo_api::Error> {
        let config = json!({
            "model_type": "llama", "vocab_size": self.vocabulary, "hidden_size": HIDDEN, "intermediate_size": INNER,
            "num_hidden_layers": self.layers, "num_attention_heads": 9, "num_key_value_heads": 3,
            "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "tie_word_embeddings": true,
            "rope_theta": 100_000.0,
        });
        let spec = ModelSpec {
            source: ModelSource::Random(config),
            adapter: None,
            quantize: None,
            allow_pickle: false,
            seed: 0,
            device: "cpu".into(),
            dtype: "f32".into(),
        };
        let mut session = TransformerSession::open(FusedEngine::default(), &spec, Options::default())?;
        let batch = self.batch();
        let hyper = json!({
            "betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.0, "decay_bias_and_norm": false,
        });
        session.adopt_optimizer(Some(&Kernel { name: "adamw".into(), config: hyper }))?;
        let mut seconds = Vec::new();
        for count in 1..=REPEATS as u64 + 1 {
            let began = Instant::now();
            session.vectors().zero(spo_api::Vector::GRADIENT)?;
            session
                .backward(&batch, Statistics::default(), &mut |seen| Ok(vec![-1e-3; seen.values.len()]))?;
            session.optimize(&Update { lr: 1e-5, gradient_scale: 1.0, count })?;
            seconds.push(began.elapsed().as_secs_f64());
        }
        let peak_mib = peak_mib();
        drop(session);
        let told: Vec<String> = seconds[1..].iter().map(f64::to_string).collect();
        println!("{peak_mib} {} {}", yardstick(&FusedEngine::default())?, told.join(" "));
        Ok(())
    }

    fn measure(&self) -> Result<Found, String> {
        let program = std::env::current_exe().map_err(|e| e.to_string())?;
        let mut case = Command::new(program);
        // Freed memory is kept, as `spo-run` keeps it.
        case.arg("case").args(self.arguments()).env("MIMALLOC_PURGE_DELAY", "-1");
        let output = case.output().map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let [peak_mib, yardstick, seconds @ ..] = &numbers[..] else {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        };
        Ok(Found {
            seconds: seconds.to_vec(),
            peak_mib: *peak_mib,
            tokens: self.pairs * 2 * (self.prompt + self.answer),
            gflop: self.gflop(),
            yardstick: *yardstick,
        })
    }
}

/// The most memory that this process has held.
fn peak_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok())
        .map_or(f64::NAN, |kib| kib / 1024.0)
}

/// GFLOP/s of the engine's product of two large matrices, the best of five.
fn yardstick(engine: &FusedEngine) -> Result<f64, spo_api::Error> {
    const N: usize = 2048;
    let a = engine.memory().upload(vec![0.5; N * N], &[N, N], Precision::Compute)?;
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let began = Instant::now();
        engine.matmul(Mat::new(&a), Mat::new(&a))?;
        best = best.min(began.elapsed().as_secs_f64());
    }
    Ok(2.0 * (N * N * N) as f64 / best / 1e9)
}

impl Found {
    fn median(&self) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        sorted[sorted.len() / 2]
    }

    fn row(&self, label: &str) -> String {
        let fold = |f: fn(f64, f64) -> f64| self.seconds.iter().copied().reduce(f).unwrap_or(f64::NAN);
        let median = self.median();
        let speed = self.gflop / median;
        format!(
            "| {label} | {median:.2} ({:.2} - {:.2}) | {:.0} | {:.0} | {speed:.0} | {:.0}% |",
            fold(f64::min),
            fold(f64::max),
            self.tokens as f64 / median,
            self.peak_mib,
            100.0 * speed / self.yardstick
        )
    }
}

/// A table of some cases, and pictures of tokens a second and peak memory where they belong to lines.
fn table(folder: &str, name: &str, unit: &str, curves: &[(&str, Vec<(f64, Case)>)]) -> Result<(), String> {
    println!(
        "\n| {unit} | seconds per step | tokens/s | peak, MiB | GFLOP/s | of a large product |\n|---|---|---|---|---|---|"
    );
    let mut drawn: [Vec<Series>; 2] = Default::default();
    for (colour, (label, cases)) in curves.iter().enumerate() {
        let mut points = [Vec::new(), Vec::new()];
        for (x, case) in cases {
            let found = case.measure()?;
            println!("{}", found.row(format!("{label} {x}").trim()));
            points[0].push((*x, found.tokens as f64 / found.median()));
            points[1].push((*x, found.peak_mib));
        }
        for (series, points) in drawn.iter_mut().zip(points) {
            series.push(Series { label: label.to_string(), colour, points, ..Series::default() });
        }
    }
    for ((what, y), series) in [("speed", "tokens/s"), ("memory", "peak memory, MiB")].into_iter().zip(drawn)
    {
        let chart = Lines {
            title: y.into(),
            x: Some(unit.into()),
            y: y.into(),
            level: Some(0.0),
            series,
            ..Lines::default()
        };
        let file = std::path::Path::new(folder).join(format!("{name}-{what}.svg"));
        std::fs::write(&file, lines(&chart).standalone()).map_err(|e| format!("{}: {e}", file.display()))?;
    }
    Ok(())
}

/// The tables: name, what goes right, curves.
type Table = (&'static str, &'static str, Vec<(&'static str, Vec<(f64, Case)>)>);

fn tables() -> Vec<Table> {
    let base = Case::BASE;
    let smol =
        |pairs| (pairs as f64, Case { layers: 30, vocabulary: 49152, pairs, prompt: 40, answer: 60, ..base });
    let length = |n: usize| (n as f64, Case { prompt: n / 4, answer: 3 * n / 4, ..base });
    let pairs = |pairs| (pairs as f64, Case { pairs, prompt: 64, answer: 96, ..base });
    let vocabulary = |vocabulary| (vocabulary as f64, Case { vocabulary, ..base });
    let share = |shared| {
        let case = move |percent: usize| {
            let prompt = 1024 * percent / 100;
            (percent as f64, Case { prompt, answer: 1024 - prompt, shared, ..base })
        };
        [10, 50, 75, 90].map(case).to_vec()
    };
    let one = |cases| vec![("", cases)];
    vec![
        ("model", "pairs of a batch, all of SmolLM2-135M", one([4, 8].map(smol).to_vec())),
        (
            "length",
            "tokens of a prompt and an answer",
            one([128, 256, 512, 1024, 2048, 4096].map(length).to_vec()),
        ),
        ("batch", "pairs of a batch", one([1, 2, 4, 8, 16].map(pairs).to_vec())),
        ("vocabulary", "vocabulary", one([8_000, 32_000, 64_000, 150_000].map(vocabulary).to_vec())),
        (
            "prompt",
            "share of the prompt in 1,024 tokens, %",
            vec![("prompt shared", share(true)), ("prompt twice", share(false))],
        ),
    ]
}

fn chosen(folder: &str, names: &[String]) -> Result<(), String> {
    let tables = tables();
    if let Some(name) = names.iter().find(|name| !tables.iter().any(|(known, ..)| known == name)) {
        let known: Vec<&str> = tables.iter().map(|(known, ..)| *known).collect();
        return Err(format!("no table `{name}`, there are {}", known.join(", ")));
    }
    tables
        .iter()
        .filter(|(name, ..)| names.is_empty() || names.iter().any(|n| n == name))
        .try_for_each(|(name, unit, curves)| table(folder, name, unit, curves))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match &arguments[..] {
        [case, numbers @ ..] if case == "case" => match Case::parse(numbers) {
            Some(case) => case.run().map_err(|e| e.to_string()),
            None => Err("a case is six numbers".into()),
        },
        [folder, names @ ..] => chosen(folder, names),
        [] => Err("usage: growth FOLDER [TABLE ...]".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}
