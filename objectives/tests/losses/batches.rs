//! Batches that own their figures.

use std::sync::LazyLock;

use serde_json::Value;
use spo_api::{Columns, Evaluation, Layout, Objective, PreferenceBatch, Ragged, Registry, Result, Side};

/// Ragged rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rows {
    pub values: Vec<f64>,
    pub offsets: Vec<usize>,
}

impl Rows {
    pub fn new(rows: &[Vec<f64>]) -> Self {
        let mut offsets = vec![0];
        offsets.extend(rows.iter().scan(0, |end, row| {
            *end += row.len();
            Some(*end)
        }));
        Rows { values: rows.concat(), offsets }
    }

    pub fn view(&self) -> Ragged<'_> {
        Ragged::new(&self.values, &self.offsets).unwrap()
    }

    pub fn select(&self, rows: &[usize]) -> Rows {
        let view = self.view();
        Rows::new(&rows.iter().map(|&i| view.row(i).to_vec()).collect::<Vec<_>>())
    }
}

/// One side of a batch.
#[derive(Clone, Debug, Default)]
pub struct Answers {
    pub policy: Rows,
    pub reference: Rows,
    pub collision: Option<Rows>,
}

impl Answers {
    pub fn view(&self) -> Side<'_> {
        Side {
            policy: self.policy.view(),
            reference: Some(self.reference.view()),
            collision: self.collision.as_ref().map(Rows::view),
        }
    }

    pub fn select(&self, rows: &[usize]) -> Answers {
        Answers {
            policy: self.policy.select(rows),
            reference: self.reference.select(rows),
            collision: self.collision.as_ref().map(|c| c.select(rows)),
        }
    }
}

/// A batch with everything an objective may ask for.
#[derive(Clone, Debug)]
pub struct Batch {
    pub layout: Layout,
    pub chosen: Answers,
    pub rejected: Answers,
    pub mismatched: Option<Answers>,
    /// Empty where there are none.
    pub gaps: Vec<f64>,
    /// The column `margin`; empty where there is none.
    pub margins: Vec<f64>,
}

impl Batch {
    pub fn view(&self) -> PreferenceBatch<'_> {
        let batch = PreferenceBatch::new(self.layout, self.chosen.view(), self.rejected.view()).unwrap();
        let gaps = (!self.gaps.is_empty()).then_some(&self.gaps[..]);
        static NAMES: LazyLock<[String; 1]> = LazyLock::new(|| ["margin".to_owned()]);
        let columns = match &*self.margins {
            [] => Columns::default(),
            margins => Columns::new(&*NAMES, margins).unwrap(),
        };
        PreferenceBatch { mismatched: self.mismatched.as_ref().map(Answers::view), gaps, columns, ..batch }
    }

    /// The pairs with these indices.
    pub fn pairs(&self, rows: &[usize]) -> Batch {
        assert_eq!(self.layout, Layout::Pairs);
        Batch {
            layout: self.layout,
            chosen: self.chosen.select(rows),
            rejected: self.rejected.select(rows),
            mismatched: None,
            gaps: select(&self.gaps, rows),
            margins: select(&self.margins, rows),
        }
    }

    /// The unpaired answers with these indices of either kind.
    pub fn answers(&self, chosen: &[usize], rejected: &[usize]) -> Batch {
        assert_eq!(self.layout, Layout::Unpaired);
        let (chosen, rejected) = (self.chosen.select(chosen), self.rejected.select(rejected));
        Batch { chosen, rejected, ..self.clone() }
    }

    pub fn evaluate(&self, objective: &mut dyn Objective) -> Result<Evaluation> {
        evaluate(objective, &self.view())
    }
}

fn select(numbers: &[f64], rows: &[usize]) -> Vec<f64> {
    rows.iter().filter_map(|&i| numbers.get(i).copied()).collect()
}

pub fn evaluate(objective: &mut dyn Objective, batch: &PreferenceBatch<'_>) -> Result<Evaluation> {
    let mut out = Evaluation::default();
    out.compute(objective, batch)?;
    Ok(out)
}

pub fn registry() -> &'static Registry {
    use spo_objectives as _;
    static REGISTRY: LazyLock<Registry> = LazyLock::new(|| Registry::linked().unwrap());
    &REGISTRY
}

pub fn build(name: &str, config: &Value) -> Box<dyn Objective> {
    registry().objective(name, config).unwrap_or_else(|e| panic!("{name} {config}: {e}"))
}
