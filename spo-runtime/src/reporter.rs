//! Output of a run to the user.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;
use spo_api::Metrics;

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// A progress bar on a terminal, otherwise plain lines.
    Human,
    /// One JSON object per line on standard output.
    Json,
    /// Errors only.
    Quiet,
}

/// Prints text and terminates its last line. A closed pipe (`spo-run ...
/// head`) is not an error.
pub(crate) fn say(text: &str) {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(std::io::stdout(), "{text}{end}");
}

/// Reports the progress of a run.
pub(crate) struct Reporter {
    voice: Voice,
    bar: Option<ProgressBar>,
    stage: String,
    started: Instant,
    total: usize,
    spoke: Instant,
}

impl Reporter {
    pub(crate) fn new(voice: Voice) -> Self {
        let now = Instant::now();
        Reporter { voice, bar: None, stage: String::new(), started: now, total: 0, spoke: now }
    }

    /// Prints a message.
    pub(crate) fn note(&self, text: &str) {
        match (self.voice, &self.bar) {
            (Voice::Human, Some(bar)) => bar.suspend(|| say(text)),
            (Voice::Human, None) => say(text),
            (Voice::Json, _) => say(&json!({ "note": text }).to_string()),
            (Voice::Quiet, _) => {}
        }
    }

    /// Reports progress of work outside of steps, such as scoring before training, which can take minutes.
    pub(crate) fn scoring(&mut self, what: &str, done: usize, total: usize) {
        if self.voice != Voice::Human {
            return;
        }
        if let Some(bar) = &self.bar {
            bar.set_message(format!("scoring {what}: {done}/{total} rows"));
        } else if self.spoke.elapsed() > Duration::from_secs(5) {
            self.spoke = Instant::now();
            say(&format!("{} scoring {what}: {done}/{total} rows", self.stage));
        }
    }

    /// Starts a stage with `total` steps.
    pub(crate) fn begin(&mut self, stage: &str, total: usize) {
        (self.stage, self.total, self.started) = (stage.to_owned(), total, Instant::now());
        if self.voice == Voice::Human && std::io::stdout().is_terminal() {
            let style = ProgressStyle::with_template("{prefix:>10} {bar:24} {pos}/{len} eta {eta} {msg}")
                .expect("the template is well-formed");
            let bar = ProgressBar::with_draw_target(Some(total as u64), ProgressDrawTarget::stdout());
            self.bar = Some(bar.with_style(style).with_prefix(self.stage.clone()));
        }
    }

    /// Reports a completed step. `step` counts from 1; `tokens_per_second` is for this step only.
    pub(crate) fn step(&mut self, step: usize, metrics: &Metrics, tokens_per_second: f64) {
        match (self.voice, &self.bar) {
            (Voice::Human, Some(bar)) => {
                bar.set_message(format!("{}  {tokens_per_second:.0} tok/s", digest(metrics)));
                bar.set_position(step as u64);
            }
            // Print plain lines only now and then, but always the first and the last.
            (Voice::Human, None) => {
                let due = self.spoke.elapsed() > Duration::from_secs(5);
                if due || step == 1 || step == self.total {
                    self.spoke = Instant::now();
                    let left =
                        self.started.elapsed().div_f64(step as f64).mul_f64((self.total - step) as f64);
                    say(&format!(
                        "{} {step}/{}  {}  {tokens_per_second:.0} tok/s  eta {}s",
                        self.stage,
                        self.total,
                        digest(metrics),
                        left.as_secs()
                    ));
                }
            }
            (Voice::Json, _) => {
                say(&json!({ "stage": self.stage, "step": step, "metrics": metrics }).to_string());
            }
            (Voice::Quiet, _) => {}
        }
    }

    /// Reports held-out metrics.
    pub(crate) fn evaluation(&self, step: usize, metrics: &Metrics) {
        match self.voice {
            Voice::Human => {
                self.note(&format!("{} {step}/{}  {}", self.stage, self.total, eval_digest(metrics)));
            }
            Voice::Json => say(&json!({ "stage": self.stage, "step": step, "metrics": metrics }).to_string()),
            Voice::Quiet => {}
        }
    }

    /// Ends the stage.
    pub(crate) fn end(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish();
        }
    }
}

/// The most important metrics, shown at every step.
fn digest(metrics: &Metrics) -> String {
    shown(
        metrics,
        &[
            ("loss", "loss"),
            ("rewards/accuracies", "acc"),
            ("rewards/margins", "margin"),
            ("logps/chosen", "chosen"),
            ("bilevel/constraint", "constraint"),
            ("grad_norm", "grad"),
        ],
    )
}

fn eval_digest(metrics: &Metrics) -> String {
    shown(
        metrics,
        &[
            ("eval_loss", "held-out loss"),
            ("eval_pair_accuracy", "pair accuracy"),
            ("eval_logps/chosen", "chosen"),
            ("eval_logps/rejected", "rejected"),
            ("eval_displaced", "displaced"),
            ("eval_exact_match", "exact match"),
        ],
    )
}

fn shown(metrics: &Metrics, names: &[(&str, &str)]) -> String {
    let known = names.iter().filter_map(|(name, short)| Some(format!("{short} {:.4}", metrics.get(*name)?)));
    known.collect::<Vec<_>>().join("  ")
}
