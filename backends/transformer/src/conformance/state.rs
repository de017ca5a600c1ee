//! Training that is interrupted.

use spo_api::{AdamW, Session, Vector, VectorSpace};

use super::models::cases;
use super::support::{batch, gradient, open, scratch};
use crate::engine::Engine;
use crate::session::{Options, TransformerSession};

/// A state that is taken back, here or in another session, continues to the last bit; a damaged one, or one
/// of another model, is refused and changes nothing.
pub fn a_restored_state_continues_exactly<E: Engine>(engine: impl Fn() -> E) {
    continues_exactly(engine, Options::default());
}

/// The same with moments in bf16, for engines that have them.
pub fn a_restored_state_with_half_moments_continues_exactly<E: Engine>(engine: impl Fn() -> E) {
    continues_exactly(engine, Options { half_moments: true, ..Options::default() });
}

fn continues_exactly<E: Engine>(engine: impl Fn() -> E, options: Options) {
    let scratch = scratch();
    let folder = scratch.path();
    let step = AdamW {
        lr: 0.01,
        beta1: 0.9,
        beta2: 0.99,
        epsilon: 1e-8,
        weight_decay: 0.1,
        exempt_bias_and_norm: true,
        gradient_scale: 1.0,
    };
    let train = |session: &mut TransformerSession<E>| {
        gradient(session, &batch());
        session.optimizer_step(&step).expect("a step");
    };
    let mut other: Option<std::path::PathBuf> = None;
    for (i, (name, spec)) in cases().into_iter().enumerate() {
        let everything = |session: &TransformerSession<E>, kept: Vector| {
            [Vector::PARAMETERS, kept].map(|v| session.read(v).expect("a vector"))
        };
        let file = folder.join(format!("{i}.state"));
        let mut session = open(engine(), &spec, options);
        let fresh = session.read(Vector::PARAMETERS).expect("parameters");
        train(&mut session);
        let released = session.allocate().expect("memory");
        let kept = session.allocate().expect("memory");
        session.copy(Vector::PARAMETERS, kept).expect("vectors");
        session.release(released);
        train(&mut session);
        session.save_state(&file).expect("a writable folder");
        train(&mut session);
        let expected = everything(&session, kept);

        let mut again = open(engine(), &spec, options);
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
            train(session);
            assert_eq!(everything(session, kept), expected, "{name}");
        }
        assert!(kept == stray || again.read(stray).is_err(), "{name}: a vector of before is still there");

        // Without moments.
        session.reset_optimizer();
        session.save_state(&file).expect("a writable folder");
        train(&mut session);
        again.restore_state(&file).expect("its own state");
        train(&mut again);
        assert_eq!(everything(&again, kept), everything(&session, kept), "{name}: moments were forgotten");
        other = Some(file);
    }
}
