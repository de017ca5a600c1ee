//! One training step: rows become a bilevel problem, which a bilevel step solves.

mod curvature;
pub(crate) mod loss;
pub(crate) mod observation;
pub(crate) mod problem;
pub(crate) mod rows;
mod slope;
