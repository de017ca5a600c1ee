//! `model.adapter`: a low-rank adapter, new or from a folder.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use spo_api::{Adapter, ConfigError, Lora, Targets};

use crate::hub;

/// `model.adapter`: a low-rank adapter, in PEFT's terms. A new one needs `rank`, `alpha` and `targets`; one from a
/// folder (`path`) brings all of its settings.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Adapter")]
pub(crate) struct AdapterSection {
    /// The kind of adapter.
    kind: AdapterKind,
    /// Folder of an adapter in PEFT's layout to start from, or its id on the hub, as `owner/name` or `owner/name@revision`. Nothing else can be given then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) path: Option<PathBuf>,
    /// Rank of the update.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    rank: Option<usize>,
    /// Scale of the update: `alpha / rank`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    alpha: Option<f64>,
    /// The share of a layer's input that the adapter does not see in training, drawn anew in every step
    /// ([models.md](models.md#dropout)); 0 unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0), extend("exclusiveMaximum" = 1))]
    dropout: Option<f64>,
    /// The linear layers to adapt: a list of names, `"all-linear"`, or a regular expression for the whole name. Embedding table and
    /// head are adapted where they are named.
    #[serde(skip_serializing_if = "Option::is_none")]
    targets: Option<Targets>,
    /// Layers to leave as they are, although they are among the targets; written in the same ways.
    #[serde(skip_serializing_if = "Option::is_none")]
    exclude: Option<Targets>,
    /// The blocks in which layers named by `targets` are adapted, counted from 0; all of them unless given.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<usize>,
    /// Other ranks for some layers, by a regular expression for the end of their names: `{ down_proj = 32 }`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    rank_pattern: BTreeMap<String, usize>,
    /// Other values of `alpha`, in the same way.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    alpha_pattern: BTreeMap<String, f64>,
    /// Scale by `alpha / sqrt(rank)` (Kalajdzievski 2023).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    rslora: bool,
    /// Give every row of an adapted matrix a trained norm (DoRA, Liu et al. 2024). There are no exact Hessian-vector
    /// products then.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dora: bool,
    /// Modules to train as a whole beside the adapter, by the ends of their names: `["embed_tokens", "lm_head"]` for new
    /// tokens. An embedding table and a head that are tied are two from then on.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    modules_to_save: Vec<String>,
}

/// Kinds of adapter.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum AdapterKind {
    /// Low-rank adaptation (Hu et al. 2021).
    #[default]
    Lora,
}

impl AdapterSection {
    /// The adapter that the section describes.
    ///
    /// # Errors
    /// If something is missing, or said although the folder says it.
    pub(crate) fn adapter(&self) -> Result<Adapter, ConfigError> {
        if let Some(path) = &self.path {
            return match self.given() {
                None => Ok(Adapter::Saved { path: hub::folder(path, None) }),
                Some(key) => Err(ConfigError::at(
                    format!("model.adapter.{key}"),
                    "comes from the adapter's own folder, `path`: remove the one or the other",
                )),
            };
        }
        let missing = |key: &str, such_as: &str| {
            ConfigError::at(
                "model.adapter",
                format!(
                    "needs `{key}`, such as `{key} = {such_as}`, or the `path` of an adapter that has it"
                ),
            )
        };
        Ok(Adapter::New(Lora {
            rank: self.rank.ok_or_else(|| missing("rank", "16"))?,
            alpha: self.alpha.ok_or_else(|| missing("alpha", "32"))?,
            dropout: self.dropout.unwrap_or(0.0),
            targets: self.targets.clone().ok_or_else(|| missing("targets", "\"all-linear\""))?,
            exclude: self.exclude.clone(),
            layers: self.layers.clone(),
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
            rslora: self.rslora,
            dora: self.dora,
            modules_to_save: self.modules_to_save.clone(),
        }))
    }

    /// The first key beside `path` that is given.
    fn given(&self) -> Option<&'static str> {
        let given = [
            ("rank", self.rank.is_some()),
            ("alpha", self.alpha.is_some()),
            ("dropout", self.dropout.is_some()),
            ("targets", self.targets.is_some()),
            ("exclude", self.exclude.is_some()),
            ("layers", !self.layers.is_empty()),
            ("rank_pattern", !self.rank_pattern.is_empty()),
            ("alpha_pattern", !self.alpha_pattern.is_empty()),
            ("rslora", self.rslora),
            ("dora", self.dora),
            ("modules_to_save", !self.modules_to_save.is_empty()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(key, _)| key)
    }
}
