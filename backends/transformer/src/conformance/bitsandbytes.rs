//! AdamW with 8-bit moments, compared with bitsandbytes.

use serde::Deserialize;

use crate::engine::{AdamWStep, BLOCK, Blockwise, DynamicMap, Engine, Memory, Precision, SIGNED, UNSIGNED};

#[derive(Deserialize)]
struct Golden {
    signed_map: Vec<f32>,
    unsigned_map: Vec<f32>,
    tensors: Vec<GoldenTensor>,
}

#[derive(Deserialize)]
struct GoldenTensor {
    size: usize,
    parameters: Vec<f32>,
    #[serde(default)]
    codes1: Vec<u8>,
    #[serde(default)]
    codes2: Vec<u8>,
    #[serde(default)]
    scales1: Vec<f32>,
    #[serde(default)]
    scales2: Vec<f32>,
    #[serde(default)]
    moment1: Vec<f32>,
    #[serde(default)]
    moment2: Vec<f32>,
}

/// The reference data contain every `SHOWN`-th element.
const SHOWN: usize = 50;

/// Twenty updates give the same parameters, codes and scales as bitsandbytes. Small tensors keep f32 moments.
pub fn adamw_8bit_is_that_of_bitsandbytes<E: Engine>(engine: impl Fn() -> E) {
    let golden: Golden =
        serde_json::from_str(include_str!("../../../../tests/goldens/adamw_8bit.json")).expect("figures");
    same_map(&SIGNED, &golden.signed_map);
    same_map(&UNSIGNED, &golden.unsigned_map);
    let engine = engine();
    for tensor in &golden.tensors {
        match tensor.moment1.is_empty() {
            true => in_8_bits(&engine, tensor),
            false => in_f32(&engine, tensor),
        }
    }
}

/// bitsandbytes computes its maps in f32, and the last bit depends on the processor.
fn same_map(map: &DynamicMap, expected: &[f32]) {
    assert_eq!(expected.len(), map.values.len());
    close("map", &map.values, expected, 2e-7);
}

fn in_8_bits<E: Engine>(engine: &E, golden: &GoldenTensor) {
    let n = golden.size;
    let zeros = |n: usize, precision| engine.memory().zeros(&[n], precision).expect("memory");
    let moment =
        || Blockwise { codes: zeros(n, Precision::Byte), scales: zeros(n.div_ceil(BLOCK), Precision::Full) };
    let moments = [moment(), moment()];
    let parameters = updated(engine, n, |into, gradient, step| {
        let [first, second] = &moments;
        engine.adamw_8bit(into, gradient, [first.as_ref(), second.as_ref()], step).expect("an update");
    });
    close("parameters", &shown(&parameters), &golden.parameters, 1e-5);
    let expected = [(&golden.codes1, &golden.scales1), (&golden.codes2, &golden.scales2)];
    for (moment, (codes, scales)) in moments.iter().zip(expected) {
        close("scales", &download(engine, &moment.scales), scales, 1e-5);
        // A value halfway between two codes can round either way because of its last bit.
        let found = shown(&download(engine, &moment.codes));
        assert_eq!(found.len(), codes.len());
        let others = found.iter().zip(codes).filter(|(found, code)| **found != f32::from(**code)).count();
        assert!(others <= 1, "{others} of {} codes are others", codes.len());
    }
}

fn in_f32<E: Engine>(engine: &E, golden: &GoldenTensor) {
    let zeros = || engine.memory().zeros(&[golden.size], Precision::Full).expect("memory");
    let moments = [zeros(), zeros()];
    let parameters = updated(engine, golden.size, |into, gradient, step| {
        engine.adamw(into, gradient, moments.each_ref(), step).expect("an update");
    });
    close("parameters", &shown(&parameters), &golden.parameters, 1e-5);
    for (moment, expected) in moments.iter().zip([&golden.moment1, &golden.moment2]) {
        close("moments", &shown(&download(engine, moment)), expected, 1e-5);
    }
}

/// The parameters after twenty updates, computed as in the script that generated the reference data.
fn updated<E: Engine>(engine: &E, n: usize, update: impl Fn(&E::Tensor, &E::Tensor, &AdamWStep)) -> Vec<f32> {
    let upload = |value: &dyn Fn(f64) -> f64| {
        let values = (0..n).map(|i| value(i as f64) as f32).collect();
        engine.memory().upload(values, &[n], Precision::Full).expect("memory")
    };
    let into = upload(&|i| 0.05 * (0.37 * i + 0.1).sin());
    for count in 1..=20 {
        let t = count as f64;
        let gradient =
            upload(&|i| 0.01 * (0.7 * i + 1.3 * t).sin() * (-(7919.0 * i).rem_euclid(97.0) / 12.0).exp());
        let step = AdamWStep {
            lr: 1e-3,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_scale: if count % 3 == 0 { 0.5 } else { 1.0 },
            count,
        };
        update(&into, &gradient, &step);
    }
    download(engine, &into)
}

fn download<E: Engine>(engine: &E, x: &E::Tensor) -> Vec<f32> {
    engine.memory().download(x).expect("values")
}

fn shown(values: &[f32]) -> Vec<f32> {
    values.iter().step_by(SHOWN).copied().collect()
}

fn close(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs();
        assert!(error <= tolerance * expected.abs(), "{what}, {i}: {found}, expected {expected}");
    }
}
