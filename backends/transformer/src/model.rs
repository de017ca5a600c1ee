//! A decoder with its parameters on a device, and information about their source.

pub(crate) mod adapter;
mod base_weights;
mod init;
mod quantised;
mod size;
mod source;
mod tables;

use std::path::PathBuf;

use safetensors::Dtype;
use serde_json::Value;
use spo_api::{Adapter, Lora, ModelSource, ModelSpec, Result};
use spo_gguf::BlockType;

use self::adapter::Saved;
pub(crate) use self::base_weights::BaseWeights;
use self::source::Opened;
use crate::config::{self, Architecture};
use crate::decoder::{Decoder, RowNorms};
use crate::engine::{Engine, Head, Memory, Precision};
use crate::parameters::{Flat, Id, Kept, Loaded, Parameters, Role, Spec};

pub(crate) struct Model<E: Engine> {
    pub decoder: Decoder,
    pub parameters: Parameters<E>,
    pub adapter: Option<Lora>,
    /// The configuration as it was passed in. If the weights contradict it, it is made to agree with them.
    pub config: Value,
    /// The folder the weights were read from, if any.
    pub source: Option<PathBuf>,
    /// Names and types of the base parameters on disk. Base parameters have the lowest ids.
    pub stored: Vec<(String, Dtype)>,
    /// What the user should know about how the files were read.
    pub remarks: Vec<String>,
    /// The trained parameters, in the order in which vectors hold them.
    trained: Vec<Id>,
}

impl<E: Engine> Model<E> {
    /// # Errors
    /// [`Error::Model`](spo_api::Error::Model) if the folder, the configuration or the adapter cannot be
    /// used.
    pub fn open(engine: &E, spec: &ModelSpec) -> Result<Self> {
        let source = match &spec.source {
            ModelSource::Random(_) => None,
            ModelSource::Folder(path) => Some(path.clone()),
        };
        let opened = Opened::new(&spec.source)?;
        let (mut config, origin) = (opened.config().clone(), opened.origin());
        let mut remarks = Vec::new();
        let mut decoder = Decoder::new(config::parse(&config, &origin)?);
        let mut weights = opened.weights(&decoder, spec.allow_pickle)?;
        if let Some(weights) = &weights {
            if decoder.architecture.tied && weights.holds_own_head(&decoder) {
                decoder = Decoder::new(Architecture { tied: false, ..decoder.architecture });
                config["tie_word_embeddings"] = false.into();
                remarks.push(format!(
                    "{origin}: says that the head is the embedding table (`tie_word_embeddings`), but the weights hold an \
                     lm_head.weight with other values: it is used, as in transformers, and saved with \
                     `tie_word_embeddings` = false"
                ));
            }
            weights.check(&decoder)?;
        }
        let (adapter, saved) = match &spec.adapter {
            None => (None, None),
            Some(Adapter::New(lora)) => (Some(adapter::named(&mut decoder, lora)), None),
            Some(Adapter::Saved { path }) => {
                let saved = Saved::open(path, spec.allow_pickle)?;
                remarks.extend(saved.remarks(source.as_deref()));
                (Some(saved.lora()?), Some(saved))
            }
        };
        if let Some(lora) = &adapter {
            if adapter::unties(&decoder, lora)? {
                weights.iter_mut().for_each(|weights| weights.untie(&decoder));
                decoder = Decoder::new(Architecture { tied: false, ..decoder.architecture });
                config["tie_word_embeddings"] = false.into();
            }
            adapter::attach(&mut decoder, lora, saved.is_none())?;
            remarks.extend(adapter::remark(&decoder));
            saved.iter().try_for_each(|saved| saved.check(&decoder, weights.as_ref()))?;
        }
        let quantize = quantised::checked(spec.quantize, adapter.is_some())?;
        let a = &decoder.architecture;
        let kept = |id: Id, wanted: &Spec| {
            let in_file = weights.as_ref().map(|weights| weights.kind(a, wanted));
            match quantised::blocks(quantize, &decoder, id, in_file) {
                _ if wanted.trained => Kept::Trained,
                Some(kind) => Kept::Blocks(kind),
                None if wanted.role == Role::Matrix && in_file == Some(BlockType::Bf16) => Kept::Half,
                None => Kept::Frozen,
            }
        };
        remarks.extend(quantised::remark(&decoder, kept));
        size::check(engine.memory(), &decoder, kept, &origin)?;
        let mut parameters =
            Parameters::upload(engine, &decoder.specs, kept, |id, wanted| match (&weights, &saved) {
                (_, Some(saved)) if wanted.trained => saved.read(wanted).map(Loaded::Values),
                (Some(weights), _) if !wanted.role.of_adapter() => match weights.kind(a, wanted) {
                    kind if kept(id, wanted) == Kept::Blocks(kind) => {
                        weights.blocks(a, wanted).map(Loaded::Blocks)
                    }
                    _ => weights.read(a, wanted).map(Loaded::Values),
                },
                _ => Ok(Loaded::Values(init::random(wanted, id, spec.seed, a.initializer_range))),
            })?;
        for &(weight, low_rank) in &decoder.adapted {
            let Some(magnitude) = low_rank.magnitude else { continue };
            let [rows, width] = decoder.specs[weight].shape[..] else { unreachable!("a weight is a matrix") };
            let values = engine.memory().download(&parameters.matrix(engine, weight)?)?;
            let norms = RowNorms::new(engine, [rows, width], &values)?;
            if saved.is_none() {
                norms.begin(engine, parameters.value(magnitude))?;
            }
            parameters.row_norms.insert(weight, norms);
        }
        let trained = (0..decoder.specs.len()).filter(|&id| parameters.gradient(id).is_some()).collect();
        let stored = match &weights {
            Some(weights) => weights.stored(&decoder),
            None => base_weights::stored(&decoder, None),
        };
        Ok(Model { decoder, parameters, adapter, config, source, stored, remarks, trained })
    }

    /// Computes what is derived from the parameters. Has to come before every pass that follows a change of them.
    pub fn refresh(&self, engine: &E) -> Result<()> {
        self.decoder.adapted.iter().try_for_each(|&(weight, low_rank)| {
            match self.parameters.row_norms.get(&weight) {
                Some(rows) => rows.update(engine, &self.parameters, weight, low_rank),
                None => Ok(()),
            }
        })
    }

    /// The trained parameters, in the order in which vectors hold them.
    pub fn trained(&self) -> impl Iterator<Item = &Spec> + Clone {
        self.trained.iter().map(|&id| &self.decoder.specs[id])
    }

    /// Their ids.
    pub fn trained_ids(&self) -> impl Iterator<Item = Id> {
        self.trained.iter().copied()
    }

    /// Number of trained parameters.
    pub fn dimension(&self) -> usize {
        self.trained().map(Spec::elements).sum()
    }

    /// A vector of zeros with the shapes of the trained parameters.
    pub fn new_vector(&self, engine: &E, precision: Precision) -> Result<Flat<E::Tensor>> {
        Flat::zeros(engine, self.trained().map(|spec| &spec.shape[..]), precision)
    }

    pub fn head(&self) -> Head<&E::Tensor> {
        let Head { weight, bias, low_rank, cap, .. } = self.decoder.head;
        let value = |id| self.parameters.value(id);
        let blocks = self.parameters.blocks(weight);
        Head { weight: value(weight), blocks, bias: bias.map(value), low_rank: low_rank.map(value), cap }
    }

    /// The gradients of the head's weight, bias and low-rank addition, where they are trained.
    pub fn head_gradients(&self) -> [Option<&E::Tensor>; 3] {
        let Head { weight, bias, low_rank, .. } = self.decoder.head;
        [Some(weight), bias, low_rank].map(|id| self.parameters.gradient(id?))
    }
}
