//! Files, configurations and batches: what is read, and what is refused with which message.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use spo_api::{
    Adapter, Backend, Error, Export, Group, ModelSource, ModelSpec, Sampling, Session, Statistics, TokenBatch,
};
use spo_backend_candle::Candle;
use spo_transformer::ModelType;
use spo_transformer::conformance::{random, tiny};
use tempfile::TempDir;

fn open(spec: &ModelSpec) -> Result<Box<dyn Session>, Error> {
    Candle::default().open(spec)
}

fn refused(spec: &ModelSpec) -> String {
    match open(spec) {
        Ok(_) => panic!("opened: {spec:?}"),
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

/// A folder with the first tiny model, and a specification that reads it.
fn saved() -> (TempDir, ModelSpec) {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = random(&tiny(ModelType::Llama), None);
    open(&spec).unwrap().save(folder.path(), Export::Model).unwrap();
    spec.source = ModelSource::Folder(folder.path().to_owned());
    (folder, spec)
}

fn weights(folder: &TempDir) -> PathBuf {
    folder.path().join("model.safetensors")
}

/// Rewrites the header of a safetensors file.
fn edit_header(path: &Path, edit: impl FnOnce(&mut Value)) {
    let bytes = fs::read(path).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    edit(&mut header);
    let header = header.to_string().into_bytes();
    let length = (header.len() as u64).to_le_bytes();
    fs::write(path, [&length[..], &header, &bytes[end..]].concat()).unwrap();
}

#[test]
fn weight_files_that_cannot_be_used_are_named() {
    let (folder, spec) = saved();
    let whole = fs::read(weights(&folder)).unwrap();
    for bytes in [&whole[..whole.len() - 1], &whole[..100], &whole[..4], b"not safetensors at all".as_slice()]
    {
        fs::write(weights(&folder), bytes).unwrap();
        says(&refused(&spec), &["model.safetensors", "truncated or not a safetensors file"]);
    }
    fs::write(weights(&folder), b"").unwrap();
    says(&refused(&spec), &["model.safetensors"]);
    fs::remove_file(weights(&folder)).unwrap();
    says(&refused(&spec), &["neither model.safetensors nor model.safetensors.index.json"]);
}

#[test]
fn tensors_that_do_not_fit_the_configuration_are_named() {
    let name = "model.layers.1.mlp.up_proj.weight";
    let rename = |header: &mut Value| {
        let tensor = header.as_object_mut().unwrap().remove(name).unwrap();
        header["model.layers.1.mlp.upp_proj.weight"] = tensor;
    };
    let (folder, spec) = saved();
    edit_header(&weights(&folder), rename);
    says(&refused(&spec), &["model.safetensors", "upp_proj.weight is no part of a llama"]);

    let (folder, spec) = saved();
    let config = folder.path().join("config.json");
    let change = |key: &str, value: Value| {
        let mut edited: Value = serde_json::from_str(&fs::read_to_string(&config).unwrap()).unwrap();
        edited[key] = value;
        fs::write(&config, edited.to_string()).unwrap();
    };
    change("intermediate_size", json!(22));
    says(&refused(&spec), &["model.safetensors", "mlp", "shape [20, 24]", "[22, 24]"]);
    change("intermediate_size", json!(20));
    change("num_hidden_layers", json!(3));
    says(&refused(&spec), &["model.safetensors", "model.layers.2.", "is missing"]);
    change("num_hidden_layers", json!(2));
    edit_header(&weights(&folder), |header| header["model.norm.weight"]["dtype"] = json!("I32"));
    says(&refused(&spec), &["model.norm.weight", "I32", "F32, F16, BF16"]);
}

#[test]
fn shards_are_read_and_checked() {
    let (folder, spec) = saved();
    let before = log_probs(&mut *open(&spec).unwrap());
    // The head goes into a second shard.
    let bytes = fs::read(weights(&folder)).unwrap();
    let end = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..end]).unwrap();
    let head = header.as_object_mut().unwrap().remove("lm_head.weight").unwrap();
    let offsets = head["data_offsets"].as_array().unwrap();
    let [from, to] = [0, 1].map(|i| end + offsets[i].as_u64().unwrap() as usize);
    let shard = |header: Value, data: &[u8]| {
        let header = header.to_string().into_bytes();
        [&(header.len() as u64).to_le_bytes()[..], &header, data].concat()
    };
    let own = json!({ "lm_head.weight": {
        "dtype": head["dtype"], "shape": head["shape"], "data_offsets": [0, to - from],
    }});
    assert_eq!(to, bytes.len(), "the head is the last tensor");
    fs::write(folder.path().join("b.safetensors"), shard(own, &bytes[from..to])).unwrap();
    let names: Vec<String> = header.as_object().unwrap().keys().cloned().collect();
    fs::write(folder.path().join("a.safetensors"), shard(header, &bytes[end..from])).unwrap();
    fs::remove_file(weights(&folder)).unwrap();
    let mut map = json!({ "lm_head.weight": "b.safetensors" });
    names.iter().filter(|n| *n != "__metadata__").for_each(|n| map[n] = json!("a.safetensors"));
    let index = folder.path().join("model.safetensors.index.json");
    fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    assert_eq!(log_probs(&mut *open(&spec).unwrap()), before);

    fs::remove_file(folder.path().join("b.safetensors")).unwrap();
    says(&refused(&spec), &["b.safetensors"]);
    map["lm_head.weight"] = json!("a.safetensors");
    fs::write(&index, json!({ "weight_map": map }).to_string()).unwrap();
    says(&refused(&spec), &["index.json", "lm_head.weight", "no shard holds it"]);
    fs::write(&index, "{").unwrap();
    says(&refused(&spec), &["index.json", "not valid JSON"]);
}

#[test]
fn half_precision_files_come_back_to_the_bit() {
    for (dtype, stored) in [("bfloat16", "BF16"), ("float16", "F16"), ("float32", "F32")] {
        let mut config = tiny(ModelType::Llama);
        config["dtype"] = json!(dtype);
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let mut spec = random(&config, None);
        open(&spec).unwrap().save(folders[0].path(), Export::Model).unwrap();
        spec.source = ModelSource::Folder(folders[0].path().to_owned());
        open(&spec).unwrap().save(folders[1].path(), Export::Model).unwrap();
        for file in ["model.safetensors", "config.json"] {
            let [first, second] =
                folders.each_ref().map(|folder| fs::read(folder.path().join(file)).unwrap());
            assert_eq!(first, second, "{dtype}, {file}");
        }
        edit_header(&weights(&folders[0]), |header| assert_eq!(header["model.norm.weight"]["dtype"], stored));
    }
}

#[test]
fn names_of_older_files_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let mut spec = random(&tiny(ModelType::Gpt2), None);
    let mut session = open(&spec).unwrap();
    session.save(folder.path(), Export::Model).unwrap();
    spec.source = ModelSource::Folder(folder.path().to_owned());
    // Without the prefix, with a causal mask among the weights and the head beside the table it is.
    edit_header(&weights(&folder), |header| {
        let tensors = std::mem::take(header.as_object_mut().unwrap());
        for (name, tensor) in tensors {
            header[name.strip_prefix("transformer.").unwrap_or(&name)] = tensor;
        }
        let table = header["wte.weight"].clone();
        let end =
            header.as_object().unwrap().values().filter_map(|t| t["data_offsets"][1].as_u64()).max().unwrap();
        header["lm_head.weight"] = json!({
            "dtype": "F32", "shape": table["shape"], "data_offsets": [end, end + 4 * 37 * 24],
        });
        header["h.0.attn.bias"] = json!({
            "dtype": "F32", "shape": [1], "data_offsets": [end + 4 * 37 * 24, end + 4 * 37 * 24 + 4],
        });
    });
    let mut bytes = fs::read(weights(&folder)).unwrap();
    bytes.extend([0; 4 * 37 * 24 + 4]);
    fs::write(weights(&folder), bytes).unwrap();
    let mut older = open(&spec).unwrap();
    assert_eq!(log_probs(&mut *older), log_probs(&mut *session));

    let saved = tempfile::tempdir().unwrap();
    older.save(saved.path(), Export::Model).unwrap();
    edit_header(&weights(&saved), |header| {
        assert!(header.get("wte.weight").is_some() && header.get("lm_head.weight").is_none());
    });
}

fn log_probs(session: &mut dyn Session) -> Vec<f64> {
    let group = Group { prompt: vec![1, 2], completions: vec![vec![3, 4, 5]] };
    session.log_probs(&TokenBatch { groups: vec![group] }, Statistics::default()).unwrap().values
}

#[test]
fn configurations_that_would_be_computed_wrongly_are_refused() {
    let change = |key: &str, value: Value| {
        let mut config = tiny(ModelType::Llama);
        config[key] = value;
        refused(&random(&config, None))
    };
    says(&change("model_type", json!("lama")), &["model_type", "lama", "nearest: llama"]);
    says(&change("hidden_act", json!("gelu")), &["hidden_act", "gelu", "silu"]);
    says(&change("hidden_size", Value::Null), &["hidden_size", "is missing"]);
    says(&change("hidden_size", json!(-3)), &["hidden_size", "positive whole number", "-3"]);
    says(&change("num_key_value_heads", json!(3)), &["num_key_value_heads", "divide"]);
    says(&change("head_dim", json!(5)), &["head_dim", "even"]);
    says(&change("quantization_config", json!({})), &["quantization_config"]);
    says(&change("partial_rotary_factor", json!(0.5)), &["partial_rotary_factor"]);
    says(&change("rope_parameters", json!({ "rope_type": "yarn" })), &["rope_type", "yarn", "llama3"]);
    says(&change("rope_parameters", json!({ "rope_type": "linear" })), &["factor", "is missing"]);
    let mut gpt2 = tiny(ModelType::Gpt2);
    gpt2["scale_attn_by_inverse_layer_idx"] = json!(true);
    says(&refused(&random(&gpt2, None)), &["scale_attn_by_inverse_layer_idx"]);
}

#[test]
fn adapters_that_do_not_fit_are_refused() {
    let config = &tiny(ModelType::Llama);
    let adapter =
        |rank: usize, target: &str| Adapter { rank, alpha: 8.0, targets: vec![target.into()], path: None };
    says(&refused(&random(config, Some(adapter(4, "q_prj")))), &["q_prj", "nearest: q_proj", "down_proj"]);
    says(&refused(&random(config, Some(adapter(0, "q_proj")))), &["rank"]);

    let folder = tempfile::tempdir().unwrap();
    let mut session = open(&random(config, Some(adapter(4, "q_proj")))).unwrap();
    session.save(folder.path(), Export::Adapter).unwrap();
    let from = |rank: usize, target: &str| {
        let path = Some(folder.path().to_owned());
        random(config, Some(Adapter { path, ..adapter(rank, target) }))
    };
    assert!(open(&from(4, "q_proj")).is_ok());
    says(&refused(&from(2, "q_proj")), &["adapter_config.json", "lora_alpha", "2", "4"]);
    says(&refused(&from(4, "v_proj")), &["adapter_model.safetensors", "belongs to no target"]);
    says(&refused(&from(4, "all-linear")), &["adapter_model.safetensors", "is missing"]);

    let error = open(&random(config, None)).unwrap().save(folder.path(), Export::Adapter).unwrap_err();
    says(&error.to_string(), &["no adapter"]);
}

#[test]
fn devices_and_types_that_are_not_there_are_refused() {
    let spec = |device: &str, dtype: &str| ModelSpec {
        device: device.into(),
        dtype: dtype.into(),
        ..random(&tiny(ModelType::Llama), None)
    };
    assert!(open(&spec("auto", "f32")).is_ok());
    says(&refused(&spec("cpu", "bf16")), &["bf16", "CPU", "f32"]);
    says(&refused(&spec("cpu", "f8")), &["f8", "f32 or bf16"]);
    says(&refused(&spec("cdua", "f32")), &["cdua", "nearest: cuda"]);
    says(&refused(&spec("cuda:x", "f32")), &["cuda:x", "number"]);
    if cfg!(not(feature = "cuda")) {
        says(&refused(&spec("cuda", "f32")), &["--features cuda"]);
    }
}

#[test]
fn batches_that_the_model_cannot_read_are_refused() {
    let mut session = open(&random(&tiny(ModelType::Llama), None)).unwrap();
    let mut error = |prompt: Vec<u32>, completion: Vec<u32>| {
        let groups = vec![Group { prompt, completions: vec![completion] }];
        session.log_probs(&TokenBatch { groups }, Statistics::default()).unwrap_err().to_string()
    };
    says(&error(vec![], vec![1]), &["group 0", "prompt is empty"]);
    says(&error(vec![37], vec![1]), &["prompt of group 0", "37", "vocabulary of 37"]);
    says(&error(vec![1], vec![40]), &["completion 0 of group 0", "40"]);
    says(&error(vec![1; 100], vec![1; 29]), &["129 tokens", "128"]);

    let mut mistral = open(&random(&tiny(ModelType::Mistral), None)).unwrap();
    let groups = vec![Group { prompt: vec![1; 90], completions: vec![vec![1; 11]] }];
    let error = mistral.log_probs(&TokenBatch { groups }, Statistics::default()).unwrap_err();
    says(&error.to_string(), &["101 tokens", "sliding_window", "100"]);

    let sampling = Sampling { max_new_tokens: 200, temperature: 0.0, top_p: 1.0, seed: 0, stop: vec![] };
    says(&session.generate(&[vec![1]], &sampling).unwrap_err().to_string(), &["prompt 0", "200", "128"]);
    let hot = Sampling { max_new_tokens: 1, temperature: -1.0, ..sampling };
    says(&session.generate(&[vec![1]], &hot).unwrap_err().to_string(), &["temperature", "-1"]);
}

#[test]
fn upstream_gradients_that_make_no_sense_are_refused() {
    let mut session = open(&random(&tiny(ModelType::Llama), None)).unwrap();
    let batch = TokenBatch { groups: vec![Group { prompt: vec![1], completions: vec![vec![2, 3]] }] };
    let mut error = |upstream: Vec<f64>| {
        let result = session.backward(&batch, Statistics::default(), &mut |_| Ok(upstream.clone()));
        result.unwrap_err().to_string()
    };
    says(&error(vec![1.0]), &["one number per log-prob (2), got 1"]);
    says(&error(vec![1.0, f64::NAN]), &["token 1 is NaN"]);
}
