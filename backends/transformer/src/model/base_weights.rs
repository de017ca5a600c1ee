//! The weights of a Hugging Face folder, checked against a decoder.

use std::path::Path;

use safetensors::Dtype;
use spo_api::{Error, Result};

use super::tables::Table;
use crate::decoder::Decoder;
use crate::files::Weights;
use crate::parameters::Spec;

/// The weight files of a model folder.
pub(crate) struct BaseWeights {
    weights: Weights,
    /// Prefix that is missing from every name in files saved from the bare model, without its head.
    dropped: String,
    /// The name of a head beside the embedding table.
    head: String,
    /// The name of the embedding table, if the files hold it under the name of the head that is tied to it.
    as_head: Option<String>,
    /// The name of the embedding table, if it is what a head that is no longer tied to it begins with.
    table_of_head: Option<String>,
}

impl BaseWeights {
    /// Opens the weights of a folder for the decoder of its configuration; also those of `torch.save` if `pickled`.
    pub fn open(folder: &Path, decoder: &Decoder, pickled: bool) -> Result<Self> {
        let weights = Weights::of_model(folder, pickled)?;
        let table = &decoder.specs[0].name;
        let dropped = match table.split_once('.') {
            Some((prefix, bare)) if weights.contains(bare) && !weights.contains(table) => {
                format!("{prefix}.")
            }
            _ => String::new(),
        };
        let head = format!("{}.weight", decoder.architecture.names.head);
        let found = weights.contains(table) || !dropped.is_empty();
        let as_head = decoder.architecture.tied && !found && weights.contains(&head);
        Ok(BaseWeights {
            weights,
            dropped,
            head,
            as_head: as_head.then(|| table.clone()),
            table_of_head: None,
        })
    }

    /// Lets a head be read that the decoder no longer ties to the embedding table.
    pub fn untie(&mut self, decoder: &Decoder) {
        if !self.weights.contains(&self.head) {
            self.table_of_head = Some(self.stored(&decoder.specs[0].name).to_owned());
        }
    }

    fn stored<'n>(&'n self, name: &'n str) -> &'n str {
        match &self.as_head {
            Some(table) if table == name => &self.head,
            _ if name == self.head => self.table_of_head.as_deref().unwrap_or(name),
            _ => name.strip_prefix(&self.dropped).unwrap_or(name),
        }
    }

    /// The name under which a parameter is saved: the one it was read under, but for a head that was read from the
    /// embedding table.
    fn saved<'n>(&'n self, name: &'n str) -> &'n str {
        if name == self.head { name } else { self.stored(name) }
    }

    /// Whether the files hold a head with values other than those of the embedding table.
    pub fn holds_own_head(&self, decoder: &Decoder) -> bool {
        let table = self.stored(&decoder.specs[0].name);
        self.weights.contains(&self.head) && table != self.head && !self.weights.equal(&self.head, table)
    }

    /// Whether the files store a parameter in bf16.
    pub fn in_half(&self, spec: &Spec) -> bool {
        self.weights.dtype(self.stored(&spec.name)) == Some(Dtype::BF16)
    }

    /// Checks that the files hold every parameter of a decoder in its shape, without reading any.
    pub fn check(&self, decoder: &Decoder) -> Result<()> {
        let mut base = decoder.specs.iter().filter(|spec| !spec.role.of_adapter());
        base.try_for_each(|spec| self.weights.check(self.stored(&spec.name), spec))
    }

    pub fn read(&self, spec: &Spec) -> Result<Vec<f32>> {
        self.weights.read(self.stored(&spec.name), spec)
    }

    /// Checks the tensors that the decoder does not read. Each must say what the configuration says anyway.
    ///
    /// # Errors
    /// [`Error::Model`] for a tensor that does not, and for an unknown one.
    pub fn check_unused(&self, decoder: &Decoder) -> Result<()> {
        let a = &decoder.architecture;
        let mut known: Vec<&str> = decoder.specs.iter().map(|s| self.stored(&s.name)).collect();
        if a.tied {
            // Equal to the embedding table, else the decoder would not be tied.
            known.push(&self.head);
        }
        for name in self.weights.names().filter(|name| !known.contains(name)) {
            let error =
                |problem: String| Error::Model(format!("{}: {name} {problem}", self.weights.origin()));
            let Some(table) = Table::named(name) else {
                let kind = a.model_type.name();
                return Err(error(format!("is no part of a {kind} of this configuration")));
            };
            let expected =
                self.weights.values(name).is_some_and(|(shape, values)| table.agrees(a, shape, &values));
            if !expected {
                return Err(error(format!(
                    "is not {}: the model was made for another computation than its config.json says. Correct the \
                     configuration, or remove the tensor if the configuration is right",
                    table.expectation()
                )));
            }
        }
        Ok(())
    }
}

/// Names and types of the base parameters on disk, by id: those of the weight files if there are any, else
/// those of `architecture`.
pub(super) fn stored(decoder: &Decoder, weights: Option<&BaseWeights>) -> Vec<(String, Dtype)> {
    let default = match decoder.architecture.dtype.as_str() {
        "bfloat16" => Dtype::BF16,
        "float16" => Dtype::F16,
        _ => Dtype::F32,
    };
    let base = decoder.specs.iter().filter(|spec| !spec.role.of_adapter());
    base.map(|spec| {
        let name = weights.map_or(spec.name.as_str(), |w| w.saved(&spec.name));
        let dtype = weights.and_then(|w| w.weights.dtype(w.stored(&spec.name)));
        (name.to_owned(), dtype.unwrap_or(default))
    })
    .collect()
}
