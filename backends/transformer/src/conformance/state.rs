//! Interrupted training.

use spo_api::{Kernel, ModelSpec, Session, Update, Vector, VectorSpace};

use super::models::{cases, random, wide};
use super::optimizer::{adamw, in_8_bits};
use super::support::{batch, gradient, open, scratch};
use crate::engine::Engine;
use crate::session::{Options, TransformerSession};

/// Training continues bit for bit from a restored state, in the same session or another one. A damaged state,
/// or one of another model, is rejected and changes nothing.
pub fn a_restored_state_continues_exactly<E: Engine>(engine: impl Fn() -> E) {
    continues_exactly(engine, Options::default(), &adamw(0.1, false), cases());
}

/// The same with 8-bit moments.
pub fn a_restored_state_with_moments_in_8_bits_continues_exactly<E: Engine>(engine: impl Fn() -> E) {
    let large = ("wide".to_owned(), random(&wide(), None));
    let others = cases().into_iter().take(2);
    continues_exactly(engine, Options::default(), &in_8_bits(adamw(0.1, false)), others.chain([large]));
}

/// The same with bf16 moments, for engines that support them.
pub fn a_restored_state_with_half_moments_continues_exactly<E: Engine>(engine: impl Fn() -> E) {
    let half = Options { half_moments: true, ..Options::default() };
    continues_exactly(engine, half, &adamw(0.1, false), cases());
}

fn continues_exactly<E: Engine>(
    engine: impl Fn() -> E,
    options: Options,
    kernel: &Kernel,
    cases: impl IntoIterator<Item = (String, ModelSpec)>,
) {
    let scratch = scratch();
    let folder = scratch.path();
    let open = |spec: &ModelSpec| {
        let mut session = open(engine(), spec, options);
        assert!(session.adopt_optimizer(Some(kernel)).expect("a kernel"));
        session
    };
    let train = |session: &mut TransformerSession<E>, count: u64| {
        gradient(session, &batch());
        session.optimize(&Update { lr: 0.01, gradient_scale: 1.0, count }).expect("an update");
    };
    let mut other: Option<std::path::PathBuf> = None;
    for (i, (name, spec)) in cases.into_iter().enumerate() {
        let everything = |session: &TransformerSession<E>, kept: Vector| {
            [Vector::PARAMETERS, kept].map(|v| session.read(v).expect("a vector"))
        };
        let file = folder.join(format!("{i}.state"));
        let mut session = open(&spec);
        let fresh = session.read(Vector::PARAMETERS).expect("parameters");
        train(&mut session, 1);
        let released = session.allocate().expect("memory");
        let kept = session.allocate().expect("memory");
        session.copy(Vector::PARAMETERS, kept).expect("vectors");
        session.release(released);
        train(&mut session, 2);
        session.save_state(&file).expect("a writable folder");
        train(&mut session, 3);
        let expected = everything(&session, kept);

        let mut again = open(&spec);
        let stray = again.allocate().expect("memory");
        if let Some(other) = &other {
            assert!(again.restore_state(other).is_err(), "{name}: a state of another model");
        }
        let whole = std::fs::read(&file).expect("it was written");
        let damaged = folder.join(format!("{i}.damaged"));
        std::fs::write(&damaged, &whole[..whole.len() - 1]).expect("a writable folder");
        assert!(again.restore_state(&damaged).is_err(), "{name}: a state that was cut off");
        assert_eq!(again.read(Vector::PARAMETERS).expect("parameters"), fresh, "{name}: nothing is changed");
        for session in [&mut again, &mut session] {
            session.restore_state(&file).expect("its own state");
            train(session, 3);
            assert_eq!(everything(session, kept), expected, "{name}");
        }
        assert!(kept == stray || again.read(stray).is_err(), "{name}: a vector of before is still there");

        // A state of another optimizer; and a state saved before the first update, without moments.
        let elsewhere = Kernel { config: adamw(0.2, true).config, ..kernel.clone() };
        assert!(session.adopt_optimizer(Some(&elsewhere)).expect("a kernel"));
        let refused = session.restore_state(&file).expect_err("another rule").to_string();
        assert!(refused.contains("its optimizer is"), "{name}: {refused}");
        for session in [&mut again, &mut session] {
            assert!(session.adopt_optimizer(Some(kernel)).expect("a kernel"));
        }
        session.copy(kept, Vector::PARAMETERS).expect("vectors");
        session.save_state(&file).expect("a writable folder");
        train(&mut session, 1);
        again.restore_state(&file).expect("its own state");
        train(&mut again, 1);
        assert_eq!(everything(&again, kept), everything(&session, kept), "{name}: moments were forgotten");
        other = Some(file);
    }
}
