//! The recipe's objectives: a single one, or a weighted sum.

use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use spo_objectives::losses::WeightSchedule;

use super::data::TermData;
use super::part::{ObjectiveAlone, OwnKeys, PartSpec, Spec};

/// One objective, or a sum of several with `T` beside each.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub(crate) enum OneOrSum<T: OwnKeys> {
    One(Spec<ObjectiveAlone>),
    Sum(Vec<Spec<T>>),
}

/// `stage.objective`.
pub(crate) type ObjectiveSpec = OneOrSum<Weighted>;

/// `stage.bilevel.lower`.
pub(crate) type LowerSpec = OneOrSum<WeightedOnData>;

impl<T: OwnKeys> OneOrSum<T> {
    /// All parts that it names.
    pub(crate) fn parts(&self) -> Vec<&PartSpec> {
        match self {
            OneOrSum::One(spec) => vec![&spec.part],
            OneOrSum::Sum(terms) => terms.iter().map(|term| &term.part).collect(),
        }
    }

    /// Records its location in the recipe.
    pub(crate) fn place(&mut self, at: &str) {
        match self {
            OneOrSum::One(spec) => spec.part.place = at.to_owned(),
            OneOrSum::Sum(terms) => {
                terms.iter_mut().enumerate().for_each(|(i, term)| term.part.place = format!("{at}[{i}]"));
            }
        }
    }
}

/// A term of a sum.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Weighted {
    /// Its factor in the sum; 1 unless given.
    #[serde(default)]
    pub(crate) weight: Factor,
    /// How the factor gets there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) schedule: Option<WeightSchedule>,
}

impl OwnKeys for Weighted {
    const KIND: &'static str = "objective";
}

/// A term of a lower level.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WeightedOnData {
    /// Its factor in the sum; 1 unless given.
    #[serde(default)]
    pub(crate) weight: Factor,
    /// How the factor gets there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) schedule: Option<WeightSchedule>,
    /// What it learns from: a source, or `{ task = { ... } }`. The stage's chosen answers, or `lower_data`, unless
    /// given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<TermData>,
}

impl OwnKeys for WeightedOnData {
    const KIND: &'static str = "objective";
}

/// A factor other than 0.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Factor(pub(crate) f64);

impl Default for Factor {
    fn default() -> Self {
        Factor(1.0)
    }
}

impl<'de> Deserialize<'de> for Factor {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let given = Value::deserialize(from)?;
        let factor = given.as_f64().filter(|factor| *factor != 0.0);
        factor
            .map(Factor)
            .ok_or_else(|| D::Error::custom(format!("must be a number other than 0, got {given}")))
    }
}

impl JsonSchema for Factor {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Factor".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "not": { "const": 0 } })
    }
}

impl<'de, T: OwnKeys> Deserialize<'de> for OneOrSum<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);

        impl<'de, T: OwnKeys> Visitor<'de> for Either<T> {
            type Value = OneOrSum<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of an objective, a table, or a list of either")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<OneOrSum<T>, E> {
                Spec::deserialize(StrDeserializer::new(name)).map(OneOrSum::One)
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<OneOrSum<T>, A::Error> {
                Spec::deserialize(MapAccessDeserializer::new(table)).map(OneOrSum::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrSum<T>, A::Error> {
                let mut terms = Vec::new();
                while let Some(term) = items.next_element()? {
                    terms.push(term);
                }
                match terms.is_empty() {
                    true => Err(A::Error::custom("expected at least one objective")),
                    false => Ok(OneOrSum::Sum(terms)),
                }
            }
        }

        from.deserialize_any(Either(PhantomData))
    }
}

impl<T: OwnKeys> JsonSchema for OneOrSum<T> {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        format!("one_or_sum_{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = Spec::<ObjectiveAlone>::json_schema(generator);
        let term = Spec::<T>::json_schema(generator);
        json_schema!({ "anyOf": [one, { "type": "array", "items": term, "minItems": 1 }] })
    }
}
