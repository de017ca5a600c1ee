use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{
    ConfigError, Error, Evaluation, EvaluationMut, Layout, Objective, Part, PreferenceBatch, Requirements,
    Result,
};

/// One term of a [`Mix`].
pub struct Component {
    /// The name for its metrics: that of the objective.
    pub name: String,
    /// The weight of its loss.
    pub weight: f64,
    /// How the weight is reached; constant if not given.
    pub schedule: Option<WeightSchedule>,
    /// The loss itself.
    pub objective: Box<dyn Objective>,
}

/// A factor that grows (or falls) to its component's weight in a straight line.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WeightSchedule {
    /// The factor at the first step.
    pub from: f64,
    /// Steps until the weight is reached.
    #[schemars(range(min = 1))]
    pub steps: usize,
}

impl Part for WeightSchedule {}

impl Component {
    /// The weight after `steps_done` steps.
    fn factor(&self, steps_done: usize) -> f64 {
        match self.schedule {
            Some(WeightSchedule { from, steps }) if steps_done < steps => {
                from + (self.weight - from) * steps_done as f64 / steps as f64
            }
            _ => self.weight,
        }
    }
}

/// `L = sum of weight * L_c` over the components, each with its own reduction.
///
/// Weights are not normalised, as with TRL's `loss_weights`. Rewards are those of the first component that
/// defines rewards. Metrics: `loss/NAME` is each component's unweighted loss. A component's own metrics keep
/// their names, or are reported as `NAME/METRIC` if an earlier component uses the same name. A second
/// component with the same name is called `NAME-2`, and so on.
pub struct Mix {
    components: Vec<Component>,
    requirements: Requirements,
    steps_done: usize,
    scratch: Evaluation,
}

impl Mix {
    /// Builds a weighted sum of losses.
    ///
    /// # Errors
    /// If there is no component, if a weight is not finite, or if the components need different data: one
    /// pairs, another unpaired answers.
    pub fn new(mut components: Vec<Component>) -> Result<Self, ConfigError> {
        if components.is_empty() {
            return Err(ConfigError::whole("a sum of objectives needs at least one"));
        }
        if let Some(c) = components.iter().find(|c| !c.weight.is_finite()) {
            return Err(ConfigError::whole(format!(
                "the weight of `{}` is {}, expected a number",
                c.name, c.weight
            )));
        }
        let of = |data| components.iter().find(|c| c.objective.requirements().data == data);
        if let (Some(paired), Some(unpaired)) = (of(Layout::Pairs), of(Layout::Unpaired)) {
            return Err(ConfigError::whole(format!(
                "`{}` learns from pairs and `{}` from unpaired answers: they cannot be summed",
                paired.name, unpaired.name
            )));
        }
        for (i, a) in components.iter().enumerate() {
            for b in &components[..i] {
                if let Some(column) = a.objective.requirements().disagreement(&b.objective.requirements()) {
                    return Err(ConfigError::whole(format!(
                        "`{}` and `{}` take different numbers for rows without the column `{column}`",
                        b.name, a.name
                    )));
                }
            }
        }
        let names: Vec<_> = components.iter().map(|c| c.name.clone()).collect();
        for (i, component) in components.iter_mut().enumerate() {
            match names[..i].iter().filter(|n| **n == names[i]).count() {
                0 => {}
                earlier => component.name = format!("{}-{}", names[i], earlier + 1),
            }
        }
        let requirements = components
            .iter()
            .map(|c| c.objective.requirements())
            .reduce(Requirements::union)
            .expect("there is a component");
        Ok(Mix { components, requirements, steps_done: 0, scratch: Evaluation::default() })
    }
}

impl Mix {
    /// Adds up the components, each as `evaluate` computes it.
    fn sum(
        &mut self,
        batch: &PreferenceBatch<'_>,
        out: &mut EvaluationMut<'_>,
        evaluate: impl Fn(&mut Evaluation, &mut dyn Objective) -> Result<()>,
    ) -> Result<()> {
        for component in &mut self.components {
            let factor = component.factor(self.steps_done);
            let Component { name, objective, .. } = component;
            let term = &mut self.scratch;
            evaluate(term, &mut **objective)?;
            // With gradient accumulation, metrics of the parts are averaged by rows, so this must be a mean
            // over rows.
            let mean = term.losses.iter().sum::<f64>() / batch.rows() as f64;
            out.metrics.insert(format!("loss/{name}"), mean);
            for (sum, new) in [
                (&mut *out.losses, &term.losses),
                (&mut *out.grad_chosen, &term.grad_chosen),
                (&mut *out.grad_rejected, &term.grad_rejected),
            ] {
                sum.iter_mut().zip(new).for_each(|(sum, new)| *sum += factor * new);
            }
            if out.rewards.chosen.is_empty() && out.rewards.rejected.is_empty() {
                std::mem::swap(out.rewards, &mut term.rewards);
            }
            for (metric, value) in std::mem::take(&mut term.metrics) {
                let key = if out.metrics.contains_key(&metric) { format!("{name}/{metric}") } else { metric };
                out.metrics.insert(key, value);
            }
        }
        Ok(())
    }
}

impl Objective for Mix {
    fn requirements(&self) -> Requirements {
        self.requirements.clone()
    }

    fn evaluate(&mut self, batch: &PreferenceBatch<'_>, out: &mut EvaluationMut<'_>) -> Result<()> {
        self.sum(batch, out, |term, objective| term.compute(objective, batch))
    }

    /// Holds what each component holds.
    fn evaluate_held(
        &mut self,
        at: &PreferenceBatch<'_>,
        batch: &PreferenceBatch<'_>,
        out: &mut EvaluationMut<'_>,
    ) -> Result<()> {
        self.sum(batch, out, |term, objective| term.compute_held(objective, at, batch))
    }

    fn begin(&mut self, steps_done: usize) {
        self.steps_done = steps_done;
        self.components.iter_mut().for_each(|c| c.objective.begin(steps_done));
    }

    /// Each component's state, preceded by its length as 8 bytes, little-endian.
    fn state(&self) -> Vec<u8> {
        let states: Vec<_> = self.components.iter().map(|c| c.objective.state()).collect();
        if states.iter().all(Vec::is_empty) {
            return Vec::new();
        }
        states.iter().flat_map(|s| [&(s.len() as u64).to_le_bytes(), s.as_slice()].concat()).collect()
    }

    fn restore(&mut self, mut state: &[u8]) -> Result<()> {
        if state.is_empty() {
            return self.components.iter_mut().try_for_each(|c| c.objective.restore(&[]));
        }
        let broken = || Error::Batch("the saved state belongs to another sum of objectives".into());
        for component in &mut self.components {
            let (length, rest) = state.split_first_chunk().ok_or_else(broken)?;
            let length = usize::try_from(u64::from_le_bytes(*length)).map_err(|_| broken())?;
            let (own, rest) = rest.split_at_checked(length).ok_or_else(broken)?;
            component.objective.restore(own)?;
            state = rest;
        }
        if state.is_empty() { Ok(()) } else { Err(broken()) }
    }
}
