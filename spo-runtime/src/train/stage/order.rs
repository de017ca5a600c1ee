//! The order in which training sees rows.

use spo_data::epoch_order;

use crate::plan::stage::PlannedStage;
use crate::recipe::Stage as StageRecipe;
use crate::train::progress::StageProgress;

/// An endless order of rows, shuffled anew for every pass.
pub(super) struct Order {
    seed: u64,
    rows: usize,
    shuffle: bool,
    /// Batches end where a pass ends.
    whole_passes: bool,
    epoch: u64,
    waiting: std::vec::IntoIter<usize>,
}

/// The row orders of a stage.
pub(super) struct Orders {
    /// The training rows.
    pub(super) train: Order,
    /// The rows of each term of the lower level that draws its own batches.
    pub(super) lower: Vec<Order>,
}

impl Orders {
    /// The orders of a stage, advanced to its current progress.
    pub(super) fn new(stage: &PlannedStage, seed: u64, progress: &mut StageProgress) -> Self {
        let StageRecipe { batch_size, shuffle, .. } = stage.recipe;
        let mut train = Order::of_training_rows(stage, seed);
        train.skip(progress.done, batch_size);
        progress.draws.resize(stage.lower.len(), 0);
        let terms = stage.lower.iter().zip(&progress.draws).zip(1..);
        let lower = terms.map(|((term, draws), stream)| {
            let rows = stage.demonstrations(term).examples.len();
            let mut order = Order::new(seed.wrapping_add(stream), rows, shuffle);
            order.skip(*draws, batch_size);
            order
        });
        Orders { train, lower: lower.collect() }
    }
}

impl Order {
    /// The order of a stage's training rows. A stage of so many passes reads every row once in each.
    pub(super) fn of_training_rows(stage: &PlannedStage, seed: u64) -> Self {
        let order = Order::new(seed, stage.train.examples.len(), stage.recipe.shuffle);
        Order { whole_passes: stage.recipe.steps.is_none(), ..order }
    }

    fn new(seed: u64, rows: usize, shuffle: bool) -> Self {
        Order { seed, rows, shuffle, whole_passes: false, epoch: 0, waiting: Vec::new().into_iter() }
    }

    /// Advances as if this many batches had been drawn.
    fn skip(&mut self, batches: usize, batch_size: usize) {
        let (epoch, begun) = match self.whole_passes {
            true => {
                let in_pass = self.rows.div_ceil(batch_size);
                (batches / in_pass, batches % in_pass * batch_size)
            }
            false => (batches * batch_size / self.rows, batches * batch_size % self.rows),
        };
        self.epoch = epoch as u64;
        self.waiting = Vec::new().into_iter();
        self.take(begun);
    }

    /// The rows of the next batch.
    pub(super) fn batch(&mut self, batch_size: usize) -> Vec<usize> {
        match (self.whole_passes, self.waiting.len()) {
            (true, 1..) => self.take(batch_size.min(self.waiting.len())),
            _ => self.take(batch_size),
        }
    }

    /// The next rows, from one pass into the next.
    pub(super) fn take(&mut self, count: usize) -> Vec<usize> {
        let mut taken = Vec::with_capacity(count);
        while taken.len() < count {
            match self.waiting.next() {
                Some(row) => taken.push(row),
                None => {
                    let order = match self.shuffle {
                        true => epoch_order(self.rows, self.seed, self.epoch),
                        false => (0..self.rows).collect(),
                    };
                    self.waiting = order.into_iter();
                    self.epoch += 1;
                }
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(whole_passes: bool) -> Order {
        Order { whole_passes, ..Order::new(7, 12, true) }
    }

    fn lengths(order: &mut Order, batches: usize) -> Vec<usize> {
        (0..batches).map(|_| order.batch(5).len()).collect()
    }

    #[test]
    fn a_pass_reads_every_row_once_and_ends_with_a_short_batch() {
        let mut passes = order(true);
        assert_eq!(lengths(&mut passes, 6), [5, 5, 2, 5, 5, 2]);
        let mut passes = order(true);
        for _ in 0..3 {
            let mut rows: Vec<usize> = (0..3).flat_map(|_| passes.batch(5)).collect();
            rows.sort_unstable();
            assert_eq!(rows, (0..12).collect::<Vec<_>>());
        }
        assert_eq!(lengths(&mut order(false), 6), [5; 6]);
    }

    #[test]
    fn skipping_batches_is_drawing_them() {
        for whole_passes in [true, false] {
            for batches in 0..9 {
                let (mut drawn, mut skipped) = (order(whole_passes), order(whole_passes));
                lengths(&mut drawn, batches);
                skipped.skip(batches, 5);
                assert_eq!(
                    drawn.batch(5),
                    skipped.batch(5),
                    "{batches} batches, whole passes: {whole_passes}"
                );
            }
        }
    }
}
