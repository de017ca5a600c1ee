//! Parameter vectors: linear algebra and elementwise operations.

use spo_api::{Combine, Map, Session, Vector};

use super::models::{random, tiny};
use super::support::{batch, loss, open};
use crate::config::ModelType;
use crate::engine::Engine;
use crate::session::Options;

/// Vector operations are correct, invalid handles are rejected, and changes to the parameters change the
/// model.
pub fn vectors_behave<E: Engine>(engine: impl Fn() -> E) {
    let mut session = open(engine(), &random(&tiny(ModelType::Llama), None), Options::default());
    let start = session.read(Vector::PARAMETERS).expect("parameters");
    let before = loss(&mut session, &batch());
    let space = session.vectors();
    let (x, y) = (space.allocate().expect("memory"), space.allocate().expect("memory"));
    assert!(x != y && x != Vector::PARAMETERS && x != Vector::GRADIENT);
    assert_eq!(space.norm(x).expect("a vector"), 0.0);
    space.copy(Vector::PARAMETERS, x).expect("vectors");
    space.copy(x, y).expect("vectors");
    space.axpy(-3.0, x, y).expect("vectors"); // y = -2 x
    space.axpy(0.5, y, y).expect("vectors"); // y = -3 x
    let (xx, xy) = (space.dot(x, x).expect("vectors"), space.dot(x, y).expect("vectors"));
    let exact: f64 = start.iter().map(|&v| f64::from(v).powi(2)).sum();
    assert!(
        (xx - exact).abs() < 1e-6 * exact && (xy + 3.0 * exact).abs() < 1e-5 * exact,
        "{xx} {xy} {exact}"
    );
    space.scale(0.5, Vector::PARAMETERS).expect("a vector");
    assert!(loss(&mut session, &batch()) != before);
    let space = session.vectors();
    space.copy(x, Vector::PARAMETERS).expect("vectors");
    space.release(y);
    assert!(space.norm(y).is_err() && space.norm(Vector(99)).is_err());
    let z = space.allocate().expect("memory");
    assert!(z != x && space.norm(z).expect("a vector") == 0.0);
    assert_eq!(session.read(Vector::PARAMETERS).expect("parameters"), start);
    assert_eq!(loss(&mut session, &batch()), before);
}

/// Elementwise operations follow their definitions, including non-finite values and using the same vector
/// twice.
pub fn elementwise_operations_follow_their_definitions<E: Engine>(engine: impl Fn() -> E) {
    let mut session = open(engine(), &random(&tiny(ModelType::Qwen2), None), Options::default());
    let [x, y] = [(); 2].map(|()| session.vectors().allocate().expect("memory"));
    let special = [0.0, -0.0, 1.0, -2.5, 1e-30, -1e30, f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
    let n = session.vectors().dimension();
    let given: Vec<f32> = (0..n).map(|i| special.get(i).copied().unwrap_or((i as f32 * 0.7).sin())).collect();
    let other: Vec<f32> =
        (0..n).map(|i| special.get(i * 5 % 9).filter(|_| i < 81).copied().unwrap_or(0.3)).collect();
    let same = |what: &str, found: Vec<f32>, expected: &dyn Fn(usize) -> f32| {
        for (i, found) in found.into_iter().enumerate() {
            let expected = expected(i);
            let close = found == expected
                || found.is_nan() && expected.is_nan()
                || (found - expected).abs() <= 2e-7 * expected.abs();
            assert!(close, "{what}, {}, {}: {found}, expected {expected}", given[i], other[i]);
        }
    };
    type Function = fn(f32) -> f32;
    let sign: Function = |x| if x == 0.0 || x.is_nan() { x } else { x.signum() };
    let maps: [(Map, Function); 5] = [
        (Map::Add(0.25), |x| x + 0.25),
        (Map::Divide(3.0), |x| x / 3.0),
        (Map::SquareRoot, f32::sqrt),
        (Map::Sign, sign),
        (Map::Absolute, f32::abs),
    ];
    for (map, expected) in maps {
        session.write(x, &given).expect("as many values");
        session.vectors().map(map, x).expect("an operation");
        same(&format!("{map:?}"), session.read(x).expect("a vector"), &|i| expected(given[i]));
    }
    let maximum = |y: f32, x: f32| if y.is_nan() || x.is_nan() { f32::NAN } else { y.max(x) };
    for op in [Combine::Multiply, Combine::Divide, Combine::Maximum] {
        let expected = |y: f32, x: f32| match op {
            Combine::Multiply => y * x,
            Combine::Divide => y / x,
            _ => maximum(y, x),
        };
        session.write(x, &given).expect("as many values");
        session.write(y, &other).expect("as many values");
        session.vectors().combine(op, x, y).expect("an operation");
        same(&format!("{op:?}"), session.read(y).expect("a vector"), &|i| expected(other[i], given[i]));
        session.vectors().combine(op, x, x).expect("an operation");
        let itself = session.read(x).expect("a vector");
        same(&format!("{op:?} with itself"), itself, &|i| expected(given[i], given[i]));
    }
    session.write(x, &given).expect("as many values");
    session.vectors().decay(0.5, x).expect("an operation");
    let spared =
        |(name, n): (&str, usize)| std::iter::repeat_n(name.contains("norm") || name.ends_with("bias"), n);
    let spared: Vec<bool> = session.trained().flat_map(spared).collect();
    assert!(spared.contains(&true) && spared.contains(&false));
    same("decay", session.read(x).expect("a vector"), &|i| if spared[i] { given[i] } else { 0.5 * given[i] });
}
