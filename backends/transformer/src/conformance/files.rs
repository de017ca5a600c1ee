//! Saving and opening models and adapters.

use safetensors::Dtype;
use spo_api::{Adapter, Export, ModelSource, ModelSpec, Session, Statistics};

use super::models::{adapter, cases, configurations, random};
use super::support::{batch, distance, gradient, norm, open, scratch, worst};
use crate::engine::Engine;
use crate::session::{Options, TransformerSession};

/// A saved model opens bit for bit. An adapter merged into the weights gives the same results as the adapter
/// itself.
pub fn saving_and_opening_are_inverse<E: Engine>(engine: impl Fn() -> E) {
    let scratch = scratch();
    let folder = scratch.path();
    for (i, (name, spec)) in cases().into_iter().enumerate() {
        let mut session = open(engine(), &spec, Options::default());
        let before = session.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        let model = folder.join(format!("{i}-model"));
        std::fs::create_dir(&model).expect("a folder");
        session.save(&model, Export::Model).expect("a writable folder");
        let mut again = spec.clone();
        again.source = ModelSource::Folder(model);
        again.adapter = None;
        let mut again = open(engine(), &again, Options::default());
        let after = again.log_probs(&batch(), Statistics::default()).expect("a valid batch");
        match &spec.adapter {
            None => assert_eq!(before, after, "{name}"),
            Some(_) => {
                let error = worst(&before.values, &after.values);
                assert!(error < 2e-5, "{name}: merged {error}");
                let saved = folder.join(format!("{i}-adapter"));
                std::fs::create_dir(&saved).expect("a folder");
                session.save(&saved, Export::Adapter).expect("a writable folder");
                let mut resumed = spec.clone();
                resumed.adapter = Some(Adapter::Saved { path: saved });
                let mut resumed = TransformerSession::open(engine(), &resumed, Options::default())
                    .expect("a valid adapter");
                let after = resumed.log_probs(&batch(), Statistics::default()).expect("a valid batch");
                assert_eq!(before, after, "{name}");
            }
        }
    }
}

/// Frozen bf16 matrices stay in bf16: the same results as with f32, in less memory.
pub fn frozen_halves_lose_nothing<E: Engine>(engine: impl Fn() -> E) {
    let scratch = scratch();
    let folder = scratch.path();
    for (i, (name, config)) in configurations().into_iter().enumerate() {
        let save = |session: &mut TransformerSession<E>, dtype: Dtype| {
            let model = folder.join(format!("{i}-{dtype:?}"));
            std::fs::create_dir(&model).expect("a folder");
            session.model.stored.iter_mut().for_each(|(_, stored)| *stored = dtype);
            session.save(&model, Export::Model).expect("a writable folder");
            ModelSpec { source: ModelSource::Folder(model), ..random(&config, None) }
        };
        let half = save(&mut open(engine(), &random(&config, None), Options::default()), Dtype::BF16);
        let full = save(&mut open(engine(), &half, Options::default()), Dtype::F32);
        let [(half, of_half), (full, of_full)] = [half, full].map(|spec| {
            let spec = ModelSpec { adapter: Some(adapter()), ..spec };
            let mut session = open(engine(), &spec, Options::default());
            (session.forecast(100), gradient(&mut session, &batch()))
        });
        assert!(half < full, "{name}: {half} bytes, {full} in f32");
        let error = distance(&of_half.0, &of_full.0) / norm(&of_full.0);
        assert!(error < 1e-6, "{name}: gradient {error}");
        let error = worst(&of_half.1, &of_full.1);
        assert!(error < 1e-6, "{name}: log-probs {error}");
    }
}
