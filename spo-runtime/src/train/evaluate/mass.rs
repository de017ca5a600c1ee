//! How probability is divided between the chosen answer, the rejected answer, the answers to other prompts,
//! and everything else.

use std::collections::BTreeSet;

use spo_api::{Group, Metrics, Result, Session, Statistics, TokenBatch};
use spo_data::{Dataset, Example};

/// The division of the total probability of answers to one prompt. The four parts sum to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Ledger {
    /// The chosen answer.
    pub(crate) preferred: f64,
    /// The rejected answer.
    pub(crate) dispreferred: f64,
    /// The chosen and rejected answers of the other rows.
    pub(crate) other_answers: f64,
    /// Everything else.
    pub(crate) elsewhere: f64,
}

impl Ledger {
    /// The four parts with their display names.
    pub(crate) fn parts(&self) -> [(&'static str, f64); 4] {
        [
            ("preferred", self.preferred),
            ("dispreferred", self.dispreferred),
            ("other answers", self.other_answers),
            ("everything else", self.elsewhere),
        ]
    }

    pub(crate) fn mean(ledgers: &[Ledger]) -> Ledger {
        let mean = |part: fn(&Ledger) -> f64| ledgers.iter().map(part).sum::<f64>() / ledgers.len() as f64;
        Ledger {
            preferred: mean(|l| l.preferred),
            dispreferred: mean(|l| l.dispreferred),
            other_answers: mean(|l| l.other_answers),
            elsewhere: mean(|l| l.elsewhere),
        }
    }

    /// The parts as evaluation metrics.
    pub(crate) fn metrics(&self) -> Metrics {
        let named = |(name, value): (&str, f64)| (format!("eval_mass/{}", name.replace(' ', "_")), value);
        self.parts().into_iter().map(named).collect()
    }
}

/// A prompt with its row's answers.
struct Question<'a> {
    prompt: &'a [u32],
    preferred: &'a [u32],
    dispreferred: Option<&'a [u32]>,
}

impl<'a> Question<'a> {
    /// `None` for a row without a chosen answer. A rejected answer with a different context (a prompt
    /// truncated for it alone) is not an answer to this prompt.
    fn of(example: &'a Example) -> Option<Self> {
        let group = example.in_memory().first().filter(|_| example.desirable)?;
        Some(Question {
            prompt: &group.prompt,
            preferred: &group.completions[0],
            dispreferred: group.completions.get(1).map(Vec::as_slice),
        })
    }
}

/// Computes the ledger of every prompt. The number of scored answers is quadratic in the number of rows.
pub(crate) fn ledgers(session: &mut dyn Session, data: &Dataset) -> Result<Vec<Ledger>> {
    let answers: BTreeSet<&[u32]> = data
        .examples
        .iter()
        .flat_map(|e| e.in_memory())
        .flat_map(|g| &g.completions)
        .map(Vec::as_slice)
        .collect();
    let mut ledgers = Vec::new();
    for question in data.examples.iter().filter_map(Question::of) {
        let own =
            |answer: &&&[u32]| **answer == question.preferred || Some(**answer) == question.dispreferred;
        let others = answers.iter().filter(|answer| !own(answer)).copied();
        let asked: Vec<&[u32]> =
            std::iter::once(question.preferred).chain(question.dispreferred).chain(others).collect();
        let p = probabilities(session, question.prompt, &asked)?;
        let (own, others) = p.split_at(1 + usize::from(question.dispreferred.is_some()));
        let known = p.iter().sum::<f64>();
        ledgers.push(Ledger {
            preferred: own[0],
            dispreferred: own.get(1).copied().unwrap_or(0.0),
            other_answers: others.iter().sum(),
            // Rounding may make the sum exceed 1.
            elsewhere: (1.0 - known).max(0.0),
        });
    }
    Ok(ledgers)
}

/// Answers scored at a time.
const AT_ONCE: usize = 4096;

/// The probability of each answer to a prompt.
fn probabilities(session: &mut dyn Session, prompt: &[u32], answers: &[&[u32]]) -> Result<Vec<f64>> {
    let mut probabilities = Vec::with_capacity(answers.len());
    for chunk in answers.chunks(AT_ONCE) {
        let completions = chunk.iter().map(|answer| answer.to_vec()).collect();
        let batch = TokenBatch { groups: vec![Group { prompt: prompt.to_vec(), completions }] };
        let scored = session.log_probs(&batch, Statistics::default())?;
        let of = |w: &[usize]| scored.values[w[0]..w[1]].iter().sum::<f64>().exp();
        probabilities.extend(scored.offsets.windows(2).map(of));
    }
    Ok(probabilities)
}

/// The maximum number of answers that are enumerated.
const MOST_ANSWERS: usize = 200_000;

/// All answers of at most `length` tokens that end with `stop` and contain it nowhere else; `None` if there
/// are too many.
fn every_answer(vocabulary: usize, length: usize, stop: u32) -> Option<Vec<Vec<u32>>> {
    let (mut begun, mut ended) = (vec![Vec::new()], Vec::new());
    for position in 1..=length {
        ended.extend(begun.iter().map(|answer: &Vec<u32>| [answer.as_slice(), &[stop]].concat()));
        if position == length {
            break;
        }
        if begun.len().checked_mul(vocabulary)? > MOST_ANSWERS {
            return None;
        }
        let tokens = || (0..vocabulary as u32).filter(|token| *token != stop);
        begun =
            begun.iter().flat_map(|answer| tokens().map(|t| [answer.as_slice(), &[t]].concat())).collect();
    }
    Some(ended)
}

/// An answer and its probability under two models.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Change {
    /// Token ids; `None` stands for all answers that do not end within the length limit.
    pub(crate) answer: Option<Vec<u32>>,
    /// Under the first model.
    pub(crate) before: f64,
    /// Under the second model.
    pub(crate) after: f64,
}

/// How the probabilities of the answers to one prompt changed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Story {
    pub(crate) prompt: Vec<u32>,
    pub(crate) preferred: Change,
    /// All other answers, sorted by decreasing gain.
    pub(crate) others: Vec<Change>,
}

/// Compares the probability of every answer to every prompt under two models. `None` if there are too many
/// answers of up to the data's longest length.
pub(crate) fn stories(
    before: &mut dyn Session,
    after: &mut dyn Session,
    data: &Dataset,
    stop: u32,
) -> Result<Option<Vec<Story>>> {
    let questions: Vec<Question<'_>> = data.examples.iter().filter_map(Question::of).collect();
    let longest = questions.iter().map(|q| q.preferred.len()).max().unwrap_or(0);
    let Some(answers) = every_answer(before.info().vocabulary, longest, stop) else { return Ok(None) };
    let answers: Vec<&[u32]> = answers.iter().map(Vec::as_slice).collect();
    let mut stories = Vec::new();
    for question in questions {
        let first = probabilities(before, question.prompt, &answers)?;
        let second = probabilities(after, question.prompt, &answers)?;
        let unended = Change {
            answer: None,
            before: 1.0 - first.iter().sum::<f64>(),
            after: 1.0 - second.iter().sum::<f64>(),
        };
        let listed = answers.iter().zip(first.iter().zip(&second));
        let listed =
            listed.map(|(answer, (&before, &after))| Change { answer: Some(answer.to_vec()), before, after });
        let (preferred, mut others): (Vec<_>, Vec<_>) =
            listed.chain([unended]).partition(|change| change.answer.as_deref() == Some(question.preferred));
        // An answer that does not end with the stop token was truncated, so it is not among those enumerated.
        let Some(preferred) = preferred.into_iter().next() else { continue };
        others.sort_by(|a, b| (b.after - b.before).total_cmp(&(a.after - a.before)));
        stories.push(Story { prompt: question.prompt.to_vec(), preferred, others });
    }
    Ok(Some(stories))
}
