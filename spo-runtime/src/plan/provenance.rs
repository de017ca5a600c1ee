//! Hashes of everything that results depend on. They are the cache keys.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Value, json};
use spo_data::Dataset;

use crate::plan::Plan;
use crate::plan::stage::PlannedStage;
use crate::plan::view::View;
use crate::recipe::External;
use crate::store::key::{Kind, key, own_hash};

/// Identifies a set of log-probs.
pub(crate) struct ScoredRows<'a> {
    /// Hash of the data.
    pub(crate) data: String,
    pub(crate) view: View,
    /// Indices of the rows in the data.
    pub(crate) rows: &'a [usize],
    /// Rows scored at a time, which affects the last digits.
    pub(crate) at_once: usize,
    /// The model that scores them, if it is not the one that is trained. Its hashes are among those of the weights.
    pub(crate) external: Option<&'a External>,
}

/// Everything that the results of a run depend on.
pub(crate) struct Provenance {
    /// Hashes of this executable and of the libraries it has loaded.
    program: Vec<String>,
    /// The recipe, without output and storage options.
    recipe: Value,
    /// Hashes of the model's files.
    weights: Value,
    /// The device and its number of threads.
    device: String,
    /// For each stage, the hashes of its data.
    data: Vec<Value>,
}

impl Provenance {
    /// The provenance of a plan with these stages.
    pub(crate) fn new(plan: &Plan, stages: &[PlannedStage]) -> anyhow::Result<Self> {
        let mut program = vec![own_hash()?.to_owned()];
        program.extend(plan.libraries.iter().map(|library| library.sha256.clone()));
        // Stages share data, so each dataset is hashed only once.
        let mut known = HashMap::new();
        let mut hash = |data: &Arc<Dataset>| -> String {
            known.entry(Arc::as_ptr(data)).or_insert_with(|| data.hash()).clone()
        };
        let data = |stage: &PlannedStage| {
            let [train, eval] = [Some(&stage.train), stage.eval.as_ref()].map(|data| data.map(&mut hash));
            let lower = stage.lower.iter().map(|term| term.data.as_ref().map(&mut hash));
            json!({ "train": train, "eval": eval, "lower": lower.collect::<Vec<_>>() })
        };
        Ok(Provenance {
            program,
            recipe: plan.recipe.essence(),
            weights: json!(plan.weights),
            device: plan.session.info().device,
            data: stages.iter().map(data).collect(),
        })
    }

    /// Identifies parameters: those of the model as opened, or those after `stages` stages.
    fn parameters(&self, stages: usize) -> Value {
        let mut recipe = self.recipe.clone();
        if stages == 0 {
            let mut model = recipe["model"].take();
            let random = model["config"].is_object() || model["adapter"].is_object();
            for files in ["path", "revision", "tokenizer"] {
                model[files].take();
            }
            // If all weights are read from files, they do not depend on the seed.
            let seed = random.then(|| recipe["run"]["seed"].take());
            recipe = json!({ "model": model, "backend": recipe["backend"], "seed": seed });
        } else if let Some(list) = recipe["stage"].as_array_mut() {
            list.truncate(stages);
        }
        json!({
            "program": self.program,
            "device": self.device,
            "weights": self.weights,
            "recipe": recipe,
            "data": self.data[..stages],
        })
    }

    /// The cache key for the result of the first `stages` stages, including the parameters kept under these
    /// names.
    pub(crate) fn result(&self, stages: usize, kept: &BTreeSet<String>) -> String {
        key(Kind::Stage, &json!({ "parameters": self.parameters(stages), "kept": kept }))
    }

    /// The cache key for log-probs under the parameters after `stages` stages.
    pub(crate) fn log_probs(&self, stages: usize, of: &ScoredRows<'_>) -> String {
        let ScoredRows { data, view, rows, at_once, external } = of;
        let view = format!("{:?} {:?}", view.layout, view.mismatched);
        let parameters = self.parameters(stages);
        let what =
            json!({ "data": data, "view": view, "rows": rows, "at_once": at_once, "external": external });
        key(Kind::Reference, &json!({ "parameters": parameters, "of": what }))
    }
}
