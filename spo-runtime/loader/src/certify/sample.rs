//! Random batches that own their figures.

use spo_api::{
    Columns, Evaluation, EvaluationMut, Layout, Objective, PreferenceBatch, Ragged, Requirements, Result,
    Side,
};

/// A small generator of figures that are the same everywhere: splitmix64.
pub(super) struct Figures(pub u64);

impl Figures {
    /// Uniform in `low..high`.
    pub(super) fn between(&mut self, low: f64, high: f64) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (high - low) * ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// Answers of one side.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Answers {
    pub policy: Vec<f64>,
    pub reference: Vec<f64>,
    pub collision: Vec<f64>,
    pub offsets: Vec<usize>,
}

impl Answers {
    /// Answers of up to `longest` tokens.
    fn random(figures: &mut Figures, rows: usize, longest: usize) -> Self {
        let mut offsets = vec![0];
        for _ in 0..rows {
            offsets.push(offsets[offsets.len() - 1] + figures.between(1.0, longest as f64 + 1.0) as usize);
        }
        let mut values = |low, high| (0..offsets[rows]).map(|_| figures.between(low, high)).collect();
        Answers {
            policy: values(-3.0, -0.01),
            reference: values(-3.0, -0.01),
            collision: values(-2.0, -0.1),
            offsets,
        }
    }

    /// Answers of one token each.
    fn single(policy: &[f64], reference: &[f64]) -> Self {
        Answers {
            policy: policy.to_vec(),
            reference: reference.to_vec(),
            collision: vec![0.0; policy.len()],
            offsets: (0..=policy.len()).collect(),
        }
    }

    fn select(&self, rows: &[usize]) -> Self {
        let mut new = Answers { policy: vec![], reference: vec![], collision: vec![], offsets: vec![0] };
        for &row in rows {
            let range = self.offsets[row]..self.offsets[row + 1];
            new.policy.extend(&self.policy[range.clone()]);
            new.reference.extend(&self.reference[range.clone()]);
            new.collision.extend(&self.collision[range]);
            new.offsets.push(new.policy.len());
        }
        new
    }

    /// Shows what is asked for, and no more.
    fn side(&self, needs: &Requirements) -> Side<'_> {
        let ragged = |values| Ragged::new(values, &self.offsets).expect("made to fit");
        Side {
            policy: ragged(&self.policy),
            reference: needs.reference.then(|| ragged(&self.reference)),
            collision: needs.collision.then(|| ragged(&self.collision)),
        }
    }
}

/// A batch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub layout: Layout,
    pub chosen: Answers,
    pub rejected: Answers,
    pub mismatched: Answers,
    pub gaps: Vec<f64>,
    /// The columns of the rows, and the numbers of one after the other.
    names: Vec<String>,
    numbers: Vec<f64>,
}

impl Sample {
    /// Answers of up to six tokens, as many of each kind.
    pub(super) fn random(layout: Layout, rows: usize, seed: u64) -> Self {
        Self::of(layout, [rows, if layout == Layout::Demonstrations { 0 } else { rows }], 6, seed)
    }

    /// Two rows of up to 400 tokens.
    pub(super) fn long(layout: Layout, seed: u64) -> Self {
        Self::of(layout, [2, if layout == Layout::Demonstrations { 0 } else { 2 }], 400, seed)
    }

    /// Unpaired answers, so many of each kind.
    pub(super) fn unpaired(desirable: usize, undesirable: usize, seed: u64) -> Self {
        Self::of(Layout::Unpaired, [desirable, undesirable], 6, seed)
    }

    fn of(layout: Layout, [chosen, rejected]: [usize; 2], longest: usize, seed: u64) -> Self {
        let mut figures = Figures(seed);
        let mut answers = |rows| Answers::random(&mut figures, rows, longest);
        let mismatched = chosen + if layout == Layout::Unpaired { rejected } else { chosen };
        let (rows, [chosen, rejected, mismatched]) =
            (chosen, [chosen, rejected, mismatched].map(&mut answers));
        let gaps = (0..rows).map(|_| figures.between(0.0, 4.0)).collect();
        Sample { layout, chosen, rejected, mismatched, gaps, names: vec![], numbers: vec![] }
    }

    /// With a number from 0 to 1 in each row for each column that is needed.
    pub(super) fn with_columns(self, needs: &Requirements) -> Self {
        let names: Vec<_> = needs.columns.iter().map(|column| column.name.clone()).collect();
        let mut figures = Figures(self.rows() as u64);
        let numbers = (0..names.len() * self.rows()).map(|_| figures.between(0.0, 1.0)).collect();
        Sample { names, numbers, ..self }
    }

    fn rows(&self) -> usize {
        let answers = |side: &Answers| side.offsets.len() - 1;
        let others = if self.layout == Layout::Unpaired { answers(&self.rejected) } else { 0 };
        answers(&self.chosen) + others
    }

    /// The chosen answers, as demonstrations.
    pub(super) fn demonstrations(&self) -> Self {
        let rejected = self.rejected.select(&[]);
        Sample { layout: Layout::Demonstrations, rejected, ..self.clone() }
    }

    /// One single-token pair (or one answer of each kind) at these log-probs: policy, then reference.
    pub(super) fn corner(layout: Layout, [w, l, rw, rl]: [f64; 4], rows: usize) -> Self {
        let some = if layout == Layout::Demonstrations { 0 } else { rows };
        let chosen = Answers::single(&vec![w; rows], &vec![rw; rows]);
        Sample {
            layout,
            rejected: Answers::single(&vec![l; some], &vec![rl; some]),
            mismatched: Answers::single(&vec![w; 2 * rows], &vec![rw; 2 * rows]),
            gaps: vec![1.0; rows],
            chosen,
            names: vec![],
            numbers: vec![],
        }
    }

    /// The rows of these numbers, of both sides.
    pub(super) fn select(&self, rows: &[usize]) -> Self {
        let rejected = if self.layout == Layout::Demonstrations { &[][..] } else { rows };
        let gaps = rows.iter().map(|&row| self.gaps[row]).collect();
        // Of unpaired answers, the desirable ones come first.
        let others = rows.iter().map(|row| row + self.chosen.offsets.len() - 1);
        let others = others.filter(|_| self.layout == Layout::Unpaired);
        let all: Vec<usize> = rows.iter().copied().chain(others).collect();
        let columns = self.numbers.chunks(self.rows());
        let numbers = columns.flat_map(|column| all.iter().map(|&row| column[row])).collect();
        Sample {
            numbers,
            chosen: self.chosen.select(rows),
            rejected: self.rejected.select(rejected),
            gaps,
            ..self.clone()
        }
    }

    /// The batch as an objective with these needs sees it.
    pub(super) fn view(&self, needs: &Requirements) -> PreferenceBatch<'_> {
        let batch = PreferenceBatch::new(self.layout, self.chosen.side(needs), self.rejected.side(needs));
        let mut batch = batch.expect("made to fit");
        if needs.mismatched {
            batch.mismatched = Some(self.mismatched.side(needs));
        }
        if needs.gaps && self.layout == Layout::Pairs {
            batch.gaps = Some(&self.gaps);
        }
        batch.columns = Columns::new(&self.names, &self.numbers).expect("made to fit");
        batch
    }

    pub(super) fn evaluate(&self, objective: &mut dyn Objective) -> Result<Evaluation> {
        let view = self.view(&objective.requirements());
        evaluate(objective, &view)
    }
}

pub(super) fn evaluate(objective: &mut dyn Objective, batch: &PreferenceBatch<'_>) -> Result<Evaluation> {
    let mut out = Evaluation::default();
    out.compute(objective, batch)?;
    Ok(out)
}

/// What lies beyond the buffers that an objective is given.
const BEYOND: f64 = 6.022e23;

/// Evaluates into buffers with something behind them.
///
/// # Errors
/// The name of a buffer that was written past its end.
pub(super) fn evaluate_fenced(
    objective: &mut dyn Objective,
    batch: &PreferenceBatch<'_>,
) -> Result<(), String> {
    const FENCE: usize = 64;
    let fenced = |n: usize| {
        let mut buffer = vec![0.0; n + FENCE];
        buffer[n..].fill(BEYOND);
        buffer
    };
    let sizes = [batch.rows(), batch.chosen.policy.values().len(), batch.rejected.policy.values().len()];
    let [mut losses, mut chosen, mut rejected] = sizes.map(fenced);
    let (mut rewards, mut metrics) = Default::default();
    let mut out = EvaluationMut {
        losses: &mut losses[..sizes[0]],
        grad_chosen: &mut chosen[..sizes[1]],
        grad_rejected: &mut rejected[..sizes[2]],
        rewards: &mut rewards,
        metrics: &mut metrics,
    };
    objective.evaluate(batch, &mut out).map_err(|e| e.to_string())?;
    for (name, buffer, size) in [
        ("losses", losses, sizes[0]),
        ("grad_chosen", chosen, sizes[1]),
        ("grad_rejected", rejected, sizes[2]),
    ] {
        if let Some(past) = buffer[size..].iter().position(|x| *x != BEYOND) {
            return Err(format!("it wrote to {name}[{}], which has {size} places", size + past));
        }
    }
    Ok(())
}
