//! The recipe's bilevel step and lower level.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::data::{Rows, TermData};
use super::objective::LowerSpec;
use super::part::{OwnKeys, Spec};

/// `stage.bilevel`.
pub(crate) type BilevelSpec = Spec<Levels>;

/// The lower level of a step.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Levels {
    /// The lower objective, or a list of objectives with a `weight` and `data` each: several tasks at once. `"sft"`
    /// unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lower: Option<LowerSpec>,
    /// What the terms without `data` learn from: a source, or `{ task = { ... } }`. The stage's chosen answers
    /// unless given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) lower_data: Option<TermData>,
}

impl OwnKeys for Levels {
    const KIND: &'static str = "step";
    const NAME: &'static str = "step";
}

impl BilevelSpec {
    /// The files of rows that the lower level names.
    pub(super) fn rows(&self) -> impl Iterator<Item = &Rows> {
        let terms = match &self.own.lower {
            Some(LowerSpec::Sum(terms)) => terms.as_slice(),
            _ => &[],
        };
        let data = terms.iter().map(|term| &term.own.data).chain([&self.own.lower_data]);
        data.flatten().filter_map(|data| match data {
            TermData::Rows(rows) => Some(rows),
            TermData::Task(_) => None,
        })
    }

    /// The same, to be changed.
    pub(super) fn rows_mut(&mut self) -> impl Iterator<Item = &mut Rows> {
        let terms = match &mut self.own.lower {
            Some(LowerSpec::Sum(terms)) => terms.as_mut_slice(),
            _ => &mut [],
        };
        let data = terms.iter_mut().map(|term| &mut term.own.data).chain([&mut self.own.lower_data]);
        data.flatten().filter_map(|data| match data {
            TermData::Rows(rows) => Some(rows),
            TermData::Task(_) => None,
        })
    }

    /// Records its location in the recipe.
    pub(crate) fn place(&mut self, at: &str) {
        self.part.place = at.to_owned();
        if let Some(lower) = &mut self.own.lower {
            lower.place(&format!("{at}.lower"));
            if let LowerSpec::Sum(terms) = lower {
                for term in terms {
                    let at = format!("{}.data", term.part.place);
                    term.own.data.iter_mut().for_each(|data| data.place(&at));
                }
            }
        }
        self.own.lower_data.iter_mut().for_each(|data| data.place(&format!("{at}.lower_data")));
    }
}
