//! Compares a backend with what transformers, torch and PEFT computed for a tiny model of every architecture:
//! `tests/goldens/architectures`. [`compare_with_transformers!`](crate::compare_with_transformers) declares the tests.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spo_api::{
    Adapter, Backend, Export, Group, LogProbs, Lora, ModelSource, ModelSpec, Sampling, Session, Statistics,
    Targets, TokenBatch, Vector, VectorSpace,
};
use spo_transformer::{Engine, ModelType, Options, TransformerSession};

use crate::goldens::{golden, goldens, json_of};
use crate::trl::{adopt_adamw, update};

/// Declares the tests of this module for a backend, and for the function that makes its engine.
#[macro_export]
macro_rules! compare_with_transformers {
    ($backend:expr, $engine:expr) => {
        $crate::compare_with_transformers! { @tests $backend,
            log_probs_are_those_of_transformers,
            sgd_steps_are_those_of_torch,
            adamw_steps_are_those_of_torch,
            greedy_continuations_are_those_of_transformers,
            saved_models_are_the_same_files,
        }
        #[test]
        fn the_loss_of_routers_is_that_of_transformers() {
            $crate::routers::the_loss_of_routers_is_that_of_transformers(&$backend);
        }
        #[test]
        fn adapters_are_those_of_peft() {
            $crate::architectures::adapters_are_those_of_peft($engine);
        }
        #[test]
        fn dropout_is_that_of_peft() {
            $crate::architectures::dropout_is_that_of_peft($engine);
        }
    };
    (@tests $backend:expr, $($comparison:ident,)*) => {
        $(#[test]
        fn $comparison() {
            $crate::architectures::$comparison(&$backend);
        })*
    };
}

/// A tiny model, and what was computed for it.
pub(crate) struct Model {
    name: String,
    folder: PathBuf,
    figures: Value,
}

impl Model {
    /// The model of a folder in `tests/goldens/architectures`.
    pub(crate) fn read(name: &str) -> Self {
        let folder = goldens().join("architectures").join(name);
        let figures = json_of(&folder.join("figures.json"));
        Model { name: name.to_owned(), folder, figures }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn spec(&self, adapter: Option<Adapter>) -> ModelSpec {
        let source = ModelSource::Folder(self.folder.clone());
        ModelSpec {
            source,
            adapter,
            quantize: None,
            allow_pickle: false,
            seed: 0,
            device: "cpu".into(),
            dtype: "f32".into(),
        }
    }

    pub(crate) fn open(&self, backend: &dyn Backend) -> Box<dyn Session> {
        backend.open(&self.spec(None)).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }

    pub(crate) fn batch(&self) -> TokenBatch {
        let group = |group: &Value| Group {
            prompt: ids(&group["prompt"]),
            completions: lists(&group["completions"]),
        };
        TokenBatch { groups: self.figures["groups"].as_array().expect("groups").iter().map(group).collect() }
    }
}

/// The models of all supported types: one at least of each.
fn models() -> Vec<Model> {
    let mut found = BTreeMap::new();
    for name in names_in(&goldens().join("architectures")) {
        let model = Model::read(&name);
        let config = json_of(&model.folder.join("config.json"));
        found.insert(name, (config["model_type"].as_str().expect("a type").to_owned(), model));
    }
    let kinds: BTreeSet<&str> = found.values().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(
        kinds,
        ModelType::ALL.map(ModelType::name).into(),
        "types with a model, and types in the code"
    );
    found.into_values().map(|(_, model)| model).collect()
}

/// The names of what is in a folder, in order.
pub(crate) fn names_in(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let name = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").file_name();
    let mut names: Vec<String> = entries.map(|entry| name(entry).to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).expect("token ids")
}

fn lists(value: &Value) -> Vec<Vec<u32>> {
    serde_json::from_value(value.clone()).expect("lists of token ids")
}

/// All numbers of nested lists, in order.
pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().expect("a number")],
    }
}

/// The largest difference, relative where log-probs exceed 1: f32 has digits in relation to those.
pub(crate) fn worst(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max)
}

/// The largest difference of figures relative to those expected.
pub(crate) fn relative(figures: &[(f64, &Value)]) -> f64 {
    let of = |(found, expected): &(f64, &Value)| {
        let expected = expected.as_f64().expect("a number");
        (found - expected).abs() / expected.abs()
    };
    figures.iter().map(of).fold(0.0, f64::max)
}

/// Log-probs of single tokens, to 1e-5 nats. Completions share their prompts.
pub fn log_probs_are_those_of_transformers(backend: &dyn Backend) {
    for model in models() {
        let found =
            model.open(backend).log_probs(&model.batch(), Statistics::default()).expect("a valid batch");
        let groups = model.figures["groups"].as_array().expect("groups");
        let expected: Vec<f64> = groups.iter().flat_map(|group| numbers(&group["log_probs"])).collect();
        let error = worst(&found.values, &expected);
        println!("{}: log-probs {error:.1e}", model.name);
        assert!(error < 1e-5, "{}: {error}", model.name);
    }
}

/// Sums of each completion.
fn sums(log_probs: &LogProbs) -> Vec<f64> {
    let ranges = log_probs.offsets.windows(2).map(|range| range[0]..range[1]);
    ranges.map(|range| log_probs.values[range].iter().sum()).collect()
}

/// The mean negative log-prob of the tokens of each first completion, and its gradient.
pub(crate) fn sft(log_probs: &LogProbs) -> (f64, Vec<f64>) {
    let firsts: Vec<usize> =
        log_probs.offsets.windows(2).step_by(2).flat_map(|range| range[0]..range[1]).collect();
    let mut slopes = vec![0.0; log_probs.values.len()];
    firsts.iter().for_each(|&i| slopes[i] = -1.0 / firsts.len() as f64);
    (slopes.iter().zip(&log_probs.values).map(|(s, l)| s * l).sum(), slopes)
}

/// The gradient of a loss, which it returns, is that of the session afterwards.
pub(crate) fn backward(
    session: &mut dyn Session,
    batch: &TokenBatch,
    mut loss: impl FnMut(&LogProbs) -> (f64, Vec<f64>),
) -> f64 {
    let mut value = 0.0;
    session.vectors().zero(Vector::GRADIENT).expect("a gradient");
    let mut upstream = |log_probs: &LogProbs| {
        let (found, slopes) = loss(log_probs);
        value = found;
        Ok(slopes)
    };
    session.backward(batch, Statistics::default(), &mut upstream).expect("a valid batch");
    value
}

/// Steps of SGD on all weights: losses, and norms of gradients and weights, to 1e-4 of themselves.
pub fn sgd_steps_are_those_of_torch(backend: &dyn Backend) {
    for model in models() {
        let (mut session, batch, golden) = (model.open(backend), model.batch(), &model.figures["sft"]);
        let mut error: f64 = 0.0;
        for step in golden["steps"].as_array().expect("steps") {
            let loss = backward(&mut *session, &batch, sft);
            let vectors = session.vectors();
            let norm = vectors.norm(Vector::GRADIENT).expect("a gradient");
            error = error.max(relative(&[(loss, &step["loss"]), (norm, &step["grad_norm"])]));
            vectors.axpy(-0.05, Vector::GRADIENT, Vector::PARAMETERS).expect("vectors");
        }
        let after = session.vectors().norm(Vector::PARAMETERS).expect("parameters");
        error = error.max(relative(&[(after, &golden["parameter_norm_after"])]));
        println!("{}: SGD steps {error:.1e}", model.name);
        assert!(error < 1e-4, "{}: {error}", model.name);
    }
}

/// Steps of DPO with AdamW on all weights: losses, and norms of gradients and weights, to 1e-3 of themselves.
pub fn adamw_steps_are_those_of_torch(backend: &dyn Backend) {
    for model in models() {
        let (mut session, golden) = (model.open(backend), &model.figures["dpo"]);
        let steps = golden["steps"].as_array().expect("steps");
        let mut error: f64 = 0.0;
        let after = adamw_dpo_steps(&mut *session, &model.batch(), steps.len(), &mut |i, _, loss, norm| {
            error = error.max(relative(&[(loss, &steps[i]["loss"]), (norm, &steps[i]["grad_norm"])]));
        });
        error = error.max(relative(&[(after, &golden["parameter_norm_after"])]));
        println!("{}: AdamW steps {error:.1e}", model.name);
        assert!(error < 1e-3, "{}: {error}", model.name);
    }
}

/// Told of a step's number, of the session after the backward pass, of the loss, and of the norm of the gradient.
type OfStep<'a> = dyn FnMut(usize, &dyn Session, f64, f64) + 'a;

/// Takes steps of DPO with AdamW, always on the same batch of pairs. Returns the norm of the parameters afterwards.
pub(crate) fn adamw_dpo_steps(
    session: &mut dyn Session,
    batch: &TokenBatch,
    steps: usize,
    tell: &mut OfStep<'_>,
) -> f64 {
    const BETA: f64 = 0.1;
    adopt_adamw(session, 0.0);
    let margins = |log_probs: &LogProbs| -> Vec<f64> {
        sums(log_probs).chunks_exact(2).map(|pair| pair[0] - pair[1]).collect()
    };
    let reference = margins(&session.log_probs(batch, Statistics::default()).expect("a valid batch"));
    let dpo = |log_probs: &LogProbs| {
        let mut slopes = vec![0.0; log_probs.values.len()];
        let (mut loss, pairs) = (0.0, reference.len() as f64);
        for (i, (margin, reference)) in margins(log_probs).iter().zip(&reference).enumerate() {
            let reward = BETA * (margin - reference);
            loss += (-reward).exp().ln_1p() / pairs;
            let slope = -BETA / (1.0 + reward.exp()) / pairs;
            let [begin, between, end] = [0, 1, 2].map(|of| log_probs.offsets[2 * i + of]);
            slopes[begin..between].fill(slope);
            slopes[between..end].fill(-slope);
        }
        (loss, slopes)
    };
    for i in 0..steps {
        let loss = backward(session, batch, dpo);
        let norm = session.vectors().norm(Vector::GRADIENT).expect("a gradient");
        tell(i, session, loss, norm);
        update(session, 2e-3, norm, i);
    }
    session.vectors().norm(Vector::PARAMETERS).expect("parameters")
}

/// Greedy continuations, to the token.
pub fn greedy_continuations_are_those_of_transformers(backend: &dyn Backend) {
    for model in models() {
        let rows = model.figures["greedy"].as_array().expect("rows");
        let of = |key: &str| -> Vec<Vec<u32>> { rows.iter().map(|row| ids(&row[key])).collect() };
        let expected = of("new");
        let sampling = Sampling::greedy(expected[0].len(), &[]);
        let found = model.open(backend).generate(&of("prompt"), &sampling).expect("valid prompts");
        assert_eq!(found, expected, "{}", model.name);
    }
}

/// The tensors of a safetensors file: by name, their description and their bytes.
pub(crate) fn tensors(path: &Path) -> BTreeMap<String, (Value, Vec<u8>)> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let (length, rest) = bytes.split_first_chunk().expect("a header");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let mut header: BTreeMap<String, Value> = serde_json::from_slice(header).expect("a header");
    header.remove("__metadata__");
    let tensor = |(name, tensor): (String, Value)| {
        let [from, to] = [0, 1].map(|i| tensor["data_offsets"][i].as_u64().expect("an offset") as usize);
        (name, (json!([tensor["dtype"], tensor["shape"]]), data[from..to].to_vec()))
    };
    header.into_iter().map(tensor).collect()
}

/// A model that is opened and saved has the tensors that transformers wrote: their names, types and bits.
pub fn saved_models_are_the_same_files(backend: &dyn Backend) {
    for model in models() {
        let saved = tempfile::tempdir().expect("a writable folder");
        model.open(backend).save(saved.path(), Export::Model).expect("a writable folder");
        let [ours, theirs] =
            [saved.path(), &model.folder].map(|folder| tensors(&folder.join("model.safetensors")));
        assert!(ours.keys().eq(theirs.keys()), "{}: {:?} {:?}", model.name, ours.keys(), theirs.keys());
        assert!(ours == theirs, "{}", model.name);
    }
}

/// Fills an adapter as the scripts do.
fn fill<E: Engine>(session: &mut TransformerSession<E>, rank: usize) {
    let mut values: Vec<f32> = Vec::new();
    for (name, n) in session.trained() {
        let (width, [offset, row, column]) = match name.ends_with("lora_A.weight") {
            true => (n / rank, [1.0, 0.37, 0.11]),
            false => (rank, [2.0, 0.23, 0.41]),
        };
        let value = |i: usize| (offset + row * (i / width) as f64 + column * (i % width) as f64).sin() / 5.0;
        values.extend((0..n).map(|i| value(i) as f32));
    }
    session.write(Vector::PARAMETERS, &values).expect("as many values as parameters");
}

/// With the same masks, an adapter with dropout gives PEFT's log-probs and the norm of its gradient.
pub fn dropout_is_that_of_peft<E: Engine>(engine: fn() -> E) {
    let golden = golden("dropout.json");
    let number = |value: &Value| value.as_f64().expect("a number");
    let rank = number(&golden["rank"]) as usize;
    let dropout = number(&golden["dropout"]);
    for (name, figures) in golden["models"].as_object().expect("models") {
        let model = Model::read(name);
        let adapter =
            Adapter::New(Lora { dropout, ..Lora::new(rank, number(&golden["alpha"]), Targets::ALL) });
        let mut session = TransformerSession::open(engine(), &model.spec(Some(adapter)), Options::default())
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        fill(&mut session, rank);
        session.drop_out(Some(number(&golden["seed"]) as u64)).expect("an engine");
        let found = session.log_probs(&model.batch(), Statistics::default()).expect("a valid batch");
        let error = worst(&found.values, &numbers(&figures["log_probs"]));
        let loss = backward(&mut session, &model.batch(), sft);
        let norm = session.norm(Vector::GRADIENT).expect("a gradient");
        let of_gradient = relative(&[(loss, &figures["sft_loss"]), (norm, &figures["grad_norm"])]);
        println!("{name}: dropout {error:.1e}, its gradient {of_gradient:.1e}");
        assert!(error < 1e-5 && of_gradient < 1e-4, "{name}: {error}, {of_gradient}");
    }
}

/// An adapter on every linear layer, or on those that the script names, has PEFT's names, and gives its log-probs and
/// the norm of its gradient.
pub fn adapters_are_those_of_peft<E: Engine>(engine: fn() -> E) {
    for model in models() {
        let golden = &model.figures["lora"];
        let number = |key: &str| golden[key].as_f64().expect("a number");
        let rank = number("rank") as usize;
        let mut lora = Lora::new(rank, number("alpha"), Targets::ALL);
        if let Some(targets) = golden.get("targets") {
            lora.targets = serde_json::from_value(targets.clone()).expect("targets");
        }
        let adapter = Adapter::New(lora);
        let mut session = TransformerSession::open(engine(), &model.spec(Some(adapter)), Options::default())
            .unwrap_or_else(|e| panic!("{}: {e}", model.name));
        let shapes: Vec<(String, usize)> = session.trained().map(|(name, n)| (name.to_owned(), n)).collect();
        let names: BTreeSet<String> =
            shapes.iter().map(|(name, _)| format!("base_model.model.{name}")).collect();
        let expected: BTreeSet<String> = serde_json::from_value(golden["tensors"].clone()).expect("names");
        assert_eq!(names, expected, "{}", model.name);

        fill(&mut session, rank);
        let found = session.log_probs(&model.batch(), Statistics::default()).expect("a valid batch");
        let error = worst(&found.values, &numbers(&golden["log_probs"]));
        let loss = backward(&mut session, &model.batch(), sft);
        let norm = session.norm(Vector::GRADIENT).expect("a gradient");
        let of_gradient = relative(&[(loss, &golden["sft_loss"]), (norm, &golden["grad_norm"])]);
        println!("{}: adapter {error:.1e}, its gradient {of_gradient:.1e}", model.name);
        assert!(error < 1e-5 && of_gradient < 1e-4, "{}: {error}, {of_gradient}", model.name);
    }
}
