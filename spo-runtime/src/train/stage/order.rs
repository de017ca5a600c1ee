//! In which order training sees rows.

use spo_data::epoch_order;

use super::Training;
use crate::train::checkpoint::Steps;

/// Rows in the order in which training sees them: epoch after epoch, each in an order of its own.
pub(super) struct Order {
    seed: u64,
    rows: usize,
    shuffle: bool,
    epoch: u64,
    waiting: std::vec::IntoIter<usize>,
}

/// The orders in which a stage draws its rows.
pub(super) struct Orders {
    /// Those it trains on.
    pub(crate) train: Order,
    /// The lower level's, where it draws for itself.
    pub(crate) lower: Order,
    /// Those of each further task of the lower level.
    pub(crate) tasks: Vec<Order>,
}

impl Orders {
    /// Those of a stage that has come this far.
    pub(crate) fn new(of: &Training<'_>, steps: &mut Steps) -> Self {
        let (stage, seed) = (&of.stage, of.plan.recipe.run.seed);
        let batch_size = stage.recipe.batch_size;
        let drawn = |stream: u64, rows: usize, draws: usize| {
            let mut order = Order::new(seed.wrapping_add(stream), rows, true);
            order.skip(draws * batch_size);
            order
        };
        let mut train = of.order();
        train.skip(steps.done * batch_size);
        let lower = stage.lower_data.as_ref().unwrap_or(&stage.train).examples.len();
        steps.task_draws.resize(stage.tasks.len(), 0);
        let tasks = stage.tasks.iter().zip(&steps.task_draws).zip(2..);
        let tasks = tasks.map(|((task, draws), stream)| drawn(stream, task.examples.len(), *draws));
        Orders { train, lower: drawn(1, lower, steps.lower_draws), tasks: tasks.collect() }
    }
}

impl Order {
    pub(crate) fn new(seed: u64, rows: usize, shuffle: bool) -> Self {
        Order { seed, rows, shuffle, epoch: 0, waiting: Vec::new().into_iter() }
    }

    /// Goes to where so many rows have been taken.
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
