//! The second layer of a block: one MLP, or experts.

use spo_api::Result;

use super::balance::Slopes;
use super::experts::{Experts, ExpertsTrace};
use super::linear::Linear;
use super::mlp::{Mlp, MlpTrace};
use crate::engine::Engine;
use crate::parameters::Parameters;

#[derive(Clone, Debug)]
pub(crate) enum FeedForward {
    Dense(Mlp),
    Sparse(Experts),
}

/// What the backward pass of the layer needs.
pub(crate) enum FeedForwardTrace<T> {
    Dense(MlpTrace<T>),
    Sparse(ExpertsTrace<T>),
}

impl FeedForward {
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            FeedForward::Dense(mlp) => mlp.linears_mut().collect(),
            FeedForward::Sparse(experts) => experts.linears_mut().collect(),
        }
    }

    /// Elements per token that the backward pass needs.
    pub fn traced(&self) -> usize {
        match self {
            FeedForward::Dense(mlp) => mlp.traced(),
            FeedForward::Sparse(experts) => experts.traced(),
        }
    }

    pub fn forward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
    ) -> Result<(E::Tensor, FeedForwardTrace<E::Tensor>)> {
        Ok(match self {
            FeedForward::Dense(mlp) => {
                let (y, trace) = mlp.forward(e, p, x)?;
                (y, FeedForwardTrace::Dense(trace))
            }
            FeedForward::Sparse(experts) => {
                let (y, trace) = experts.forward(e, p, x)?;
                (y, FeedForwardTrace::Sparse(trace))
            }
        })
    }

    /// `x` must be the input of the forward pass; `of_loss` is the gradient of the routers' loss, if it counts.
    pub fn backward<E: Engine>(
        &self,
        e: &E,
        p: &Parameters<E>,
        x: &E::Tensor,
        trace: FeedForwardTrace<E::Tensor>,
        upstream: &E::Tensor,
        of_loss: Option<&Slopes>,
    ) -> Result<E::Tensor> {
        match (self, trace) {
            (FeedForward::Dense(mlp), FeedForwardTrace::Dense(trace)) => {
                mlp.backward(e, p, x, trace, upstream)
            }
            (FeedForward::Sparse(experts), FeedForwardTrace::Sparse(trace)) => {
                experts.backward(e, p, x, trace, upstream, of_loss)
            }
            _ => unreachable!("a trace is that of the layer that made it"),
        }
    }
}
