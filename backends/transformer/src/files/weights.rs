//! Memory-mapped weights in safetensors files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::{Metadata, TensorInfo};
use safetensors::{Dtype, SafeTensors};
use spo_api::{Error, Result, nearest};

use super::json::read_json;
use crate::parameters::Spec;

/// One or more safetensors files that hold a set of named tensors.
pub(crate) struct Weights {
    files: Vec<Mapped>,
    /// Which file holds each tensor.
    holders: BTreeMap<String, usize>,
}

struct Mapped {
    path: PathBuf,
    map: Mmap,
    /// Offset at which the tensor data begins.
    start: usize,
    metadata: Metadata,
}

impl Weights {
    /// Opens `model.safetensors` of a folder, or the shards listed in `model.safetensors.index.json`.
    pub fn of_model(folder: &Path) -> Result<Self> {
        let (single, index) = (folder.join("model.safetensors"), folder.join("model.safetensors.index.json"));
        if single.exists() {
            return Self::open(vec![single]);
        }
        if !index.exists() {
            return Err(Error::Model(format!(
                "{}: neither model.safetensors nor model.safetensors.index.json is there",
                folder.display()
            )));
        }
        let listed = read_json(&index)?;
        let Some(map) = listed["weight_map"].as_object() else {
            return Err(Error::Model(format!("{}: `weight_map` is missing", index.display())));
        };
        let shards: BTreeSet<&str> = map.values().filter_map(|file| file.as_str()).collect();
        let weights = Self::open(shards.into_iter().map(|name| folder.join(name)).collect())?;
        match map.keys().find(|name| !weights.holders.contains_key(*name)) {
            None => Ok(weights),
            Some(name) => {
                Err(Error::Model(format!("{}: lists {name}, but no shard holds it", index.display())))
            }
        }
    }

    pub fn open(paths: Vec<PathBuf>) -> Result<Self> {
        let files = paths.into_iter().map(Mapped::open).collect::<Result<Vec<_>>>()?;
        let mut holders = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for name in file.metadata.offset_keys() {
                if let Some(other) = holders.insert(name.clone(), index) {
                    return Err(Error::Model(format!(
                        "{}: {name} is also in {}",
                        file.path.display(),
                        files[other].path.display()
                    )));
                }
            }
        }
        Ok(Weights { files, holders })
    }

    /// A description of the files, for errors.
    pub fn origin(&self) -> String {
        self.files.iter().map(|f| f.path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// The value of this key in the first file's metadata.
    pub fn note(&self, name: &str) -> Option<&str> {
        self.files.first()?.metadata.metadata().as_ref()?.get(name).map(String::as_str)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.holders.contains_key(name)
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.holders.keys().map(String::as_str)
    }

    pub fn dtype(&self, name: &str) -> Option<Dtype> {
        self.find(name).map(|(_, info)| info.dtype)
    }

    fn find(&self, name: &str) -> Option<(&Mapped, &TensorInfo)> {
        let file = &self.files[*self.holders.get(name)?];
        Some((file, file.metadata.info(name)?))
    }

    /// Reads the tensor `name` and returns its values in the memory layout of `spec`.
    pub fn read(&self, name: &str, spec: &Spec) -> Result<Vec<f32>> {
        let stored = spec.stored_shape();
        let values = self.stored(name, &stored, &[Dtype::F32, Dtype::F16, Dtype::BF16])?;
        match spec.transposed {
            true => Ok(transposed(&values, stored[0], stored[1])),
            false => Ok(values),
        }
    }

    /// Returns the values of the tensor `name` in the layout of its file. It must have this shape and one of
    /// these types.
    pub fn stored(&self, name: &str, shape: &[usize], types: &[Dtype]) -> Result<Vec<f32>> {
        let Some((file, info)) = self.find(name) else {
            let hint = nearest(name, self.names()).map(|n| format!(" (nearest: {n})")).unwrap_or_default();
            return Err(Error::Model(format!("{}: {name} is missing{hint}", self.origin())));
        };
        let error = |problem: String| Error::Model(format!("{}: {name}: {problem}", file.path.display()));
        if info.shape != shape {
            return Err(error(format!("shape {:?}, but the configuration makes it {shape:?}", info.shape)));
        }
        let (begin, end) = info.data_offsets;
        let bytes = &file.map[file.start + begin..file.start + end];
        let values: Vec<f32> = match info.dtype {
            other if !types.contains(&other) => {
                let known: Vec<String> = types.iter().map(|known| format!("{known:?}")).collect();
                return Err(error(format!("type {other:?} is not supported, only {}", known.join(", "))));
            }
            Dtype::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
            Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
            Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
            _ => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        };
        file.let_go(file.start + begin, end - begin);
        Ok(values)
    }
}

/// The transpose of a matrix `[rows, columns]`.
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| values[i * columns + j])).collect()
}

impl Mapped {
    /// Drops a range that has been read from this process's memory; it can still be read again from the file.
    #[allow(unsafe_code)]
    fn let_go(&self, offset: usize, len: usize) {
        // SAFETY: the map is shared, read-only and backed by a file, so dropped pages are read from the file
        // again. Dropping them only saves memory, so a failure of the call is harmless.
        #[cfg(unix)]
        let _ = unsafe { self.map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, len) };
    }

    #[allow(unsafe_code)]
    fn open(path: PathBuf) -> Result<Self> {
        let file = File::open(&path).map_err(|source| Error::io(&path, source))?;
        // SAFETY: the map is read-only, and is read through slices whose bounds are verified by the header
        // check below. If another process truncates the file in the meantime, this process dies with a bus
        // error. The alternative, copying gigabytes of weights through the heap, would double peak memory.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(&path, source))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            Error::Model(format!("{}: truncated or not a safetensors file: {e}", path.display()))
        })?;
        Ok(Mapped { path, map, start: header + 8, metadata })
    }
}
