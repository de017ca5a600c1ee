//! The experts of a block: a router sends each row to a few MLPs, and adds up what they make of it, by weight.
//!
//! Rows are grouped by expert, so that each product takes all rows of one.

use spo_api::Result;

use super::balance::Slopes;
use super::linear::Linear;
use super::mlp::{Mlp, MlpTrace};
use super::routing::Routing;
use crate::engine::{Engine, Memory, Precision};
use crate::parameters::Parameters;

#[derive(Clone, Debug)]
pub(crate) struct Experts {
    pub router: Linear,
    pub experts: Vec<Mlp>,
    /// Number of experts that compute each row.
    pub chosen: usize,
    /// Whether their weights are made to add up to 1.
    pub normalised: bool,
    /// Width of the rows.
    pub hidden: usize,
    /// The experts of each row, whatever the router says: finite differences must not see another choice.
    #[cfg(feature = "conformance")]
    pub held: Option<Vec<Vec<usize>>>,
}

/// What the backward pass of experts needs.
pub(crate) struct ExpertsTrace<T> {
    pub routing: Routing,
    /// Of the expert of each group of rows.
    experts: Vec<MlpTrace<T>>,
}

impl Experts {
    pub fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        [&mut self.router].into_iter().chain(self.experts.iter_mut().flat_map(Mlp::linears_mut))
    }

    /// Elements per token that the backward pass needs.
    pub fn traced(&self) -> usize {
        self.experts.len() + self.chosen * self.experts.first().map_or(0, Mlp::traced)
    }

    pub fn forward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
    ) -> Result<(E::Tensor, ExpertsTrace<E::Tensor>)> {
        let scores = e.memory().download(&self.router.forward(e, p, x)?)?;
        let routing = self.routing(&scores);
        let y = e.memory().zeros(&[routing.rows(), self.hidden], Precision::Compute)?;
        let weights = Weights::new(e, &routing)?;
        let mut experts = Vec::with_capacity(routing.groups.len());
        for (group, weights) in routing.groups.iter().zip(weights.of_groups()) {
            let expert = &self.experts[group.expert];
            let trace = expert.project(e, p, &e.gather(x, &group.rows)?)?;
            let weighted = e.scale_rows(&expert.activated(e, &trace)?, &weights?)?;
            e.scatter_add(&y, &group.rows, &expert.down.forward(e, p, &weighted)?)?;
            experts.push(trace);
        }
        Ok((y, ExpertsTrace { routing, experts }))
    }

    /// `x` must be the input of the forward pass.
    pub fn backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
        trace: ExpertsTrace<E::Tensor>,
        upstream: &E::Tensor,
        of_loss: Option<&Slopes>,
    ) -> Result<E::Tensor> {
        let ExpertsTrace { routing, experts } = trace;
        let dx = e.memory().zeros(&[routing.rows(), self.hidden], Precision::Compute)?;
        let weights = Weights::new(e, &routing)?;
        let d_weights = e.memory().zeros(&[weights.count, 1], Precision::Full)?;
        let mut first = 0;
        for ((group, weights), trace) in routing.groups.iter().zip(weights.of_groups()).zip(experts) {
            let (expert, weights) = (&self.experts[group.expert], weights?);
            let activated = expert.activated(e, &trace)?;
            let weighted = e.scale_rows(&activated, &weights)?;
            let d_weighted =
                expert.down.backward(e, p, &weighted, &e.gather(upstream, &group.rows)?, None)?;
            let places: Vec<u32> = (first..).take(group.rows.len()).collect();
            first += group.rows.len() as u32;
            e.scatter_add(&d_weights, &places, &e.row_dots(&d_weighted, &activated)?)?;
            let d_activated = e.scale_rows(&d_weighted, &weights)?;
            let input = e.gather(x, &group.rows)?;
            e.scatter_add(&dx, &group.rows, &expert.project_backward(e, p, &input, &trace, &d_activated)?)?;
        }
        let d_scores = routing.backward(&e.memory().download(&d_weights)?, of_loss);
        let shape = [routing.rows(), self.experts.len()];
        let d_scores = e.memory().upload(d_scores, &shape, Precision::Compute)?;
        self.router.backward(e, p, x, &d_scores, Some(dx))
    }

    fn routing(&self, scores: &[f32]) -> Routing {
        let count = self.experts.len();
        #[cfg(feature = "conformance")]
        if let Some(held) = &self.held {
            return Routing::with(scores, count, self.normalised, held);
        }
        Routing::new(scores, count, self.chosen, self.normalised)
    }
}

#[cfg(feature = "conformance")]
impl<T> ExpertsTrace<T> {
    /// The experts of each row.
    pub fn choices(&self) -> Vec<Vec<usize>> {
        let mut choices = vec![Vec::new(); self.routing.rows()];
        for group in &self.routing.groups {
            group.rows.iter().for_each(|&row| choices[row as usize].push(group.expert));
        }
        choices
    }
}

/// The weights of all rows of all experts, group by group.
struct Weights<'r, 'e, E: Engine> {
    e: &'e E,
    routing: &'r Routing,
    count: usize,
    all: E::Tensor,
}

impl<'r, 'e, E: Engine> Weights<'r, 'e, E> {
    fn new(e: &'e E, routing: &'r Routing) -> Result<Self> {
        let weights = routing.weights();
        let count = weights.len();
        Ok(Weights { e, routing, count, all: e.memory().upload(weights, &[count, 1], Precision::Compute)? })
    }

    /// Those of each group, `[rows, 1]`.
    fn of_groups(&self) -> impl Iterator<Item = Result<E::Tensor>> {
        let mut start = 0;
        self.routing.groups.iter().map(move |group| {
            let view = self.e.memory().view(&self.all, start, &[group.rows.len(), 1]);
            start += group.rows.len();
            view
        })
    }
}
