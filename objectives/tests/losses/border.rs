//! An objective that is loaded instead of linked behaves the same, to the last bit.

use serde_json::json;
use spo_api::{Entry, Evaluation, Objective, Side, abi};
use test_support::valgrind;

use crate::batches::registry;
use crate::specimens::{Specimen, all, batch};

/// The specimen as it would be had it been loaded.
fn loaded(specimen: &Specimen) -> Box<dyn Objective> {
    abi::through(registry().get("objective", specimen.name).unwrap()).make(&specimen.config).unwrap()
}

#[test]
fn losses_gradients_rewards_metrics_and_state_cross_unchanged() {
    for specimen in all() {
        let (mut linked, mut loaded) = (specimen.build(), loaded(&specimen));
        assert_eq!(linked.requirements(), loaded.requirements(), "{specimen}");
        for seed in 0..4 {
            let batch = batch(linked.requirements().data, 5, seed);
            linked.begin(seed as usize);
            loaded.begin(seed as usize);
            let (ours, theirs) = (batch.evaluate(&mut *linked), batch.evaluate(&mut *loaded));
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{specimen}");
            assert_eq!(linked.state(), loaded.state(), "{specimen}");
        }
        loaded.restore(&linked.state()).unwrap();
        let data = linked.requirements().data;
        let (at, moved) = (batch(data, 3, 7), {
            let mut moved = batch(data, 3, 7);
            moved.chosen.policy.values[0] += 0.5;
            moved
        });
        let held = |objective: &mut dyn Objective| {
            let mut out = Evaluation::default();
            out.compute_held(objective, &at.view(), &moved.view()).map(|()| out.losses)
        };
        assert_eq!(held(&mut *linked).unwrap(), held(&mut *loaded).unwrap(), "{specimen}");
        assert_eq!(linked.state(), loaded.state(), "{specimen}");
        let (ours, theirs) = (linked.restore(b"?").unwrap_err(), loaded.restore(b"?").unwrap_err());
        assert_eq!(ours.to_string(), theirs.to_string(), "{specimen}");
    }
}

#[test]
fn failures_cross_as_they_are() {
    let dpo = Specimen { name: "dpo", config: json!({}) };
    let mut batch = batch(spo_api::Layout::Pairs, 2, 0);
    batch.chosen.policy.values[0] = f64::NAN;
    let (ours, theirs) =
        (batch.evaluate(&mut *dpo.build()).unwrap_err(), batch.evaluate(&mut *loaded(&dpo)).unwrap_err());
    assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));

    let view = batch.view();
    let without = spo_api::PreferenceBatch { chosen: Side { reference: None, ..view.chosen }, ..view };
    let error = crate::batches::evaluate(&mut *loaded(&dpo), &without).unwrap_err();
    assert_eq!(error.to_string(), "this objective needs reference log-probs and got none");

    for config in [json!({"bta": 1}), json!({"beta": -1}), json!({"label_smoothing": "x"})] {
        let refuse = |entry: &Entry| entry.make::<dyn Objective>(&config).err().unwrap();
        let entry = registry().get("objective", "dpo").unwrap();
        assert_eq!(refuse(entry), refuse(abi::through(entry)));
    }
}

#[test]
fn entries_cross_unchanged() {
    for entry in registry().iter() {
        let loaded = abi::through(entry);
        assert_eq!((entry.name, entry.aliases, entry.summary), (loaded.name, loaded.aliases, loaded.summary));
        assert_eq!((entry.source, entry.build.kind()), (loaded.source, loaded.build.kind()));
        assert_eq!((entry.schema)(), (loaded.schema)());
        assert_eq!(loaded.origin, "spo-objectives linked (this program)");
    }
}

/// The tests above once more, with every access to memory watched.
#[test]
fn memory_is_respected() {
    valgrind::watch(&["border", "--skip", "memory_is_respected"]);
}
