//! Norms and activations of every kind, including those that no architecture uses yet.

use super::support::wave;
use crate::engine::{Activation, Engine, Memory, Norm, NormKind, Precision};

const ROWS: usize = 5;
const WIDTH: usize = 12;

/// The gradients with respect to every operand agree with central differences along an arbitrary direction.
pub fn operations_agree_with_finite_differences<E: Engine>(engine: impl Fn() -> E) {
    let engine = &engine();
    for kind in [NormKind::Rms, NormKind::Layer] {
        for biased in [false, true] {
            norm(engine, kind, biased);
        }
    }
    for f in [Activation::Silu, Activation::GeluTanh, Activation::Gelu] {
        activations(engine, f);
    }
}

fn norm<E: Engine>(engine: &E, kind: NormKind, biased: bool) {
    let of = |[x, weight, bias]: [&E::Tensor; 3]| {
        let norm = Norm { kind, epsilon: 1e-3, offset: 0.3, weight, bias: biased.then_some(bias) };
        engine.norm(x, norm).expect("a norm")
    };
    let values = [wave(ROWS * WIDTH, 1.0), wave(WIDTH, 0.5), wave(WIDTH, 0.2)];
    let shapes = [&[ROWS, WIDTH][..], &[WIDTH], &[WIDTH]];
    let [x, weight, bias] = upload(engine, &values, shapes);
    let upstream = upstream(engine);
    let zeros = || engine.memory().zeros(&[WIDTH], Precision::Full).expect("memory");
    let (d_weight, d_bias) = (zeros(), zeros());
    let norm = Norm { kind, epsilon: 1e-3, offset: 0.3, weight: &weight, bias: biased.then_some(&bias) };
    let gradients = [Some(&d_weight), biased.then_some(&d_bias)];
    let dx = engine.norm_backward(&x, norm, &upstream, gradients).expect("a gradient");
    compare(engine, &format!("{kind:?}, bias: {biased}"), of, &values, shapes, [&dx, &d_weight, &d_bias]);
}

fn activations<E: Engine>(engine: &E, f: Activation) {
    let shapes = [&[ROWS, WIDTH][..]; 2];
    let values = [wave(ROWS * WIDTH, 3.0), wave(ROWS * WIDTH, 1.3)];
    let [x, up] = upload(engine, &values, shapes);
    let upstream = upstream(engine);

    let plain = |[x]: [&E::Tensor; 1]| engine.activate(f, x).expect("an activation");
    let dx = engine.activate_backward(f, &x, &upstream).expect("a gradient");
    let [values_of_x, _] = &values;
    compare(engine, &format!("{f:?}"), plain, std::array::from_ref(values_of_x), [shapes[0]], [&dx]);

    let gated = |[gate, up]: [&E::Tensor; 2]| engine.gate(f, gate, up).expect("an activation");
    let [d_gate, d_up] = engine.gate_backward(f, &x, &up, &upstream).expect("a gradient");
    compare(engine, &format!("{f:?}, gated"), gated, &values, shapes, [&d_gate, &d_up]);
}

fn upload<E: Engine, const N: usize>(
    engine: &E,
    values: &[Vec<f32>; N],
    shapes: [&[usize]; N],
) -> [E::Tensor; N] {
    let tensor = |i: usize| engine.memory().upload(values[i].clone(), shapes[i], Precision::Full);
    std::array::from_fn(|i| tensor(i).expect("memory"))
}

/// The upstream gradient of a result.
fn upstream<E: Engine>(engine: &E) -> E::Tensor {
    let values = wave(ROWS * WIDTH, 0.8).into_iter().rev().collect();
    engine.memory().upload(values, &[ROWS, WIDTH], Precision::Full).expect("memory")
}

/// The derivative of `<operation(values), upstream>` with respect to each operand: from its gradient, and
/// from differences.
fn compare<E: Engine, const N: usize>(
    engine: &E,
    name: &str,
    operation: impl Fn([&E::Tensor; N]) -> E::Tensor,
    values: &[Vec<f32>; N],
    shapes: [&[usize]; N],
    gradients: [&E::Tensor; N],
) {
    let upstream = upstream(engine);
    for operand in 0..N {
        let direction = wave(values[operand].len(), 1.0);
        let gradient = engine.memory().download(gradients[operand]).expect("values");
        let slope: f64 = gradient.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
        let at = |step: f32| {
            let mut moved = values.clone();
            moved[operand].iter_mut().zip(&direction).for_each(|(x, d)| *x += step * d);
            let tensors = upload(engine, &moved, shapes);
            engine.dot(&operation(tensors.each_ref()), &upstream).expect("a number")
        };
        let h = 0.02;
        let difference = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * f64::from(h));
        let error = (slope - difference).abs();
        assert!(error < 1e-3 * slope.abs().max(1.0), "{name}, operand {operand}: {slope}, {difference}");
    }
}
