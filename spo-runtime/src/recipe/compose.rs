//! Builds the parts that a recipe describes. Errors name the location in the recipe.

use spo_api::{BilevelStep, ConfigError, Layout, Objective, Registry};
use spo_objectives::losses::{Component, Mix, WeightSchedule};

use super::bilevel::BilevelSpec;
use super::data::TermData;
use super::objective::{Factor, LowerSpec, ObjectiveSpec, Weighted};
use super::part::Spec;

/// Builds an objective, or a weighted sum of several.
pub(crate) fn objective(
    registry: &Registry,
    spec: &ObjectiveSpec,
) -> Result<Box<dyn Objective>, ConfigError> {
    match spec {
        ObjectiveSpec::One(spec) => spec.part.build(registry, Registry::objective),
        ObjectiveSpec::Sum(terms) => {
            let term = |term: &Spec<Weighted>| component(registry, term, term.own.weight, term.own.schedule);
            let components = terms.iter().map(term).collect::<Result<_, _>>()?;
            // Errors about the sum as a whole are located at the list.
            sum(components).map_err(|error| at(&terms[0].part.place, error))
        }
    }
}

/// Locates an error at a list, given the location of its first term.
fn at(first: &str, mut error: ConfigError) -> ConfigError {
    error.key = Some(first.trim_end_matches("[0]").to_owned());
    error
}

fn sum(components: Vec<Component>) -> Result<Box<dyn Objective>, ConfigError> {
    Ok(Box::new(Mix::new(components)?))
}

/// Builds a term of a sum.
fn component<O>(
    registry: &Registry,
    Spec { part, .. }: &Spec<O>,
    Factor(weight): Factor,
    schedule: Option<WeightSchedule>,
) -> Result<Component, ConfigError> {
    let objective = part.build(registry, Registry::objective)?;
    Ok(Component { name: part.name.clone(), weight, schedule, objective })
}

/// A bilevel step with its lower level.
pub(crate) struct Bilevel {
    /// The bilevel step, which turns the two levels into an update.
    pub(crate) step: Box<dyn BilevelStep>,
    /// The terms of the lower level, whose losses are added. Empty if the step has no lower level.
    pub(crate) lower: Vec<LowerPart>,
}

/// A term of a lower level.
pub(crate) struct LowerPart {
    /// Its loss on demonstrations.
    pub(crate) objective: Box<dyn Objective>,
    /// The source of its demonstrations; `None` if it uses the chosen answers of the upper level. At most one
    /// term does.
    pub(crate) data: Option<LowerData>,
}

/// The source of a lower-level term's demonstrations.
#[derive(Clone, Debug)]
pub(crate) struct LowerData {
    /// Its location in the recipe.
    pub(crate) place: String,
    /// The source itself.
    pub(crate) source: TermData,
}

/// Builds a bilevel step and its lower level.
pub(crate) fn bilevel(registry: &Registry, spec: &BilevelSpec) -> Result<Bilevel, ConfigError> {
    let (part, levels) = (&spec.part, &spec.own);
    let step = part.build(registry, Registry::step)?;
    if !step.needs().lower {
        let given = [("lower", levels.lower.is_some()), ("lower_data", levels.lower_data.is_some())];
        return match given.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(part
                .located(ConfigError::at(key, format!("has no effect: `{}` has no lower level", part.name)))),
            None => Ok(Bilevel { step, lower: Vec::new() }),
        };
    }
    let shared_data = levels
        .lower_data
        .as_ref()
        .map(|source| LowerData { place: format!("{}.lower_data", part.place), source: source.clone() });
    let place = format!("{}.lower", part.place);
    let lower = match &levels.lower {
        None => {
            let sft = registry.objective("sft", &serde_json::json!({})).map_err(|error| at(&place, error))?;
            vec![LowerPart { objective: sft, data: shared_data }]
        }
        Some(LowerSpec::One(spec)) => {
            let objective = spec.part.build(registry, Registry::objective)?;
            imitates(&*objective, &place)?;
            vec![LowerPart { objective, data: shared_data }]
        }
        Some(LowerSpec::Sum(terms)) => {
            let (mut summed, mut lower) = (Vec::new(), Vec::new());
            for term in terms {
                let component = component(registry, term, term.own.weight, term.own.schedule)?;
                imitates(&*component.objective, &term.part.place)?;
                match &term.own.data {
                    None => summed.push(component),
                    Some(source) => {
                        let objective = sum(vec![component]).map_err(|error| at(&term.part.place, error))?;
                        let place = format!("{}.data", term.part.place);
                        lower.push(LowerPart {
                            objective,
                            data: Some(LowerData { place, source: source.clone() }),
                        });
                    }
                }
            }
            match summed.is_empty() {
                // Terms on the same rows are combined into one.
                false => {
                    let objective = sum(summed).map_err(|error| at(&place, error))?;
                    lower.insert(0, LowerPart { objective, data: shared_data });
                }
                true if shared_data.is_some() => {
                    let message = "has no effect: every term of the lower level has data of its own";
                    return Err(part.located(ConfigError::at("lower_data", message)));
                }
                true => {}
            }
            lower
        }
    };
    Ok(Bilevel { step, lower })
}

/// Checks that a lower objective needs only demonstrations.
fn imitates(objective: &dyn Objective, place: &str) -> Result<(), ConfigError> {
    let needs = objective.requirements();
    let more = needs.reference || needs.whole_batch || needs.collision;
    match needs.data != Layout::Demonstrations || more {
        true => Err(ConfigError::at(
            place,
            "the lower objective must learn from demonstrations alone, as `sft` does",
        )),
        false => Ok(()),
    }
}
