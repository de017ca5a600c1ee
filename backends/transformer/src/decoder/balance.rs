//! The loss that keeps routers from sending everything to the same experts (Fedus et al. 2022, "Switch Transformers"), as
//! transformers computes it for all layers together:
//!
//! ```text
//! experts * sum_e share_e * probability_e
//! ```
//!
//! where `share_e` is the number of times that expert e is chosen per row, and `probability_e` the mean of what the router's
//! softmax gives it, both over the rows of all layers that have experts. A row counts as often as there are sequences that
//! it is part of. The shares are held constant in the gradient: a choice has none.

use super::routing::Routing;

/// Sums over the layers of a forward pass.
pub(crate) struct Balance {
    copies: Vec<u32>,
    shares: Vec<f64>,
    probabilities: Vec<f64>,
    rows: f64,
}

/// The gradient of the loss with respect to each probability of a router.
pub(crate) struct Slopes {
    copies: Vec<u32>,
    /// Of one copy of a row, by expert.
    of_experts: Vec<f64>,
}

impl Balance {
    /// `copies` are those of the rows.
    pub fn new(experts: usize, copies: &[u32]) -> Self {
        let copies = copies.to_vec();
        Balance { copies, shares: vec![0.0; experts], probabilities: vec![0.0; experts], rows: 0.0 }
    }

    /// Adds a layer.
    pub fn add(&mut self, routing: &Routing) {
        for group in &routing.groups {
            let chosen = group.rows.iter().map(|&row| f64::from(self.copies[row as usize]));
            self.shares[group.expert] += chosen.sum::<f64>();
        }
        for (row, &copies) in routing.probabilities().zip(&self.copies) {
            self.rows += f64::from(copies);
            let sums = self.probabilities.iter_mut().zip(row);
            sums.for_each(|(sum, &p)| *sum += f64::from(copies) * f64::from(p));
        }
    }

    /// The loss: the number of chosen experts where rows are spread evenly, and more where they are not.
    pub fn loss(&self) -> f64 {
        let sum: f64 = self.shares.iter().zip(&self.probabilities).map(|(share, p)| share * p).sum();
        sum * self.shares.len() as f64 / (self.rows * self.rows)
    }

    /// The gradient of `weight` times the loss.
    pub fn slopes(self, weight: f64) -> Slopes {
        let factor = weight * self.shares.len() as f64 / (self.rows * self.rows);
        Slopes {
            copies: self.copies,
            of_experts: self.shares.into_iter().map(|share| factor * share).collect(),
        }
    }
}

impl Slopes {
    /// Adds the gradient of the probabilities `[rows, experts]` of a layer.
    pub fn add_to(&self, probabilities: &mut [f64]) {
        for (row, &copies) in probabilities.chunks_exact_mut(self.of_experts.len()).zip(&self.copies) {
            row.iter_mut().zip(&self.of_experts).for_each(|(p, slope)| *p += f64::from(copies) * slope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `E sum_e f_e P_e` for rows that go to experts evenly, and for rows that all go to one.
    #[test]
    fn even_routers_have_the_smallest_loss() {
        let of = |scores: &[f32], copies: &[u32]| {
            let mut balance = Balance::new(2, copies);
            balance.add(&Routing::new(scores, 2, 1, false));
            balance.loss()
        };
        let even = of(&[9.0, 0.0, 0.0, 9.0], &[1, 1]);
        assert!((even - 1.0).abs() < 1e-6, "{even}");
        let (one, high) = (of(&[9.0, 0.0, 9.0, 0.0], &[1, 1]), 1.0 / (1.0 + (-9f64).exp()));
        assert!((one - 2.0 * high).abs() < 1e-6, "{one}");
        let (copied, written) =
            (of(&[1.0, 0.0, 0.0, 3.0], &[2, 1]), of(&[1.0, 0.0, 1.0, 0.0, 0.0, 3.0], &[1; 3]));
        assert!((copied - written).abs() < 1e-6, "{copied} {written}");
    }

    /// Against differences of the loss, with the choice held.
    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let scores: Vec<f32> = (0..12).map(|i| (i as f32 * 1.7).sin() * 2.0).collect();
        let choices = vec![vec![0, 1], vec![2, 1], vec![0, 2], vec![1, 0]];
        let routing = |scores: &[f32]| Routing::with(scores, 3, true, &choices);
        let of = |scores: &[f32]| {
            let mut balance = Balance::new(3, &[1, 3, 2, 1]);
            balance.add(&routing(scores));
            balance
        };
        let slopes = of(&scores).slopes(0.7);
        let gradient = routing(&scores).backward(&[0.0; 8], Some(&slopes));
        let at = |i: usize, h: f32| {
            let mut moved = scores.clone();
            moved[i] += h;
            0.7 * of(&moved).loss()
        };
        for (i, slope) in gradient.iter().enumerate() {
            let difference = (at(i, 0.01) - at(i, -0.01)) / 0.02;
            assert!((f64::from(*slope) - difference).abs() < 1e-4, "{i}: {slope} {difference}");
        }
    }
}
