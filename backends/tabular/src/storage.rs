//! Model folders (`config.json` and `model.safetensors`) and saved session states, in f64 so that no
//! precision is lost.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use spo_api::{Error, Result, Vector, read_small, read_whole, write_whole};

use crate::config::Config;
use crate::session::TabularSession;

/// Name, shape and values.
type Entry<'a> = (String, Vec<usize>, &'a [f64]);

fn write(path: &Path, entries: &[Entry<'_>], note: Option<(&str, String)>) -> Result<()> {
    let failed = |e: safetensors::SafeTensorError| Error::Engine(format!("{}: {e}", path.display()));
    let bytes: Vec<Vec<u8>> =
        entries.iter().map(|(_, _, values)| values.iter().flat_map(|x| x.to_le_bytes()).collect()).collect();
    let mut views = Vec::new();
    for ((name, shape, _), bytes) in entries.iter().zip(&bytes) {
        views.push((name, TensorView::new(Dtype::F64, shape.clone(), bytes).map_err(failed)?));
    }
    let note = note.map(|(key, value)| HashMap::from([(key.to_owned(), value)]));
    let file = safetensors::serialize(views, note).map_err(failed)?;
    write_whole(path, |out| out.write_all(&file).map_err(|e| Error::io(path, e)))
}

/// A safetensors file whose tensors are checked against expected names, shapes and types.
struct Stored<'a> {
    path: &'a Path,
    tensors: SafeTensors<'a>,
}

impl<'a> Stored<'a> {
    fn of(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| bad(path, e))?;
        Ok(Stored { path, tensors })
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f64>> {
        let view = self.tensors.tensor(name).map_err(|e| bad(self.path, e))?;
        if view.dtype() != Dtype::F64 || view.shape() != shape {
            let (dtype, stored) = (view.dtype(), view.shape());
            return Err(bad(
                self.path,
                format!("{name} is {dtype:?} {stored:?}, the model wants F64 {shape:?}"),
            ));
        }
        let (numbers, _) = view.data().as_chunks::<8>();
        Ok(numbers.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }
}

fn bad(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::Model(format!("{}: {what}", path.display()))
}

/// The longest file, in MiB. A model has at most 76 MiB of parameters; a saved state holds vectors of that size.
const LONGEST: u64 = 4096;

fn bytes_of(path: &Path) -> Result<Vec<u8>> {
    read_whole(path, LONGEST).map_err(|e| Error::io(path, e))
}

/// Writes a model folder.
pub(crate) fn save(session: &TabularSession, folder: &Path) -> Result<()> {
    let mut rest = session.parameters();
    let mut entries = Vec::new();
    for tensor in session.model.tensors() {
        let (own, later) = rest.split_at(tensor.elements());
        entries.push((tensor.name.to_owned(), tensor.shape, own));
        rest = later;
    }
    write(&folder.join("model.safetensors"), &entries, None)?;
    let path = folder.join("config.json");
    write_whole(&path, |out| writeln!(out, "{:#}", session.config).map_err(|e| Error::io(&path, e)))
}

/// Opens a model folder.
pub(crate) fn open(folder: &Path) -> Result<TabularSession> {
    let path = folder.join("config.json");
    let text = read_small(&path).map_err(|e| Error::io(&path, e))?;
    let config: Value = serde_json::from_slice(&text).map_err(|e| bad(&path, e))?;
    let parsed = Config::parse(&config, &path.display().to_string())?;
    let path = folder.join("model.safetensors");
    let bytes = bytes_of(&path)?;
    let stored = Stored::of(&path, &bytes)?;
    let mut parameters = Vec::new();
    for tensor in parsed.model().tensors() {
        parameters.extend(stored.read(tensor.name, &tensor.shape)?);
    }
    Ok(TabularSession::new(parsed, config, parameters))
}

const PARAMETERS: &str = "parameters";
const VECTOR: &str = "vector";
/// Metadata key of a saved state. Older files, which also contain optimizer moments, do not have it.
const STATE: &str = "spo_tabular_state";

/// Writes the parameters and all allocated vectors except the gradient.
pub(crate) fn save_state(session: &TabularSession, file: &Path) -> Result<()> {
    let shape = vec![session.parameters().len()];
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for (&handle, values) in
        session.space.vectors().iter().filter(|(handle, _)| **handle != Vector::GRADIENT.0)
    {
        let name =
            if handle == Vector::PARAMETERS.0 { PARAMETERS.to_owned() } else { format!("{VECTOR}{handle}") };
        entries.push((name, shape.clone(), values));
    }
    write(file, &entries, Some((STATE, "1".into())))
}

/// Restores what [`save_state`] wrote. Reads everything before it changes anything.
pub(crate) fn restore_state(session: &mut TabularSession, file: &Path) -> Result<()> {
    let bytes = bytes_of(file)?;
    let stored = Stored::of(file, &bytes)?;
    let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|e| bad(file, e))?;
    if !header.metadata().as_ref().is_some_and(|notes| notes.contains_key(STATE)) {
        return Err(bad(file, format!("not a saved state of this version: `{STATE}` is missing")));
    }
    let shape = [session.parameters().len()];
    let mut vectors = BTreeMap::from([
        (Vector::PARAMETERS.0, stored.read(PARAMETERS, &shape)?),
        (Vector::GRADIENT.0, vec![0.0; shape[0]]),
    ]);
    for name in stored.tensors.names() {
        if let Some(handle) = name.strip_prefix(VECTOR) {
            let handle = handle.parse().ok().filter(|handle| !vectors.contains_key(handle));
            let handle = handle.ok_or_else(|| bad(file, format!("`{name}` is no vector")))?;
            vectors.insert(handle, stored.read(name, &shape)?);
        }
    }
    session.space.replace(vectors);
    Ok(())
}
