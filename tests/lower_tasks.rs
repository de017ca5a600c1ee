//! A lower level of several tasks: its value and gradient are those of the weighted sum, wherever its batches come
//! from.

use spo_api::{
    AdamW, Backend, BilevelProblem, Layout, LevelWeights, ModelSource, ModelSpec, Objective, Progress,
    Registry, Session, Vector, Weigh,
};
use spo_backend_tabular::Tabular;
use spo_data::{Dataset, Fit, MicroBatch, Tokenizer, task};
use spo_objectives as _;
use spo_runtime::compose;
use spo_runtime::problem::{Levels, LowerSource, LowerTask, Motion, Scored, StepProblem};
use spo_runtime::reference::fill;
use spo_runtime::rows::{Batch, Scores, View};

const WEIGHTS: [f64; 3] = [0.5, 2.0, 0.25];

/// A session, pairs, and the demonstrations of two other tasks, all in one vocabulary.
struct Scene {
    session: Box<dyn Session>,
    pairs: Dataset,
    others: [Dataset; 2],
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
        seed: 1,
        device: "cpu".into(),
        dtype: "f64".into(),
    };
    Scene {
        session: Tabular {}.open(&spec).unwrap(),
        pairs: rows(0, Layout::Pairs),
        others: [rows(1, Layout::Demonstrations), rows(2, Layout::Demonstrations)],
    }
}

fn objective(weight: f64) -> Box<dyn Objective> {
    let spec = serde_json::json!([{ "name": "sft", "weight": weight }]);
    compose::objective(&Registry::linked().unwrap(), &spec).unwrap()
}

fn motion(micro_batch: Option<MicroBatch>) -> Motion {
    Motion {
        micro_batch,
        optimizer: AdamW {
            lr: 0.1,
            beta1: 0.9,
            beta2: 0.9,
            epsilon: 1e-8,
            weight_decay: 0.0,
            exempt_bias_and_norm: false,
            gradient_scale: 1.0,
        },
        max_grad_norm: 0.0,
        progress: Progress { step: 0, total: 1 },
    }
}

impl Scene {
    fn reference(&mut self, data: usize) -> Scores {
        let data = if data == 0 { &self.pairs } else { &self.others[data - 1] };
        let view = View { layout: data.layout, mismatched: None };
        let mut scores = Scores::empty(data);
        let all: Vec<usize> = (0..data.examples.len()).collect();
        fill(&mut scores, &mut *self.session, data, view, &all, 4, None, &mut |_, _| Ok(())).unwrap();
        scores
    }

    /// Does something with the problem: the first term on the upper batch or (`own`) on that of the first other
    /// task, and the further tasks `tasks`. Batches are rows 0..4, then 4..8, ...
    fn on<T>(
        &mut self,
        own: bool,
        tasks: &[usize],
        micro_batch: Option<MicroBatch>,
        work: impl FnOnce(&mut StepProblem<'_>) -> T,
    ) -> T {
        let scores = [0, 1, 2].map(|i| self.reference(i));
        let mut dpo = compose::objective(&Registry::linked().unwrap(), &"dpo".into()).unwrap();
        let mut first = objective(WEIGHTS[0]);
        let mut further: Vec<_> = tasks.iter().map(|&i| objective(WEIGHTS[i])).collect();
        let datasets = [&self.pairs, &self.others[0], &self.others[1]];
        let scored = |i: usize| Scored { rows: datasets[i], reference: Some(&scores[i]) };
        let drawing = || {
            let mut start = 0;
            move || {
                start += 4;
                (start - 4..start).collect::<Vec<_>>()
            }
        };
        let mut draw = drawing();
        let source = LowerSource { data: scored(usize::from(own)), own, draw: &mut draw };
        let tasks = further.iter_mut().zip(tasks).map(|(objective, &i)| LowerTask {
            objective: &mut **objective,
            data: scored(i),
            draw: Box::new(drawing()),
        });
        let batch = Batch::new(
            &self.pairs,
            &[3, 1, 4, 0],
            View { layout: Layout::Pairs, mismatched: None },
            micro_batch,
        );
        let levels = Levels { upper: &mut *dpo, lower: Some(&mut *first) };
        let motion = motion(micro_batch);
        let mut problem = StepProblem::new(
            &mut *self.session,
            levels,
            scored(0),
            batch,
            Some(source),
            tasks.collect(),
            motion,
        )
        .unwrap();
        work(&mut problem)
    }

    /// G on these terms alone: the upper batch's chosen answers (0), the first rows of another task.
    fn term(&mut self, term: usize) -> f64 {
        match term {
            0 => self.on(false, &[], None, |p| p.lower().unwrap()),
            // A first term of weight WEIGHTS[0] on the batch of the upper level comes along.
            i => self.on(false, &[i], None, |p| p.lower().unwrap()) - self.term(0),
        }
    }
}

/// The slope of G or of `F + 3 G` along a gradient, by differences, is its squared length.
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

                    // Weighed by the losses, it is the same.
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
