//! The input of an objective: ragged per-token log-probs of answers, in nats.

use crate::{Error, Result};

/// Rows of different lengths in one flat slice: row `i` is `values[offsets[i]..offsets[i + 1]]`.
#[derive(Clone, Copy, Debug)]
pub struct Ragged<'a> {
    values: &'a [f64],
    offsets: &'a [usize],
}

impl<'a> Ragged<'a> {
    /// Creates a view of `values` with these row offsets.
    ///
    /// # Errors
    /// [`Error::Batch`] unless `offsets` begins at 0, never decreases, and ends at `values.len()`.
    pub fn new(values: &'a [f64], offsets: &'a [usize]) -> Result<Self> {
        let ordered = offsets.windows(2).all(|w| w[0] <= w[1]);
        if offsets.first() != Some(&0) || offsets.last() != Some(&values.len()) || !ordered {
            return Err(Error::Batch(format!(
                "offsets must rise from 0 to the number of values ({}), got {offsets:?}",
                values.len()
            )));
        }
        Ok(Ragged { values, offsets })
    }

    /// A view with no rows.
    pub fn empty() -> Self {
        Ragged { values: &[], offsets: &[0] }
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The flat values of all rows.
    pub fn values(&self) -> &'a [f64] {
        self.values
    }

    /// The start of each row in [`values`](Self::values), followed by the end of the last row.
    pub fn offsets(&self) -> &'a [usize] {
        self.offsets
    }

    /// The range of row `i` in [`values`](Self::values).
    pub fn range(&self, i: usize) -> std::ops::Range<usize> {
        self.offsets[i]..self.offsets[i + 1]
    }

    /// Row `i`.
    pub fn row(&self, i: usize) -> &'a [f64] {
        &self.values[self.range(i)]
    }

    /// Number of tokens of row `i`.
    pub fn tokens(&self, i: usize) -> usize {
        self.range(i).len()
    }

    /// Sum of row `i`: the log-prob of the whole answer.
    pub fn sum(&self, i: usize) -> f64 {
        sum(self.row(i))
    }

    /// All rows in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [f64]> + '_ {
        (0..self.rows()).map(|i| self.row(i))
    }
}

/// The sum of a row, accumulated in eight lanes. Additions do not wait for each other, and the rounding
/// error grows with an eighth of the length.
pub(crate) fn sum(row: &[f64]) -> f64 {
    let (chunks, rest) = row.as_chunks::<8>();
    let mut lanes = [0.0; 8];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, x)| *lane += x);
    }
    lanes.iter().chain(rest).sum()
}

/// One side of a preference batch: the chosen answers, or the rejected ones.
///
/// All ragged fields have the shape of `policy`.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// `log p(token)` under the policy, in nats.
    pub policy: Ragged<'a>,
    /// `log p(token)` under the reference, in nats; `None` if the run has no reference.
    pub reference: Option<Ragged<'a>>,
    /// `log sum_v p(v)^2` under the policy at each position, if
    /// [`Requirements::collision`](crate::Requirements::collision) is set.
    pub collision: Option<Ragged<'a>>,
}

impl<'a> Side<'a> {
    /// A side with only the policy's log-probs.
    pub fn policy_only(policy: Ragged<'a>) -> Self {
        Side { policy, reference: None, collision: None }
    }

    /// The reference log-probs.
    ///
    /// # Errors
    /// [`Error::Batch`] when the batch has none.
    pub fn reference(&self) -> Result<Ragged<'a>> {
        self.reference
            .ok_or_else(|| Error::Batch("this objective needs reference log-probs and got none".into()))
    }

    /// The collision statistic.
    ///
    /// # Errors
    /// [`Error::Batch`] when the batch has none.
    pub fn collision(&self) -> Result<Ragged<'a>> {
        self.collision
            .ok_or_else(|| Error::Batch("this objective needs the collision statistic and got none".into()))
    }
}

/// The kind of data an objective learns from, and how the rows of a batch's two sides relate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Layout {
    /// A chosen and a rejected answer for each prompt: row `i` of `chosen` and row `i` of `rejected`.
    #[default]
    Pairs,
    /// Answers labelled desirable (`chosen`) or undesirable (`rejected`). Rows of the two sides are
    /// unrelated.
    Unpaired,
    /// Answers to imitate: only `chosen` has rows. Pairs can be used too: their chosen answers are taken.
    Demonstrations,
}

/// The counts that means are taken over.
///
/// A batch may be a part of a larger optimizer batch (gradient accumulation). An objective divides by these
/// counts and not by those of the part it sees, so that the losses and gradients of the parts add up to
/// exactly those of the whole batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Number of rows in the mean loss: pairs, or examples for [`Layout::Unpaired`].
    pub rows: usize,
    /// Number of tokens in all chosen answers.
    pub chosen_tokens: usize,
}

/// Numbers of the rows of a batch, by the name of their column.
#[derive(Clone, Copy, Debug, Default)]
pub struct Columns<'a> {
    names: &'a [String],
    values: &'a [f64],
}

impl<'a> Columns<'a> {
    /// Creates a view of `values`: the numbers of the first column for all rows, then those of the second, ...
    ///
    /// # Errors
    /// [`Error::Batch`] unless all columns have the same number of rows.
    pub fn new(names: &'a [String], values: &'a [f64]) -> Result<Self> {
        match (names.len(), values.len()) {
            (0, 0) => Ok(Columns::default()),
            (columns, numbers) if columns > 0 && numbers % columns == 0 => Ok(Columns { names, values }),
            (columns, numbers) => {
                Err(Error::Batch(format!("{numbers} numbers do not fill {columns} columns")))
            }
        }
    }

    /// The names.
    pub fn names(&self) -> &'a [String] {
        self.names
    }

    /// The numbers of a column, one per row.
    pub fn get(&self, name: &str) -> Option<&'a [f64]> {
        let rows = self.values.len() / self.names.len().max(1);
        let column = self.names.iter().position(|known| known == name)?;
        Some(&self.values[column * rows..][..rows])
    }
}

/// A batch of answers as an objective sees it.
#[derive(Clone, Copy, Debug)]
pub struct PreferenceBatch<'a> {
    /// How the two sides relate.
    pub layout: Layout,
    /// Preferred (or desirable) answers.
    pub chosen: Side<'a>,
    /// Dispreferred (or undesirable) answers.
    pub rejected: Side<'a>,
    /// Unpaired data only: the prompt of each row with the answer of another row, in any order. KTO
    /// estimates its KL term from these.
    pub mismatched: Option<Side<'a>>,
    /// Pairs only: score of the chosen answer minus score of the rejected answer, if the data have scores.
    pub gaps: Option<&'a [f64]>,
    /// The columns that the objective [requires](crate::Requirements::columns).
    pub columns: Columns<'a>,
    /// Counts of the optimizer batch that this batch is a part of.
    pub whole: Totals,
}

impl<'a> PreferenceBatch<'a> {
    /// Creates a whole batch, as opposed to a part of a larger one.
    ///
    /// # Errors
    /// [`Error::Batch`] when the shapes of the sides do not match `layout`, or a row is empty.
    pub fn new(layout: Layout, chosen: Side<'a>, rejected: Side<'a>) -> Result<Self> {
        let (n, m) = (chosen.policy.rows(), rejected.policy.rows());
        let fits = match layout {
            Layout::Pairs => n == m,
            Layout::Unpaired => true,
            Layout::Demonstrations => m == 0,
        };
        if !fits || n + m == 0 {
            return Err(Error::Batch(format!(
                "{n} chosen and {m} rejected answers do not make a batch of {layout:?}"
            )));
        }
        for (name, side) in [("chosen", &chosen), ("rejected", &rejected)] {
            for (other, ragged) in [("reference", side.reference), ("collision", side.collision)] {
                if ragged.is_some_and(|r| r.offsets() != side.policy.offsets()) {
                    return Err(Error::Batch(format!(
                        "{other} and policy log-probs of {name} differ in shape"
                    )));
                }
            }
            if let Some(row) = (0..side.policy.rows()).find(|&i| side.policy.tokens(i) == 0) {
                return Err(Error::Batch(format!("{name} answer {row} has no tokens")));
            }
        }
        let rows = if layout == Layout::Unpaired { n + m } else { n };
        let whole = Totals { rows, chosen_tokens: chosen.policy.values().len() };
        Ok(PreferenceBatch {
            layout,
            chosen,
            rejected,
            mismatched: None,
            gaps: None,
            columns: Columns::default(),
            whole,
        })
    }

    /// The numbers of a column, one per row: pairs or demonstrations in their order; unpaired answers as in
    /// [`losses`](crate::EvaluationMut::losses), the desirable ones first.
    ///
    /// # Errors
    /// [`Error::Batch`] when the batch has no such column, or not a number for each row.
    pub fn column(&self, name: &str) -> Result<&'a [f64]> {
        let values = self.columns.get(name).ok_or_else(|| {
            Error::Batch(format!("this objective needs the column `{name}` of the data and got none"))
        })?;
        match values.len() == self.rows() {
            true => Ok(values),
            false => Err(Error::Batch(format!(
                "{} numbers in the column `{name}` for {} rows",
                values.len(),
                self.rows()
            ))),
        }
    }

    /// Number of rows in this part: pairs, or examples for [`Layout::Unpaired`].
    pub fn rows(&self) -> usize {
        match self.layout {
            Layout::Unpaired => self.chosen.policy.rows() + self.rejected.policy.rows(),
            Layout::Pairs | Layout::Demonstrations => self.chosen.policy.rows(),
        }
    }

    /// Number of rows, if this is a whole batch. For objectives that couple the rows of a batch
    /// ([`Requirements::whole_batch`](crate::Requirements::whole_batch)).
    ///
    /// # Errors
    /// [`Error::Batch`] when this is only a part.
    pub fn rows_of_whole(&self) -> Result<usize> {
        if self.rows() == self.whole.rows {
            return Ok(self.rows());
        }
        Err(Error::Batch(format!(
            "this objective couples all rows of a batch: it needs the whole batch of {}, got a part of {}",
            self.whole.rows,
            self.rows()
        )))
    }

    /// Both sides, chosen first.
    pub fn sides(&self) -> [&Side<'a>; 2] {
        [&self.chosen, &self.rejected]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ragged_rejects_offsets_that_do_not_fit() {
        let values = [1.0, 2.0, 3.0];
        assert!(Ragged::new(&values, &[0, 2, 3]).is_ok());
        for bad in [&[][..], &[0, 2], &[1, 3], &[0, 3, 2, 3], &[0, 4]] {
            assert!(Ragged::new(&values, bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rows_of_any_length_are_summed_whole() {
        for n in 0..40 {
            let row: Vec<_> = (1..=n).map(f64::from).collect();
            assert_eq!(sum(&row), f64::from(n * (n + 1) / 2));
        }
    }

    #[test]
    fn columns_are_told_by_name_and_have_a_number_for_each_row() {
        let names = ["a", "b"].map(str::to_owned);
        let columns = Columns::new(&names, &[1.0, 2.0, 3.0, 4.0]).unwrap();
        assert_eq!((columns.get("b"), columns.get("c")), (Some(&[3.0, 4.0][..]), None));
        assert!(Columns::new(&names, &[1.0]).is_err() && Columns::new(&[], &[1.0]).is_err());
        assert!(Columns::new(&[], &[]).unwrap().names().is_empty());

        let values = [-1.0, -2.0, -3.0];
        let side = |offsets| Side::policy_only(Ragged::new(&values, offsets).unwrap());
        let batch = |offsets| PreferenceBatch {
            columns,
            ..PreferenceBatch::new(Layout::Demonstrations, side(offsets), Side::policy_only(Ragged::empty()))
                .unwrap()
        };
        assert_eq!(batch(&[0, 2, 3]).column("a").unwrap(), [1.0, 2.0]);
        let said = |offsets, name| batch(offsets).column(name).unwrap_err().to_string();
        assert!(said(&[0, 2, 3], "c").contains("needs the column `c`"));
        assert!(said(&[0, 3], "a").contains("2 numbers in the column `a` for 1 rows"));
    }

    #[test]
    fn a_batch_must_have_the_shape_its_layout_promises() {
        let values = [-1.0, -2.0, -3.0];
        let two = Side::policy_only(Ragged::new(&values, &[0, 2, 3]).unwrap());
        let one = Side::policy_only(Ragged::new(&values, &[0, 3]).unwrap());
        let hollow = Side::policy_only(Ragged::new(&values, &[0, 3, 3]).unwrap());
        let none = Side::policy_only(Ragged::empty());
        assert!(PreferenceBatch::new(Layout::Pairs, two, one).is_err());
        assert!(PreferenceBatch::new(Layout::Pairs, none, none).is_err());
        assert!(PreferenceBatch::new(Layout::Pairs, two, hollow).is_err());
        assert!(PreferenceBatch::new(Layout::Demonstrations, two, one).is_err());
        assert_eq!(PreferenceBatch::new(Layout::Unpaired, two, one).unwrap().whole.rows, 3);
        let whole = PreferenceBatch::new(Layout::Pairs, two, two).unwrap();
        assert_eq!(whole.rows_of_whole().unwrap(), 2);
        let part = PreferenceBatch { whole: Totals { rows: 3, ..whole.whole }, ..whole };
        assert!(part.rows_of_whole().unwrap_err().to_string().contains("whole batch of 3, got a part of 2"));
        let skewed = Side { reference: Some(one.policy), ..two };
        assert!(PreferenceBatch::new(Layout::Pairs, skewed, two).is_err());
    }
}
