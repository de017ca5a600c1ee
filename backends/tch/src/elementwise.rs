//! Operations on each element of vectors.

use spo_api::{Combine, Map};
use tch::{Kind, TchError, Tensor};

use crate::tensor::Outcome;

pub(crate) fn map(f: Map, into: &Tensor) -> Outcome<()> {
    let mut target = into.shallow_clone();
    let written = match f {
        Map::Add(a) => target.f_add_scalar_(a),
        // By a number of the host libtorch would multiply with its reciprocal on GPUs.
        Map::Divide(a) => target.f_div_(&Tensor::f_full([], a, (Kind::Float, into.device()))?),
        Map::SquareRoot => target.f_sqrt_(),
        Map::Sign => {
            // libtorch's sign of NaN is 0.
            let sign = into.f_sign()?.f_where_self(&into.f_eq_tensor(into)?, into)?;
            return target.f_copy_(&sign);
        }
        Map::Absolute => target.f_abs_(),
        other => Err(unknown(&other)),
    };
    written.map(drop)
}

pub(crate) fn combine(op: Combine, into: &Tensor, x: &Tensor) -> Outcome<()> {
    let mut target = into.shallow_clone();
    let written = match op {
        Combine::Multiply => target.f_mul_(x),
        Combine::Divide => target.f_div_(x),
        Combine::Maximum => return target.f_copy_(&into.f_maximum(x)?),
        other => Err(unknown(&other)),
    };
    written.map(drop)
}

fn unknown(operation: &dyn std::fmt::Debug) -> TchError {
    TchError::Torch(format!("{operation:?} is unknown to it"))
}
