//! Compares adapters, with all their options, with what PEFT saved and computed: `tests/goldens/adapters`.
//! [`compare_with_peft!`](crate::compare_with_peft) declares the tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spo_api::{
    Adapter, Backend, Export, Group, Kernel, Lora, ModelSource, ModelSpec, Statistics, TokenBatch, Update,
    Vector, VectorSpace,
};
use spo_transformer::{Engine, Options, TransformerSession};

use crate::architectures::{backward, lists, numbers, relative, sft, tensors, worst};

/// Declares the tests of this module for a backend, and for the function that makes its engine.
#[macro_export]
macro_rules! compare_with_peft {
    ($backend:expr, $engine:expr) => {
        #[test]
        fn saved_adapters_score_and_train_as_in_peft() {
            $crate::adapters::saved_adapters_score_and_train_as_in_peft(&$backend);
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

struct Case {
    name: String,
    folder: PathBuf,
    base: PathBuf,
    figures: Value,
    batch: TokenBatch,
}

impl Case {
    fn spec(&self, adapter: Option<Adapter>) -> ModelSpec {
        let source = ModelSource::Folder(self.base.clone());
        ModelSpec { source, adapter, quantize: None, seed: 0, device: "cpu".into(), dtype: "f32".into() }
    }

    fn saved(&self) -> ModelSpec {
        self.spec(Some(Adapter::Saved { path: self.folder.clone() }))
    }
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn cases() -> Vec<Case> {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../goldens");
    let mut cases: Vec<Case> = std::fs::read_dir(goldens.join("adapters"))
        .expect("the adapters")
        .map(|entry| {
            let folder = entry.expect("a folder").path();
            let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
            let figures = read(&folder.join("figures.json"));
            let base = goldens.join("architectures").join(figures["base"].as_str().expect("a model"));
            let groups = read(&base.join("figures.json"))["groups"].take();
            let group = |group: &Value| Group {
                prompt: numbers(&group["prompt"]).iter().map(|&id| id as u32).collect(),
                completions: lists(&group["completions"]),
            };
            let groups = groups.as_array().expect("groups").iter().map(group).collect();
            Case { name, folder, base, figures, batch: TokenBatch { groups } }
        })
        .collect();
    assert!(cases.len() > 5);
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// Log-probs to 1e-5 nats; three steps of AdamW: losses to 1e-4 of themselves, norms to 1e-3.
pub fn saved_adapters_score_and_train_as_in_peft(backend: &dyn Backend) {
    for case in cases() {
        let mut session = backend.open(&case.saved()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let found = session.log_probs(&case.batch, Statistics::default()).expect("a valid batch");
        let off = worst(&found.values, &numbers(&case.figures["log_probs"]));
        let config = json!({
            "betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.0, "decay_bias_and_norm": true,
        });
        assert!(session.adopt_optimizer(Some(&Kernel { name: "adamw".into(), config })).expect("a kernel"));
        let [mut losses, mut norms]: [f64; 2] = [0.0; 2];
        for (i, step) in case.figures["steps"].as_array().expect("steps").iter().enumerate() {
            let loss = backward(&mut *session, &case.batch, sft);
            let norm = session.vectors().norm(Vector::GRADIENT).expect("a gradient");
            losses = losses.max(relative(&[(loss, &step["loss"])]));
            norms = norms.max(relative(&[(norm, &step["grad_norm"])]));
            let gradient_scale = (1.0 / (norm + 1e-6)).min(1.0);
            session.optimize(&Update { lr: 2e-3, gradient_scale, count: i as u64 + 1 }).expect("an update");
        }
        let after = session.vectors().norm(Vector::PARAMETERS).expect("parameters");
        norms = norms.max(relative(&[(after, &case.figures["parameter_norm_after"])]));
        println!("{}: log-probs {off:.1e}, losses {losses:.1e}, norms {norms:.1e}", case.name);
        assert!(off < 1e-5 && losses < 1e-4 && norms < 1e-3, "{}: {off}, {losses}, {norms}", case.name);
    }
}

/// An adapter that is opened and saved is the same tensors; its configuration says the same, and opens again.
pub fn adapters_are_saved_as_peft_saves_them(backend: &dyn Backend) {
    for case in cases() {
        let saved = tempfile::tempdir().expect("a writable folder");
        let mut session = backend.open(&case.saved()).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        session.save(saved.path(), Export::Adapter).expect("a writable folder");
        let [ours, theirs] =
            [saved.path(), &case.folder].map(|folder| tensors(&folder.join("adapter_model.safetensors")));
        assert!(ours.keys().eq(theirs.keys()), "{}: {:?} {:?}", case.name, ours.keys(), theirs.keys());
        assert!(ours == theirs, "{}", case.name);
        let [ours, theirs] =
            [saved.path(), &case.folder].map(|folder| read(&folder.join("adapter_config.json")));
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
            session.log_probs(&case.batch, Statistics::default()).expect("a valid batch").values
        };
        assert_eq!(found(&case.spec(Some(again))), found(&case.saved()), "{}", case.name);
    }
}

/// A model that an adapter was merged into scores as the model with its adapter, to 1e-5 nats.
pub fn merged_adapters_score_as_adapters(backend: &dyn Backend) {
    for case in cases() {
        // The base is in bf16: a merged one in f32 is what is compared.
        let wide = tempfile::tempdir().expect("a writable folder");
        widen(&case.base, wide.path());
        let source = ModelSource::Folder(wide.path().to_owned());
        let spec = ModelSpec { source, ..case.saved() };
        let mut session = backend.open(&spec).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let merged = tempfile::tempdir().expect("a writable folder");
        session.save(merged.path(), Export::Model).expect("a writable folder");
        let source = ModelSource::Folder(merged.path().to_owned());
        let merged = ModelSpec { source, adapter: None, ..spec };
        let mut merged = backend.open(&merged).unwrap_or_else(|e| panic!("{}: {e}", case.name));
        let found = merged.log_probs(&case.batch, Statistics::default()).expect("a valid batch");
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
            TransformerSession::open(engine(), &case.spec(adapter), Options::default())
                .unwrap_or_else(|e| panic!("{}: {e}", case.name))
        };
        let mut session = open(Some(Adapter::New(lora)));
        let names: BTreeSet<String> =
            session.trained().map(|(name, _)| format!("base_model.model.{name}")).collect();
        let theirs = tensors(&case.folder.join("adapter_model.safetensors"));
        assert!(names.iter().eq(theirs.keys()), "{}: {names:?} {:?}", case.name, theirs.keys());
        let scores = |session: &mut TransformerSession<E>| {
            spo_api::Session::log_probs(session, &case.batch, Statistics::default()).expect("a valid batch")
        };
        assert_eq!(scores(&mut session).values, scores(&mut open(None)).values, "{}", case.name);
        assert!(session.norm(Vector::PARAMETERS).expect("parameters") > 0.0);
    }
}
