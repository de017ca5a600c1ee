//! What the end-to-end tests share: running the real binary on files in a folder of their own.
#![allow(dead_code, reason = "every test program uses its own part of this")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// The beginning of recipes that train in a second: a tiny model, and so many rows to train on and held out.
macro_rules! tiny {
    ($train:literal, $held_out:literal) => {
        concat!(
            r#"
[model.config]
model_type = "llama"
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 48

[data]
max_length = 48
task = { name = "modular-chain", train = "#,
            $train,
            ", held_out = ",
            $held_out,
            " }\n"
        )
    };
}

/// A recipe that trains in a second: first by SFT, then by DPO under a penalty.
pub const SFT_THEN_DPO: &str = concat!(
    tiny!(64, 16),
    r#"
[[stage]]
name = "sft"
objective = "sft"
steps = 20
batch_size = 16
optimizer = { lr = 3e-3 }

[[stage]]
name = "align"
objective = "dpo"
bilevel = { step = "penalty", lambda = 1.0 }
steps = 5
batch_size = 8
optimizer = { lr = 1e-3, schedule = "constant" }
"#
);

/// What a run of the binary left.
pub struct Outcome {
    /// Exit code.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Panics with everything that was printed unless the run succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// A folder in which `spo-run` is run.
pub struct Place(tempfile::TempDir);

impl Place {
    /// A new, empty folder.
    pub fn new() -> Self {
        Place(tempfile::tempdir().expect("a temporary folder"))
    }

    /// A path inside it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
        std::fs::write(path, content).expect("a written file");
    }

    /// Reads a file.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Runs `spo-run` here.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with_input(arguments, "")
    }

    /// Runs `spo-run` here with something on its standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut child = Command::new(env!("CARGO_BIN_EXE_spo-run"))
            .args(arguments)
            .current_dir(self.0.path())
            // What the user has installed is not under test.
            .env("XDG_DATA_HOME", self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("the input is read");
        let output = child.wait_with_output().expect("the binary ends");
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// The lines of a run's `metrics.jsonl`.
    #[track_caller]
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = self.read(&format!("{run}/metrics.jsonl"));
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}

/// A recipe whose run leaves a model of one layer in `made/sft`.
const MAKE: &str = r#"
run = { output = "made" }
data = { task = { name = "modular-chain", train = 8, held_out = 4 } }
[model.config]
model_type = "llama"
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 48
[[stage]]
name = "sft"
objective = "sft"
steps = 1
batch_size = 4
optimizer = { lr = 1e-4 }
"#;

/// A folder with a small trained model in `made/sft`.
pub fn with_model() -> Place {
    let place = Place::new();
    place.write("make.toml", MAKE);
    place.run(&["make.toml", "--quiet"]).success();
    place
}

/// The lines of a stage that were logged at training steps.
pub fn steps<'a>(metrics: &'a [Value], stage: &str) -> Vec<&'a Value> {
    metrics.iter().filter(|line| line["stage"] == stage && line.get("grad_norm").is_some()).collect()
}

/// The folder of reference models and real data, or a loud word that the test is skipped.
pub fn shared(test: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("SPO_SHARED").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("SKIPPED: {test} needs SPO_SHARED, the folder of reference models and data");
    }
    folder
}

/// A file of reference figures.
#[track_caller]
pub fn golden(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// Asserts `|actual - expected| <= tolerance * max(1, |expected|)`.
#[track_caller]
pub fn close(what: &str, actual: &Value, expected: &Value, tolerance: f64) {
    let (a, e) = (number(what, actual), number(what, expected));
    assert!((a - e).abs() <= tolerance * e.abs().max(1.0), "{what}: {a}, expected {e}");
}

#[track_caller]
fn number(what: &str, value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{what}: {value} is not a number"))
}
