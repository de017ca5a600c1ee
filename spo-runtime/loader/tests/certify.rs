//! Certification finds what is wrong: for each check, parts that go wrong in a way that it catches.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use spo_api::{
    Backend, BilevelProblem, BilevelStep, Combine, Error, EvaluationMut, Export, Kernel, Layout,
    LevelWeights, LogProbs, Losses, Map, ModelInfo, ModelSpec, Objective, Optimizer, Pair, PairLoss, Part,
    Passes, PreferenceBatch, Registry, Requirements, Result, Sampling, Scalar, Schedule, Session, Span,
    Statistics, StepNeeds, StepReport, Tangent, TokenBatch, Update, Upstream, Vector, VectorSpace, Weigh,
    parse, register, with_scratch,
};
use spo_backend_candle::Candle;
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

/// The part passes every check.
#[track_caller]
fn passes(kind: &str, name: &str, config: Value) {
    for (name, verdict) in verdicts(kind, name, config.clone()) {
        assert!(!matches!(verdict, Verdict::Failed(_)), "{config}: {name}: {verdict:?}");
    }
}

/// A mean of margins and their squares, which goes wrong in the way it is told.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Skewed {
    /// How.
    #[serde(default)]
    how: String,
    /// A factor of the loss.
    #[serde(default = "one")]
    scale: f64,
    #[serde(skip)]
    begun: usize,
    #[serde(skip)]
    mean: f64,
}

fn one() -> f64 {
    1.0
}

impl Part for Skewed {}

impl Skewed {
    fn is(&self, how: &str) -> bool {
        self.how == how
    }

    fn has_mean(&self) -> bool {
        self.how.starts_with("mean")
    }

    /// The sum of an answer's log-probs.
    fn sum(&self, row: &[f64]) -> f64 {
        let read = if self.is("reads 64 tokens") { row.len().min(64) } else { row.len() };
        row[..read].iter().sum()
    }

    fn margins(&self, batch: &PreferenceBatch<'_>) -> Vec<f64> {
        let (chosen, rejected) = (batch.chosen.policy, batch.rejected.policy);
        (0..batch.rows()).map(|i| 0.1 * (self.sum(chosen.row(i)) - self.sum(rejected.row(i)))).collect()
    }

    /// The running mean of margins.
    fn learn(&mut self, batch: &PreferenceBatch<'_>) -> f64 {
        let margins = self.margins(batch);
        self.mean = 0.9 * self.mean + 0.1 * margins.iter().sum::<f64>() / margins.len() as f64;
        if self.has_mean() { self.mean } else { 0.0 }
    }

    fn losses(&mut self, mean: f64, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        if self.is("asks for gaps") && batch.gaps.is_none() {
            return Err(Error::Batch("no gaps".into()));
        }
        let margins = self.margins(batch);
        let rows = batch.rows();
        let factor = self.scale * if self.is("counts") { self.begun as f64 } else { 1.0 };
        let gradient = match &*self.how {
            "no gradient" => 0.0,
            "mean, slightly off" => 1.0 + 2e-5,
            "slightly off" => 1.0 - 2e-5,
            _ => 1.0,
        };
        for (i, m) in margins.iter().enumerate() {
            out.losses[i] = factor * ((m - mean).powi(2) - m);
            let slope = 0.1 * gradient * factor * (2.0 * (m - mean) - 1.0) / batch.whole.rows as f64;
            out.grad_chosen[batch.chosen.policy.range(i)].fill(slope);
            out.grad_rejected[batch.rejected.policy.range(i)].fill(-slope);
        }
        if self.is("one loss for all") {
            let mean = out.losses.iter().sum::<f64>() / rows as f64;
            out.losses.fill(mean);
        }
        out.rewards.chosen = margins.clone();
        out.rewards.rejected = margins;
        match &*self.how {
            "turns rewards" => out.rewards.chosen.reverse(),
            "lacks a reward" => out.rewards.rejected.truncate(rows - 1),
            "odd metric" => out.metrics.extend([("odd".to_owned(), f64::NAN)]),
            _ => {}
        }
        Ok(())
    }
}

impl Objective for Skewed {
    fn requirements(&self) -> Requirements {
        Requirements::of(Layout::Pairs)
            .gaps(self.is("asks for gaps") || self.is("asks for more"))
            .collision(self.is("asks for more"))
    }
    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        let mean = self.learn(batch);
        self.losses(mean, batch, out)
    }
    fn evaluate_held(
        &mut self,
        at: &PreferenceBatch<'_>,
        batch: &PreferenceBatch<'_>,
        out: &mut EvaluationMut<'_>,
    ) -> Result<()> {
        let from = if self.is("mean, undeclared") { batch } else { at };
        let mean = self.learn(from);
        self.losses(mean, batch, out)?;
        if self.is("holds another loss") {
            out.losses.fill(0.0);
        }
        Ok(())
    }
    fn begin(&mut self, _: usize) {
        self.begun += 1;
    }
    fn state(&self) -> Vec<u8> {
        if self.has_mean() { self.mean.to_le_bytes().into() } else { vec![] }
    }
    fn restore(&mut self, state: &[u8]) -> Result<()> {
        match state.try_into() {
            Ok(bytes) if self.has_mean() => self.mean = f64::from_le_bytes(bytes),
            _ if state.is_empty() => {}
            _ => return Err(Error::Batch("no state of this objective".into())),
        }
        Ok(())
    }
}

register!(objective Skewed { name: "skewed", summary: "a test", source: "a test" });

#[test]
fn an_objective_is_held_to_its_contract() {
    passes("objective", "skewed", json!({}));
    // The size of a loss is of no account.
    passes("objective", "skewed", json!({"scale": 1e-9}));
    passes("objective", "skewed", json!({"scale": 1e9}));
    passes("objective", "skewed", json!({"how": "asks for gaps"}));
    passes("objective", "skewed", json!({"how": "mean"}));
    for (how, scale, check, words) in [
        ("no gradient", 1e-5, "gradient", "central differences"),
        ("slightly off", 1.0, "gradient", "central differences"),
        ("slightly off", 1e-7, "gradient", "central differences"),
        ("mean, undeclared", 1.0, "gradient", "with `evaluate_held` elsewhere"),
        ("mean, slightly off", 1e-3, "gradient", "central differences"),
        ("holds another loss", 1.0, "gradient", "gives other losses than `evaluate`"),
        ("reads 64 tokens", 1.0, "gradient", "central differences"),
        ("asks for more", 1.0, "evaluation", "it asks for the collision statistic and is content without"),
        ("lacks a reward", 1.0, "evaluation", "[1, 0] rewards for [1, 1]"),
        ("odd metric", 1.0, "evaluation", "its metric `odd` is NaN"),
        ("one loss for all", 1.0, "accumulation", "give each row its own loss"),
        ("turns rewards", 1.0, "permutation", "rewards.chosen"),
        ("counts", 1.0, "determinism", "what it counts itself is lost on resume"),
    ] {
        let said = verdicts("objective", "skewed", json!({"how": how, "scale": scale}));
        match &said[check] {
            Verdict::Failed(said) => assert!(said.contains(words), "{how}: {said}"),
            other => panic!("{how}: {other:?}"),
        }
        // A loss that counts has one of 0 at first, and one for all rows has no gradient of its own in any part.
        let others =
            said.iter().filter(|(name, verdict)| *name != check && matches!(verdict, Verdict::Failed(_)));
        let others: Vec<_> = others.collect();
        assert!(others.is_empty() || ["counts", "odd metric"].contains(&how), "{how}: {others:?}");
    }
}

/// `detach(m) m`, or the same without a word.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Detached {
    /// Without `detach`.
    #[serde(default)]
    silent: bool,
}

impl Part for Detached {}

impl PairLoss for Detached {
    fn loss<S: Scalar>(&self, pair: &Pair<S>) -> S {
        let margin = pair.margin() * 0.1;
        let weight = margin.sigmoid();
        let weight = if self.silent { S::from(weight.value()) } else { weight.detach() };
        -(margin.log_sigmoid() * weight)
    }
}

register!(objective Detached { name: "detached", summary: "a test", source: "a test" });

#[test]
fn a_term_that_is_detached_by_name_is_certified_and_one_that_is_not_is_a_mistake() {
    match &verdicts("objective", "detached", json!({}))["gradient"] {
        Verdict::Passed(words) => assert!(words.contains("with what it declares constant held"), "{words}"),
        other => panic!("{other:?}"),
    }
    passes("objective", "detached", json!({}));
    fails("objective", "detached", json!({"silent": true}), "gradient", "with `detach` in the formula");
}

/// A loss on answers of two kinds, or on demonstrations, that reads no batch but the one it expects.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Narrow {
    /// Of demonstrations.
    #[serde(default)]
    demonstrations: bool,
    /// Goes wrong.
    #[serde(default)]
    wrong: bool,
}

impl Part for Narrow {}

impl Objective for Narrow {
    fn requirements(&self) -> Requirements {
        Requirements::of(if self.demonstrations { Layout::Demonstrations } else { Layout::Unpaired })
    }
    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        let rows = batch.whole.rows as f64;
        let (chosen, rejected) = (batch.chosen.policy, batch.rejected.policy);
        let desirable = chosen.rows();
        let n = desirable as f64;
        if self.demonstrations && self.wrong && rejected.rows() > 0 {
            out.grad_rejected.fill(1.0);
        }
        // Of unpaired answers, weighed by how many there are of the kind: of none, by the wrong one, 0 / 0.
        let weight = if self.wrong && !self.demonstrations { n / n.abs() } else { 1.0 };
        for i in 0..desirable {
            out.losses[i] = -weight * chosen.sum(i);
            out.grad_chosen[chosen.range(i)].fill(-weight / rows);
        }
        for i in 0..if self.demonstrations { 0 } else { rejected.rows() } {
            out.losses[desirable + i] = weight * rejected.sum(i);
            out.grad_rejected[rejected.range(i)].fill(weight / rows);
        }
        Ok(())
    }
}

register!(objective Narrow { name: "narrow", summary: "a test", source: "a test" });

#[test]
fn every_batch_that_a_run_may_show_is_tried() {
    for demonstrations in [false, true] {
        passes("objective", "narrow", json!({"demonstrations": demonstrations}));
        let words =
            if demonstrations { "grad_rejected[0] is 1" } else { "on 0 desirable and 4 undesirable answers" };
        let config = json!({"demonstrations": demonstrations, "wrong": true});
        fails("objective", "narrow", config, "evaluation", words);
    }
}

/// `dF + dG / 2`, which goes wrong in the way it is told.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Limping {
    /// How.
    #[serde(default)]
    how: String,
}

impl Part for Limping {}

impl BilevelStep for Limping {
    fn needs(&self) -> StepNeeds {
        if self.how == "hides its lower level" { StepNeeds::default() } else { StepNeeds::two_levels() }
    }
    fn passes(&self) -> Passes {
        let evaluations = if self.how == "evaluates twice" { 3 } else { 2 };
        Passes::new(evaluations, evaluations)
    }
    fn step(&mut self, problem: &mut dyn BilevelProblem) -> Result<StepReport> {
        if self.how == "leaks on failure" {
            let dg = problem.vectors().allocate()?;
            let losses = Self::combine(&self.how, problem, dg)?;
            problem.vectors().release(dg);
            return Ok(StepReport::new(losses));
        }
        let losses =
            with_scratch(problem, 1, |problem, scratch| Self::combine(&self.how, problem, scratch[0]))?;
        Ok(StepReport::new(losses))
    }
}

impl Limping {
    fn combine(how: &str, problem: &mut dyn BilevelProblem, dg: Vector) -> Result<Losses> {
        if how == "hides the reference" {
            problem.reference_lower()?;
        }
        let lower = problem.gradient(Weigh::Fixed(LevelWeights::LOWER), dg)?.lower;
        let upper = problem.gradient(Weigh::Fixed(LevelWeights::UPPER), Vector::GRADIENT)?.upper;
        if how == "evaluates twice" {
            problem.gradient(Weigh::Fixed(LevelWeights::UPPER), Vector::GRADIENT)?;
        }
        let space = problem.vectors();
        if how == "swallows" {
            let _ = space.axpy(0.5, dg, Vector::GRADIENT);
        } else {
            space.axpy(0.5, dg, Vector::GRADIENT)?;
        }
        if how == "divides by a length" {
            let norm = space.norm(dg)?;
            space.axpy(1.0 / norm, dg, Vector::GRADIENT)?;
        }
        if how == "ascends" {
            space.scale(-1.0, Vector::GRADIENT)?;
        }
        problem.descend(1.0)?;
        Ok(Losses { upper, lower })
    }
}

register!(step Limping { name: "limping", summary: "a test", source: "a test" });

#[test]
fn a_step_is_held_to_its_contract() {
    passes("step", "limping", json!({}));
    for (how, check, words) in [
        ("leaks on failure", "failures", "1 of its vectors are left behind: see `with_scratch`"),
        ("swallows", "failures", "failed, and the step went on as if it had not"),
        ("divides by a length", "zero gradients", "where the gradient of the lower level is 0"),
        ("ascends", "steps", "raise both losses"),
        ("evaluates twice", "steps", "it evaluates the upper level 2 times"),
        ("hides its lower level", "steps", "its needs say that it has none"),
        ("hides the reference", "steps", "it asks for the loss of the reference"),
    ] {
        match &verdicts("step", "limping", json!({"how": how}))[check] {
            Verdict::Failed(said) => assert!(said.contains(words), "{how}: {said}"),
            other => panic!("{how}: {other:?}"),
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
            "ignores the learning rate" => space.axpy(-1e-2, gradient, parameters),
            // Too late: half of the step is taken by then.
            "clips late" => {
                space.scale(1.0 / update.gradient_scale, gradient)?;
                space.axpy(-0.5 * lr, gradient, parameters)?;
                space.scale(update.gradient_scale, gradient)?;
                space.axpy(-0.5 * lr, gradient, parameters)
            }
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
    assert_eq!(said.len(), 10, "{said:?}");
    assert!(said.values().all(|verdict| matches!(verdict, Verdict::Passed(_))), "{said:?}");
    for (how, check, words) in [
        ("clips late", "clipping", "multiply the gradient by `gradient_scale` before anything else"),
        ("ignores the learning rate", "learning rate", "at a learning rate of 0 parameters move"),
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

/// A backend with a kernel for AdamW, which goes wrong in the way it is told.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Fused {
    /// How.
    #[serde(default)]
    how: String,
    /// What runs the model: candle instead of tabular.
    #[serde(default)]
    candle: bool,
}

impl Part for Fused {}

impl Backend for Fused {
    fn open(&self, spec: &ModelSpec) -> Result<Box<dyn Session>> {
        let spec = ModelSpec { device: "cpu".into(), ..spec.clone() };
        let mut inner = match self.candle {
            true => parse::<Candle>(&json!({}))?.open(&spec)?,
            false => Tabular {}.open(&spec)?,
        };
        let opened = if self.how == "saves what it opened" {
            let opened = inner.vectors().allocate()?;
            inner.vectors().copy(Vector::PARAMETERS, opened)?;
            Some(opened)
        } else {
            None
        };
        let adapted = spec.adapter.is_some();
        if adapted && self.how == "begins with noise" {
            inner.vectors().map(Map::Add(0.1), Vector::PARAMETERS)?;
        }
        Ok(Box::new(FusedSession { inner, how: self.how.clone(), rule: None, opened, adapted }))
    }
}

struct FusedSession {
    inner: Box<dyn Session>,
    how: String,
    rule: Option<(optimizers::AdamW, Vec<Vector>)>,
    opened: Option<Vector>,
    adapted: bool,
}

impl FusedSession {
    fn is(&self, how: &str) -> bool {
        self.how == how
    }

    /// The same prompts, or not.
    fn read(&self, batch: &TokenBatch) -> TokenBatch {
        let mut batch = batch.clone();
        if self.is("skips a token of the prompt") {
            batch.groups.iter_mut().for_each(|g| g.prompt.truncate(g.prompt.len().max(2) - 1));
        }
        batch
    }

    fn told(&self, mut seen: LogProbs) -> LogProbs {
        match &*self.how {
            "entropy in bits" => seen.entropy.iter_mut().for_each(|x| *x /= std::f64::consts::LN_2),
            "collision of p" => seen.collision.iter_mut().for_each(|x| *x /= 2.0),
            "greedy is all" => seen.greedy.fill(1.0),
            "not normalised" => seen.values.iter_mut().for_each(|x| *x -= 0.01),
            _ => {}
        }
        seen
    }
}

impl Session for FusedSession {
    fn adopt_optimizer(&mut self, kernel: Option<&Kernel>) -> Result<bool> {
        let before = self.rule.take().map(|(_, state)| state);
        let Some(kernel) = kernel.filter(|kernel| kernel.name.starts_with("adamw")) else {
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
            "decays biases" => rule.decay_bias_and_norm = true,
            "spares biases" => rule.decay_bias_and_norm = false,
            "another epsilon" => rule.epsilon = 1.0,
            "8 bits by another rule" if kernel.name == "adamw-8bit" => rule.betas = [0.0, 0.0],
            "refuses decay" if rule.weight_decay > 0.0 => return Err(Error::Engine("no decay here".into())),
            _ => {}
        }
        self.rule = Some((rule, state));
        Ok(true)
    }
    fn optimize(&mut self, update: &Update) -> Result<()> {
        let (rule, state) = self.rule.as_ref().expect("adopted");
        match &*self.how {
            "gradient descent" => {
                let space = self.inner.vectors();
                space.axpy(-update.lr * update.gradient_scale, Vector::GRADIENT, Vector::PARAMETERS)
            }
            "no clipping" => {
                rule.step(self.inner.vectors(), state, &Update { gradient_scale: 1.0, ..*update })
            }
            "no bias correction" => {
                rule.step(self.inner.vectors(), state, &Update { count: 1000, ..*update })
            }
            _ => rule.step(self.inner.vectors(), state, update),
        }
    }
    fn info(&self) -> ModelInfo {
        self.inner.info()
    }
    fn log_probs(&mut self, batch: &TokenBatch, statistics: Statistics) -> Result<LogProbs> {
        let batch = self.read(batch);
        self.inner.log_probs(&batch, statistics).map(|seen| self.told(seen))
    }
    fn backward(
        &mut self,
        batch: &TokenBatch,
        statistics: Statistics,
        upstream: &mut Upstream<'_>,
    ) -> Result<LogProbs> {
        let batch = self.read(batch);
        let seen = self.inner.backward(&batch, statistics, upstream)?;
        if self.is("no gradient of biases") {
            let space = self.inner.vectors();
            let biases = space.allocate()?;
            space.copy(Vector::GRADIENT, biases)?;
            space.decay(0.0, biases)?;
            space.axpy(-1.0, biases, Vector::GRADIENT)?;
            space.release(biases);
        }
        Ok(self.told(seen))
    }
    fn hessian_vector(
        &mut self,
        batch: &TokenBatch,
        upstream: &mut Upstream<'_>,
        v: Vector,
        into: Vector,
    ) -> Result<Tangent> {
        let batch = self.read(batch);
        self.inner.hessian_vector(&batch, upstream, v, into)
    }
    fn vectors(&mut self) -> &mut dyn VectorSpace {
        if self.how.starts_with("vectors") { self } else { self.inner.vectors() }
    }
    fn generate(&mut self, prompts: &[Vec<u32>], sampling: &Sampling) -> Result<Vec<Vec<u32>>> {
        let mut sampling = sampling.clone();
        match &*self.how {
            "ignores top_p" => sampling.top_p = 1.0,
            "ignores a large top_p" if sampling.top_p > 0.5 => sampling.top_p = 1.0,
            "ignores temperature" if sampling.temperature > 1e-3 => sampling.temperature = 1.0,
            "ignores stop tokens" => sampling.stop.clear(),
            "ignores the seed" => sampling.seed = 0,
            "samples always" => sampling.temperature = sampling.temperature.max(0.5),
            _ => {}
        }
        let mut found = self.inner.generate(prompts, &sampling)?;
        if self.is("drops the stop token") {
            let stop = |tokens: &Vec<u32>| tokens.last().is_some_and(|token| sampling.stop.contains(token));
            found
                .iter_mut()
                .filter(|tokens| stop(tokens))
                .for_each(|tokens| tokens.truncate(tokens.len() - 1));
        }
        Ok(found)
    }
    fn save(&mut self, folder: &Path, what: Export) -> Result<()> {
        let merges_wrongly = self.adapted && what == Export::Model && self.is("merges at another scale");
        let other = match (self.opened, merges_wrongly) {
            (Some(opened), _) => opened,
            (None, true) => Vector::PARAMETERS,
            (None, false) => return self.inner.save(folder, what),
        };
        let keep = self.inner.vectors().allocate()?;
        self.inner.vectors().copy(Vector::PARAMETERS, keep)?;
        self.inner.vectors().copy(other, Vector::PARAMETERS)?;
        if merges_wrongly {
            self.inner.vectors().scale(0.5, Vector::PARAMETERS)?;
        }
        self.inner.save(folder, what)?;
        self.inner.vectors().copy(keep, Vector::PARAMETERS)?;
        self.inner.vectors().release(keep);
        Ok(())
    }
    fn save_state(&mut self, file: &Path) -> Result<()> {
        self.inner.save_state(file)
    }
    fn restore_state(&mut self, file: &Path) -> Result<()> {
        self.inner.restore_state(file)?;
        if self.is("loses vectors") { self.inner.vectors().zero(Vector(2)) } else { Ok(()) }
    }
}

impl VectorSpace for FusedSession {
    fn dimension(&self) -> usize {
        self.inner.info().trainable
    }
    fn allocate(&mut self) -> Result<Vector> {
        self.inner.vectors().allocate()
    }
    fn release(&mut self, v: Vector) {
        self.inner.vectors().release(v);
    }
    fn zero(&mut self, v: Vector) -> Result<()> {
        self.inner.vectors().zero(v)
    }
    fn copy(&mut self, from: Vector, to: Vector) -> Result<()> {
        self.inner.vectors().copy(from, to)
    }
    fn scale(&mut self, a: f64, v: Vector) -> Result<()> {
        self.inner.vectors().scale(a, v)
    }
    fn axpy(&mut self, a: f64, x: Vector, y: Vector) -> Result<()> {
        self.inner.vectors().axpy(a, x, y)
    }
    fn dot(&mut self, x: Vector, y: Vector) -> Result<f64> {
        self.inner.vectors().dot(x, y)
    }
    fn map(&mut self, f: Map, v: Vector) -> Result<()> {
        self.inner.vectors().map(f, v)
    }
    fn combine(&mut self, op: Combine, x: Vector, y: Vector) -> Result<()> {
        self.inner.vectors().combine(op, x, y)
    }
    fn decay(&mut self, a: f64, v: Vector) -> Result<()> {
        match &*self.how {
            "vectors that decay all" => self.inner.vectors().scale(a, v),
            "vectors that decay none" => Ok(()),
            _ => self.inner.vectors().decay(a, v),
        }
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
        all.starts_with("adamw, adamw-8bit: ") && all.ends_with(" modes as the rule in f64, 0 refused"),
        "{all}"
    );
    let some = passed("fused", json!({"how": "refuses decay"}));
    assert!(!some.ends_with(" 0 refused"), "{some}");
    for (how, words) in [
        ("gradient descent", "from where the rule leads"),
        ("no clipping", "from where the rule leads"),
        ("no bias correction", "from where the rule leads"),
        ("no decay", "from where the rule leads"),
        ("decays biases", "from where the rule leads"),
        ("spares biases", "from where the rule leads"),
        ("another epsilon", "from where the rule leads"),
        ("8 bits by another rule", "its kernel for adamw-8bit"),
        ("does not forget", "it does not forget"),
    ] {
        fails("backend", "fused", json!({"how": how}), "optimizers", words);
    }
}

#[test]
fn a_backend_is_held_to_its_contract() {
    passes("backend", "tabular", json!({}));
    passes("backend", "fused", json!({}));
    for (how, check, words) in [
        ("entropy in bits", "enumeration", "its entropy is"),
        ("collision of p", "enumeration", "its collision statistic"),
        ("greedy is all", "enumeration", "`greedy` is 1"),
        ("ignores top_p", "sampling", "with top_p = 1e-6 only the most probable token is left"),
        ("ignores a large top_p", "sampling", "which is not among the"),
        ("ignores temperature", "sampling", "with temperature 0.25"),
        ("ignores stop tokens", "sampling", "with the stop tokens"),
        ("drops the stop token", "sampling", "the first of them included"),
        ("ignores the seed", "sampling", "the log-probs of 300 draws"),
        ("samples always", "sampling", "is not the most probable one by `log_probs`"),
        ("loses vectors", "state", "a vector of length"),
    ] {
        fails("backend", "fused", json!({"how": how}), check, words);
    }
    // These cannot but fail more than one check.
    for (how, check, words) in [
        ("not normalised", "enumeration", "add up to"),
        ("no gradient of biases", "gradient", "along a direction in"),
        ("skips a token of the prompt", "enumeration", "its log-prob is"),
        ("saves what it opened", "save", "the saved model's log-probs are"),
        ("vectors that decay all", "elementwise", "`decay` must spare it"),
        ("vectors that decay none", "elementwise", "`decay` must multiply it"),
    ] {
        match &verdicts("backend", "fused", json!({"how": how}))[check] {
            Verdict::Failed(said) => assert!(said.contains(words), "{how}: {said}"),
            other => panic!("{how}: {other:?}"),
        }
    }
}

#[test]
fn an_adapter_is_merged_as_it_is() {
    match verdicts("backend", "fused", json!({"candle": true})).remove("adapters") {
        Some(Verdict::Passed(words)) => assert!(words.contains("merged"), "{words}"),
        other => panic!("{other:?}"),
    }
    for (how, words) in [
        ("begins with noise", "a new adapter changes log-probs"),
        ("merges at another scale", "merged into the weights, the adapter scores"),
    ] {
        fails("backend", "fused", json!({"candle": true, "how": how}), "adapters", words);
    }
}
