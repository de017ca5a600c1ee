//! Conversion of tokenised rows to token batches for the session and log-prob batches for the objective, and
//! of the objective's gradients back to the session's order.

use std::borrow::Cow;
use std::ops::Range;

use spo_api::{Columns, Group, Layout, LogProbs, PreferenceBatch, Ragged, Result, Side, TokenBatch, Totals};
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
    /// What each completion in `tokens` is.
    slots: Vec<Slot>,
}

/// What a completion is.
struct Slot {
    role: Role,
    row: usize,
    /// Its tokens that are scored. The session scores all; those of the others are passed over, and their gradient is 0.
    scored: Vec<Range<usize>>,
    length: usize,
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
            let mut answer = 0;
            for group in &*groups {
                let taken: Vec<_> = roles.by_ref().take(group.completions.len()).collect();
                if !taken.is_empty() {
                    let completions = group.completions[..taken.len()].to_vec();
                    for (role, completion) in taken.into_iter().zip(&completions) {
                        let length = completion.len();
                        part.slots.push(Slot { role, row, scored: example.scored(answer, length), length });
                        answer += 1;
                    }
                    part.tokens.groups.push(Group { prompt: group.prompt.clone(), completions });
                }
            }
            let other = view.mismatch(row, dataset.examples.len());
            if let (Some(other), Some(group)) = (other, part.tokens.groups.last_mut()) {
                let example = &dataset.examples[other];
                let completion = example.groups()?[0].completions[0].clone();
                let scored = example.scored(0, completion.len());
                part.slots.push(Slot { role: Role::Mismatched, row, scored, length: completion.len() });
                group.completions.push(completion);
            }
        }
        Ok(part)
    }

    /// Stores log-probs of this pass under their rows.
    fn store(&self, scored: &LogProbs, into: &mut Scores) {
        let scored = self.narrowed(scored);
        for (i, &Slot { role, row, .. }) in self.slots.iter().enumerate() {
            let values = scored.values[scored.offsets[i]..scored.offsets[i + 1]].to_vec();
            match role {
                Role::Chosen => into.chosen[row] = values,
                Role::Rejected => into.rejected[row] = values,
                Role::Mismatched => into.mismatched[row] = values,
            }
        }
    }

    /// What a session says of the tokens that are scored.
    fn narrowed<'a>(&self, all: &'a LogProbs) -> Cow<'a, LogProbs> {
        if self.slots.iter().all(|slot| slot.scored.iter().map(Range::len).sum::<usize>() == slot.length) {
            return Cow::Borrowed(all);
        }
        let mut kept = LogProbs::new(vec![], vec![0]);
        for (slot, start) in self.slots.iter().zip(&all.offsets) {
            for span in slot.scored.iter().map(|span| start + span.start..start + span.end) {
                // A statistic that was not requested has no values.
                for (from, into) in [
                    (&all.values, &mut kept.values),
                    (&all.entropy, &mut kept.entropy),
                    (&all.collision, &mut kept.collision),
                    (&all.greedy, &mut kept.greedy),
                ] {
                    into.extend_from_slice(from.get(span.clone()).unwrap_or_default());
                }
            }
            kept.offsets.push(kept.values.len());
        }
        Cow::Owned(kept)
    }

    fn chosen_tokens(&self) -> usize {
        let chosen = self.slots.iter().filter(|slot| slot.role == Role::Chosen);
        chosen.flat_map(|slot| &slot.scored).map(Range::len).sum()
    }

    /// Number of tokens of this pass, counting each prompt once per answer and no mismatched answers, as TRL does.
    pub(crate) fn unshared_tokens(&self) -> usize {
        let answers =
            self.tokens.groups.iter().flat_map(|g| g.completions.iter().map(|c| g.prompt.len() + c.len()));
        let own = answers.zip(&self.slots).filter(|(_, slot)| slot.role != Role::Mismatched);
        own.map(|(tokens, _)| tokens).sum()
    }

    /// The log-probs saved by [`store`](Self::store), as [`narrowed`](Self::narrowed).
    fn recall(&self, scores: &Scores) -> LogProbs {
        let mut recalled = LogProbs::new(vec![], vec![0]);
        for &Slot { role, row, .. } in &self.slots {
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
    /// The columns of the rows, and the numbers of one after the other.
    columns: (Vec<String>, Vec<f64>),
    /// For each completion, in the order of the passes: its side, where its scored tokens begin within that side, which
    /// they are in the completion, and how long it is.
    places: Vec<(Role, usize, Vec<Range<usize>>, usize)>,
    /// Entropy at every scored position, if requested.
    pub(crate) entropy: Vec<f64>,
    /// For every token of the chosen answers: 1 if it was the most probable token, else 0.
    pub(crate) greedy: Vec<f64>,
}

impl Assembled {
    /// Arranges what a session says of `passes` together with the reference's log-probs.
    pub(crate) fn new<'a>(
        batch: &Batch,
        passes: impl IntoIterator<Item = (&'a Pass, &'a LogProbs)>,
        reference: Option<&Scores>,
        dataset: &Dataset,
    ) -> Self {
        let scored = passes.into_iter().map(|(pass, all)| (pass, pass.narrowed(all)));
        Self::of_scored(batch, scored, reference, dataset)
    }

    /// Arranges log-probs of the tokens that are scored.
    fn of_scored<'a>(
        batch: &Batch,
        passes: impl IntoIterator<Item = (&'a Pass, Cow<'a, LogProbs>)>,
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
            columns: (dataset.columns.clone(), Vec::new()),
            places: Vec::new(),
            entropy: Vec::new(),
            greedy: Vec::new(),
        };
        for (pass, scored) in passes {
            assembled.gaps.extend(pass.rows.iter().filter_map(|&row| dataset.examples[row].gap));
            for (i, &Slot { role, row, scored: ref spans, length }) in pass.slots.iter().enumerate() {
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
                let known = |statistic: &[f64]| statistic.get(tokens.clone()).unwrap_or_default().to_vec();
                side.collision.extend(known(&scored.collision));
                if role != Role::Mismatched {
                    assembled.entropy.extend(known(&scored.entropy));
                }
                if role == Role::Chosen {
                    assembled.greedy.extend(known(&scored.greedy));
                }
                side.rows.push(row);
                side.offsets.push(side.policy.len());
                assembled.places.push((role, start, spans.clone(), length));
            }
        }
        let losses = match batch.view.layout {
            Layout::Unpaired => assembled.chosen.rows.len() + assembled.rejected.rows.len(),
            Layout::Pairs | Layout::Demonstrations => assembled.chosen.rows.len(),
        };
        let number = |column: usize, i: usize| dataset.examples[assembled.row_of_loss(i)].columns[column];
        let columns = 0..dataset.columns.len();
        assembled.columns.1 =
            columns.flat_map(|c| (0..losses).map(move |i| (c, i))).map(|(c, i)| number(c, i)).collect();
        assembled
    }

    /// Arranges stored scores as if they were the policy's log-probs.
    pub(crate) fn of_scores(batch: &Batch, scores: &Scores, dataset: &Dataset) -> Self {
        let scored = batch.passes.iter().map(|pass| (pass, Cow::Owned(pass.recall(scores))));
        Self::of_scored(batch, scored, None, dataset)
    }

    /// The batch an objective evaluates.
    pub(crate) fn batch(&self) -> spo_api::Result<PreferenceBatch<'_>> {
        let batch = PreferenceBatch::new(self.layout, self.chosen.side()?, self.rejected.side()?)?;
        let mismatched = (!self.mismatched.rows.is_empty()).then(|| self.mismatched.side()).transpose()?;
        let gaps = (self.gaps.len() == batch.rows()).then_some(self.gaps.as_slice());
        let columns = Columns::new(&self.columns.0, &self.columns.1)?;
        Ok(PreferenceBatch { mismatched, gaps, columns, whole: self.whole, ..batch })
    }

    /// Collects a gradient per token, in the order of the completions, 0 where a token is not scored. `gradient` is called with whether the
    /// token is on the chosen side, and its index in that side's flat values.
    pub(crate) fn upstream(&self, gradient: impl Fn(bool, usize) -> f64) -> Vec<f64> {
        let mut upstream = Vec::new();
        for (role, start, scored, length) in &self.places {
            let completion = upstream.len();
            upstream.resize(completion + length, 0.0);
            if *role == Role::Mismatched {
                continue;
            }
            for (i, at) in scored.iter().cloned().flatten().enumerate() {
                upstream[completion + at] = gradient(*role == Role::Chosen, start + i);
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
