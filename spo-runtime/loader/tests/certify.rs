//! Certification finds what is wrong with optimizers, schedules and the kernels of backends.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use spo_api::{
    Backend, Combine, Error, Export, Kernel, LogProbs, Map, ModelInfo, ModelSpec, Optimizer, Part, Registry,
    Result, Sampling, Schedule, Session, Span, Statistics, Tangent, TokenBatch, Update, Upstream, Vector,
    VectorSpace, parse, register, with_scratch,
};
use spo_backend_tabular::Tabular;
use spo_loader::certify::{Event, Options, Verdict, certify};
use spo_objectives::optimizers;

/// What each check of a part said.
fn verdicts(kind: &str, name: &str, config: Value) -> BTreeMap<String, Verdict> {
    let entry = Registry::linked().unwrap().get(kind, name).unwrap();
    let (mut checks, mut verdicts) = (Vec::new(), Vec::new());
    certify(entry, &Options { config: Some(config), ..Options::default() }, &mut |event| match event {
        Event::Began { check, .. } => checks.push(check),
        Event::Ended(verdict) => verdicts.push(verdict),
    });
    checks.into_iter().zip(verdicts).collect()
}

/// The part fails this check and no other, in these words.
#[track_caller]
fn fails(kind: &str, name: &str, config: Value, check: &str, words: &str) {
    for (name, verdict) in verdicts(kind, name, config.clone()) {
        match verdict {
            Verdict::Failed(said) if name == check => assert!(said.contains(words), "{config}: {said}"),
            Verdict::Failed(said) => panic!("{config}: {name}: {said}"),
            _ => assert_ne!(name, check, "{config} passes"),
        }
    }
}

/// Plain descent, which goes wrong in the way it is told.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Crooked {
    /// How.
    #[serde(default)]
    how: String,
    #[serde(skip)]
    updates: Cell<u32>,
}

impl Part for Crooked {}

impl Optimizer for Crooked {
    fn step(&self, space: &mut dyn VectorSpace, _: &[Vector], update: &Update) -> Result<()> {
        let (gradient, parameters) = (Vector::GRADIENT, Vector::PARAMETERS);
        let lr = update.lr;
        space.scale(update.gradient_scale, gradient)?;
        match &*self.how {
            "ascends" => space.axpy(lr, gradient, parameters),
            "remembers" => {
                self.updates.set(self.updates.get() + 1);
                space.axpy(-lr / f64::from(self.updates.get()), gradient, parameters)
            }
            "drifts" => {
                space.map(Map::Add(1e-9), parameters)?;
                space.axpy(-lr, gradient, parameters)
            }
            "overflows" => with_scratch(space, 1, |space, scratch| {
                space.copy(gradient, scratch[0])?;
                (0..3).try_for_each(|_| space.combine(Combine::Multiply, scratch[0], scratch[0]))?;
                space.axpy(-lr, scratch[0], parameters)?;
                space.axpy(-lr, gradient, parameters)
            }),
            "leaks" => {
                space.allocate()?;
                space.axpy(-lr, gradient, parameters)
            }
            "leaks on failure" => {
                let scratch = space.allocate()?;
                space.copy(gradient, scratch)?;
                space.axpy(-lr, scratch, parameters)?;
                space.release(scratch);
                Ok(())
            }
            "swallows" => {
                let _ = space.axpy(-lr, gradient, parameters);
                Ok(())
            }
            "releases what is not its own" => {
                space.release(Vector(77));
                space.axpy(-lr, gradient, parameters)
            }
            _ => space.axpy(-lr, gradient, parameters),
        }
    }
}

register!(optimizer Crooked { name: "crooked", summary: "a test", source: "a test" });

#[test]
fn an_optimizer_is_held_to_its_contract() {
    let said = verdicts("optimizer", "crooked", json!({}));
    assert_eq!(said.len(), 8, "{said:?}");
    assert!(said.values().all(|verdict| matches!(verdict, Verdict::Passed(_))), "{said:?}");
    for (how, check, words) in [
        ("remembers", "resume", "another instance, given the same vectors, goes on otherwise"),
        ("leaks on failure", "failures", "1 of its scratch vectors are left behind"),
        ("swallows", "failures", "vector operation 1 failed, and it went on"),
    ] {
        fails("optimizer", "crooked", json!({"how": how}), check, words);
    }
    // These cannot but fail more than one check.
    for (how, check, words) in [
        ("ascends", "descent", "it must fall"),
        ("drifts", "rest", "something moves"),
        ("overflows", "extreme gradients", "make a parameter"),
        ("leaks", "descent", "1 of its scratch vectors are left behind"),
        ("releases what is not its own", "descent", "vector 77 was released"),
    ] {
        match &verdicts("optimizer", "crooked", json!({"how": how}))[check] {
            Verdict::Failed(said) => assert!(said.contains(words), "{how}: {said}"),
            other => panic!("{how}: {other:?}"),
        }
    }
}

/// A schedule that goes wrong in the way it is told.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Wayward {
    /// How.
    #[serde(default)]
    how: String,
    #[serde(skip)]
    asked: Cell<u32>,
}

impl Part for Wayward {}

impl Schedule for Wayward {
    fn factor(&self, step: usize, span: Span) -> f64 {
        let fair = 1.0 - span.progress(step);
        match &*self.how {
            "below 0" => fair - 0.5,
            "above 1" => fair + 0.5,
            "remembers" => {
                self.asked.set(self.asked.get() + 1);
                1.0 / f64::from(self.asked.get())
            }
            _ => fair,
        }
    }
}

register!(schedule Wayward { name: "wayward", summary: "a test", source: "a test" });

#[test]
fn a_schedule_is_held_to_its_contract() {
    let said = verdicts("schedule", "wayward", json!({}));
    assert!(matches!(said["factors"], Verdict::Passed(_)), "{said:?}");
    for (how, words) in [
        ("below 0", "a share of the peak is from 0 to 1"),
        ("above 1", "a share of the peak is from 0 to 1"),
        ("remembers", "if asked in another order"),
    ] {
        fails("schedule", "wayward", json!({"how": how}), "factors", words);
    }
}

/// The tabular backend with a kernel for AdamW, which goes wrong in the way it is told.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fused {
    /// How.
    #[serde(default)]
    how: String,
}

impl Part for Fused {}

impl Backend for Fused {
    fn open(&self, spec: &ModelSpec) -> Result<Box<dyn Session>> {
        let inner = Tabular {}.open(&ModelSpec { device: "cpu".into(), ..spec.clone() })?;
        Ok(Box::new(FusedSession { inner, how: self.how.clone(), rule: None }))
    }
}

struct FusedSession {
    inner: Box<dyn Session>,
    how: String,
    rule: Option<(optimizers::AdamW, Vec<Vector>)>,
}

impl Session for FusedSession {
    fn adopt_optimizer(&mut self, kernel: Option<&Kernel>) -> Result<bool> {
        let before = self.rule.take().map(|(_, state)| state);
        let Some(kernel) = kernel.filter(|kernel| kernel.name == "adamw") else {
            before.into_iter().flatten().for_each(|v| self.inner.vectors().release(v));
            return Ok(false);
        };
        let state = match before {
            Some(state) if self.how == "does not forget" => state,
            before => {
                before.into_iter().flatten().for_each(|v| self.inner.vectors().release(v));
                (0..2).map(|_| self.inner.vectors().allocate()).collect::<Result<_>>()?
            }
        };
        let mut rule: optimizers::AdamW = parse(&kernel.config)?;
        match &*self.how {
            "no decay" => rule.weight_decay = 0.0,
            "another epsilon" => rule.epsilon = 1.0,
            "refuses decay" if rule.weight_decay > 0.0 => return Err(Error::Engine("no decay here".into())),
            _ => {}
        }
        self.rule = Some((rule, state));
        Ok(true)
    }
    fn optimize(&mut self, update: &Update) -> Result<()> {
        let (rule, state) = self.rule.as_ref().expect("adopted");
        rule.step(self.inner.vectors(), state, update)
    }
    fn info(&self) -> ModelInfo {
        self.inner.info()
    }
    fn log_probs(&mut self, batch: &TokenBatch, statistics: Statistics) -> Result<LogProbs> {
        self.inner.log_probs(batch, statistics)
    }
    fn backward(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
    ) -> Result<LogProbs> {
        self.inner.backward(batch, statistics, upstream)
    }
    fn hessian_vector(
        &mut self,
        batch: &TokenBatch,
        upstream: &mut Upstream<'_>,
        v: Vector,
        into: Vector,
    ) -> Result<Tangent> {
        self.inner.hessian_vector(batch, upstream, v, into)
    }
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        self.inner.vectors()
    }
    fn generate(&mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<Vec<Vec<u32>>> {
        self.inner.generate(prompts, sampling)
    }
    fn save(&mut self, folder: &Path, what: Export) -> Result<()> {
        self.inner.save(folder, what)
    }
    fn save_state(&mut self, file: &Path) -> Result<()> {
        self.inner.save_state(file)
    }
    fn restore_state(&mut self, file: &Path) -> Result<()> {
        self.inner.restore_state(file)
    }
}

register!(backend Fused { name: "fused", summary: "a test", source: "a test" });

#[test]
fn a_kernel_is_the_rule_whose_name_it_has() {
    let passed = |name: &str, config| match verdicts("backend", name, config).remove("optimizers") {
        Some(Verdict::Passed(words)) => words,
        other => panic!("{other:?}"),
    };
    assert_eq!(passed("tabular", json!({})), "it has no kernels: vector operations move its parameters");
    let all = passed("fused", json!({}));
    assert!(
        all.starts_with("adamw: ") && all.ends_with(" modes as by vector operations, 0 refused"),
        "{all}"
    );
    let some = passed("fused", json!({"how": "refuses decay"}));
    assert!(!some.ends_with(" 0 refused"), "{some}");
    for (how, check, words) in [
        ("no decay", "optimizers", "from where vector operations lead"),
        ("another epsilon", "optimizers", "from where vector operations lead"),
        ("does not forget", "optimizers", "it does not forget"),
    ] {
        fails("backend", "fused", json!({"how": how}), check, words);
    }
}

#[test]
fn the_tabular_backend_keeps_the_laws_of_elementwise_operations() {
    let said = verdicts("backend", "tabular", json!({}));
    assert!(matches!(said["elementwise"], Verdict::Passed(_)), "{said:?}");
    assert!(said.values().all(|verdict| matches!(verdict, Verdict::Passed(_))), "{said:?}");
}
