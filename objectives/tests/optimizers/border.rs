//! An optimizer that is loaded instead of linked behaves the same, to the last bit: the space crosses one way, the
//! optimizer the other.

use serde_json::Value;
use spo_api::{MemorySpace, Optimizer, Registry, Update, Vector, VectorSpace, abi};
use spo_loader::certify::modes;
use test_support::valgrind;

const UPDATE: Update = Update { lr: 0.01, gradient_scale: 0.5, count: 1 };

/// The parameters after each of five updates.
fn run(optimizer: &dyn Optimizer) -> Vec<Vec<f64>> {
    let mut space = MemorySpace::new(vec![0.5, -1.25, 2.0]).sparing([false, true]);
    let state: Vec<_> = (0..optimizer.states()).map(|_| space.allocate().unwrap()).collect();
    let after = |count: u64| {
        let gradient: Vec<f64> = (0..3).map(|i| (f64::from(i) + 0.7 * count as f64).sin()).collect();
        *space.get_mut(Vector::GRADIENT).unwrap() = gradient;
        optimizer.step(&mut space, &state, &Update { count, ..UPDATE }).unwrap();
        assert_eq!(space.misuse(), None);
        space.get(Vector::PARAMETERS).unwrap().clone()
    };
    (1..=5).map(after).collect()
}

#[test]
fn updates_and_kernels_cross_unchanged() {
    for entry in Registry::linked().unwrap().of_kind("optimizer") {
        for config in modes(entry) {
            let make = |entry: &spo_api::Entry| entry.make::<dyn Optimizer>(&config).unwrap();
            let (linked, loaded) = (make(entry), make(abi::through(entry)));
            assert_eq!(linked.kernel(), loaded.kernel());
            assert_eq!((linked.states(), linked.needs_kernel()), (loaded.states(), loaded.needs_kernel()));
            if !linked.needs_kernel() {
                assert_eq!(run(&*linked), run(&*loaded), "{} {config}", entry.name);
            }
        }
    }
}

#[test]
fn refusals_cross_as_they_are() {
    for entry in Registry::linked().unwrap().of_kind("optimizer") {
        for config in [r#"{"bta": 1}"#, r#"{"weight_decay": -1}"#, r#"{"weight_decay": "x"}"#] {
            let config: Value = serde_json::from_str(config).unwrap();
            let refusal = |entry: &spo_api::Entry| entry.make::<dyn Optimizer>(&config).err().unwrap();
            assert_eq!(refusal(entry), refusal(abi::through(entry)));
        }
    }
}

/// The tests above once more, with every access to memory watched.
#[test]
fn memory_is_respected() {
    valgrind::watch(&["border", "--skip", "memory_is_respected"]);
}
