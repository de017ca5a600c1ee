//! Builds the parts that a recipe describes. Errors name the location in the recipe.

use spo_api::{BilevelStep, ConfigError, Layout, Objective, Registry, Regularizer};
use spo_objectives::losses::{Component, Mix, WeightSchedule};

use super::bilevel::BilevelSpec;
use super::data::TermData;
use super::objective::{Factor, LowerSpec, ObjectiveSpec, Weighted};
use super::part::Spec;

/// Builds an objective, or a weighted sum of several, with the loss that a step adds to it.
pub(crate) fn objective(
    registry: &Registry,
    spec: &ObjectiveSpec,
    regularizer: Option<Regularizer>,
) -> Result<Box<dyn Objective>, ConfigError> {
    let (mut components, place) = match spec {
        ObjectiveSpec::One(spec) => {
            let objective = spec.part.build(registry, Registry::objective)?;
            if regularizer.is_none() {
                return Ok(objective);
            }
            let name = spec.part.name.clone();
            (vec![Component { name, weight: 1.0, schedule: None, objective }], &spec.part.place)
        }
        ObjectiveSpec::Sum(terms) => {
            let term = |term: &Spec<Weighted>| component(registry, term, term.own.weight, term.own.schedule);
            (terms.iter().map(term).collect::<Result<_, _>>()?, &terms[0].part.place)
        }
    };
    if let Some(Regularizer { objective: name, weight }) = regularizer {
        let objective = registry.objective(name, &serde_json::json!({}))?;
        components.push(Component { name: name.to_owned(), weight, schedule: None, objective });
    }
    // Errors about the sum as a whole are located at the list.
    sum(components).map_err(|error| at(place, error))
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
    pub(crate) data: Option<TermData>,
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
    Ok(Bilevel { step, lower: lower_level(registry, spec)? })
}

/// Builds the terms of a lower level. Terms without data of their own are combined into one, the first.
fn lower_level(registry: &Registry, spec: &BilevelSpec) -> Result<Vec<LowerPart>, ConfigError> {
    let (part, levels) = (&spec.part, &spec.own);
    let data = levels.lower_data.clone();
    let place = format!("{}.lower", part.place);
    let terms = match &levels.lower {
        None => {
            let sft = registry.objective("sft", &serde_json::json!({})).map_err(|error| at(&place, error))?;
            return Ok(vec![LowerPart { objective: sft, data }]);
        }
        Some(LowerSpec::One(spec)) => {
            let objective = spec.part.build(registry, Registry::objective)?;
            imitates(&*objective, &place)?;
            return Ok(vec![LowerPart { objective, data }]);
        }
        Some(LowerSpec::Sum(terms)) => terms,
    };
    let (mut summed, mut lower) = (Vec::new(), Vec::new());
    for term in terms {
        let component = component(registry, term, term.own.weight, term.own.schedule)?;
        imitates(&*component.objective, &term.part.place)?;
        match &term.own.data {
            None => summed.push(component),
            Some(own) => {
                let objective = sum(vec![component]).map_err(|error| at(&term.part.place, error))?;
                lower.push(LowerPart { objective, data: Some(own.clone()) });
            }
        }
    }
    if !summed.is_empty() {
        let objective = sum(summed).map_err(|error| at(&place, error))?;
        lower.insert(0, LowerPart { objective, data });
    } else if data.is_some() {
        let message = "has no effect: every term of the lower level has data of its own";
        return Err(part.located(ConfigError::at("lower_data", message)));
    }
    Ok(lower)
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
