//! In which order training sees rows.

use spo_data::epoch_order;

/// Rows in the order in which training sees them: epoch after epoch, each in an order of its own.
pub(super) struct Order {
    seed: u64,
    rows: usize,
    shuffle: bool,
    epoch: u64,
    waiting: std::vec::IntoIter<usize>,
}

impl Order {
    pub fn new(seed: u64, rows: usize, shuffle: bool) -> Self {
        Order { seed, rows, shuffle, epoch: 0, waiting: Vec::new().into_iter() }
    }

    /// Goes to where so many rows have been taken.
    pub fn skip(&mut self, count: usize) {
        self.epoch = (count / self.rows) as u64;
        self.waiting = Vec::new().into_iter();
        self.take(count % self.rows);
    }

    pub fn take(&mut self, count: usize) -> Vec<usize> {
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
