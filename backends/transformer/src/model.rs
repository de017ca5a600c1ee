//! A decoder with its parameters on a device, and information about their source.

pub(crate) mod adapter;
mod base_weights;
mod init;

use std::path::PathBuf;

use safetensors::Dtype;
use serde_json::Value;
use spo_api::{Adapter, ModelSource, ModelSpec, Result};

use self::base_weights::BaseWeights;
use crate::config;
use crate::decoder::Decoder;
use crate::engine::{Engine, Precision};
use crate::files::read_json;
use crate::parameters::{Flat, Id, Kept, Parameters, Role, Spec};

pub(crate) struct Model<E: Engine> {
    pub decoder: Decoder,
    pub parameters: Parameters<E>,
    pub adapter: Option<Adapter>,
    /// The configuration as it was passed in.
    pub config: Value,
    /// The folder the weights were read from, if any.
    pub source: Option<PathBuf>,
    /// Names and types of the base parameters on disk. Base parameters have the lowest ids.
    pub stored: Vec<(String, Dtype)>,
    /// The trained parameters, in the order in which vectors hold them.
    trained: Vec<Id>,
}

impl<E: Engine> Model<E> {
    /// # Errors
    /// [`Error::Model`](spo_api::Error::Model) if the folder, the configuration or the adapter cannot be
    /// used.
    pub fn open(engine: &E, spec: &ModelSpec) -> Result<Self> {
        let (config, source) = match &spec.source {
            ModelSource::Random(config) => (config.clone(), None),
            ModelSource::Folder(folder) => (read_json(&folder.join("config.json"))?, Some(folder.clone())),
        };
        let origin = match &source {
            Some(folder) => folder.join("config.json").display().to_string(),
            None => "model configuration".to_owned(),
        };
        let mut decoder = Decoder::new(config::parse(&config, &origin)?);
        if let Some(adapter) = &spec.adapter {
            adapter::attach(&mut decoder, adapter)?;
        }
        let weights = source.as_deref().map(|folder| BaseWeights::open(folder, &decoder)).transpose()?;
        let tuned = spec.adapter.as_ref().and_then(|a| a.path.as_deref());
        let tuned = tuned.map(|folder| adapter::open(folder, &decoder)).transpose()?;
        let adapted = spec.adapter.is_some();
        let range = decoder.architecture.initializer_range;
        let parameters = Parameters::upload(
            engine,
            &decoder.specs,
            |wanted| match &weights {
                _ if wanted.role.of_adapter() == adapted => Kept::Trained,
                Some(weights) if wanted.role == Role::Matrix && weights.in_half(wanted) => Kept::Half,
                _ => Kept::Frozen,
            },
            |id, wanted| match (wanted.role.of_adapter(), &weights, &tuned) {
                (true, _, Some(tuned)) => tuned.read(&adapter::peft_name(&wanted.name), wanted),
                (false, Some(weights), _) => weights.read(wanted),
                _ => Ok(init::random(wanted, id, spec.seed, range)),
            },
        )?;
        let trained = (0..decoder.specs.len()).filter(|&id| parameters.gradient(id).is_some()).collect();
        let stored = base_weights::stored(&decoder, weights.as_ref());
        let adapter = spec.adapter.clone();
        Ok(Model { decoder, parameters, adapter, config, source, stored, trained })
    }

    /// The trained parameters, in the order in which vectors hold them.
    pub fn trained(&self) -> impl Iterator<Item = &Spec> + Clone {
        self.trained.iter().map(|&id| &self.decoder.specs[id])
    }

    /// Number of trained parameters.
    pub fn dimension(&self) -> usize {
        self.trained().map(Spec::elements).sum()
    }

    /// A vector of zeros with the shapes of the trained parameters.
    pub fn new_vector(&self, engine: &E, precision: Precision) -> Result<Flat<E::Tensor>> {
        Flat::zeros(engine, self.trained().map(|spec| &spec.shape[..]), precision)
    }

    pub fn head(&self) -> &E::Tensor {
        self.parameters.value(self.decoder.head)
    }

    /// The gradient of the head, if the head is trained.
    pub fn head_gradient(&self) -> Option<&E::Tensor> {
        self.parameters.gradient(self.decoder.head)
    }
}
