//! Operations of every kind, including those that no architecture uses yet.

use spo_api::Statistics;

use super::support::{wave, worst};
use crate::engine::{
    Activation, Attention, Cluster, Engine, Head, Heads, Memory, Norm, NormKind, Pairs, Precision, Rotation,
    Span,
};

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
    rows_by_factors(engine);
    for pairs in [Pairs::Halves, Pairs::Neighbours] {
        rotations(engine, pairs);
    }
    for cap in [None, Some(0.8)] {
        for window in [None, Some(1), Some(3), Some(70)] {
            attention(engine, cap, window);
        }
        for biased in [false, true] {
            [0, 2].into_iter().for_each(|extra| head(engine, cap, biased, extra));
        }
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

/// Rows times factors, whose gradient is that of the factors.
fn rows_by_factors<E: Engine>(engine: &E) {
    let shapes = [&[ROWS, WIDTH][..], &[ROWS, 1]];
    let values = [wave(ROWS * WIDTH, 1.0), wave(ROWS, 0.8)];
    let [x, factors] = upload(engine, &values, shapes);
    let upstream = upstream(engine);
    let dx = engine.scale_rows(&upstream, &factors).expect("rows");
    let d_factors = engine.row_dots(&upstream, &x).expect("sums of products");
    let of = |[x, factors]: [&E::Tensor; 2]| engine.scale_rows(x, factors).expect("rows");
    compare(engine, "rows by factors", of, &values, shapes, [&dx, &d_factors]);
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

/// Two of three pairs of each head are rotated, with a factor.
fn rotations<E: Engine>(engine: &E, pairs: Pairs) {
    const DIM: usize = 6;
    let angles = wave(ROWS * 2, 3.0);
    let table = |f: fn(f32) -> f32| {
        let values = angles.iter().map(|&a| 1.25 * f(a)).collect();
        engine.memory().upload(values, &[ROWS, 2], Precision::Full).expect("memory")
    };
    let rotation = Rotation { cos: table(f32::cos), sin: table(f32::sin), dim: DIM, pairs };
    let values = [wave(ROWS * WIDTH, 1.0)];
    let rotate = |[x]: [&E::Tensor; 1]| engine.rope(x, &rotation, false).expect("a rotation");
    let [x] = upload(engine, &values, [&[ROWS, WIDTH]]);
    let found = engine.memory().download(&rotate([&x])).expect("values");
    for (i, (&angle, x)) in angles.iter().zip(std::iter::repeat(&values[0])).enumerate() {
        let (row, pair) = (i / 2, i % 2);
        for head in 0..WIDTH / DIM {
            let start = row * WIDTH + head * DIM;
            let [a, b] = match pairs {
                Pairs::Halves => [start + pair, start + pair + 2],
                Pairs::Neighbours => [start + 2 * pair, start + 2 * pair + 1],
            };
            let (sin, cos) = angle.sin_cos();
            let expected = [x[a] * cos - x[b] * sin, x[b] * cos + x[a] * sin].map(|y| 1.25 * y);
            assert!(
                (found[a] - expected[0]).abs() + (found[b] - expected[1]).abs() < 1e-5,
                "{pairs:?}, {row}"
            );
            assert_eq!(found[start + 4..start + DIM], x[start + 4..start + DIM], "{pairs:?}: the rest");
        }
    }
    let dx = engine.rope(&upstream(engine), &rotation, true).expect("a gradient");
    compare(engine, &format!("rotation of {pairs:?}"), rotate, &values, [&[ROWS, WIDTH]], [&dx]);
}

/// A prompt of 9 tokens with two continuations; and the last 80 tokens of 83, whose keys are in a cache.
fn clusters() -> Vec<Cluster> {
    let own = |rows: std::ops::Range<usize>| Span { queries: rows.clone(), prefix: 0..9, own: rows };
    let prompt = Span { queries: 0..9, prefix: 0..0, own: 0..9 };
    let later = Span { queries: 20..100, prefix: 20..20, own: 20..103 };
    vec![
        Cluster { queries: 0..20, keys: 0..20, spans: vec![prompt, own(9..16), own(16..20)] },
        Cluster { queries: 20..100, keys: 20..103, spans: vec![later] },
    ]
}

fn attention<E: Engine>(engine: &E, cap: Option<f64>, window: Option<usize>) {
    let heads = Heads { heads: 4, kv_heads: 2, dim: 3 };
    let how = Attention { heads, scale: 0.9, cap, window };
    let clusters = clusters();
    let shapes = [&[100, 12][..], &[103, 6], &[103, 6]];
    let values = [wave(1200, 1.5), wave(618, 1.1), wave(618, 0.7)];
    let name = format!("attention, cap {cap:?}, window {window:?}");
    let attend = |[q, k, v]: [&E::Tensor; 3]| engine.attention(q, k, v, &how, &clusters).expect("attention");

    let tensors = upload(engine, &values, shapes);
    let out = attend(tensors.each_ref());
    let found: Vec<f64> =
        engine.memory().download(&out).expect("values").into_iter().map(f64::from).collect();
    let error = worst(&found, &by_definition(&values, &how, &clusters));
    assert!(error < 1e-5, "{name}: {error}");

    let upstream = upstream_of(engine, &[100, 12]);
    let gradients =
        engine.attention_backward(tensors.each_ref(), &out, &upstream, &how, &clusters).expect("gradients");
    compare(engine, &name, attend, &values, shapes, gradients.each_ref());
}

/// Attention query by query.
fn by_definition([q, k, v]: &[Vec<f32>; 3], how: &Attention, clusters: &[Cluster]) -> Vec<f64> {
    let Heads { heads, kv_heads, dim } = how.heads;
    let at = |x: &[f32], width: usize, row: usize, head: usize, i: usize| {
        f64::from(x[row * width + head * dim + i])
    };
    let mut out = vec![0.0; q.len()];
    for span in clusters.iter().flat_map(|cluster| &cluster.spans) {
        let keys: Vec<usize> = span.prefix.clone().chain(span.own.clone()).collect();
        for (i, query) in span.queries.clone().enumerate() {
            // The query's own key, and as many before it as the window allows.
            let last = keys.len() - span.queries.len() + i;
            let first = how.window.map_or(0, |window| (last + 1).saturating_sub(window));
            for head in 0..heads {
                let kv = head / (heads / kv_heads);
                let score = |&key: &usize| {
                    let product = (0..dim)
                        .map(|i| at(q, heads * dim, query, head, i) * at(k, kv_heads * dim, key, kv, i));
                    let score = how.scale * product.sum::<f64>();
                    how.cap.map_or(score, |cap| cap * (score / cap).tanh()).exp()
                };
                let total: f64 = keys[first..=last].iter().map(score).sum();
                for key in &keys[first..=last] {
                    for i in 0..dim {
                        out[query * heads * dim + head * dim + i] +=
                            score(key) / total * at(v, kv_heads * dim, *key, kv, i);
                    }
                }
            }
        }
    }
    out
}

/// `extra` is the number of columns that a low-rank addition reads.
fn head<E: Engine>(engine: &E, cap: Option<f64>, biased: bool, extra: usize) {
    const TOKENS: usize = 7;
    let shapes = [&[ROWS, WIDTH + extra][..], &[TOKENS, WIDTH], &[TOKENS], &[TOKENS, extra.max(1)]];
    let values =
        [0.6, 0.5, 0.4, 0.3].into_iter().zip(shapes).map(|(size, shape)| wave(shape.iter().product(), size));
    let values: [Vec<f32>; 4] = values.collect::<Vec<_>>().try_into().expect("four");
    let targets: Vec<u32> = (0..ROWS as u32).map(|i| i * 3 % TOKENS as u32).collect();
    let weights = [0.7, -1.1, 0.0, 1.3, -0.2];
    fn of<T>([_, weight, bias, b]: &[T; 4], biased: bool, extra: usize, cap: Option<f64>) -> Head<&T> {
        Head { weight, blocks: None, bias: biased.then_some(bias), low_rank: (extra > 0).then_some(b), cap }
    }
    let tensors = upload(engine, &values, shapes);
    let (hidden, head) = (&tensors[0], of(&tensors, biased, extra, cap));
    let scores = engine.score(hidden, head, &targets, Statistics::default()).expect("scores");
    let zeros = |shape: &[usize]| engine.memory().zeros(shape, Precision::Full).expect("memory");
    let (d_weight, d_bias, d_low_rank) = (zeros(shapes[1]), zeros(shapes[2]), zeros(shapes[3]));
    let d_hidden = engine
        .score_backward(
            hidden,
            head,
            &targets,
            &scores.log_normalizers,
            &weights,
            [Some(&d_weight), biased.then_some(&d_bias), (extra > 0).then_some(&d_low_rank)],
        )
        .expect("a gradient");
    for (operand, gradient) in [&d_hidden, &d_weight, &d_bias, &d_low_rank].into_iter().enumerate() {
        let direction = wave(values[operand].len(), 1.0);
        let gradient = engine.memory().download(gradient).expect("values");
        let slope: f64 = gradient.iter().zip(&direction).map(|(&g, &d)| f64::from(g) * f64::from(d)).sum();
        let at = |step: f32| -> f64 {
            let mut moved = values.clone();
            moved[operand].iter_mut().zip(&direction).for_each(|(x, d)| *x += step * d);
            let tensors = upload(engine, &moved, shapes);
            let head = of(&tensors, biased, extra, cap);
            let scores = engine.score(&tensors[0], head, &targets, Statistics::default());
            scores.expect("scores").log_probs.iter().zip(weights).map(|(l, w)| l * w).sum()
        };
        let h = 0.02;
        let difference = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * f64::from(h));
        let error = (slope - difference).abs();
        assert!(error < 1e-3 * slope.abs().max(1.0), "head, cap {cap:?}, {operand}: {slope}, {difference}");
    }
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
    upstream_of(engine, &[ROWS, WIDTH])
}

fn upstream_of<E: Engine>(engine: &E, shape: &[usize]) -> E::Tensor {
    let values = wave(shape.iter().product(), 0.8).into_iter().rev().collect();
    engine.memory().upload(values, shape, Precision::Full).expect("memory")
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
    let result = operation(upload(engine, values, shapes).each_ref());
    let elements = engine.memory().download(&result).expect("values").len();
    let rows = shapes[0][0];
    let upstream = upstream_of(engine, &[rows, elements / rows]);
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
