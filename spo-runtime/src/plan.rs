//! Turns a recipe into everything a run needs, and checks it before training begins.

pub(crate) mod data;
pub(crate) mod external;
pub(crate) mod fetch;
pub(crate) mod fit;
pub(crate) mod folders;
pub(crate) mod generation;
pub(crate) mod held_out;
mod in_backward;
pub(crate) mod libraries;
pub(crate) mod machine;
pub(crate) mod memory;
pub(crate) mod provenance;
pub(crate) mod stage;
mod tokens;
pub(crate) mod view;
mod weights;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use spo_api::{Backend, Layout, Library, ModelInfo, ModelSource, ModelSpec, Quantize, Registry, Session};
use spo_data::{Dataset, Moment, Tokenizer};

use crate::error::BadInput;
use crate::hub;
use crate::plan::stage::PlannedStage;
use crate::plan::tokens::TokenCache;
use crate::recipe::document::Document;
use crate::recipe::{ModelSection, Recipe};
use crate::reporter::Reporter;
use crate::stop::Stop;
use crate::store::cache::Cache;
use crate::store::{output, ownership};

use memory::Forecast;

use data::{Datasets, Loader, Parts, tokenizer};

/// A recipe with all its parts found, built and checked.
pub(crate) struct Plan {
    pub(crate) recipe: Recipe,
    /// Name of the run.
    pub(crate) name: String,
    /// The output folder.
    pub(crate) output: PathBuf,
    pub(crate) tokenizer: Tokenizer,
    pub(crate) backend: Box<dyn Backend>,
    /// The opened model.
    pub(crate) session: Box<dyn Session>,
    /// The stages, in order.
    pub(crate) stages: Vec<PlannedStage>,
    /// Every file or task that was read, with a description and its tokenized rows.
    pub(crate) data: Vec<(String, Arc<Dataset>)>,
    /// The libraries that parts were loaded from.
    pub(crate) libraries: Vec<Library>,
    /// Hashes of the model's files.
    pub(crate) weights: BTreeMap<String, String>,
}

/// Shared by several plans, so that common data and models are read only once.
#[derive(Default)]
pub(crate) struct Checked {
    data: Datasets,
    /// Information on the opened models, by specification.
    models: BTreeMap<String, ModelInfo>,
    /// Whether recipes pass that will need more memory than the machine has.
    force: bool,
}

impl Checked {
    /// Nothing so far. With `force`, recipes pass that will need more memory than the machine has.
    pub(crate) fn new(force: bool) -> Self {
        Checked { force, ..Checked::default() }
    }
}

/// A recipe with its parts, before the model is opened.
struct Draft {
    recipe: Recipe,
    name: String,
    output: PathBuf,
    tokenizer: Tokenizer,
    stages: Vec<PlannedStage>,
    backend: Box<dyn Backend>,
    spec: ModelSpec,
}

impl Plan {
    /// Finds, builds and checks everything a recipe names. Cheap checks come first; the model's weights are
    /// read last.
    ///
    /// # Errors
    /// [`BadInput`] with the location in the recipe.
    pub(crate) fn new(registry: &mut Registry, document: &Document) -> anyhow::Result<Self> {
        Self::from(registry, document, None)
    }

    /// Like [`new`](Self::new), but reads tokenized files from the recipe's cache, and writes them to it.
    /// `stop` ends the wait for another process that is tokenizing the same file.
    ///
    /// # Errors
    /// Those of [`new`](Self::new), and [`Interrupted`](crate::stop::Interrupted).
    pub(crate) fn with_cache(
        registry: &mut Registry,
        document: &Document,
        stop: &Stop,
        reporter: &Reporter,
    ) -> anyhow::Result<Self> {
        Self::from(registry, document, Some((stop, reporter)))
    }

    fn from(
        registry: &mut Registry,
        document: &Document,
        caching: Option<(&Stop, &Reporter)>,
    ) -> anyhow::Result<Self> {
        let mut loaded = Datasets::new();
        let draft = Draft::new(registry, document, &mut loaded, caching)?;
        draft.external(document).check(&mut BTreeMap::new())?;
        let mut session = draft.open(document)?;
        draft.check_fit(document, &session.info())?;
        draft.check_optimizers(document, &mut *session)?;
        let mut weights = weights::weights(&draft.spec)?;
        weights.extend(external::hashes(&draft.recipe)?);
        let Draft { recipe, name, output, tokenizer, stages, backend, .. } = draft;
        let data = loaded.into_values().collect();
        let libraries = registry.libraries_of(&recipe.parts());
        Ok(Plan { recipe, name, output, tokenizer, backend, session, stages, data, libraries, weights })
    }

    /// Checks a recipe as [`new`](Self::new) does, but returns only the resolved recipe. Anything in
    /// `checked` is not read again.
    pub(crate) fn check(
        registry: &mut Registry,
        document: &Document,
        checked: &mut Checked,
    ) -> anyhow::Result<Recipe> {
        let draft = Draft::new(registry, document, &mut checked.data, None)?;
        let kernels: Vec<_> = draft.stages.iter().map(|stage| stage.optimizer.kernel()).collect();
        let key = format!("{:?} {:?} {kernels:?}", draft.recipe.backend, draft.spec);
        let info = match checked.models.get(&key) {
            Some(info) => info.clone(),
            None => {
                let mut session = draft.open(document)?;
                draft.check_optimizers(document, &mut *session)?;
                checked.models.entry(key).or_insert(session.info()).clone()
            }
        };
        draft.check_fit(document, &info)?;
        draft.external(document).check(&mut checked.models)?;
        if !checked.force {
            Forecast::new(&draft.recipe, &draft.spec, &info, &draft.stages).check(document)?;
        }
        Ok(draft.recipe)
    }

    /// The weight of the routers' loss in training: what the recipe says, or else the model's configuration; 0 for none.
    pub(crate) fn router_loss(&self) -> f64 {
        let of_model = || self.session.info().router_loss.unwrap_or(0.0);
        self.recipe.model.router_aux_loss.unwrap_or_else(of_model)
    }

    /// The memory that the run will need at least.
    pub(crate) fn memory(&self) -> Forecast {
        let spec = model_spec(&self.recipe, &self.tokenizer);
        Forecast::new(&self.recipe, &spec, &self.session.info(), &self.stages)
    }

    /// What the user should know before training, one line per item.
    pub(crate) fn description(&self) -> Vec<String> {
        let info = self.session.info();
        let mut lines = vec![format!(
            "{}: {} with {} parameters, {} of them trained, in {} on {}",
            self.name, info.architecture, info.parameters, info.trainable, info.dtype, info.device
        )];
        if let ModelSection { path: Some(id), revision: Some(commit), .. } = &self.recipe.model {
            lines.push(format!("model: {} of the hub at {commit}", id.display()));
        }
        lines.extend(info.remarks);
        let answers = self.recipe.evaluation.samples > 0 || self.stages.iter().any(|stage| stage.exact_match);
        if let Some(folder) = self.recipe.model.folder().filter(|_| answers)
            && self.stages.iter().any(|stage| stage.eval.is_some())
            && let Some(settings) = generation::unapplied(&folder)
        {
            lines.push(format!("{settings} (held-out answers are greedy)"));
        }
        lines.extend(
            self.libraries.iter().map(|l| format!("plugin {} {}: {}", l.name, l.version, l.path.display())),
        );
        for (name, data) in &self.data {
            let line = format!("{name}: {}", data.report);
            // The same rows may have been read both as pairs and as demonstrations.
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }

    /// The record that is saved with a run so that it can be reproduced. It hashes all rows.
    pub(crate) fn record(&self) -> Value {
        let info = self.session.info();
        let data: Vec<Value> = self
            .data
            .iter()
            .map(|(name, data)| {
                json!({ "source": name, "rows": data.examples.len(), "sha256_of_tokens": data.hash() })
            })
            .collect();
        let mut record = json!({
            "name": self.name,
            "spo": env!("CARGO_PKG_VERSION"),
            "seed": self.recipe.run.seed,
            "recipe": self.recipe.essence(),
            "tokenizer_sha256": self.tokenizer.hash(),
            "model": {
                "architecture": info.architecture,
                "parameters": info.parameters,
                "trainable": info.trainable,
                "dtype": info.dtype,
                "sha256": self.weights,
            },
            "device": info.device,
            "threads": rayon::current_num_threads(),
            "cpu": machine::cpu(),
            "system": format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            "data": data,
            "plugins": self.libraries,
            "started_in": std::env::current_dir().unwrap_or_default().to_string_lossy(),
        });
        if let Some(moment) = self.recipe.run.moment {
            record["moment"] = moment.to_string().into();
        }
        record
    }
}

impl Draft {
    fn new(
        registry: &mut Registry,
        document: &Document,
        loaded: &mut Datasets,
        caching: Option<(&Stop, &Reporter)>,
    ) -> anyhow::Result<Self> {
        let mut recipe: Recipe = document.to_recipe()?;
        libraries::load_for(registry, document, &recipe)?;
        let (name, output) = recipe.run.resolve(|| document.stem()).map_err(|e| document.locate("", e))?;

        let mut parts = Vec::new();
        for stage in &recipe.stage {
            parts.push(Parts::of(registry, stage).map_err(|e| document.locate("", e))?);
        }
        let backend = registry
            .backend(&recipe.backend.name, &Value::Object(recipe.backend.options.clone()))
            .map_err(|e| {
                let base = if e.key.is_some() { "backend.options" } else { "backend.name" };
                document.locate(base, e)
            })?;

        let recorded = caching.and_then(|_| output::recorded_recipe(&output, &recipe));
        fetch::fetch(document, &mut recipe, recorded.as_ref())?;
        ownership::check(&output, &recipe).map_err(|e| document.locate("", e))?;
        check_folders(document, &recipe)?;
        let pairs = parts.iter().any(|parts| parts.objective.requirements().data == Layout::Pairs);
        // A run keeps the moment it was first planned at, so that its prompts stay the same when it is resumed.
        let earlier = || caching.and_then(|_| output::moment(&output, &recipe));
        let moment = recipe.run.moment.or_else(earlier).unwrap_or_else(Moment::now);
        let tokenizer = tokenizer(document, &recipe)?.at(moment);
        recipe.run.moment = tokenizer.moment();
        let cache = caching.map(|(stop, reporter)| TokenCache {
            cache: Cache::new(&recipe.cache, &output),
            stop,
            reporter,
        });
        let columns = parts.iter().flat_map(Parts::columns).collect();
        // A check leaves nothing beside the output.
        let disk = cache.as_ref().map_or_else(std::env::temp_dir, |cache| cache.cache.folder(&output));
        let mut loader =
            Loader { document, tokenizer, seed: recipe.run.seed, pairs, columns, loaded, cache, disk };
        let mut stages = Vec::new();
        for (i, parts) in parts.into_iter().enumerate() {
            stages.push(loader.stage(&recipe, i, parts)?);
        }
        let tokenizer = loader.tokenizer;
        let spec = model_spec(&recipe, &tokenizer);
        Ok(Draft { recipe, name, output, tokenizer, stages, backend, spec })
    }

    fn open(&self, document: &Document) -> anyhow::Result<Box<dyn Session>> {
        self.backend.open(&self.spec).map_err(|e| match e {
            // The location in the recipe is more useful than the error alone.
            spo_api::Error::Engine(message) => anyhow::Error::new(document.error("backend", message)),
            spo_api::Error::Model(message) => anyhow::Error::new(document.error("model", message)),
            error @ spo_api::Error::Io { .. } => document.error("model", error.to_string()).into(),
            other => other.into(),
        })
    }

    /// What references that are other models have to fit.
    fn external<'a>(&'a self, document: &'a Document) -> external::Fit<'a> {
        let Draft { recipe, stages, tokenizer, backend, .. } = self;
        external::Fit { document, recipe, stages, tokenizer, backend: &**backend }
    }

    /// Checks that tokenizer, rows and model are compatible.
    fn check_fit(&self, document: &Document, info: &ModelInfo) -> Result<(), BadInput> {
        let fits = self.tokenizer.check_vocabulary(info.vocabulary);
        fits.map_err(|e| document.error("model", e.to_string()))?;
        if info.router_loss.is_none() && self.recipe.model.router_aux_loss.is_some_and(|weight| weight > 0.0)
        {
            let message = format!(
                "is for models with experts, and this one ({}, {} backend) has no routers with a loss: leave it out",
                info.architecture, self.recipe.backend.name
            );
            return Err(document.error("model.router_aux_loss", message));
        }
        for (i, stage) in self.stages.iter().enumerate() {
            if stage.step.needs().hessian && !info.hessian_vectors {
                return Err(self.no_hessian(document, i));
            }
        }
        fit::check(document, &self.recipe, &self.stages, info)
    }

    /// Checks that the backend can run the optimizers, before time is spent on scoring the reference.
    fn check_optimizers(&self, document: &Document, session: &mut dyn Session) -> Result<(), BadInput> {
        for (stage, spec) in self.stages.iter().zip(&self.recipe.stage) {
            let part = &spec.optimizer.part;
            // A backend keeps only those moments in another type that it keeps itself.
            if let Some(kept) = self.recipe.backend.options.get("moments").filter(|kept| *kept != "f32")
                && stage.optimizer.kernel().is_none()
            {
                let message = format!(
                    "{kept} would have no effect on `{}`, the optimizer of stage `{}`, which the backend does not run itself: \
                     leave `moments` out, or take `adamw`",
                    part.name, spec.name
                );
                return Err(document.error("backend.options.moments", message));
            }
            let taken = session.adopt_optimizer(stage.optimizer.kernel().as_ref());
            let taken = taken.map_err(|e| document.error(&part.place, e.to_string()))?;
            if stage.optimizer.needs_kernel() && !taken {
                let message = format!(
                    "`{}` needs a backend that runs it, which the {} backend does not: take another optimizer, or \
                     another backend",
                    part.name, self.recipe.backend.name
                );
                return Err(document.error(&part.place, message));
            }
            if spec.optimizer.own.in_backward {
                let problem = in_backward::problem(&self.recipe, stage, &session.info(), taken);
                let key = format!("{}.in_backward", part.place);
                problem.map_or(Ok(()), |problem| Err(document.error(&key, problem)))?;
            }
        }
        session.adopt_optimizer(None).map(drop).map_err(|e| document.error("backend", e.to_string()))
    }

    /// The error for a stage whose step needs Hessian-vector products that the backend lacks. By convention,
    /// a step that works without them has a key `hessian` that accepts `differences`.
    fn no_hessian(&self, document: &Document, stage: usize) -> BadInput {
        let step = &self.recipe.stage[stage].bilevel.part;
        let (key, choice) = match step.config.get("hessian") {
            Some(_) => (format!("{}.hessian", step.place), "take `hessian = \"differences\"`"),
            None => (step.place.clone(), "take another step"),
        };
        let message = format!(
            "`{}` asks for exact Hessian-vector products, which the {} backend does not have: {choice}, or a backend \
             that has them",
            step.name, self.recipe.backend.name
        );
        document.error(&key, message)
    }
}

/// Checks the folders of the model and of its adapter.
fn check_folders(document: &Document, recipe: &Recipe) -> Result<(), BadInput> {
    if let Some(folder) = recipe.model.folder() {
        let pickled = recipe.model.allow_pickle;
        folders::model(&folder, pickled).map_err(|problem| document.error("model.path", problem))?;
    }
    if let Some(blocks) = recipe.model.quantize.filter(|blocks| *blocks != Quantize::Off)
        && recipe.model.adapter.is_none()
    {
        let message = format!(
            "= \"{}\" is for the frozen weights below an adapter, and without one every weight is trained: add \
             `[model.adapter]`, or leave `quantize` out",
            blocks.name()
        );
        return Err(document.error("model.quantize", message));
    }
    if let Some(folder) = recipe.model.adapter.as_ref().and_then(|adapter| adapter.path.as_ref()) {
        let checked = folders::adapter(&hub::folder(folder, None), recipe.model.allow_pickle);
        checked.map_err(|problem| document.error("model.adapter.path", problem))?;
    }
    Ok(())
}

/// The specification of the model to open.
pub(crate) fn model_spec(recipe: &Recipe, tokenizer: &Tokenizer) -> ModelSpec {
    let source = match recipe.model.folder() {
        Some(folder) => ModelSource::Folder(folder),
        None => {
            let mut config = recipe.model.config.clone().unwrap_or_default();
            config.entry("vocab_size").or_insert_with(|| tokenizer.vocabulary().into());
            if let Some((_, eos)) = tokenizer.eos() {
                config.entry("eos_token_id").or_insert_with(|| eos.into());
            }
            ModelSource::Random(Value::Object(config))
        }
    };
    let adapter = recipe.model.adapter.as_ref();
    let adapter = adapter.map(|section| section.adapter().expect("the recipe was validated"));
    let backend = &recipe.backend;
    ModelSpec {
        source,
        adapter,
        quantize: recipe.model.quantize,
        allow_pickle: recipe.model.allow_pickle,
        seed: recipe.run.seed,
        device: backend.device.clone(),
        dtype: backend.dtype.clone(),
    }
}
