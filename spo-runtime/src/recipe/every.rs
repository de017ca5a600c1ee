//! How often something happens in a stage: every so many steps, or a share of its steps.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// How often: TRL's meaning of `eval_steps` and `save_steps`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum Every {
    /// Every so many steps; 0 for never.
    Steps(usize),
    /// Every such share of the stage's steps, rounded up.
    Share(f64),
}

impl Every {
    pub(crate) const NEVER: Every = Every::Steps(0);

    /// Whether it is due after `step` of the stage's `total` steps.
    pub(crate) fn due(self, step: usize, total: usize) -> bool {
        match self {
            Every::Steps(0) => false,
            Every::Steps(steps) => step.is_multiple_of(steps),
            Every::Share(share) => step.is_multiple_of((total as f64 * share).ceil().max(1.0) as usize),
        }
    }
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let number = serde_json::Number::deserialize(from)?;
        match (number.as_u64(), number.as_f64()) {
            (Some(steps), _) => Ok(Every::Steps(steps as usize)),
            (None, Some(share)) if share > 0.0 && share < 1.0 => Ok(Every::Share(share)),
            (None, Some(steps)) if (0.0..1e15).contains(&steps) && steps.fract() == 0.0 => {
                Ok(Every::Steps(steps as usize))
            }
            _ => Err(D::Error::custom(format!(
                "is {number}: expected a number of steps, such as 50, or a share of the stage between 0 and 1, such as 0.1"
            ))),
        }
    }
}

impl JsonSchema for Every {
    fn schema_name() -> Cow<'static, str> {
        "Every".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0 })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shares_are_rounded_up_as_in_transformers() {
        // `math.ceil(max_steps * eval_steps)` of `TrainerState.compute_steps`.
        for (share, total, every) in [(0.1, 200, 20), (0.1, 25, 3), (0.5, 3, 2), (0.01, 5, 1), (0.99, 2, 2)] {
            let due: Vec<usize> = (1..=total).filter(|step| Every::Share(share).due(*step, total)).collect();
            let expected: Vec<usize> = (1..=total / every).map(|i| i * every).collect();
            assert_eq!(due, expected, "{share} of {total}");
        }
        assert!((1..9).all(|step| !Every::NEVER.due(step, 9)));
    }

    #[test]
    fn it_is_written_as_it_was_read() {
        for (value, every) in
            [(json!(0), Every::NEVER), (json!(50), Every::Steps(50)), (json!(0.1), Every::Share(0.1))]
        {
            let read: Every = serde_json::from_value(value.clone()).unwrap();
            assert_eq!((read, serde_json::to_value(read).unwrap()), (every, value));
        }
        assert_eq!(serde_json::from_value::<Every>(json!(1.0)).unwrap(), Every::Steps(1));
        for bad in [json!(-1), json!(-0.1), json!(1.5), json!(1e300), json!("0.1")] {
            assert!(serde_json::from_value::<Every>(bad.clone()).is_err(), "{bad}");
        }
    }
}
