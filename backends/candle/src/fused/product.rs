//! Matrix products of tensors.

use candle_core::{Device, Result, Tensor, bail};
use spo_transformer::Mat;

use super::gemm::{Target, Threads, View, multiplied, product};
use super::slices::{Values, write};
use super::vector::add_bias;

fn view<'a>(values: &'a Values<'_>, of: Mat<'_, Tensor>) -> Result<View<'a>> {
    let (rows, columns) = of.tensor.dims2()?;
    let view = View::new(values, rows, columns);
    Ok(if of.transposed { view.t() } else { view })
}

pub(super) fn matmul(a: Mat<'_, Tensor>, b: Mat<'_, Tensor>) -> Result<Tensor> {
    let (a_values, b_values) = (Values::widened(a.tensor)?, Values::widened(b.tensor)?);
    let (a, b) = (view(&a_values, a)?, view(&b_values, b)?);
    Tensor::from_vec(multiplied(a, b), (a.rows, b.columns), &Device::Cpu)
}

pub(super) fn linear(x: &Tensor, w: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let (x_values, w_values) = (Values::of(x)?, Values::widened(w)?);
    let (x, w) = (view(&x_values, Mat::new(x))?, view(&w_values, Mat::t(w))?);
    let mut y = multiplied(x, w);
    if let Some(bias) = bias {
        add_bias(&mut y, bias)?;
    }
    Tensor::from_vec(y, (x.rows, w.columns), &Device::Cpu)
}

pub(super) fn matmul_add(into: &Tensor, scale: f64, a: Mat<'_, Tensor>, b: Mat<'_, Tensor>) -> Result<()> {
    let (a_values, b_values) = (Values::widened(a.tensor)?, Values::widened(b.tensor)?);
    let (a, b) = (view(&a_values, a)?, view(&b_values, b)?);
    let (rows, stride) = into.dims2()?;
    if (rows, stride) != (a.rows, b.columns) {
        bail!("a product {}x{} does not fit {rows}x{stride}", a.rows, b.columns);
    }
    write(into, |values: &mut [f32]| {
        product(Target { values, stride }, 1.0, scale as f32, a, b, Threads::All);
        Ok(())
    })
}
