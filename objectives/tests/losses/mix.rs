//! Sums of objectives.

use serde_json::json;
use spo_api::{Layout, Objective};
use spo_objectives::losses::{Component, Mix, WeightSchedule};

use crate::batches::build;
use crate::specimens::batch;

fn component(name: &str, weight: f64) -> Component {
    Component { name: name.into(), weight, schedule: None, objective: build(name, &json!({})) }
}

fn mix(terms: &[(&str, f64)]) -> Mix {
    Mix::new(terms.iter().map(|(name, weight)| component(name, *weight)).collect()).unwrap()
}

#[test]
fn a_mix_is_the_weighted_sum_of_its_terms() {
    let terms = [("dpo", 1.0), ("absolute-gain", 0.5), ("sft", -0.25)];
    let batch = batch(Layout::Pairs, 5, 7);
    let whole = batch.evaluate(&mut mix(&terms)).unwrap();
    let (mut loss, mut chosen) = (0.0, vec![0.0; whole.grad_chosen.len()]);
    for (name, weight) in terms {
        let alone = batch.evaluate(&mut *build(name, &json!({}))).unwrap();
        loss += weight * alone.loss(&batch.view());
        chosen.iter_mut().zip(&alone.grad_chosen).for_each(|(sum, g)| *sum += weight * g);
        let own = whole.metrics[&format!("loss/{name}")];
        assert!((own - alone.loss(&batch.view())).abs() < 1e-12, "{name}");
    }
    assert!((whole.loss(&batch.view()) - loss).abs() < 1e-12);
    assert!(whole.grad_chosen.iter().zip(&chosen).all(|(a, b)| (a - b).abs() < 1e-12));
    let dpo = batch.evaluate(&mut *build("dpo", &json!({}))).unwrap();
    assert_eq!(whole.rewards, dpo.rewards);
}

#[test]
fn a_scheduled_weight_is_reached_in_a_straight_line() {
    let batch = batch(Layout::Pairs, 4, 3);
    let alone = batch.evaluate(&mut *build("sft", &json!({}))).unwrap().loss(&batch.view());
    let schedule = Some(WeightSchedule { from: 1.0, steps: 4 });
    let mut mix = Mix::new(vec![Component { schedule, ..component("sft", 3.0) }]).unwrap();
    for (steps_done, factor) in [(0, 1.0), (1, 1.5), (3, 2.5), (4, 3.0), (100, 3.0)] {
        mix.begin(steps_done);
        let loss = batch.evaluate(&mut mix).unwrap().loss(&batch.view());
        assert!((loss - factor * alone).abs() < 1e-12, "{steps_done}: {loss}");
    }
}

#[test]
fn names_and_metrics_that_collide_are_told_apart() {
    let batch = batch(Layout::Pairs, 3, 1);
    let out = batch.evaluate(&mut mix(&[("absolute-gain", 1.0), ("absolute-gain", 1.0)])).unwrap();
    let names: Vec<_> = out.metrics.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "absolute-gain-2/displaced",
            "absolute-gain-2/gain",
            "displaced",
            "gain",
            "loss/absolute-gain",
            "loss/absolute-gain-2"
        ]
    );
}

#[test]
fn needs_are_those_of_all_terms() {
    let needs = mix(&[("sft", 1.0), ("dpo", 1.0)]).requirements();
    assert!(needs.reference && needs.data == Layout::Pairs && !needs.whole_batch);
    assert!(mix(&[("sft", 1.0), ("aot", 1.0)]).requirements().whole_batch);
}

#[test]
fn what_cannot_be_summed_is_refused() {
    let error = |components| Mix::new(components).err().unwrap().to_string();
    assert!(error(vec![]).contains("at least one"));
    assert!(error(vec![component("dpo", f64::NAN)]).contains("weight of `dpo`"));
    let both = error(vec![component("dpo", 1.0), component("kto", 1.0)]);
    assert_eq!(both, "`dpo` learns from pairs and `kto` from unpaired answers: they cannot be summed");
}

#[test]
fn a_mix_resumes_with_the_state_of_its_terms() {
    let terms = [("bco", 1.0), ("sft", 0.1), ("kto", 1.0)];
    let (first, second) = (batch(Layout::Unpaired, 4, 1), batch(Layout::Unpaired, 4, 2));
    let mut straight = mix(&terms);
    first.evaluate(&mut straight).unwrap();
    let state = straight.state();
    let expected = second.evaluate(&mut straight).unwrap();

    let mut resumed = mix(&terms);
    resumed.restore(&state).unwrap();
    assert_eq!(second.evaluate(&mut resumed).unwrap(), expected);
    assert_ne!(second.evaluate(&mut mix(&terms)).unwrap(), expected, "the state matters");

    for broken in [&state[..state.len() - 1], &[0; 7], &[state.clone(), vec![0]].concat()] {
        assert!(mix(&terms).restore(broken).is_err());
    }
    assert!(mix(&[("dpo", 1.0)]).state().is_empty());
    assert!(mix(&[("dpo", 1.0)]).restore(&[]).is_ok());
}
