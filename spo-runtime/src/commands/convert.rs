//! `spo-run convert`: weights of any model or adapter as safetensors, from `pytorch_model.bin` or in another type.

use std::path::{Path, PathBuf};

use anyhow::Context;
use spo_api::WeightType;

use super::export::{Dtype, is_free_folder};
use crate::error::bad;

#[derive(clap::Args)]
pub(crate) struct ConvertArguments {
    /// Folder of a model or of an adapter, in the layout of Hugging Face. The architecture does not matter.
    folder: PathBuf,
    /// The folder to write.
    output: PathBuf,
    /// The type of the weights; each keeps its own unless this is given.
    #[arg(long, value_enum)]
    dtype: Option<Dtype>,
}

impl ConvertArguments {
    /// Writes a folder with the weights, the configuration, the tokenizer and whatever text is beside them.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let ConvertArguments { folder, output, dtype } = self;
        is_free_folder(output)?;
        if !folder.join("config.json").exists() && !spo_transformer::is_adapter(folder) {
            let shown = folder.display();
            return Err(bad(format!(
                "{shown} has neither config.json nor adapter_config.json, so it is no model"
            ))
            .into());
        }
        std::fs::create_dir_all(output).with_context(|| format!("cannot create {}", output.display()))?;
        spo_transformer::convert(folder, output, dtype.map(WeightType::from)).map_err(bad)?;
        let entries = folder.read_dir().with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry?.path();
            let Some(name) = path.file_name().filter(|_| path.is_file() && goes_along(&path)) else {
                continue;
            };
            std::fs::copy(&path, output.join(name))
                .with_context(|| format!("cannot copy {}", path.display()))?;
        }
        Ok(())
    }
}

/// Whether a file belongs to a model whatever its weights are in: tokenizer, template, license, description.
fn goes_along(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let text = ["json", "txt", "model", "jinja", "md"]
        .iter()
        .any(|end| path.extension().is_some_and(|kind| kind == *end));
    (text || name.starts_with("LICENSE"))
        && !["config.json", "adapter_config.json"].contains(&&*name)
        && !name.ends_with(".index.json")
}
