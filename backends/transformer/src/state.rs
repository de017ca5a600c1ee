//! What training changes in a session, saved in one safetensors file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::Dtype;
use serde_json::json;
use spo_api::{Error, Kernel, Result, Vector};

use crate::engine::{Engine, Memory, Precision};
use crate::files::{TensorEntry, Weights, write_safetensors};
use crate::model::Model;
use crate::optimizer::Adopted;
use crate::parameters::{Flat, Spec};

/// What training changes apart from the parameters.
pub(crate) struct State<T> {
    /// The allocated vectors, by handle.
    pub vectors: BTreeMap<u32, Flat<T>>,
    /// The optimizer that the session runs itself, with its moments.
    pub optimizer: Option<Adopted<T>>,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        State { vectors: BTreeMap::new(), optimizer: None }
    }
}

/// Metadata key of the optimizer that the session runs, in JSON; null if there is none.
const OPTIMIZER: &str = "optimizer";
/// Metadata key that says whether the optimizer has moments yet.
const MOMENTS: &str = "moments";
const PARAMETERS: &str = "parameters";
const VECTOR: &str = "vector";

impl<T: Clone> State<T> {
    fn kernel(&self) -> Option<&Kernel> {
        self.optimizer.as_ref().map(|optimizer| &optimizer.kernel)
    }

    /// All tensors of a saved state.
    fn tensors<'a, E: Engine<Tensor = T>>(
        &'a self,
        model: &'a Model<E>,
        parameters: &'a Flat<T>,
    ) -> Vec<(TensorEntry, &'a T)> {
        let vectors = self.vectors.iter().map(|(handle, v)| (format!("{VECTOR}{handle}"), v));
        let mut tensors = Vec::new();
        for (kind, flat) in [(PARAMETERS.to_owned(), parameters)].into_iter().chain(vectors) {
            let entry = |spec: &Spec| TensorEntry {
                name: format!("{kind}/{}", spec.name),
                shape: spec.shape.clone(),
                dtype: Dtype::F32,
            };
            tensors.extend(model.trained().map(entry).zip(&flat.parts));
        }
        tensors.extend(self.optimizer.iter().flat_map(|optimizer| optimizer.tensors(model.trained())));
        tensors
    }
}

/// Writes the parameters, the optimizer's moments and the allocated vectors.
pub(crate) fn save<E: Engine>(
    engine: &E,
    model: &Model<E>,
    state: &State<E::Tensor>,
    file: &Path,
) -> Result<()> {
    let (entries, tensors): (Vec<_>, Vec<_>) =
        state.tensors(model, &model.parameters.trained).into_iter().unzip();
    let moments = state.optimizer.as_ref().is_some_and(Adopted::is_laid_out);
    let notes = [(OPTIMIZER, json!(state.kernel()).to_string()), (MOMENTS, moments.to_string())];
    write_safetensors(file, notes, &entries, |i| engine.memory().download(tensors[i]))
}

/// Restores what [`save`] wrote: the parameters into the model, the rest into `state`. Reads everything
/// before it changes anything.
pub(crate) fn restore<E: Engine>(
    engine: &E,
    model: &Model<E>,
    half_moments: bool,
    state: &mut State<E::Tensor>,
    file: &Path,
) -> Result<()> {
    let weights = Weights::open(vec![file.to_owned()])?;
    let foreign = |what: String| Error::Model(format!("{}: {what}", file.display()));
    let noted = weights.note(OPTIMIZER).and_then(|text| serde_json::from_str(text).ok());
    let noted: Option<Kernel> = noted.ok_or_else(|| {
        foreign("not a saved state, or of another version of spo: `optimizer` is missing".into())
    })?;
    if let Some(own) = state.kernel().filter(|own| Some(*own) != noted.as_ref()) {
        let name = noted.map_or("none".to_owned(), |kernel| format!("`{}` {}", kernel.name, kernel.config));
        return Err(foreign(format!(
            "its optimizer is {name}, that of the session `{}` {}",
            own.name, own.config
        )));
    }
    let optimizer = noted.map(|kernel| Adopted::new(&kernel, half_moments)).transpose()?.flatten();
    let mut restored = State { vectors: BTreeMap::new(), optimizer };
    if weights.note(MOMENTS) == Some("true") {
        restored.optimizer.iter_mut().try_for_each(|optimizer| optimizer.lay_out(engine, model))?;
    }
    let kinds: BTreeSet<&str> = weights.names().filter_map(|n| n.split_once('/')).map(|(k, _)| k).collect();
    for number in kinds.iter().filter_map(|kind| kind.strip_prefix(VECTOR)) {
        let handle = number.parse().ok().filter(|handle| *handle > Vector::GRADIENT.0);
        let handle = handle.ok_or_else(|| foreign(format!("`{VECTOR}{number}` is no vector")))?;
        restored.vectors.insert(handle, model.new_vector(engine, Precision::Full)?);
    }
    let parameters = model.new_vector(engine, Precision::Full)?;

    let tensors = restored.tensors(model, &parameters);
    let known: BTreeSet<&str> = tensors.iter().map(|(entry, _)| entry.name.as_str()).collect();
    if let Some(name) = weights.names().find(|name| !known.contains(name)) {
        return Err(foreign(format!("{name} is no part of what is trained here")));
    }
    for (entry, into) in tensors {
        let values = weights.stored(&entry.name, &entry.shape, &[entry.dtype])?;
        let precision = if entry.dtype == Dtype::U8 { Precision::Byte } else { Precision::Full };
        engine.memory().copy(into, &engine.memory().upload(values, &entry.shape, precision)?)?;
    }
    engine.memory().copy(&model.parameters.trained.all, &parameters.all)?;
    *state = restored;
    Ok(())
}
