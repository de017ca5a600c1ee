//! A model folder: `config.json` and `model.safetensors`, in f64, so that nothing is lost.

use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use spo_api::{Error, Result, write_whole};

use crate::config::Config;
use crate::session::TabularSession;

pub(crate) fn save(session: &TabularSession, folder: &Path) -> Result<()> {
    let bytes: Vec<u8> = session.parameters().iter().flat_map(|x| x.to_le_bytes()).collect();
    let mut rest = bytes.as_slice();
    let mut views = Vec::new();
    for tensor in session.model.tensors() {
        let (own, later) = rest.split_at(8 * tensor.elements());
        let view = TensorView::new(Dtype::F64, tensor.shape, own);
        views.push((tensor.name, view.map_err(|e| Error::Engine(e.to_string()))?));
        rest = later;
    }
    let file = safetensors::serialize(views, None).map_err(|e| Error::Engine(e.to_string()))?;
    let path = folder.join("model.safetensors");
    write_whole(&path, |out| out.write_all(&file).map_err(|e| Error::io(&path, e)))?;
    let path = folder.join("config.json");
    write_whole(&path, |out| writeln!(out, "{:#}", session.config).map_err(|e| Error::io(&path, e)))
}

pub(crate) fn open(folder: &Path) -> Result<TabularSession> {
    let path = folder.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io(&path, e))?;
    let origin = path.display().to_string();
    let config: Value =
        serde_json::from_str(&text).map_err(|e| Error::Model(format!("{origin}: not valid JSON: {e}")))?;
    let parsed = Config::parse(&config, &origin)?;

    let path = folder.join("model.safetensors");
    let bad = |what: String| Error::Model(format!("{}: {what}", path.display()));
    let file = std::fs::read(&path).map_err(|e| Error::io(&path, e))?;
    let stored = SafeTensors::deserialize(&file).map_err(|e| bad(e.to_string()))?;
    let mut parameters = Vec::new();
    for tensor in parsed.model().tensors() {
        let view = stored.tensor(tensor.name).map_err(|e| bad(e.to_string()))?;
        if view.dtype() != Dtype::F64 || view.shape() != tensor.shape {
            return Err(bad(format!(
                "{} is {} {:?}, the configuration wants F64 {:?}",
                tensor.name,
                view.dtype(),
                view.shape(),
                tensor.shape
            )));
        }
        let (numbers, _) = view.data().as_chunks::<8>();
        parameters.extend(numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)));
    }
    Ok(TabularSession::new(parsed, config, parameters))
}
