//! Output of a run to the user.

use std::borrow::Cow;
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
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

/// The first failure to print.
static UNSAID: OnceLock<std::io::Error> = OnceLock::new();

/// Prints text and terminates its last line. What goes wrong is kept for [`unsaid`].
pub(crate) fn say(text: &str) {
    let (text, end) = (harmless(text), if text.ends_with('\n') { "" } else { "\n" });
    let mut out = std::io::stdout().lock();
    if let Err(error) = write!(out, "{text}{end}").and_then(|()| out.flush()) {
        let _ = UNSAID.set(error);
    }
}

/// Prints an error or a warning, within reason: it may quote a whole file. If nobody can read it, that is no reason to
/// fail.
pub(crate) fn complain(text: &str) {
    let lines: Vec<Cow<'_, str>> = text.lines().take(200).map(|line| cut(line, 2000)).collect();
    let _ = writeln!(std::io::stderr(), "{}", harmless(&cut(&lines.join("\n"), 8000)));
}

/// The beginning of a text, and how much is left out.
fn cut(text: &str, characters: usize) -> Cow<'_, str> {
    match text.char_indices().nth(characters) {
        None => Cow::Borrowed(text),
        Some((end, _)) => {
            let more = text[end..].chars().count();
            Cow::Owned(format!("{} ... ({more} more characters)", &text[..end]))
        }
    }
}

/// A text without characters that command a terminal: they may come from data, a model or a plugin, and are shown as
/// escapes.
fn harmless(text: &str) -> Cow<'_, str> {
    let commands = |c: char| {
        let turns_text = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns_text || c.is_control() && !matches!(c, '\n' | '\t')
    };
    match text.contains(commands) {
        false => Cow::Borrowed(text),
        true => Cow::Owned(text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
            match commands(c) {
                true => shown.extend(c.escape_default()),
                false => shown.push(c),
            }
            shown
        })),
    }
}

/// Why standard output could not be written, if so. A reader that has read enough (`spo-run ... | head`) is not an error.
pub(crate) fn unsaid() -> Option<&'static std::io::Error> {
    UNSAID.get().filter(|error| error.kind() != std::io::ErrorKind::BrokenPipe)
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
            ("sum_logps/chosen", "chosen"),
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
            ("eval_sum_logps/chosen", "chosen"),
            ("eval_sum_logps/rejected", "rejected"),
            ("eval_displaced", "displaced"),
            ("eval_exact_match", "exact match"),
        ],
    )
}

fn shown(metrics: &Metrics, names: &[(&str, &str)]) -> String {
    let known = names.iter().filter_map(|(name, short)| Some(format!("{short} {:.4}", metrics.get(*name)?)));
    known.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_cannot_command_a_terminal() {
        assert_eq!(harmless("a\tb\nä"), "a\tb\nä");
        assert_eq!(harmless("\u{1b}[2Jgone\r\u{9b}1m\u{202e}"), "\\u{1b}[2Jgone\\r\\u{9b}1m\\u{202e}");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äöü ... (1 more characters)");
    }
}
