//! Conversion of tokenised rows to token batches for the session and log-prob batches for the objective, and
//! of the objective's gradients back to the session's order.

use std::borrow::Cow;
use std::ops::Range;

use spo_api::{Group, Layout, LogProbs, PreferenceBatch, Ragged, Result, Side, TokenBatch, Totals};
use spo_data::{Dataset, MicroBatch};

use crate::plan::view::View;
use crate::store::scores::Scores;

/// The role of a completion in its row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Chosen,
    Rejected,
    Mismatched,
}

/// Rows that go through a session in one pass.
pub(crate) struct Pass {
    /// Indices of the rows in their dataset.
    pub(crate) rows: Vec<usize>,
    /// The tokens to score.
    pub(crate) tokens: TokenBatch,
    /// The role and row of each completion in `tokens`.
    slots: Vec<(Role, usize)>,
}

impl Pass {
    /// Assembles rows of a dataset, given their groups.
    fn new(dataset: &Dataset, rows: Vec<(usize, Cow<'_, [Group]>)>, view: View) -> Result<Self> {
        let mut part = Pass { rows: Vec::new(), tokens: TokenBatch::default(), slots: Vec::new() };
        for (row, groups) in rows {
            part.rows.push(row);
            let example = &dataset.examples[row];
            let first = if example.desirable { Role::Chosen } else { Role::Rejected };
            let answers = if view.layout == Layout::Pairs { 2 } else { 1 };
            let mut roles = [first, Role::Rejected].into_iter().take(answers);
            for group in &*groups {
                let taken: Vec<_> = roles.by_ref().take(group.completions.len()).collect();
                if !taken.is_empty() {
                    let completions = group.completions[..taken.len()].to_vec();
                    part.tokens.groups.push(Group { prompt: group.prompt.clone(), completions });
                    part.slots.extend(taken.into_iter().map(|role| (role, row)));
                }
            }
            let other = view.mismatch(row, dataset.examples.len());
            if let (Some(other), Some(group)) = (other, part.tokens.groups.last_mut()) {
                group.completions.push(dataset.examples[other].groups()?[0].completions[0].clone());
                part.slots.push((Role::Mismatched, row));
            }
        }
        Ok(part)
    }

    /// Stores log-probs of this pass under their rows.
    fn store(&self, scored: &LogProbs, into: &mut Scores) {
        for (i, &(role, row)) in self.slots.iter().enumerate() {
            let values = scored.values[scored.offsets[i]..scored.offsets[i + 1]].to_vec();
            match role {
                Role::Chosen => into.chosen[row] = values,
                Role::Rejected => into.rejected[row] = values,
                Role::Mismatched => into.mismatched[row] = values,
            }
        }
    }

    fn chosen_tokens(&self) -> usize {
        let answers = self.tokens.completions().zip(&self.slots);
        answers.filter(|(_, (role, _))| *role == Role::Chosen).map(|(answer, _)| answer.len()).sum()
    }

    /// Number of tokens of this pass, counting each prompt once per answer and no mismatched answers, as TRL does.
    pub(crate) fn unshared_tokens(&self) -> usize {
        let answers =
            self.tokens.groups.iter().flat_map(|g| g.completions.iter().map(|c| g.prompt.len() + c.len()));
        let own = answers.zip(&self.slots).filter(|(_, (role, _))| *role != Role::Mismatched);
        own.map(|(tokens, _)| tokens).sum()
    }

    /// The log-probs saved by [`store`](Self::store), in the format the session returns.
    fn recall(&self, scores: &Scores) -> LogProbs {
        let mut recalled = LogProbs::new(vec![], vec![0]);
        for &(role, row) in &self.slots {
            recalled.values.extend(match role {
                Role::Chosen => &scores.chosen[row],
                Role::Rejected => &scores.rejected[row],
                Role::Mismatched => &scores.mismatched[row],
            });
            recalled.offsets.push(recalled.values.len());
        }
        recalled
    }
}

/// Number of tokens the model has to read for a group.
fn tokens(group: &Group) -> usize {
    group.prompt.len() + group.completions.iter().map(Vec::len).sum::<usize>()
}

/// The rows of an optimizer batch, split into passes.
pub(crate) struct Batch {
    /// How the objective sees the rows.
    pub(crate) view: View,
    pub(crate) passes: Vec<Pass>,
    /// Counts over the whole batch.
    pub(crate) whole: Totals,
}

impl Batch {
    /// Splits `rows` into passes; without a micro-batch size, into a single pass.
    ///
    /// # Errors
    /// When the rows are in a file that cannot be read.
    pub(crate) fn new(
        dataset: &Dataset,
        rows: &[usize],
        view: View,
        micro_batch: Option<MicroBatch>,
    ) -> Result<Self> {
        let groups = |&row: &usize| Ok((row, dataset.examples[row].groups()?));
        let read: Vec<_> = rows.iter().map(groups).collect::<Result<_>>()?;
        let tokens: Vec<usize> = read.iter().map(|(_, groups)| groups.iter().map(tokens).sum()).collect();
        let pieces = micro_batch.unwrap_or(MicroBatch::Rows(rows.len())).split(&tokens);
        let mut read = read.into_iter();
        let pass = |piece: Range<usize>| Pass::new(dataset, read.by_ref().take(piece.len()).collect(), view);
        let passes: Vec<Pass> = pieces.into_iter().map(pass).collect::<Result<_>>()?;
        let chosen_tokens = passes.iter().map(Pass::chosen_tokens).sum();
        Ok(Batch { view, passes, whole: Totals { rows: rows.len(), chosen_tokens } })
    }

    /// All rows of a dataset.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub(crate) fn whole(dataset: &Dataset, view: View, micro_batch: MicroBatch) -> Result<Self> {
        let rows: Vec<usize> = (0..dataset.examples.len()).collect();
        Batch::new(dataset, &rows, view, Some(micro_batch))
    }

    /// Stores the log-probs of all passes under their rows.
    pub(crate) fn store(&self, scored: &[LogProbs], into: &mut Scores) {
        for (pass, seen) in self.passes.iter().zip(scored) {
            pass.store(seen, into);
        }
    }

    /// Indices of all rows in their dataset.
    pub(crate) fn rows(&self) -> Vec<usize> {
        self.passes.iter().flat_map(|pass| pass.rows.iter().copied()).collect()
    }
}

/// The arrays behind one [`Side`].
#[derive(Default)]
struct SideArrays {
    rows: Vec<usize>,
    offsets: Vec<usize>,
    policy: Vec<f64>,
    reference: Vec<f64>,
    collision: Vec<f64>,
}

impl SideArrays {
    fn side<'a>(&'a self) -> spo_api::Result<Side<'a>> {
        // An empty side is valid, for example when all rows of a batch are desirable.
        let optional = |values: &'a [f64]| match values {
            [] if !self.policy.is_empty() => Ok(None),
            values => Ragged::new(values, &self.offsets).map(Some),
        };
        Ok(Side {
            policy: Ragged::new(&self.policy, &self.offsets)?,
            reference: optional(&self.reference)?,
            collision: optional(&self.collision)?,
        })
    }
}

/// Log-probs of one or more passes, in the form an objective reads.
pub(crate) struct Assembled {
    layout: Layout,
    whole: Totals,
    chosen: SideArrays,
    rejected: SideArrays,
    mismatched: SideArrays,
    /// Score gaps of the pairs; empty if the data have none.
    gaps: Vec<f64>,
    /// For each completion, in the order of the passes: its side and its token range within that side.
    places: Vec<(Role, std::ops::Range<usize>)>,
    /// Entropy at every scored position, if requested.
    pub(crate) entropy: Vec<f64>,
    /// For every token of the chosen answers: 1 if it was the most probable token, else 0.
    pub(crate) greedy: Vec<f64>,
}

impl Assembled {
    /// Arranges the log-probs of `passes` together with the reference's.
    pub(crate) fn new<'a>(
        batch: &Batch,
        passes: impl IntoIterator<Item = (&'a Pass, &'a LogProbs)>,
        reference: Option<&Scores>,
        dataset: &Dataset,
    ) -> Self {
        let empty = || SideArrays { offsets: vec![0], ..SideArrays::default() };
        let mut assembled = Assembled {
            layout: batch.view.layout,
            whole: batch.whole,
            chosen: empty(),
            rejected: empty(),
            mismatched: empty(),
            gaps: Vec::new(),
            places: Vec::new(),
            entropy: Vec::new(),
            greedy: Vec::new(),
        };
        for (pass, scored) in passes {
            assembled.gaps.extend(pass.rows.iter().filter_map(|&row| dataset.examples[row].gap));
            for (i, &(role, row)) in pass.slots.iter().enumerate() {
                let tokens = scored.offsets[i]..scored.offsets[i + 1];
                let (side, reference) = match role {
                    Role::Chosen => (&mut assembled.chosen, reference.map(|r| &r.chosen[row])),
                    Role::Rejected => (&mut assembled.rejected, reference.map(|r| &r.rejected[row])),
                    Role::Mismatched => (&mut assembled.mismatched, reference.map(|r| &r.mismatched[row])),
                };
                let start = side.policy.len();
                side.policy.extend_from_slice(&scored.values[tokens.clone()]);
                side.reference.extend(reference.into_iter().flatten());
                // A statistic that was not requested has no values.
                let known = |statistic: &'a Vec<f64>| statistic.get(tokens.clone()).unwrap_or_default();
                side.collision.extend_from_slice(known(&scored.collision));
                if role != Role::Mismatched {
                    assembled.entropy.extend_from_slice(known(&scored.entropy));
                }
                if role == Role::Chosen {
                    assembled.greedy.extend_from_slice(known(&scored.greedy));
                }
                side.rows.push(row);
                side.offsets.push(side.policy.len());
                assembled.places.push((role, start..side.policy.len()));
            }
        }
        assembled
    }

    /// Arranges stored scores as if they were the policy's log-probs.
    pub(crate) fn of_scores(batch: &Batch, scores: &Scores, dataset: &Dataset) -> Self {
        let scored: Vec<LogProbs> = batch.passes.iter().map(|pass| pass.recall(scores)).collect();
        Self::new(batch, batch.passes.iter().zip(&scored), None, dataset)
    }

    /// The batch an objective evaluates.
    pub(crate) fn batch(&self) -> spo_api::Result<PreferenceBatch<'_>> {
        let batch = PreferenceBatch::new(self.layout, self.chosen.side()?, self.rejected.side()?)?;
        let mismatched = (!self.mismatched.rows.is_empty()).then(|| self.mismatched.side()).transpose()?;
        let gaps = (self.gaps.len() == batch.rows()).then_some(self.gaps.as_slice());
        Ok(PreferenceBatch { mismatched, gaps, whole: self.whole, ..batch })
    }

    /// Collects a gradient per token, in the order of the completions. `gradient` is called with whether the
    /// token is on the chosen side, and its index in that side's flat values.
    pub(crate) fn upstream(&self, gradient: impl Fn(bool, usize) -> f64) -> Vec<f64> {
        let mut upstream = Vec::new();
        for (role, range) in &self.places {
            match role {
                Role::Mismatched => upstream.resize(upstream.len() + range.len(), 0.0),
                side => upstream.extend(range.clone().map(|i| gradient(*side == Role::Chosen, i))),
            }
        }
        upstream
    }

    /// The dataset row of the `i`-th answer of a side.
    pub(crate) fn row(&self, chosen: bool, i: usize) -> usize {
        if chosen { self.chosen.rows[i] } else { self.rejected.rows[i] }
    }

    /// The dataset row of the `i`-th loss.
    pub(crate) fn row_of_loss(&self, i: usize) -> usize {
        let chosen = &self.chosen.rows;
        if i < chosen.len() { chosen[i] } else { self.rejected.rows[i - chosen.len()] }
    }
}
