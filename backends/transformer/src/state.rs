//! What training has changed in a session, in one safetensors file.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use safetensors::Dtype;
use spo_api::{Error, Result, Vector};

use crate::engine::{Engine, Precision};
use crate::flat::Flat;
use crate::parameters::Spec;
use crate::save::{Entry, write_safetensors};
use crate::session::TransformerSession;
use crate::weights::Weights;

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
pub(crate) fn save<E: Engine>(session: &TransformerSession<E>, file: &Path) -> Result<()> {
    let mut kept = vec![(PARAMETERS.to_owned(), &session.parameters.trained)];
    if let Some(moments) = &session.moments {
        kept.extend(MOMENTS.iter().zip(moments).map(|(kind, moment)| (kind.to_string(), moment)));
    }
    kept.extend(session.vectors.iter().map(|(handle, v)| (format!("{VECTOR}{handle}"), v)));

    let mut entries = Vec::new();
    for (kind, _) in &kept {
        entries.extend(session.trained.iter().map(|&id| &session.decoder.specs[id]).map(|spec| Entry {
            name: entry_name(kind, &spec.name),
            shape: spec.shape.clone(),
            dtype: Dtype::F32,
        }));
    }
    let tensors: Vec<&E::Tensor> = kept.into_iter().flat_map(|(_, flat)| &flat.parts).collect();
    let steps = [(STEPS, session.steps.to_string())];
    write_safetensors(file, steps, &entries, |i| session.engine.download(tensors[i]))
}

/// Takes back what [`save`] wrote. Everything is read before anything is changed.
pub(crate) fn restore<E: Engine>(session: &mut TransformerSession<E>, file: &Path) -> Result<()> {
    let weights = Weights::open(vec![file.to_owned()])?;
    let foreign = |what: String| Error::Model(format!("{}: {what}", file.display()));
    let steps = weights.note(STEPS).and_then(|steps| steps.parse().ok());
    let steps = steps.ok_or_else(|| foreign(format!("not a saved state: `{STEPS}` is missing")))?;
    // In memory nothing is transposed, and here it lies as it does in memory.
    let specs = session.trained.iter().map(|&id| session.decoder.specs[id].clone());
    let specs: Vec<Spec> = specs.map(|spec| Spec { transposed: false, ..spec }).collect();
    let kinds: BTreeSet<&str> = weights.names().filter_map(|n| n.split_once('/')).map(|(k, _)| k).collect();
    if let Some(name) = weights.names().find(|name| {
        let parameter = name.split_once('/').map(|(_, parameter)| parameter);
        !specs.iter().any(|spec| parameter == Some(&spec.name))
    }) {
        return Err(foreign(format!("{name} is no part of what is trained here")));
    }
    let read = |kind: &str, precision| -> Result<Flat<E::Tensor>> {
        let flat = session.new_vector(precision)?;
        for (spec, part) in specs.iter().zip(&flat.parts) {
            let values = weights.read(&entry_name(kind, &spec.name), spec)?;
            session.engine.copy(part, &session.engine.upload(values, &spec.shape, precision)?)?;
        }
        Ok(flat)
    };
    let parameters = read(PARAMETERS, Precision::Full)?;
    let moments = match kinds.contains(MOMENTS[0]) {
        true => Some([
            read(MOMENTS[0], session.moment_precision())?,
            read(MOMENTS[1], session.moment_precision())?,
        ]),
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
    session.engine.copy(&session.parameters.trained.all, &parameters.all)?;
    (session.moments, session.vectors, session.steps) = (moments, vectors, steps);
    Ok(())
}
