//! Probe pairs that are tracked through a stage, with additional answers that were not trained on.

use serde::{Deserialize, Serialize};
use spo_api::{Error, Group, LogProbs, Result, Sampling, Session, Statistics, TokenBatch};
use spo_data::{Dataset, Tokenizer, epoch_order};

/// The answers whose probability is tracked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub(crate) enum Answer {
    /// The chosen answer, y_w.
    Chosen,
    /// The rejected answer, y_l.
    Rejected,
    /// The chosen answer to another prompt.
    Other,
    /// The tokens of the chosen answer in random order, with the end token in place.
    Shuffled,
    /// The model's own answer at the start of the stage, if it differs from both answers of the pair.
    Own,
}

/// A prompt and its tracked answers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Probe {
    place: String,
    /// The prompt with its answers, the chosen one first. A rejected answer with a different context has its
    /// own group.
    groups: Vec<Group>,
    /// The kind of each completion in `groups`.
    answers: Vec<Answer>,
    /// Position of the end token in the chosen answer, if it has one. A truncated answer has none.
    end: Option<usize>,
}

/// A probe as text, for the log.
#[derive(Serialize)]
pub(crate) struct ProbeText {
    place: String,
    prompt: String,
    chosen: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    rejected: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shuffled: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    own: Option<String>,
}

/// The maximum length of the model's own answer, in tokens.
const LONGEST_OWN: usize = 128;

/// Attempts to find a shuffled answer or an answer of the model's own before a probe goes without.
const DRAWS: u64 = 4;

/// Makes probes from these rows. Each also gets the chosen answer of another row and a shuffled answer.
/// `context` is the longest sequence the model accepts, in tokens.
pub(crate) fn with_leakage(
    data: &Dataset,
    rows: &[usize],
    stop: &[u32],
    context: usize,
    seed: u64,
) -> Result<Vec<Probe>> {
    let groups = rows.iter().map(|&row| data.examples[row].groups()).collect::<Result<Vec<_>>>()?;
    let chosen = |i: usize| &groups[i % rows.len()][0].completions[0];
    let probe = |(i, &row): (usize, &usize)| {
        let mut probe = Probe {
            place: data.examples[row].place.to_string(),
            groups: groups[i].to_vec(),
            answers: [Answer::Chosen, Answer::Rejected]
                [..groups[i].iter().map(|g| g.completions.len()).sum()]
                .to_vec(),
            end: end_of(chosen(i), stop),
        };
        let room = context.saturating_sub(probe.groups[0].prompt.len());
        let others = (1..rows.len()).map(|step| chosen(i + step));
        if let Some(other) = others.map(|ids| &ids[..ids.len().min(room)]).find(|ids| probe.is_new(ids)) {
            probe.add(Answer::Other, other.to_vec());
        }
        let streams = (0..DRAWS).map(|draw| i as u64 + draw * rows.len() as u64);
        let mut shuffles = streams.map(|stream| shuffled(chosen(i), stop, seed, stream));
        if let Some(shuffled) = shuffles.find(|ids| probe.is_new(ids)) {
            probe.add(Answer::Shuffled, shuffled);
        }
        probe
    };
    Ok(rows.iter().enumerate().map(probe).collect())
}

/// The position of an answer's end token. A chat template may put a line break after it.
fn end_of(ids: &[u32], stop: &[u32]) -> Option<usize> {
    ids.iter().rposition(|id| stop.contains(id))
}

/// The tokens in random order, with the end token and everything after it in place.
fn shuffled(ids: &[u32], stop: &[u32], seed: u64, stream: u64) -> Vec<u32> {
    let end = end_of(ids, stop).unwrap_or(ids.len());
    let order = epoch_order(end, seed, stream);
    order.into_iter().map(|i| ids[i]).chain(ids[end..].iter().copied()).collect()
}

/// Samples the model's own answers at temperature 1, and adds those that differ from both answers of the
/// pair.
pub(crate) fn add_own(
    session: &mut dyn Session,
    probes: &mut [Probe],
    stop: &[u32],
    seed: u64,
) -> Result<()> {
    let longest = probes.iter().map(|probe| probe.groups[0].completions[0].len()).max().unwrap_or(0);
    let max_new_tokens = longest.min(LONGEST_OWN);
    let context = session.info().context;
    let mut open: Vec<usize> =
        (0..probes.len()).filter(|&i| probes[i].groups[0].prompt.len() + max_new_tokens <= context).collect();
    for draw in 0..DRAWS {
        let prompts: Vec<Vec<u32>> = open.iter().map(|&i| probes[i].groups[0].prompt.clone()).collect();
        let seed = seed.wrapping_add(draw);
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::greedy(max_new_tokens, stop) };
        let drawn = session.generate(&prompts, &sampling)?;
        let mut left = Vec::new();
        for (i, answer) in open.into_iter().zip(drawn) {
            if probes[i].is_new(&answer) {
                probes[i].add(Answer::Own, answer);
            } else {
                left.push(i);
            }
        }
        open = left;
    }
    Ok(())
}

impl Probe {
    /// Whether these tokens are an answer that the probe does not have yet.
    fn is_new(&self, ids: &[u32]) -> bool {
        !ids.is_empty() && self.groups.iter().flat_map(|g| &g.completions).all(|known| known != ids)
    }

    fn add(&mut self, answer: Answer, ids: Vec<u32>) {
        let at = self.groups[0].completions.len();
        self.groups[0].completions.push(ids);
        self.answers.insert(at, answer);
    }

    /// The chosen and rejected answers only, or the chosen one alone if there is no other.
    pub(crate) fn pair(&self) -> (TokenBatch, Vec<Answer>) {
        let mut answers = self.answers.iter();
        let mut groups = Vec::new();
        let mut kept = Vec::new();
        for group in &self.groups {
            let of_pair = |a: &Answer| matches!(a, Answer::Chosen | Answer::Rejected);
            let taken: Vec<_> =
                group.completions.iter().zip(&mut answers).filter(|(_, a)| of_pair(a)).collect();
            kept.extend(taken.iter().map(|(_, answer)| **answer));
            let completions = taken.into_iter().map(|(ids, _)| ids.clone()).collect();
            groups.push(Group { prompt: group.prompt.clone(), completions });
        }
        (TokenBatch { groups }, kept)
    }

    /// The probe as text.
    pub(crate) fn text(&self, tokenizer: &Tokenizer) -> ProbeText {
        let text = |ids: &[u32]| tokenizer.decode(ids).unwrap_or_else(|e| format!("<{e}>"));
        let completions: Vec<&Vec<u32>> = self.groups.iter().flat_map(|g| &g.completions).collect();
        let of = |answer| self.answers.iter().position(|a| *a == answer).map(|i| text(completions[i]));
        ProbeText {
            place: self.place.clone(),
            prompt: text(&self.groups[0].prompt),
            chosen: of(Answer::Chosen).unwrap_or_default(),
            rejected: of(Answer::Rejected),
            other: of(Answer::Other),
            shuffled: of(Answer::Shuffled),
            own: of(Answer::Own),
        }
    }
}

/// Log-probs of the probes' answers at one point of training, summed over tokens, in nats. One entry per
/// probe; `None` if a probe has no such answer.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(crate) struct Snapshot {
    /// s_w.
    pub(crate) chosen: Vec<f64>,
    /// The end token's share of s_w: whether the model knows where to stop.
    pub(crate) chosen_end: Vec<Option<f64>>,
    /// s_l.
    pub(crate) rejected: Vec<Option<f64>>,
    /// Chosen answer to another prompt.
    pub(crate) other: Vec<Option<f64>>,
    /// Shuffled tokens.
    pub(crate) shuffled: Vec<Option<f64>>,
    /// The model's own answer.
    pub(crate) own: Vec<Option<f64>>,
    /// Mean entropy of the next-token distribution along the chosen answers, nats.
    pub(crate) entropy: f64,
    /// Mean negative log-prob of the chosen answers, nats per token. This is G on the probes.
    pub(crate) lower: f64,
}

impl Snapshot {
    /// Scores the probes, `at_once` at a time.
    ///
    /// # Errors
    /// Errors of the session, and [`Error::NonFinite`].
    pub(crate) fn take(session: &mut dyn Session, probes: &[Probe], at_once: usize) -> Result<Self> {
        let mut snapshot = Snapshot::default();
        let (mut entropy, mut tokens) = (0.0, 0.0);
        for chunk in probes.chunks(at_once) {
            let groups = chunk.iter().flat_map(|probe| probe.groups.iter().cloned()).collect();
            let statistics = Statistics { entropy: true, ..Statistics::default() };
            let scored = session.log_probs(&TokenBatch { groups }, statistics)?;
            let mut answers = spans(&scored);
            for probe in chunk {
                let mut found = [None; 5];
                for &answer in &probe.answers {
                    let span = answers.next().expect("a log-prob for every answer");
                    let sum: f64 = scored.values[span.clone()].iter().sum();
                    if !sum.is_finite() {
                        let place = &probe.place;
                        return Err(Error::NonFinite(format!(
                            "the {answer:?} answer of probe {place} has log-prob {sum}: the model's numbers are not finite; \
                             try a lower learning rate, or f32"
                        )));
                    }
                    if answer == Answer::Chosen {
                        tokens += span.len() as f64;
                        snapshot.chosen_end.push(probe.end.map(|end| scored.values[span.start + end]));
                        entropy += scored.entropy[span].iter().sum::<f64>();
                    }
                    found[answer as usize] = Some(sum);
                }
                let [chosen, rejected, other, shuffled, own] = found;
                snapshot.chosen.push(chosen.expect("every probe has a chosen answer"));
                snapshot.rejected.push(rejected);
                snapshot.other.push(other);
                snapshot.shuffled.push(shuffled);
                snapshot.own.push(own);
            }
        }
        snapshot.entropy = entropy / tokens;
        snapshot.lower = -snapshot.chosen.iter().sum::<f64>() / tokens;
        Ok(snapshot)
    }

    /// Share of probes whose chosen answer lost more than `by` nats since `start`.
    pub(crate) fn displaced(&self, start: &Snapshot, by: f64) -> f64 {
        let lost = self.chosen.iter().zip(&start.chosen).filter(|(now, then)| *now - *then < -by);
        lost.count() as f64 / self.chosen.len() as f64
    }
}

/// The token range of each completion in the values.
pub(crate) fn spans(scored: &LogProbs) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    scored.offsets.windows(2).map(|w| w[0]..w[1])
}
