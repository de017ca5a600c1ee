//! Which experts compute which rows, and how much each counts.
//!
//! This is done on the host, in f64: it is a sort and a few numbers per row, and no engine needs to know of it.

use super::balance::Slopes;

/// The choice of experts for some rows.
pub(crate) struct Routing {
    /// Number of experts.
    count: usize,
    /// Whether weights were made to add up to 1.
    normalised: bool,
    /// Softmax of the scores, `[rows, experts]`.
    probabilities: Vec<f32>,
    /// The experts that compute something, each with its rows.
    pub groups: Vec<Group>,
}

/// An expert and the rows that it computes.
pub(crate) struct Group {
    pub expert: usize,
    pub rows: Vec<u32>,
    /// The factor of the expert's result for each row.
    pub weights: Vec<f32>,
}

impl Routing {
    /// Sends each row to the `chosen` experts with the highest scores `[rows, experts]`; of equal ones, to the first.
    pub fn new(scores: &[f32], count: usize, chosen: usize, normalised: bool) -> Self {
        let best = |row: &[f32]| {
            let mut order: Vec<usize> = (0..count).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
            order.truncate(chosen);
            order
        };
        let choices: Vec<Vec<usize>> = scores.chunks_exact(count).map(best).collect();
        Self::with(scores, count, normalised, &choices)
    }

    /// Sends each row to these experts, whatever the scores.
    pub fn with(scores: &[f32], count: usize, normalised: bool, choices: &[Vec<usize>]) -> Self {
        let mut groups: Vec<Group> =
            (0..count).map(|expert| Group { expert, rows: Vec::new(), weights: Vec::new() }).collect();
        let mut probabilities = Vec::with_capacity(scores.len());
        for (row, (scores, chosen)) in scores.chunks_exact(count).zip(choices).enumerate() {
            let softmax = softmax(scores);
            let sum = if normalised { chosen.iter().map(|&expert| softmax[expert]).sum() } else { 1.0 };
            for &expert in chosen {
                groups[expert].rows.push(row as u32);
                groups[expert].weights.push((softmax[expert] / sum) as f32);
            }
            probabilities.extend(softmax.into_iter().map(|p| p as f32));
        }
        groups.retain(|group| !group.rows.is_empty());
        Routing { count, normalised, probabilities, groups }
    }

    /// What the softmax of each row gives the experts.
    pub fn probabilities(&self) -> impl Iterator<Item = &[f32]> {
        self.probabilities.chunks_exact(self.count)
    }

    pub fn rows(&self) -> usize {
        self.probabilities.len() / self.count
    }

    /// All weights, group by group.
    pub fn weights(&self) -> Vec<f32> {
        self.groups.iter().flat_map(|group| &group.weights).copied().collect()
    }

    /// The gradient of the scores, given that of all [`weights`](Self::weights), and of the routers' loss if it counts.
    pub fn backward(&self, of_weights: &[f32], of_loss: Option<&Slopes>) -> Vec<f32> {
        // Of the probabilities: first of those chosen, as the gradient of their weights.
        let mut slopes = vec![0.0f64; self.probabilities.len()];
        let mut chosen = vec![(0.0f64, 0.0f64); self.rows()];
        let mut given = of_weights.iter();
        for group in &self.groups {
            for ((&row, &weight), &slope) in group.rows.iter().zip(&group.weights).zip(&mut given) {
                let at = row as usize * self.count + group.expert;
                slopes[at] = f64::from(slope);
                let (sum, mean) = &mut chosen[row as usize];
                *sum += f64::from(self.probabilities[at]);
                *mean += f64::from(weight) * f64::from(slope);
            }
        }
        if self.normalised {
            for group in &self.groups {
                for &row in &group.rows {
                    let (sum, mean) = chosen[row as usize];
                    let slope = &mut slopes[row as usize * self.count + group.expert];
                    *slope = (*slope - mean) / sum;
                }
            }
        }
        if let Some(of_loss) = of_loss {
            of_loss.add_to(&mut slopes);
        }
        let mut of_scores = Vec::with_capacity(slopes.len());
        for (p, slopes) in self.probabilities().zip(slopes.chunks_exact(self.count)) {
            let mean: f64 = p.iter().zip(slopes).map(|(&p, slope)| f64::from(p) * slope).sum();
            of_scores.extend(p.iter().zip(slopes).map(|(&p, slope)| (f64::from(p) * (slope - mean)) as f32));
        }
        of_scores
    }
}

fn softmax(scores: &[f32]) -> Vec<f64> {
    let most = scores.iter().fold(f32::NEG_INFINITY, |most, &score| most.max(score));
    let powers: Vec<f64> = scores.iter().map(|&score| f64::from(score - most).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_go_to_the_experts_with_the_highest_scores() {
        let scores = [0.0, 2.0, 1.0, 3.0, 3.0, 3.0];
        for normalised in [false, true] {
            let routing = Routing::new(&scores, 3, 2, normalised);
            let found: Vec<(usize, Vec<u32>)> =
                routing.groups.iter().map(|group| (group.expert, group.rows.clone())).collect();
            assert_eq!(found, [(0, vec![1]), (1, vec![0, 1]), (2, vec![0])]);
            let sum = f64::from(routing.groups[1].weights[0] + routing.groups[2].weights[0]);
            let all = 1.0 + 1f64.exp() + 2f64.exp();
            let expected = if normalised { 1.0 } else { 1.0 - 1.0 / all };
            assert!((sum - expected).abs() < 1e-6);
        }
    }

    /// The gradient of the scores against differences of the weights, along an arbitrary direction.
    #[test]
    fn the_gradient_of_scores_is_that_of_weights() {
        let scores: Vec<f32> = (0..20).map(|i| (i as f32 * 1.7).sin() * 2.0).collect();
        let choices: Vec<Vec<usize>> = (0..4).map(|row| vec![row, (row + 2) % 5, (row + 3) % 5]).collect();
        for normalised in [false, true] {
            let routing = Routing::with(&scores, 5, normalised, &choices);
            let upstream: Vec<f32> = (0..12).map(|i| (i as f32 * 0.9).cos()).collect();
            let gradient = routing.backward(&upstream, None);
            let direction: Vec<f32> = (0..20).map(|i| (i as f32 * 0.7).cos()).collect();
            let at = |h: f32| -> f64 {
                let moved: Vec<f32> = scores.iter().zip(&direction).map(|(s, d)| s + h * d).collect();
                let weights = Routing::with(&moved, 5, normalised, &choices).weights();
                weights.iter().zip(&upstream).map(|(&w, &u)| f64::from(w) * f64::from(u)).sum()
            };
            let h = 0.01;
            let difference = (at(h) - at(-h)) / (2.0 * f64::from(h));
            let slope: f64 =
                gradient.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
            assert!((slope - difference).abs() < 1e-4, "{slope} {difference}");
        }
    }
}
