//! candle's own backward pass, through a second forward of one operation.

use candle_core::{Result, Tensor, Var};

/// Vector-Jacobian product of `f` at `inputs`.
pub(super) fn vjp<const N: usize>(
    inputs: [&Tensor; N],
    upstream: &Tensor,
    f: impl Fn([&Tensor; N]) -> Result<Tensor>,
) -> Result<[Tensor; N]> {
    let variables = inputs.map(Var::from_tensor);
    let mut leaves = Vec::with_capacity(N);
    for variable in variables {
        leaves.push(variable?);
    }
    let leaves: [Var; N] = leaves.try_into().expect("one leaf per input");
    let y = f(leaves.each_ref().map(candle_core::Var::as_tensor))?;
    let gradients = (y * upstream)?.sum_all()?.backward()?;
    let mut results = Vec::with_capacity(N);
    for leaf in &leaves {
        results.push(match gradients.get(leaf) {
            Some(gradient) => gradient.clone(),
            None => candle_core::bail!("an operation of candle lost its gradient"),
        });
    }
    Ok(results.try_into().expect("one gradient per input"))
}
