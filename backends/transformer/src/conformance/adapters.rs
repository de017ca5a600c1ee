//! Adapters.

use spo_api::{
    Adapter, Export, Lora, ModelSource, ModelSpec, Session, Statistics, Targets, Update, Vector, VectorSpace,
};

use super::models::{adapter, configurations, random};
use super::optimizer::adamw;
use super::sharing::unshared;
use super::support::{batch, derivative_along, distance, gradient, loss, norm, open, scratch, wave, worst};
use crate::engine::Engine;
use crate::session::{Options, TransformerSession};

/// Training an adapter changes no other parameter, and allocates no other gradients.
pub fn adapters_leave_the_rest_alone<E: Engine>(engine: impl Fn() -> E) {
    for (name, config) in configurations() {
        let mut bare = open(engine(), &random(&config, None), Options::default());
        let expected = bare.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        let spec = random(&config, Some(adapter()));
        let mut session =
            TransformerSession::open(engine(), &spec, Options::default()).expect("a valid model");
        assert!(session.trained().all(|(tensor, _)| tensor.contains(".lora_")), "{name}");
        assert_eq!(session.info().parameters, bare.info().parameters + session.info().trainable);
        let fresh = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        assert_eq!(fresh, expected, "{name}: an adapter begins as the identity");

        gradient(&mut session, &batch());
        assert!(session.adopt_optimizer(Some(&adamw(0.1, true))).expect("a kernel"));
        session.optimize(&Update { lr: 0.1, gradient_scale: 1.0, count: 1 }).expect("an update");
        let moved = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        assert!(moved != expected, "{name}");
        session.zero(Vector::PARAMETERS).expect("a vector");
        let off = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        assert_eq!(off, expected, "{name}: without the adapter");
    }
}

/// Experts have adapters, but none with magnitudes; and where PEFT would leave adapters out, a remark says so.
pub fn experts_are_adapted<E: Engine>(engine: impl Fn() -> E) {
    for (name, config) in configurations().into_iter().filter(|(name, _)| name.starts_with("qwen3_moe")) {
        let session = open(engine(), &random(&config, Some(adapter())), Options::default());
        let names: Vec<&str> = session.trained().map(|(name, _)| name).collect();
        for part in ["mlp.gate", "mlp.experts.0.gate_proj", "mlp.experts.2.down_proj"] {
            let adapted = format!("model.layers.1.{part}.lora_A.weight");
            assert!(names.contains(&adapted.as_str()), "{name}: {adapted}");
        }
        let dense =
            session.info().remarks.iter().any(|remark| remark.contains("model.layers.0.mlp.gate_proj"));
        assert_eq!(dense, name.contains("first layer"), "{name}");

        let dora = Adapter::New(Lora { dora: true, ..Lora::new(3, 6.0, Targets::ALL) });
        let refused = TransformerSession::open(engine(), &random(&config, Some(dora)), Options::default());
        assert!(refused.err().is_some_and(|e| e.to_string().contains("`dora` is not for experts")), "{name}");
    }
}

/// An adapter with magnitudes begins as the identity. Merged, it scores as in training, and the gradient of every
/// magnitude agrees with central differences. (Those of A and B hold norms constant, so no differences are theirs.)
pub fn magnitudes_scale_rows<E: Engine>(engine: impl Fn() -> E) {
    for (name, config) in configurations()
        .into_iter()
        .filter(|(name, _)| ["llama with biases, tied, linear rope", "gpt2"].contains(name))
    {
        let adapter = Adapter::New(Lora { dora: true, ..Lora::new(3, 6.0, Targets::ALL) });
        let spec = random(&config, Some(adapter));
        let scores = |session: &mut TransformerSession<E>| {
            session.log_probs(&batch(), Statistics::default()).expect("a valid batch").values
        };
        let bare = scores(&mut open(engine(), &random(&config, None), Options::default()));
        let mut session =
            TransformerSession::open(engine(), &spec, Options::default()).expect("a valid model");
        assert_eq!(scores(&mut session), bare, "{name}");
        assert!(!session.info().hessian_vectors);

        let mut values = session.read(Vector::PARAMETERS).expect("a vector");
        values.iter_mut().zip(wave(session.dimension(), 0.2)).for_each(|(value, moved)| *value += moved);
        session.write(Vector::PARAMETERS, &values).expect("as many values");
        let folder = scratch();
        session.save(folder.path(), Export::Model).expect("a writable folder");
        let source = ModelSource::Folder(folder.path().to_owned());
        let merged = ModelSpec { source, adapter: None, ..spec };
        let mut merged =
            TransformerSession::open(engine(), &merged, Options::default()).expect("a valid model");
        let error = worst(&scores(&mut session), &scores(&mut merged));
        assert!(error < 2e-5, "{name}: merged {error}");

        let (slopes, _) = gradient(&mut session, &batch());
        let magnitudes: Vec<bool> = session
            .trained()
            .flat_map(|(name, n)| std::iter::repeat_n(name.ends_with("magnitude_vector"), n))
            .collect();
        let direction: Vec<f32> = wave(values.len(), 1.0)
            .iter()
            .zip(&magnitudes)
            .map(|(v, &is)| if is { *v } else { 0.0 })
            .collect();
        let along: f64 = slopes.iter().zip(&direction).map(|(g, v)| f64::from(*g) * f64::from(*v)).sum();
        const STEP: f32 = 2e-3;
        let [ahead, behind] = [STEP, -STEP].map(|step| {
            let moved: Vec<f32> = values.iter().zip(&direction).map(|(x, v)| x + step * v).collect();
            session.write(Vector::PARAMETERS, &moved).expect("as many values");
            loss(&mut session, &batch())
        });
        let difference = (ahead - behind) / f64::from(2.0 * STEP);
        assert!(
            (along - difference).abs() < 5e-3 * along.abs(),
            "{name}: {along}, by differences {difference}"
        );
    }
}

/// What is dropped depends on the seed and the tokens alone: the gradient with a seed agrees with central differences with the
/// same one, and sharing a prompt or computing blocks again changes nothing. Without a seed, nothing is dropped.
pub fn dropout_is_that_of_its_seed<E: Engine>(engine: impl Fn() -> E) {
    for (name, config) in configurations()
        .into_iter()
        .filter(|(name, _)| ["llama with biases, tied, linear rope", "gpt2", "phi3"].contains(name))
    {
        let targets = Targets::Names(vec![Targets::ALL.into(), "lm_head".into()]);
        let adapter = Adapter::New(Lora { dropout: 0.3, ..Lora::new(3, 6.0, targets) });
        let spec = random(&config, Some(adapter));
        let mut session = open(engine(), &spec, Options::default());
        assert!(!session.info().hessian_vectors, "{name}");
        let whole = loss(&mut session, &batch());
        session.drop_out(Some(5)).expect("an engine");
        let (expected, scored) = gradient(&mut session, &batch());
        let dropped = loss(&mut session, &batch());
        assert!((whole - dropped).abs() > 1e-3, "{name}: {whole} {dropped}");
        let again = session.log_probs(&batch(), Statistics::default()).expect("a valid batch").values;
        assert_eq!(again, scored, "{name}: scoring in a training step");

        let (apart, unshared_scores) = gradient(&mut session, &unshared(&batch()));
        let error = distance(&expected, &apart) / norm(&apart);
        assert!(worst(&scored, &unshared_scores) < 1e-5 && error < 1e-4, "{name}: {error}");
        let mut recomputed = open(engine(), &spec, Options { checkpoint: true, ..Options::default() });
        recomputed.drop_out(Some(5)).expect("an engine");
        assert_eq!(gradient(&mut recomputed, &batch()).0, expected, "{name}");

        let arbitrary = wave(expected.len(), 1.0);
        for direction in [&expected, &arbitrary] {
            let scale = 1.0 / norm(direction);
            let along = expected.iter().zip(direction).map(|(&g, &d)| f64::from(g) * f64::from(d) * scale);
            let slope: f64 = along.sum();
            let difference = derivative_along(&mut session, direction, |session| loss(session, &batch()));
            let error = (difference - slope).abs();
            assert!(
                error < 1e-2 * norm(&expected),
                "{name}: gradient {slope}, finite difference {difference}"
            );
        }
        session.drop_out(Some(6)).expect("an engine");
        assert!((loss(&mut session, &batch()) - dropped).abs() > 1e-3, "{name}: another seed");
        session.drop_out(None).expect("an engine");
        assert_eq!(loss(&mut session, &batch()), whole, "{name}");
    }
}
