//! Devices and failures: what is refused, with which message.

use serde_json::json;
use spo_api::{Backend, Error};
use spo_backend_tch::{Array, Tch, TchEngine};
use spo_transformer::conformance::{random, tiny};
use spo_transformer::{Engine, Mat, Memory, ModelType, Precision};
use tch::{Device, Kind};

fn refused(device: &str, dtype: &str) -> String {
    let mut spec = random(&tiny(ModelType::Llama), None);
    (spec.device, spec.dtype) = (device.into(), dtype.into());
    let options: Tch = serde_json::from_value(json!({})).unwrap();
    options.open(&spec).err().map(|e| e.to_string()).unwrap_or_default()
}

#[track_caller]
fn says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

#[test]
fn devices_and_types_that_are_not_there_are_refused() {
    says(&refused("gpu", "f32"), &["unknown device `gpu`", "cuda"]);
    says(&refused("cuda:x", "f32"), &["device cuda:x", "number"]);
    says(&refused("cpu", "f16"), &["unknown dtype `f16`", "bf16"]);
    assert_eq!(refused("cpu", "bf16"), "");
    assert_eq!(refused("auto", "f32"), "");
    match tch::Cuda::is_available() {
        true => says(&refused("cuda:99", "f32"), &["device cuda:99", "numbered from 0"]),
        false => says(&refused("cuda", "f32"), &["device cuda: libtorch"]),
    }
}

#[test]
fn failures_name_the_operation_and_the_shapes() {
    let engine = TchEngine::new(Device::Cpu, Kind::Float);
    let zeros = |shape: &[usize]| engine.memory().zeros(shape, Precision::Full).unwrap();
    let words = |failed: Result<Array, Error>| match failed {
        Err(Error::Engine(words)) => words,
        other => panic!("{other:?}"),
    };
    let product = words(engine.matmul(Mat::new(&zeros(&[2, 3])), Mat::new(&zeros(&[4, 5]))));
    says(
        &product,
        &["libtorch: matmul of [2, 3] f32, [4, 5] f32: mat1 and mat2 shapes cannot be multiplied"],
    );
    assert!(!product.contains('\n'), "{product}");
    let memory = words(engine.memory().zeros(&[1 << 30, 1 << 20], Precision::Full));
    says(&memory, &["libtorch: allocation of [1073741824, 1048576]", "memory"]);
    assert!(!memory.contains('\n'), "{memory}");
}
