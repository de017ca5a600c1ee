//! What training has changed in a session, in one safetensors file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::Dtype;
use spo_api::{Error, Result, Vector};

use crate::engine::{Engine, Memory, Precision};
use crate::files::{TensorEntry, Weights, write_safetensors};
use crate::model::Model;
use crate::parameters::{Flat, Spec};

/// What training changes beside the parameters.
pub(crate) struct State<T> {
    /// The allocated vectors, by their handles.
    pub vectors: BTreeMap<u32, Flat<T>>,
    /// The optimizer's moments, once they are there.
    pub moments: Option<[Flat<T>; 2]>,
    /// The optimizer's steps since it was last reset.
    pub steps: u64,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        State { vectors: BTreeMap::new(), moments: None, steps: 0 }
    }
}

/// Where the optimizer's step count is noted.
const STEPS: &str = "optimizer_steps";
const PARAMETERS: &str = "parameters";
const MOMENTS: [&str; 2] = ["moment1", "moment2"];
const VECTOR: &str = "vector";

/// The name of a trained parameter's share in one of the vectors.
fn entry_name(kind: &str, parameter: &str) -> String {
    format!("{kind}/{parameter}")
}

/// Writes parameters, moments, step count and allocated vectors.
pub(crate) fn save<E: Engine>(
    engine: &E,
    model: &Model<E>,
    state: &State<E::Tensor>,
    file: &Path,
) -> Result<()> {
    let mut kept = vec![(PARAMETERS.to_owned(), &model.parameters.trained)];
    if let Some(moments) = &state.moments {
        kept.extend(MOMENTS.iter().zip(moments).map(|(kind, moment)| (kind.to_string(), moment)));
    }
    kept.extend(state.vectors.iter().map(|(handle, v)| (format!("{VECTOR}{handle}"), v)));

    let mut entries = Vec::new();
    for (kind, _) in &kept {
        entries.extend(model.trained().map(|spec| TensorEntry {
            name: entry_name(kind, &spec.name),
            shape: spec.shape.clone(),
            dtype: Dtype::F32,
        }));
    }
    let tensors: Vec<&E::Tensor> = kept.into_iter().flat_map(|(_, flat)| &flat.parts).collect();
    let steps = [(STEPS, state.steps.to_string())];
    write_safetensors(file, steps, &entries, |i| engine.memory().download(tensors[i]))
}

/// Takes back what [`save`] wrote: the parameters into the model, the rest as it is returned. Everything is read before
/// anything is changed.
pub(crate) fn restore<E: Engine>(
    engine: &E,
    model: &Model<E>,
    moments: Precision,
    file: &Path,
) -> Result<State<E::Tensor>> {
    let weights = Weights::open(vec![file.to_owned()])?;
    let foreign = |what: String| Error::Model(format!("{}: {what}", file.display()));
    let steps = weights.note(STEPS).and_then(|steps| steps.parse().ok());
    let steps = steps.ok_or_else(|| foreign(format!("not a saved state: `{STEPS}` is missing")))?;
    // In memory nothing is transposed, and here it lies as it does in memory.
    let specs: Vec<Spec> = model.trained().map(|spec| Spec { transposed: false, ..spec.clone() }).collect();
    let kinds: BTreeSet<&str> = weights.names().filter_map(|n| n.split_once('/')).map(|(k, _)| k).collect();
    if let Some(name) = weights.names().find(|name| {
        let parameter = name.split_once('/').map(|(_, parameter)| parameter);
        !specs.iter().any(|spec| parameter == Some(&spec.name))
    }) {
        return Err(foreign(format!("{name} is no part of what is trained here")));
    }
    let read = |kind: &str, precision| -> Result<Flat<E::Tensor>> {
        let flat = model.new_vector(engine, precision)?;
        for (spec, part) in specs.iter().zip(&flat.parts) {
            let values = weights.read(&entry_name(kind, &spec.name), spec)?;
            engine.memory().copy(part, &engine.memory().upload(values, &spec.shape, precision)?)?;
        }
        Ok(flat)
    };
    let parameters = read(PARAMETERS, Precision::Full)?;
    let moments = match kinds.contains(MOMENTS[0]) {
        true => Some([read(MOMENTS[0], moments)?, read(MOMENTS[1], moments)?]),
        false => None,
    };
    let mut vectors = BTreeMap::new();
    for kind in kinds {
        if let Some(handle) = kind.strip_prefix(VECTOR) {
            let handle = handle.parse().ok().filter(|handle| *handle > Vector::GRADIENT.0);
            let handle = handle.ok_or_else(|| foreign(format!("`{kind}` is no vector")))?;
            vectors.insert(handle, read(kind, Precision::Full)?);
        }
    }
    engine.memory().copy(&model.parameters.trained.all, &parameters.all)?;
    Ok(State { vectors, moments, steps })
}
