//! GGUF files against transformers.

use std::path::{Path, PathBuf};

use serde_json::Value;
use spo_api::{
    Adapter, Backend, Export, Group, Lora, ModelSource, ModelSpec, Quantize, Session, Statistics, Targets,
    TokenBatch, Vector,
};
use spo_backend_candle::{Candle, ComposedEngine};
use spo_gguf::{BlockType, Entry};
use spo_transformer::{Options, TransformerSession};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/gguf")
}

/// The files of models, with what was computed for them.
fn models() -> Vec<(PathBuf, Value)> {
    let entries = std::fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().path());
    let mut figures: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    figures.sort();
    let read = |path: &PathBuf| serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    figures.iter().map(|path| (path.with_extension("gguf"), read(path))).collect()
}

fn spec(path: &Path, adapter: Option<Adapter>, quantize: Option<Quantize>) -> ModelSpec {
    let source = ModelSource::Folder(path.to_owned());
    ModelSpec {
        source,
        adapter,
        quantize,
        allow_pickle: false,
        seed: 3,
        device: "cpu".into(),
        dtype: "f32".into(),
    }
}

fn open(spec: &ModelSpec) -> Box<dyn Session> {
    Candle::default().open(spec).unwrap()
}

fn batch(figures: &Value) -> TokenBatch {
    let lists = |value: &Value| serde_json::from_value(value.clone()).unwrap();
    let group = |group: &Value| Group {
        prompt: serde_json::from_value(group["prompt"].clone()).unwrap(),
        completions: lists(&group["completions"]),
    };
    TokenBatch { groups: figures["groups"].as_array().unwrap().iter().map(group).collect() }
}

fn expected(figures: &Value) -> Vec<f64> {
    let groups = figures["groups"].as_array().unwrap();
    let lists = groups.iter().flat_map(|group| group["log_probs"].as_array().unwrap());
    lists.flat_map(|list| list.as_array().unwrap()).map(|x| x.as_f64().unwrap()).collect()
}

fn worst(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found.iter().zip(expected).map(|(a, b)| (a - b).abs() / b.abs().max(1.0)).fold(0.0, f64::max)
}

fn log_probs(session: &mut dyn Session, figures: &Value) -> Vec<f64> {
    session.log_probs(&batch(figures), Statistics::default()).unwrap().values
}

#[test]
fn log_probs_are_those_of_transformers() {
    let models = models();
    assert_eq!(models.len(), 13);
    for (path, figures) in models {
        let found = log_probs(&mut *open(&spec(&path, None, None)), &figures);
        let error = worst(&found, &expected(&figures));
        println!("{}: {error:.1e}", path.display());
        assert!(error < 1e-5, "{}: {error}", path.display());
    }
}

/// A model of matrices whose rows are whole blocks of every kind.
fn wide() -> ModelSource {
    ModelSource::Random(serde_json::json!({
        "model_type": "llama", "vocab_size": 61, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1,
        "num_attention_heads": 4, "max_position_embeddings": 64, "tie_word_embeddings": false,
        "initializer_range": 0.1,
    }))
}

fn everywhere() -> Option<Adapter> {
    Some(Adapter::New(Lora::new(3, 6.0, Targets::ALL)))
}

/// The log-probs after a step along the gradient of their sum, the gradient's norm, and the session.
fn trained<E: spo_transformer::Engine>(
    engine: E,
    spec: &ModelSpec,
    figures: &Value,
) -> (Vec<f64>, f64, TransformerSession<E>) {
    let mut session = TransformerSession::open(engine, spec, Options::default()).unwrap();
    let mut norm = 0.0;
    // After the first step, B is no longer zero, and so A has a gradient.
    for _ in 0..2 {
        session.vectors().zero(Vector::GRADIENT).unwrap();
        let mut upstream = |log_probs: &spo_api::LogProbs| Ok(vec![1.0; log_probs.values.len()]);
        session.backward(&batch(figures), Statistics::default(), &mut upstream).unwrap();
        norm = session.vectors().norm(Vector::GRADIENT).unwrap();
        session.vectors().axpy(0.1 / norm, Vector::GRADIENT, Vector::PARAMETERS).unwrap();
    }
    (log_probs(&mut session, figures), norm, session)
}

/// An adapter trains on blocks as it does on the numbers that they stand for, and is merged into these.
#[test]
fn an_adapter_trains_on_blocks_as_on_their_numbers() {
    let (_, figures) = models().into_iter().find(|(path, _)| path.ends_with("llama3.gguf")).unwrap();
    let mut cases: Vec<(ModelSpec, &str)> = Vec::new();
    for name in ["llama", "gemma2", "gemma3", "qwen2"] {
        cases.push((spec(&folder().join(format!("{name}.gguf")), everywhere(), None), name));
    }
    // With trained norms of rows, which take those of the blocks, and with a head that is no longer the table.
    let whole =
        Lora { dora: true, modules_to_save: vec!["lm_head".into()], ..Lora::new(3, 6.0, Targets::ALL) };
    for name in ["llama", "gemma3"] {
        cases.push((
            spec(&folder().join(format!("{name}.gguf")), Some(Adapter::New(whole.clone())), None),
            name,
        ));
    }
    for (quantize, name) in [(Quantize::Q8_0, "q8_0"), (Quantize::Q4K, "q4_k"), (Quantize::Nf4, "nf4")] {
        cases.push((ModelSpec { source: wide(), ..spec(Path::new(""), everywhere(), Some(quantize)) }, name));
    }
    for (spec, name) in cases {
        let (found, norm, mut session) = trained(spo_backend_candle::FusedEngine::default(), &spec, &figures);
        assert!(session.info().remarks.iter().any(|remark| remark.contains("stay quantised")), "{name}");
        let merged = tempfile::tempdir().unwrap();
        session.save(merged.path(), Export::Model).unwrap();
        // With B still zero, the model that is saved is the one that the blocks stand for.
        let numbers = tempfile::tempdir().unwrap();
        TransformerSession::open(spo_backend_candle::FusedEngine::default(), &spec, Options::default())
            .unwrap()
            .save(numbers.path(), Export::Model)
            .unwrap();
        let dense = ModelSpec {
            source: ModelSource::Folder(numbers.path().to_owned()),
            quantize: Some(Quantize::Off),
            allow_pickle: false,
            ..spec.clone()
        };
        let (expected, expected_norm, _) =
            trained(spo_backend_candle::FusedEngine::default(), &dense, &figures);
        let error = worst(&found, &expected);
        let of_norm = (norm / expected_norm - 1.0).abs();
        println!("{name}: log-probs {error:.1e}, gradient {of_norm:.1e}");
        assert!(error < 1e-5 && of_norm < 1e-5, "{name}: {error} {of_norm}");
        let merged = ModelSpec {
            source: ModelSource::Folder(merged.path().to_owned()),
            adapter: None,
            quantize: None,
            allow_pickle: false,
            ..spec.clone()
        };
        let after = log_probs(&mut *open(&merged), &figures);
        assert!(worst(&after, &found) < 1e-5, "{name}: merged");
        let composed = ComposedEngine::new(candle_core::Device::Cpu, candle_core::DType::F32);
        assert!(worst(&trained(composed, &spec, &figures).0, &found) < 1e-4, "{name}: the other engine");
        // The comparison can fail.
        let bare =
            log_probs(&mut *open(&ModelSpec { adapter: None, quantize: None, ..spec.clone() }), &figures);
        assert!(worst(&bare, &found) > 1e-3, "{name}: training changes nothing");
    }
}

#[test]
fn quantised_weights_are_near_the_weights() {
    let (_, figures) = models().into_iter().find(|(path, _)| path.ends_with("llama3.gguf")).unwrap();
    let of = |quantize| {
        let spec = ModelSpec { source: wide(), ..spec(Path::new(""), everywhere(), Some(quantize)) };
        log_probs(&mut *open(&spec), &figures)
    };
    let exact = of(Quantize::Off);
    let mean = |found: Vec<f64>| {
        found.iter().zip(&exact).map(|(a, b)| (a - b).abs()).sum::<f64>() / exact.len() as f64
    };
    let [fine, k, nf4] = [Quantize::Q8_0, Quantize::Q4K, Quantize::Nf4].map(|quantize| mean(of(quantize)));
    println!("nats: {fine:.1e} {k:.1e} {nf4:.1e}");
    assert!(fine > 1e-5 && fine < 0.1, "{fine}");
    assert!(k > 2.0 * fine && nf4 > 2.0 * fine && k.max(nf4) < 30.0 * fine, "{fine} {k} {nf4}");
}

#[test]
fn blocks_without_an_adapter_are_refused() {
    for quantize in [Quantize::File, Quantize::Nf4] {
        let spec = spec(&folder().join("llama.gguf"), None, Some(quantize));
        let said = Candle::default().open(&spec).err().unwrap().to_string();
        assert!(said.contains(quantize.name()) && said.contains("add an adapter"), "{said}");
    }
}

/// A model that is saved and written as GGUF again gives the log-probs that it gave.
#[test]
fn models_are_written_as_gguf_and_read_again() {
    for (path, figures) in models() {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let place = tempfile::tempdir().unwrap();
        open(&spec(&path, None, None)).save(place.path(), Export::Model).unwrap();
        let before = expected(&figures);
        let kinds =
            [(BlockType::F32, 1e-5), (BlockType::F16, 0.02), (BlockType::Q8_0, 0.2), (BlockType::Q4_0, 5.0)];
        for (kind, most) in kinds {
            let out = place.path().join(format!("{}.gguf", kind.name()));
            spo_transformer::gguf::write_model(place.path(), &out, kind, Vec::new()).unwrap();
            let after = log_probs(&mut *open(&spec(&out, None, None)), &figures);
            let error = worst(&after, &before);
            println!("{name} {}: {error:.1e}", kind.name());
            assert!(error < most, "{name} {}: {error}", kind.name());
        }
    }
}

/// A file of these tensors besides those of a tiny model, and what is said of it.
fn said(change: impl Fn(&mut Vec<(String, spo_gguf::Value)>, &mut Vec<Entry>)) -> String {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("m.gguf");
    let size = |key: &str, n: i64| (format!("llama.{key}"), spo_gguf::Value::Integer(n));
    let mut metadata = vec![
        ("general.architecture".to_owned(), spo_gguf::Value::from("llama")),
        size("context_length", 64),
        size("embedding_length", 32),
        size("block_count", 1),
        size("feed_forward_length", 64),
        size("attention.head_count", 4),
    ];
    metadata.push(("llama.attention.layer_norm_rms_epsilon".into(), spo_gguf::Value::Number(1e-5)));
    let matrices = [("attn_q", 32, 32), ("attn_k", 32, 32), ("attn_v", 32, 32), ("attn_output", 32, 32)];
    let inner = [("ffn_gate", 64, 32), ("ffn_up", 64, 32), ("ffn_down", 32, 64)];
    let mut tensors: Vec<Entry> = matrices
        .into_iter()
        .chain(inner)
        .map(|(name, rows, width)| Entry {
            name: format!("blk.0.{name}.weight"),
            shape: vec![rows, width],
            kind: BlockType::Q8_0,
        })
        .collect();
    for name in ["blk.0.attn_norm.weight", "blk.0.ffn_norm.weight", "output_norm.weight"] {
        tensors.push(Entry { name: name.into(), shape: vec![32], kind: BlockType::F32 });
    }
    tensors.push(Entry { name: "token_embd.weight".into(), shape: vec![9, 32], kind: BlockType::Q8_0 });
    change(&mut metadata, &mut tensors);
    spo_gguf::write(&path, &metadata, &tensors, |i| Ok(vec![0.1; tensors[i].shape.iter().product()]))
        .unwrap();
    match Candle::default().open(&spec(&path, None, None)) {
        Ok(_) => "opened".to_owned(),
        Err(error) => error.to_string().replace(&path.display().to_string(), "FILE"),
    }
}

#[test]
fn what_is_wrong_with_a_model_is_named() {
    assert_eq!(said(|_, _| ()), "opened");
    let rename = |from: &'static str, to: &'static str| {
        move |_: &mut Vec<_>, tensors: &mut Vec<Entry>| {
            tensors.iter_mut().find(|tensor| tensor.name == from).unwrap().name = to.into();
        }
    };
    let message = said(rename("blk.0.attn_q.weight", "blk.0.attn_w.weight"));
    assert!(
        message.contains("FILE: the tensor blk.0.attn_q.weight is missing (nearest: blk.0.attn_"),
        "{message}"
    );
    let message = said(|_, tensors| tensors[0].shape = vec![64, 32]);
    assert_eq!(message, "FILE: blk.0.attn_q.weight: shape [64, 32], but the metadata make it [32, 32]");
    let message = said(|_, tensors| {
        tensors.push(Entry { name: "blk.0.extra.weight".into(), shape: vec![1], kind: BlockType::F32 });
    });
    assert_eq!(message, "FILE: the tensor blk.0.extra.weight is no part of a llama of these metadata");
    let message = said(|metadata, _| metadata[0].1 = "lama".into());
    assert!(
        message.contains("`general.architecture` = \"lama\" is not supported, only llama, qwen2"),
        "{message}"
    );
    assert!(message.contains("(nearest: llama)"), "{message}");
    let message = said(|metadata, _| drop(metadata.remove(2)));
    assert!(message.contains("FILE: `llama.embedding_length` is missing"), "{message}");
    let message = said(|metadata, _| metadata[5].1 = spo_gguf::Value::Integer(0));
    assert!(message.contains("`llama.attention.head_count` must be above 0, got 0"), "{message}");
    let message = said(|metadata, _| {
        metadata.push(("llama.rope.scaling.type".into(), "su".into()));
    });
    assert!(message.contains("= \"su\" is not supported here, only none, linear, yarn"), "{message}");
}
