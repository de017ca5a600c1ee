//! Tests that a lower level with several tasks has the value, gradient and Hessian of the weighted sum,
//! regardless of where its batches come from.

use super::{LowerTerm, Scored, StepProblem, StepSetting, UpperLevel};
use crate::plan::view::View;
use crate::recipe::compose;
use crate::store::scores::Scores;
use crate::train::reference::Scoring;
use crate::train::step::rows::Batch;
use spo_api::{
    Backend, BilevelProblem, Error, EvaluationMut, Layout, LevelWeights, ModelSource, ModelSpec, Objective,
    PreferenceBatch, Progress, Registry, Requirements, Result, Session, Vector, Weigh,
};
use spo_backend_tabular::Tabular;
use spo_data::{Dataset, Fit, MicroBatch, Tokenizer, task};
use spo_objectives as _;

const WEIGHTS: [f64; 3] = [0.5, 2.0, 0.25];

/// A session, pairs, and demonstrations of two other tasks with the same vocabulary.
struct Scene {
    session: Box<dyn Session>,
    pairs: Dataset,
    others: [Dataset; 2],
    /// Builds the objective of a lower-level term with the given weight.
    objective: fn(f64) -> Box<dyn Objective>,
}

fn scene() -> Scene {
    let made = |seed| task::generate("codewords", &serde_json::json!({ "train": 12 }), seed).unwrap();
    let tokenizer = Tokenizer::characters(&made(0).alphabet);
    let rows =
        |seed, layout| Dataset::from_rows(made(seed).train, layout, &tokenizer, &Fit::default()).unwrap();
    let config = serde_json::json!({
        "model_type": "tabular", "kind": "mlp", "order": 4, "embedding_size": 3, "hidden_size": 5,
        "vocab_size": tokenizer.vocabulary(), "initializer_range": 0.5,
    });
    let spec = ModelSpec {
        source: ModelSource::Random(config),
        adapter: None,
        quantize: None,
        allow_pickle: false,
        seed: 1,
        device: "cpu".into(),
        dtype: "f64".into(),
    };
    Scene {
        session: Tabular {}.open(&spec).unwrap(),
        pairs: rows(0, Layout::Pairs),
        others: [rows(1, Layout::Demonstrations), rows(2, Layout::Demonstrations)],
        objective: sft,
    }
}

fn sft(weight: f64) -> Box<dyn Objective> {
    let spec = serde_json::from_value(serde_json::json!([{ "name": "sft", "weight": weight }])).unwrap();
    compose::objective(&Registry::linked().unwrap(), &spec, None).unwrap()
}

/// `weight (1 + seen) ln(1 + e^(-s/8))` of an answer's log-prob s. It is not linear in s. If it counts its
/// evaluations (`seen`), its value also changes with each of them.
struct Curved {
    weight: f64,
    counts: bool,
    seen: u8,
}

impl Objective for Curved {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Demonstrations)
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        let (answers, factor) = (batch.chosen.policy, self.weight * (1.0 + f64::from(self.seen)));
        for i in 0..answers.rows() {
            let s = answers.sum(i);
            out.losses[i] = factor * (-s / 8.0).exp().ln_1p();
            let slope = -factor / 8.0 / (1.0 + (s / 8.0).exp());
            out.grad_chosen[answers.range(i)].fill(slope / batch.whole.rows as f64);
        }
        self.seen += u8::from(self.counts);
        Ok(())
    }

    fn state(&self) -> Vec<u8> {
        vec![self.seen]
    }

    fn restore(&mut self, state: &[u8]) -> Result<()> {
        self.seen = state[0];
        Ok(())
    }
}

fn curved(weight: f64) -> Box<dyn Objective> {
    Box::new(Curved { weight, counts: false, seen: 0 })
}

fn counting(weight: f64) -> Box<dyn Objective> {
    Box::new(Curved { weight, counts: true, seen: 0 })
}

impl Scene {
    fn reference(&mut self, data: usize) -> Scores {
        let data = if data == 0 { &self.pairs } else { &self.others[data - 1] };
        let view = View { layout: data.layout, mismatched: None };
        let mut scores = Scores::empty(data);
        let all: Vec<usize> = (0..data.examples.len()).collect();
        Scoring { data, view, rows: &all, at_once: 4, parameters: None }
            .fill(&mut scores, &mut *self.session, &mut |_, _| Ok(()))
            .unwrap();
        scores
    }

    /// Calls a function with a problem that has `tasks` as additional terms. The first term uses the upper
    /// batch or, with `own`, a batch of the first other task. Batches are rows 0..4, then 4..8, ...
    fn on<T>(
        &mut self,
        own: bool,
        tasks: &[usize],
        micro_batch: Option<MicroBatch>,
        work: impl FnOnce(&mut StepProblem<'_>) -> T,
    ) -> T {
        let scores = [0, 1, 2].map(|i| self.reference(i));
        let mut dpo = Registry::linked().unwrap().objective("dpo", &serde_json::json!({})).unwrap();
        let first = usize::from(own);
        let terms: Vec<(usize, f64)> =
            [(first, WEIGHTS[0])].into_iter().chain(tasks.iter().map(|&i| (i, WEIGHTS[i]))).collect();
        let mut objectives: Vec<_> = terms.iter().map(|(_, weight)| (self.objective)(*weight)).collect();
        let datasets = [&self.pairs, &self.others[0], &self.others[1]];
        let scored = |i: usize| Scored { rows: datasets[i], reference: Some(&scores[i]) };
        let drawing = || {
            let mut start = 0;
            move || {
                start += 4;
                (start - 4..start).collect::<Vec<_>>()
            }
        };
        let lower = objectives.iter_mut().zip(&terms).map(|(objective, &(i, _))| LowerTerm {
            objective: &mut **objective,
            data: scored(i),
            shared: i == 0,
            draw: Box::new(drawing()),
        });
        let view = View { layout: Layout::Pairs, mismatched: None };
        let batch = Batch::new(&self.pairs, &[3, 1, 4, 0], view, micro_batch).unwrap();
        let upper = UpperLevel { objective: &mut *dpo, data: scored(0), batch };
        let setting = StepSetting { progress: Progress { step: 0, total: 1 }, micro_batch };
        work(&mut StepProblem::new(&mut *self.session, upper, lower.collect(), setting, None).unwrap())
    }

    /// G with one term only: 0 is the chosen answers of the upper batch, the others are the first rows of a
    /// task.
    fn term(&mut self, term: usize) -> f64 {
        match term {
            0 => self.on(false, &[], None, |p| p.lower().unwrap()),
            // The problem always has a first term, of weight WEIGHTS[0], on the upper batch.
            i => self.on(false, &[i], None, |p| p.lower().unwrap()) - self.term(0),
        }
    }
}

/// The slope of G, or of `F + 3 G`, along its gradient must equal the squared norm of the gradient.
fn slope(
    problem: &mut StepProblem<'_>,
    gradient: Vector,
    value: impl Fn(&mut StepProblem<'_>) -> f64,
) -> f64 {
    let mut at = |step: f64| {
        problem.vectors().axpy(step, gradient, Vector::PARAMETERS).unwrap();
        let value = value(problem);
        problem.vectors().axpy(-step, gradient, Vector::PARAMETERS).unwrap();
        value
    };
    let h = 1e-5;
    (at(h) - at(-h)) / (2.0 * h)
}

const CASES: [(bool, &[usize]); 3] = [(false, &[1]), (false, &[1, 2]), (true, &[2])];

#[test]
fn the_value_is_the_weighted_sum_of_the_tasks() {
    let mut scene = scene();
    let terms = [0, 1, 2].map(|i| scene.term(i));
    assert!(terms.iter().all(|term| *term > 0.1), "{terms:?}");
    for (own, tasks) in CASES {
        let expected: f64 = tasks.iter().map(|&i| terms[i]).sum::<f64>()
            + if own { terms[1] * WEIGHTS[0] / WEIGHTS[1] } else { terms[0] };
        let (lower, reference, by) = scene.on(own, tasks, None, |problem| {
            let mut by = f64::NAN;
            let mut weigh = |losses: spo_api::Losses| {
                by = losses.lower;
                Ok(LevelWeights { upper: 1.0, lower: 2.0 })
            };
            let losses = problem.gradient(Weigh::By(&mut weigh), Vector::GRADIENT).unwrap();
            assert!((losses.lower - by).abs() < 1e-14);
            (problem.lower().unwrap(), problem.reference_lower().unwrap(), by)
        });
        for value in [lower, reference, by] {
            assert!((value - expected).abs() < 1e-12, "{own} {tasks:?}: {value} {expected}");
        }
    }
}

#[test]
fn the_gradient_is_that_of_the_weighted_sum() {
    let mut scene = scene();
    for (own, tasks) in CASES {
        for micro_batch in [None, Some(MicroBatch::Rows(3))] {
            scene.on(own, tasks, micro_batch, |problem| {
                let v = problem.vectors().allocate().unwrap();
                for weights in [LevelWeights::LOWER, LevelWeights { upper: 1.0, lower: 3.0 }] {
                    let fixed = problem.gradient(Weigh::Fixed(weights), v).unwrap();
                    let squared = problem.vectors().dot(v, v).unwrap();
                    let found = slope(problem, v, |problem| {
                        let lower = problem.lower().unwrap();
                        let upper = match weights.upper {
                            0.0 => 0.0,
                            _ => {
                                problem
                                    .gradient(Weigh::Fixed(LevelWeights::UPPER), Vector::GRADIENT)
                                    .unwrap()
                                    .upper
                            }
                        };
                        weights.upper * upper + weights.lower * lower
                    });
                    assert!((found - squared).abs() < 1e-7 * squared, "{own} {tasks:?}: {found} {squared}");
                    assert!((fixed.lower - problem.lower().unwrap()).abs() < 1e-12);

                    // Weights that are computed from the losses give the same result.
                    let w = problem.vectors().allocate().unwrap();
                    problem.gradient(Weigh::By(&mut |_| Ok(weights)), w).unwrap();
                    problem.vectors().axpy(-1.0, v, w).unwrap();
                    assert!(problem.vectors().norm(w).unwrap() < 1e-12);
                    problem.vectors().release(w);
                }
                problem.vectors().release(v);
            });
        }
    }
}

/// `H dG`, and dG at points along dG.
fn hessian_times_gradient(problem: &mut StepProblem<'_>) -> (Vector, Vector) {
    let [v, product] = [(); 2].map(|()| problem.vectors().allocate().unwrap());
    problem.gradient(Weigh::Fixed(LevelWeights::LOWER), v).unwrap();
    // Arbitrary content, which must be overwritten.
    problem.vectors().copy(Vector::PARAMETERS, product).unwrap();
    problem.lower_hessian_vector(v, product).unwrap();
    (v, product)
}

/// Compares with fourth-order differences of dG.
#[test]
fn the_hessian_is_that_of_the_weighted_sum() {
    for objective in [sft, curved] {
        let mut scene = Scene { objective, ..scene() };
        for (own, tasks) in CASES {
            for micro_batch in [None, Some(MicroBatch::Rows(3))] {
                scene.on(own, tasks, micro_batch, |problem| {
                    let (v, product) = hessian_times_gradient(problem);
                    let length = problem.vectors().norm(product).unwrap();
                    let [home, around] = [(); 2].map(|()| problem.vectors().allocate().unwrap());
                    problem.vectors().copy(Vector::PARAMETERS, home).unwrap();
                    let h = 1e-3 / problem.vectors().norm(v).unwrap();
                    for (displacement, factor) in [(1.0, 8.0), (-1.0, -8.0), (2.0, -1.0), (-2.0, 1.0)] {
                        problem.vectors().copy(home, Vector::PARAMETERS).unwrap();
                        problem.vectors().axpy(displacement * h, v, Vector::PARAMETERS).unwrap();
                        problem.gradient(Weigh::Fixed(LevelWeights::LOWER), around).unwrap();
                        problem.vectors().axpy(-factor / (12.0 * h), around, product).unwrap();
                    }
                    let left = problem.vectors().norm(product).unwrap();
                    assert!(length > 1e-3 && left < 1e-9 * length, "{own} {tasks:?}: {left} of {length}");
                });
            }
        }
    }
}

#[test]
fn a_hessian_vector_product_leaves_the_objectives_as_they_were() {
    let product = |objective| {
        let mut scene = Scene { objective, ..scene() };
        scene.on(true, &[2], Some(MicroBatch::Rows(1)), |problem| {
            let v = problem.vectors().allocate().unwrap();
            problem.vectors().copy(Vector::PARAMETERS, v).unwrap();
            let product = problem.vectors().allocate().unwrap();
            problem.lower_hessian_vector(v, product).unwrap();
            (problem.vectors().norm(product).unwrap(), problem.lower().unwrap())
        })
    };
    let (forgetful, mindful) = (product(curved), product(counting));
    assert_eq!(forgetful.0, mindful.0, "every evaluation met the state that the product found");
    assert!(mindful.1 > forgetful.1, "and the next is the first to count: {mindful:?} {forgetful:?}");
}

#[test]
fn a_hessian_vector_product_is_of_the_steps_own_vectors() {
    scene().on(false, &[1], None, |problem| {
        let own = problem.vectors().allocate().unwrap();
        for (v, into) in [(Vector::GRADIENT, own), (own, Vector::GRADIENT), (own, Vector::PARAMETERS)] {
            let before = problem.vectors().norm(Vector::PARAMETERS).unwrap();
            let error = problem.lower_hessian_vector(v, into).unwrap_err();
            assert!(matches!(&error, Error::Engine(words) if words.contains("the step's own")), "{error}");
            assert_eq!(problem.vectors().norm(Vector::PARAMETERS).unwrap(), before);
        }
    });
}

#[test]
fn every_task_draws_its_next_batch() {
    let mut scene = scene();
    scene.on(true, &[2], None, |problem| {
        let first = problem.lower().unwrap();
        problem.next_lower().unwrap();
        let second = problem.lower().unwrap();
        assert!((first - second).abs() > 1e-6, "another batch, another value");
        assert!((problem.reference_lower().unwrap() - second).abs() < 1e-12, "the reference follows");
    });
}

#[test]
fn without_a_lower_level_nothing_is_told_of_it() {
    let mut scene = scene();
    let scores = scene.reference(0);
    let mut dpo = Registry::linked().unwrap().objective("dpo", &serde_json::json!({})).unwrap();
    let view = View { layout: Layout::Pairs, mismatched: None };
    let batch = Batch::new(&scene.pairs, &[3, 1], view, None).unwrap();
    let data = Scored { rows: &scene.pairs, reference: Some(&scores) };
    let upper = UpperLevel { objective: &mut *dpo, data, batch };
    let setting = StepSetting { progress: Progress { step: 0, total: 1 }, micro_batch: None };
    let mut problem = StepProblem::new(&mut *scene.session, upper, Vec::new(), setting, None).unwrap();

    for weights in [LevelWeights::UPPER, LevelWeights { upper: 1.0, lower: 2.0 }] {
        let losses = problem.gradient(Weigh::Fixed(weights), Vector::GRADIENT).unwrap();
        assert!(losses.upper.is_finite() && losses.lower.is_nan(), "{losses:?}");
    }
    let mut seen = 0.0;
    let mut weigh = |losses: spo_api::Losses| {
        seen = losses.lower;
        Ok(LevelWeights::UPPER)
    };
    problem.gradient(Weigh::By(&mut weigh), Vector::GRADIENT).unwrap();
    assert!(seen.is_nan());
    let fixed = problem.gradient(Weigh::Fixed(LevelWeights::LOWER), Vector::GRADIENT).map(drop);
    let others = [problem.lower().map(drop), problem.reference_lower().map(drop), problem.next_lower()];
    for answer in others.into_iter().chain([fixed]) {
        assert!(answer.unwrap_err().to_string().contains("asks for a lower level and has none"));
    }
}
