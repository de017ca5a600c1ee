//! Parameter space.

use spo_api::{Session, Vector};

use super::models::{random, tiny};
use super::support::{batch, loss, open};
use crate::config::ModelType;
use crate::engine::Engine;
use crate::session::Options;

/// Parameter space is a vector space, handles are safe to mix, and the model follows its parameters.
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
