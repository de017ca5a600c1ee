//! Output of a run to the user.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::Write;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use console::{Style, Term};
use serde_json::json;
use spo_api::Metrics;

use crate::terminal::Line;

/// The output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Voice {
    /// A line that is drawn again and again on a terminal, otherwise plain lines.
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

/// Prints a part of a line.
pub(crate) fn say_part(text: &str) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = out.write_all(harmless(text).as_bytes()).and_then(|()| out.flush()) {
        let _ = UNSAID.set(error);
    }
}

/// Prints pieces in styles, if standard output shows colours: it is a terminal, and `NO_COLOR` is not set.
pub(crate) fn say_styled(pieces: &[(&Style, &str)]) {
    let mut out = std::io::stdout().lock();
    let mut write =
        || pieces.iter().try_for_each(|(style, text)| write!(out, "{}", style.apply_to(harmless(text))));
    if let Err(error) = write() {
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
    line: RefCell<Option<Line>>,
    stage: String,
    total: usize,
    pace: Pace,
    spoke: Instant,
}

impl Reporter {
    pub(crate) fn new(voice: Voice) -> Self {
        let (line, pace) = (RefCell::new(None), Pace::default());
        Reporter { voice, line, stage: String::new(), total: 0, pace, spoke: Instant::now() }
    }

    /// Prints a message.
    pub(crate) fn note(&self, text: &str) {
        match (self.voice, &mut *self.line.borrow_mut()) {
            (Voice::Human, Some(line)) => line.suspend(|| say(text)),
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
        let text = format!("{} scoring {what}: {done}/{total} rows", self.stage);
        if let Some(line) = self.line.get_mut() {
            line.set(text);
        } else if self.spoke.elapsed() > Duration::from_secs(5) {
            self.spoke = Instant::now();
            say(&text);
        }
    }

    /// Starts a stage with `total` steps.
    pub(crate) fn begin(&mut self, stage: &str, total: usize) {
        (self.stage, self.total, self.pace) = (stage.to_owned(), total, Pace::default());
        if self.voice == Voice::Human {
            *self.line.get_mut() = Line::on(Term::stdout());
        }
    }

    /// Reports a completed step. `step` counts from 1; `tokens_per_second` is for this step only.
    pub(crate) fn step(&mut self, step: usize, metrics: &Metrics, tokens_per_second: f64) {
        self.pace.step(Instant::now());
        if self.voice == Voice::Json {
            say(&json!({ "stage": self.stage, "step": step, "metrics": metrics }).to_string());
        }
        if self.voice != Voice::Human {
            return;
        }
        let left = self.pace.left(self.total - step).filter(|_| step < self.total);
        let left = left.map_or(String::new(), |left| format!("  eta {}", time(left)));
        let (stage, total, digest) = (&self.stage, self.total, digest(metrics));
        if let Some(line) = self.line.get_mut() {
            let bar = bar(step, total);
            line.set(format!("{stage} {bar} {step}/{total}{left}  {digest}  {tokens_per_second:.0} tok/s"));
        } else if self.spoke.elapsed() > Duration::from_secs(5) || step == 1 || step == total {
            // Print plain lines only now and then, but always the first and the last.
            self.spoke = Instant::now();
            say(&format!("{stage} {step}/{total}  {digest}  {tokens_per_second:.0} tok/s{left}"));
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
        if let Some(line) = self.line.get_mut().take() {
            line.finish();
        }
    }
}

/// The progress of a command, on a line of standard error that goes away when it is done; nothing if that is no terminal.
pub(crate) struct Progress {
    line: Option<Line>,
    what: String,
    total: usize,
    began: Instant,
}

impl Progress {
    /// Nothing is done so far of `total` rows.
    pub(crate) fn new(what: &str, total: usize) -> Self {
        let mut progress =
            Progress { line: Line::on(Term::stderr()), what: what.to_owned(), total, began: Instant::now() };
        progress.at(0);
        progress
    }

    /// So many rows are done.
    pub(crate) fn at(&mut self, done: usize) {
        let Some(line) = &mut self.line else { return };
        let left = self.began.elapsed().mul_f64((self.total - done) as f64 / done.max(1) as f64);
        let eta = if done > 0 { format!("  eta {}", time(left)) } else { String::new() };
        line.set(format!("{} {} {done}/{}{eta}", self.what, bar(done, self.total), self.total));
    }
}

/// A bar for a share.
fn bar(done: usize, total: usize) -> String {
    let full = BAR * done / total.max(1);
    "\u{2588}".repeat(full) + &"\u{2591}".repeat(BAR - full)
}

/// Width of the bar in a terminal.
const BAR: usize = 20;

/// When the last steps ended. What came before the first step, such as scoring, says nothing about the steps to come.
#[derive(Default)]
struct Pace {
    ends: VecDeque<Instant>,
}

impl Pace {
    /// The number of steps whose pace is taken to be that of the steps to come.
    const STEPS: usize = 50;

    fn step(&mut self, end: Instant) {
        self.ends.push_back(end);
        if self.ends.len() > Self::STEPS + 1 {
            self.ends.pop_front();
        }
    }

    /// The time that so many steps will take; `None` until two steps have ended.
    fn left(&self, steps: usize) -> Option<Duration> {
        let (first, last) = (self.ends.front()?, self.ends.back()?);
        let seen = self.ends.len() - 1;
        (seen > 0).then(|| (*last - *first).mul_f64(steps as f64 / seen as f64))
    }
}

/// A duration in two units: `42 s`, `5 min 10 s`, `2 h 5 min`.
pub(crate) fn time(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ ..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
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
    let known =
        names.iter().filter_map(|(name, short)| Some(format!("{short} {:.4}", shown_figure(metrics, name)?)));
    known.collect::<Vec<_>>().join("  ")
}

/// A metric as it is shown to a person. Reward accuracy is logged under TRL's name, and so with TRL's meaning: a pair
/// with equal rewards counts as wrong. Before the first step all rewards are equal, and shown as that it would be a model
/// that ranks every pair wrong. Where a person reads it, a tie counts half.
pub(crate) fn shown_figure(metrics: &Metrics, name: &str) -> Option<f64> {
    let value = *metrics.get(name)?;
    let ties = name.strip_suffix("rewards/accuracies").map(|prefix| format!("{prefix}rewards/ties"));
    let ties = ties.and_then(|ties| metrics.get(&ties)).copied().unwrap_or(0.0);
    Some(value + 0.5 * ties)
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

    #[test]
    fn the_time_left_follows_the_last_steps() {
        let (start, mut pace) = (Instant::now(), Pace::default());
        // Scoring takes an hour, then the first step is slow, and the others take a second each.
        let hour = start + Duration::from_secs(3600);
        pace.step(hour);
        assert_eq!(pace.left(10), None);
        pace.step(hour + Duration::from_secs(1));
        assert_eq!(pace.left(10), Some(Duration::from_secs(10)));
        // The machine becomes twice as slow: after a while only that counts.
        (1..=60).for_each(|i| pace.step(hour + Duration::from_secs(1 + 2 * i)));
        assert_eq!(pace.left(10), Some(Duration::from_secs(20)));
        assert_eq!(pace.left(0), Some(Duration::ZERO));
    }

    #[test]
    fn durations_are_in_units_that_people_use() {
        let shown = [0, 59, 60, 310, 3600, 7500].map(|seconds| time(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0 s", "59 s", "1 min 0 s", "5 min 10 s", "1 h 0 min", "2 h 5 min"]);
    }

    #[test]
    fn a_tie_of_rewards_counts_half_where_a_person_reads_it() {
        let metrics = Metrics::from([
            ("rewards/accuracies".to_owned(), 0.0),
            ("rewards/ties".to_owned(), 1.0),
            ("eval_rewards/accuracies".to_owned(), 0.75),
        ]);
        assert_eq!(shown_figure(&metrics, "rewards/accuracies"), Some(0.5));
        assert_eq!(shown_figure(&metrics, "eval_rewards/accuracies"), Some(0.75));
        assert_eq!(shown_figure(&metrics, "loss"), None);
    }
}
