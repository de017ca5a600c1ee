//! References that are other models than the one that is trained: they are opened to score rows, and let go.

use std::collections::BTreeMap;

use spo_api::{Adapter, Backend, ModelInfo, ModelSource, ModelSpec};
use spo_data::Tokenizer;

use super::stage::PlannedStage;
use super::{fit, folders, weights};
use crate::error::BadInput;
use crate::hub;
use crate::recipe::document::Document;
use crate::recipe::{External, Recipe, Reference};

/// The specification of such a model.
pub(crate) fn spec(recipe: &Recipe, External { path, adapter }: &External) -> ModelSpec {
    ModelSpec {
        source: ModelSource::Folder(hub::folder(path, None)),
        adapter: adapter.as_ref().map(|path| Adapter::Saved { path: hub::folder(path, None) }),
        quantize: None,
        allow_pickle: recipe.model.allow_pickle,
        seed: recipe.run.seed,
        device: recipe.backend.device.clone(),
        dtype: recipe.backend.dtype.clone(),
    }
}

/// The stages that have such a reference, with their indices.
fn all(recipe: &Recipe) -> impl Iterator<Item = (usize, &External)> {
    recipe.stage.iter().enumerate().filter_map(|(i, stage)| match &stage.reference {
        Reference::External(external) => Some((i, external)),
        _ => None,
    })
}

/// What such models have to fit.
pub(super) struct Fit<'a> {
    pub document: &'a Document,
    pub recipe: &'a Recipe,
    pub stages: &'a [PlannedStage],
    pub tokenizer: &'a Tokenizer,
    pub backend: &'a dyn Backend,
}

impl Fit<'_> {
    /// Checks that every such model can be opened, and reads the tokens of the one that is trained, and its rows.
    /// `known` holds what was opened before.
    ///
    /// # Errors
    /// [`BadInput`] with the location in the recipe.
    pub(super) fn check(&self, known: &mut BTreeMap<String, ModelInfo>) -> Result<(), BadInput> {
        for (i, External { path, adapter }) in all(self.recipe) {
            let error = |key: &str, problem: String| {
                self.document.error(&format!("stage[{i}].reference.external.{key}"), problem)
            };
            let path = &hub::folder(path, None);
            folders::model(path, self.recipe.model.allow_pickle).map_err(|problem| error("path", problem))?;
            if let Some(folder) = adapter {
                folders::adapter(&hub::folder(folder, None), self.recipe.model.allow_pickle)
                    .map_err(|problem| error("adapter", problem))?;
            }
            if path.join("tokenizer.json").exists() {
                let own = Tokenizer::open(path).map_err(|e| error("path", e.to_string()))?;
                own.check_same_tokens(self.tokenizer).map_err(|e| error("path", e.to_string()))?;
            }
        }
        for (i, external) in all(self.recipe) {
            let error =
                |problem: String| self.document.error(&format!("stage[{i}].reference.external"), problem);
            let spec = spec(self.recipe, external);
            let key = format!("{:?} {spec:?}", self.recipe.backend);
            let info = match known.get(&key) {
                Some(info) => info.clone(),
                None => {
                    let session = self.backend.open(&spec).map_err(|e| error(e.to_string()))?;
                    known.entry(key).or_insert(session.info()).clone()
                }
            };
            self.tokenizer.check_vocabulary(info.vocabulary).map_err(|e| error(e.to_string()))?;
            if let Some(problem) = fit::row_too_long(&self.stages[i], &info) {
                return Err(error(problem));
            }
        }
        Ok(())
    }
}

/// Hashes of the files of every such model, by the name of the stage and the file.
pub(super) fn hashes(recipe: &Recipe) -> spo_api::Result<BTreeMap<String, String>> {
    let mut hashes = BTreeMap::new();
    for (i, external) in all(recipe) {
        let name = &recipe.stage[i].name;
        let of_stage = weights::weights(&spec(recipe, external))?;
        hashes.extend(of_stage.into_iter().map(|(file, hash)| (format!("reference of {name}/{file}"), hash)));
    }
    Ok(hashes)
}
