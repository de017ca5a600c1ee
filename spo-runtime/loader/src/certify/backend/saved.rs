//! What a session holds, number by number: read from the model that it saves. So what a backend does can be compared
//! with what it was told to do, without relying on its own vector operations.

use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};
use spo_api::{Export, Session, Vector};

use super::super::Outcome;

/// A tensor of a saved model.
pub(super) struct Tensor {
    pub name: String,
    pub values: Vec<f64>,
    /// A bias or the weight of a norm: the tensors of one dimension, which weight decay usually spares.
    pub spared: bool,
    file: PathBuf,
    /// Where the numbers begin in the file, and their type.
    place: usize,
    dtype: Dtype,
}

/// The numbers of all tensors in one row.
pub(super) fn flat(tensors: &[Tensor]) -> Vec<f64> {
    tensors.iter().flat_map(|tensor| tensor.values.iter().copied()).collect()
}

/// Whether each of these numbers belongs to a bias or a norm.
pub(super) fn spared(tensors: &[Tensor]) -> Vec<bool> {
    tensors.iter().flat_map(|tensor| tensor.values.iter().map(|_| tensor.spared)).collect()
}

/// The numbers of a vector, each under the name of its parameter. The parameters themselves stay as they are.
pub(super) fn read(session: &mut dyn Session, v: Vector) -> Result<Vec<Tensor>, Outcome> {
    let folder = Scratch::new()?;
    let keep = session.vectors().allocate()?;
    session.vectors().copy(Vector::PARAMETERS, keep)?;
    session.vectors().copy(v, Vector::PARAMETERS)?;
    session.save(&folder.0, Export::Model)?;
    session.vectors().copy(keep, Vector::PARAMETERS)?;
    session.vectors().release(keep);
    let tensors = tensors(&folder.0)?;
    let (numbers, dimension) = (flat(&tensors).len(), session.vectors().dimension());
    match numbers == dimension {
        true => Ok(tensors),
        false => Err(format!("a saved model has {numbers} numbers, where {dimension} are trained").into()),
    }
}

/// The tensors of a model's folder, in the order of their names.
pub(super) fn tensors(folder: &Path) -> Result<Vec<Tensor>, Outcome> {
    let listed = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut found = Vec::new();
    for file in listed.flatten().map(|entry| entry.path()) {
        if file.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let bad = |what: String| format!("the {} that it saves: {what}", file.display());
        let bytes = std::fs::read(&file).map_err(|e| bad(e.to_string()))?;
        let stored = SafeTensors::deserialize(&bytes).map_err(|e| bad(e.to_string()))?;
        for (name, view) in stored.iter() {
            let (data, dtype) = (view.data(), view.dtype());
            let values = numbers(data, dtype).ok_or_else(|| bad(format!("{name} is in {dtype:?}")))?;
            let place = data.as_ptr() as usize - bytes.as_ptr() as usize;
            let (name, file, spared) = (name.to_owned(), file.clone(), view.shape().len() == 1);
            found.push(Tensor { name, values, spared, file, place, dtype });
        }
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    match found.is_empty() {
        false => Ok(found),
        true => Err("it saves a model without a file `*.safetensors`".to_owned().into()),
    }
}

fn numbers(data: &[u8], dtype: Dtype) -> Option<Vec<f64>> {
    Some(match dtype {
        Dtype::F64 => data.as_chunks().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect(),
        Dtype::F32 => data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes).into()).collect(),
        Dtype::BF16 => {
            let wide = |bytes: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            data.as_chunks().0.iter().map(|bytes| wide(bytes).into()).collect()
        }
        _ => return None,
    })
}

impl Tensor {
    /// Whether its file keeps numbers to the digits that differences need.
    pub(super) fn is_fine(&self) -> bool {
        matches!(self.dtype, Dtype::F32 | Dtype::F64)
    }

    /// Writes other numbers in its place.
    pub(super) fn write(&self, values: impl Iterator<Item = f64>) -> Result<(), Outcome> {
        let fail = |e: std::io::Error| format!("{}: {e}", self.file.display());
        let mut bytes = std::fs::read(&self.file).map_err(fail)?;
        let new: Vec<u8> = match self.dtype {
            Dtype::F64 => values.flat_map(f64::to_le_bytes).collect(),
            _ => values.flat_map(|x| (x as f32).to_le_bytes()).collect(),
        };
        bytes[self.place..self.place + new.len()].copy_from_slice(&new);
        std::fs::write(&self.file, bytes).map_err(fail)?;
        Ok(())
    }
}

/// A folder that goes away.
pub(super) struct Scratch(pub PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self, Outcome> {
        use std::sync::atomic::{AtomicUsize, Ordering};
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("spo-certify-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).map_err(|e| format!("cannot create {}: {e}", folder.display()))?;
        Ok(Scratch(folder))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
