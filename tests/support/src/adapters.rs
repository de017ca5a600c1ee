//! Compares adapters, with all their options, with what PEFT saved and computed: `tests/goldens/adapters`.
//! [`compare_with_peft!`](crate::compare_with_peft) declares the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spo_api::{
    Adapter, Backend, Export, Lora, ModelSource, ModelSpec, Session, Statistics, Vector, VectorSpace,
};
use spo_transformer::{Engine, Options, TransformerSession};

use crate::architectures::{Model, backward, names_in, numbers, relative, sft, tensors, worst};
use crate::goldens::{goldens, json_of};
use crate::trl::{adopt_adamw, update};

/// Declares the tests of this module for a backend, and for the function that makes its engine.
#[macro_export]
macro_rules! compare_with_peft {
    ($backend:expr, $engine:expr) => {
        #[test]
        fn saved_adapters_score_and_train_as_in_peft() {
            $crate::adapters::saved_adapters_score_and_train_as_in_peft(&$backend);
        }
        #[test]
        fn saved_adapters_take_steps_of_sgd_as_in_peft() {
            $crate::adapters::saved_adapters_take_steps_of_sgd_as_in_peft(&$backend);
        }
        #[test]
        fn adapters_are_saved_as_peft_saves_them() {
            $crate::adapters::adapters_are_saved_as_peft_saves_them(&$backend);
        }
        #[test]
        fn merged_adapters_score_as_adapters() {
            $crate::adapters::merged_adapters_score_as_adapters(&$backend);
        }
        #[test]
        fn new_adapters_have_the_parts_that_peft_makes() {
            $crate::adapters::new_adapters_have_the_parts_that_peft_makes($engine);
        }
    };
}

/// An adapter as PEFT saved it, the model that it is for, and what was computed with both.
struct Case {
    name: String,
    folder: PathBuf,
    base: Model,
    figures: Value,
}

impl Case {
    fn saved(&self) -> ModelSpec {
        self.base.spec(Some(Adapter::Saved { path: self.folder.clone() }))
    }

    fn open(&self, backend: &dyn Backend) -> Box<dyn Session> {
        backend.open(&self.saved()).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

fn cases() -> Vec<Case> {
    let root = goldens().join("adapters");
    let case = |name: String| {
        let folder = root.join(&name);
        let figures = json_of(&folder.join("figures.json"));
        Case { base: Model::read(figures["base"].as_str().expect("a model")), name, folder, figures }
    };
    let cases: Vec<Case> = names_in(&root).into_iter().map(case).collect();
    assert!(cases.len() > 5);
    cases
}

/// Log-probs to 1e-5 nats; three steps of AdamW: losses to 1e-4 of themselves, norms to 1e-3.
pub fn saved_adapters_score_and_train_as_in_peft(backend: &dyn Backend) {
    for case in cases() {
        let mut session = case.open(backend);
        let found = session.log_probs(&case.base.batch(), Statistics::default()).expect("a valid batch");
        let off = worst(&found.values, &numbers(&case.figures["log_probs"]));
        adopt_adamw(&mut *session, 0.0);
        let [mut losses, mut norms]: [f64; 2] = [0.0; 2];
        for (i, step) in case.figures["steps"].as_array().expect("steps").iter().enumerate() {
            let loss = backward(&mut *session, &case.base.batch(), sft);
            let norm = session.vectors().norm(Vector::GRADIENT).expect("a gradient");
            losses = losses.max(relative(&[(loss, &step["loss"])]));
            norms = norms.max(relative(&[(norm, &step["grad_norm"])]));
            update(&mut *session, 2e-3, norm, i);
        }
        let after = session.vectors().norm(Vector::PARAMETERS).expect("parameters");
        norms = norms.max(relative(&[(after, &case.figures["parameter_norm_after"])]));
        println!("{}: log-probs {off:.1e}, losses {losses:.1e}, norms {norms:.1e}", case.name);
        assert!(off < 1e-5 && losses < 1e-4 && norms < 1e-3, "{}: {off}, {losses}, {norms}", case.name);
    }
}

/// The tensors that PEFT saved, without the copies of the model's embedding table and head.
fn saved_by_peft(folder: &Path) -> BTreeMap<String, (Value, Vec<u8>)> {
    let mut tensors = tensors(&folder.join("adapter_model.safetensors"));
    tensors.retain(|name, _| !name.contains(".base_layer."));
    tensors
}

/// Three steps of SGD: losses, and norms of gradients, to 1e-4 of themselves.
pub fn saved_adapters_take_steps_of_sgd_as_in_peft(backend: &dyn Backend) {
    for case in cases() {
        let mut session = case.open(backend);
        let mut error: f64 = 0.0;
        for step in case.figures["sgd"].as_array().expect("steps") {
            let loss = backward(&mut *session, &case.base.batch(), sft);
            let vectors = session.vectors();
            let norm = vectors.norm(Vector::GRADIENT).expect("a gradient");
            error = error.max(relative(&[(loss, &step["loss"]), (norm, &step["grad_norm"])]));
            vectors.axpy(-0.02, Vector::GRADIENT, Vector::PARAMETERS).expect("vectors");
        }
        println!("{}: SGD steps {error:.1e}", case.name);
        assert!(error < 1e-4, "{}: {error}", case.name);
    }
}

/// An adapter that is opened and saved is the same tensors; its configuration says the same, and opens again.
pub fn adapters_are_saved_as_peft_saves_them(backend: &dyn Backend) {
    for case in cases() {
        let saved = tempfile::tempdir().expect("a writable folder");
        let mut session = case.open(backend);
        session.save(saved.path(), Export::Adapter).expect("a writable folder");
        let ours = tensors(&saved.path().join("adapter_model.safetensors"));
        let theirs = saved_by_peft(&case.folder);
        assert!(ours.keys().eq(theirs.keys()), "{}: {:?} {:?}", case.name, ours.keys(), theirs.keys());
        assert!(ours == theirs, "{}", case.name);
        let [ours, theirs] =
            [saved.path(), &case.folder].map(|folder| json_of(&folder.join("adapter_config.json")));
        for (key, value) in ours.as_object().expect("a table") {
            let expected = &theirs[key];
            let same = match key.as_str() {
                "base_model_name_or_path" => true,
                "lora_alpha" => value.as_f64() == expected.as_f64(),
                "alpha_pattern" => {
                    value.as_object().map(|t| t.len()) == expected.as_object().map(|t| t.len())
                }
                _ => value == expected,
            };
            assert!(same, "{}, {key}: {value} {expected}", case.name);
        }
        let again = Adapter::Saved { path: saved.path().to_owned() };
        let found = |spec: &ModelSpec| {
            let mut session = backend.open(spec).unwrap_or_else(|e| panic!("{}: {e}", case.name));
            session.log_probs(&case.base.batch(), Statistics::default()).expect("a valid batch").values
        };
        assert_eq!(found(&case.base.spec(Some(again))), found(&case.saved()), "{}", case.name);
    }
}

/// A model that an adapter was merged into scores as the model with its adapter, to 1e-5 nats.
pub fn merged_adapters_score_as_adapters(backend: &dyn Backend) {
    for case in cases() {
        // The base is in bf16: a merged one in f32 is what is compared.
        let wide = tempfile::tempdir().expect("a writable folder");
        widen(case.base.folder(), wide.path());
        let source = ModelSource::Folder(wide.path().to_owned());
        let spec = ModelSpec { source, ..case.saved() };
        let mut session = backend.open(&spec).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let merged = tempfile::tempdir().expect("a writable folder");
        session.save(merged.path(), Export::Model).expect("a writable folder");
        let source = ModelSource::Folder(merged.path().to_owned());
        let merged = ModelSpec { source, adapter: None, ..spec };
        let mut merged = backend.open(&merged).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let found = merged.log_probs(&case.base.batch(), Statistics::default()).expect("a valid batch");
        let off = worst(&found.values, &numbers(&case.figures["log_probs"]));
        println!("{}: merged {off:.1e}", case.name);
        assert!(off < 1e-5, "{}: {off}", case.name);
    }
}

/// Copies a model whose weights are in bf16 to one whose weights are in f32.
fn widen(from: &Path, to: &Path) {
    std::fs::copy(from.join("config.json"), to.join("config.json")).expect("a configuration");
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, (description, bytes)) in tensors(&from.join("model.safetensors")) {
        assert_eq!(description[0], "BF16");
        let start = data.len();
        bytes.chunks_exact(2).for_each(|half| data.extend([0, 0, half[0], half[1]]));
        header.insert(
            name,
            json!({ "dtype": "F32", "shape": description[1], "data_offsets": [start, data.len()] }),
        );
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(to.join("model.safetensors"), [&length[..], &header, &data].concat()).expect("a file");
}

/// A new adapter with PEFT's settings has PEFT's parameters, and scores as the bare model.
pub fn new_adapters_have_the_parts_that_peft_makes<E: Engine>(engine: fn() -> E) {
    for case in cases() {
        let mut asked = case.figures["asked"].clone();
        let fields = asked.as_object_mut().expect("a table");
        fields.remove("fan_in_fan_out");
        for (theirs, ours) in [
            ("r", "rank"),
            ("lora_alpha", "alpha"),
            ("target_modules", "targets"),
            ("exclude_modules", "exclude"),
            ("layers_to_transform", "layers"),
            ("use_rslora", "rslora"),
            ("use_dora", "dora"),
        ] {
            if let Some(value) = fields.remove(theirs) {
                fields.insert(ours.to_owned(), value);
            }
        }
        let lora: Lora = serde_json::from_value(asked).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let open = |adapter: Option<Adapter>| {
            TransformerSession::open(engine(), &case.base.spec(adapter), Options::default())
                .unwrap_or_else(|e| panic!("{}: {e}", case.name))
        };
        let mut session = open(Some(Adapter::New(lora)));
        let names: BTreeSet<String> =
            session.trained().map(|(name, _)| format!("base_model.model.{name}")).collect();
        let theirs = saved_by_peft(&case.folder);
        assert!(names.iter().eq(theirs.keys()), "{}: {names:?} {:?}", case.name, theirs.keys());
        let scores = |session: &mut TransformerSession<E>| {
            session.log_probs(&case.base.batch(), Statistics::default()).expect("a valid batch")
        };
        assert_eq!(scores(&mut session).values, scores(&mut open(None)).values, "{}", case.name);
        assert!(session.norm(Vector::PARAMETERS).expect("parameters") > 0.0);
    }
}
