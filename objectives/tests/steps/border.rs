//! A step that is loaded instead of linked behaves the same, to the last bit: the problem crosses one way,
//! the step the other.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::Value;
use spo_api::{BilevelStep, Entry, Registry, abi};
use test_support::valgrind;

use crate::contract::{all_modes, world};
use crate::world::build;

/// The step as it would be had it been loaded.
fn loaded(name: &str, config: &Value) -> Box<dyn BilevelStep> {
    static LOADED: LazyLock<BTreeMap<&str, &Entry>> = LazyLock::new(|| {
        let registry = Registry::linked().unwrap();
        registry.of_kind("step").map(|entry| (entry.name, abi::through(entry))).collect()
    });
    LOADED[name].make(config).unwrap()
}

#[test]
fn updates_reports_and_state_cross_unchanged() {
    for (name, config) in all_modes() {
        let (mut ours, mut theirs) = (world(), world());
        let (mut linked, mut loaded) = (build(name, config.clone()), loaded(name, &config));
        let needs = linked.needs().update_alone(false);
        assert_eq!((needs, linked.passes()), (loaded.needs(), loaded.passes()));
        for _ in 0..4 {
            let report = format!("{:?}", ours.run(&mut *linked));
            assert_eq!(format!("{:?}", theirs.run(&mut *loaded)), report, "{name} {config}");
            assert_eq!((ours.theta(), &ours.trace), (theirs.theta(), &theirs.trace), "{name} {config}");
            assert_eq!(linked.state(), loaded.state(), "{name} {config}");
        }
        loaded.restore(&linked.state()).unwrap();
        assert!(loaded.restore(b"?").is_err(), "{name}");
    }
}

#[test]
fn a_failure_of_the_problem_comes_back_as_it_was() {
    for (name, config) in all_modes() {
        for n in 0..build(name, config.clone()).passes().forward {
            world().run_failing(&mut *loaded(name, &config), n);
        }
    }
}

/// The tests above once more, with every access to memory watched.
#[test]
fn memory_is_respected() {
    valgrind::watch(&["border", "--skip", "memory_is_respected"]);
}
