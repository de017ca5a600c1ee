//! The order in which training sees rows.

use spo_data::epoch_order;

use crate::plan::stage::PlannedStage;
use crate::recipe::Stage as StageRecipe;
use crate::train::progress::StageProgress;

/// An endless order of rows, shuffled anew for every epoch.
pub(super) struct Order {
    seed: u64,
    rows: usize,
    shuffle: bool,
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
        train.skip(progress.done * batch_size);
        progress.draws.resize(stage.lower.len(), 0);
        let terms = stage.lower.iter().zip(&progress.draws).zip(1..);
        let lower = terms.map(|((term, draws), stream)| {
            let rows = stage.demonstrations(term).examples.len();
            let mut order = Order::new(seed.wrapping_add(stream), rows, shuffle);
            order.skip(draws * batch_size);
            order
        });
        Orders { train, lower: lower.collect() }
    }
}

impl Order {
    /// The order of a stage's training rows.
    pub(super) fn of_training_rows(stage: &PlannedStage, seed: u64) -> Self {
        Order::new(seed, stage.train.examples.len(), stage.recipe.shuffle)
    }

    fn new(seed: u64, rows: usize, shuffle: bool) -> Self {
        Order { seed, rows, shuffle, epoch: 0, waiting: Vec::new().into_iter() }
    }

    /// Advances as if `count` rows had been taken.
    pub(crate) fn skip(&mut self, count: usize) {
        self.epoch = (count / self.rows) as u64;
        self.waiting = Vec::new().into_iter();
        self.take(count % self.rows);
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<usize> {
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
