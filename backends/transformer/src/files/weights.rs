//! Memory-mapped weights in safetensors files, or in those of `torch.save`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::TensorInfo;
use safetensors::{Dtype, SafeTensors};
use spo_api::{Error, Result, nearest, open_regular};

use super::json::read_json;
use super::pickle;
use crate::parameters::Spec;

/// The names that weights have, whole or as the list of shards.
const SAFE: [&str; 2] = ["model.safetensors", "model.safetensors.index.json"];
const PICKLED: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// The names that the weights of an adapter have.
pub(crate) const OF_ADAPTER: &str = "adapter_model.safetensors";
const OF_ADAPTER_PICKLED: &str = "adapter_model.bin";

/// The types of weights that are read.
const FLOATS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];

/// Bytes of each tensor that are compared at a time.
const AT_ONCE: usize = 1 << 24;

/// One or more files that hold a set of named tensors.
pub(crate) struct Weights {
    files: Vec<Mapped>,
    /// Which file holds each tensor.
    holders: BTreeMap<String, usize>,
}

struct Mapped {
    path: PathBuf,
    map: Mmap,
    /// Offset from which the places of tensors count.
    start: usize,
    tensors: BTreeMap<String, TensorInfo>,
    notes: HashMap<String, String>,
}

impl Weights {
    /// Opens `model.safetensors` of a folder, or the shards listed in `model.safetensors.index.json`. If neither is there,
    /// and only if `pickled`, the same of `pytorch_model.bin`.
    pub fn of_model(folder: &Path, pickled: bool) -> Result<Self> {
        let there = |names: [&str; 2]| names.iter().any(|name| folder.join(name).exists());
        if there(PICKLED) && !there(SAFE) {
            allowed(pickled, folder, PICKLED[0])?;
            return Self::of_names(folder, PICKLED);
        }
        Self::of_names(folder, SAFE)
    }

    /// Opens the weights of an adapter's folder; those of `torch.save` as [`of_model`](Self::of_model) does.
    pub fn of_adapter(folder: &Path, pickled: bool) -> Result<Self> {
        let [safe, pickle] = [OF_ADAPTER, OF_ADAPTER_PICKLED].map(|name| folder.join(name));
        if pickle.exists() && !safe.exists() {
            allowed(pickled, folder, OF_ADAPTER_PICKLED)?;
            return Self::open(vec![pickle]);
        }
        Self::open(vec![safe])
    }

    fn of_names(folder: &Path, [single_name, index_name]: [&str; 2]) -> Result<Self> {
        let (single, index) = (folder.join(single_name), folder.join(index_name));
        if single.exists() {
            return Self::open(vec![single]);
        }
        if !index.exists() {
            let found = names_in(folder, ".safetensors");
            let problem = match found.iter().any(|name| name.starts_with("model-")) {
                true => {
                    format!(
                        "{index_name}, which lists the shards {}, is not there: get it too",
                        found.join(", ")
                    )
                }
                false if found.is_empty() => format!("neither {single_name} nor {index_name} is there"),
                false => {
                    format!("neither {single_name} nor {index_name} is there, only {}", found.join(", "))
                }
            };
            return Err(Error::Model(format!("{}: {problem}", folder.display())));
        }
        let listed = read_json(&index)?;
        let error = |problem: String| Error::Model(format!("{}: {problem}", index.display()));
        let Some(map) = listed["weight_map"].as_object() else {
            return Err(error("`weight_map` is missing".into()));
        };
        if let Some((name, file)) = map.iter().find(|(_, file)| !file.is_string()) {
            return Err(error(format!("the shard of {name} must be the name of a file, got {file}")));
        }
        let shards: BTreeSet<&str> = map.values().filter_map(|file| file.as_str()).collect();
        let missing: Vec<&str> = shards.iter().copied().filter(|name| !folder.join(name).exists()).collect();
        if !missing.is_empty() {
            return Err(error(format!(
                "lists {} shards, of which {} not there: get what is missing",
                shards.len(),
                match missing[..] {
                    [one] => format!("{one} is"),
                    _ => format!("{} are", missing.join(", ")),
                }
            )));
        }
        let weights = Self::open(shards.into_iter().map(|name| folder.join(name)).collect())?;
        match map.keys().find(|name| !weights.holders.contains_key(*name)) {
            None => Ok(weights),
            Some(name) => Err(error(format!("lists {name}, but no shard holds it"))),
        }
    }

    pub fn open(paths: Vec<PathBuf>) -> Result<Self> {
        let files = paths.into_iter().map(Mapped::open).collect::<Result<Vec<_>>>()?;
        let mut holders = BTreeMap::new();
        for (index, file) in files.iter().enumerate() {
            for name in file.tensors.keys() {
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
        self.files.first()?.notes.get(name).map(String::as_str)
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
        Some((file, file.tensors.get(name)?))
    }

    /// Type and shape of a tensor.
    pub fn info(&self, name: &str) -> Option<(Dtype, &[usize])> {
        self.find(name).map(|(_, info)| (info.dtype, &info.shape[..]))
    }

    /// What `read` makes of the bytes of a tensor.
    pub fn map<R>(&self, name: &str, read: impl FnOnce(&[u8]) -> R) -> Option<R> {
        let (file, info) = self.find(name)?;
        let made = read(file.bytes(info));
        file.let_go(info);
        Some(made)
    }

    /// Reads the tensor `name` and returns its values in the memory layout of `spec`.
    pub fn read(&self, name: &str, spec: &Spec) -> Result<Vec<f32>> {
        let stored = spec.stored_shape();
        let values = self.stored(name, &stored, &FLOATS)?;
        match spec.transposed {
            true => Ok(transposed(&values, stored[0], stored[1])),
            false => Ok(values),
        }
    }

    /// Checks that there is a tensor `name` of the shape and of a type of `spec`, without reading it.
    pub fn check(&self, name: &str, spec: &Spec) -> Result<()> {
        self.expected(name, &spec.stored_shape(), &FLOATS).map(drop)
    }

    /// Returns the values of the tensor `name` in the layout of its file. It must have this shape and one of
    /// these types.
    pub fn stored(&self, name: &str, shape: &[usize], types: &[Dtype]) -> Result<Vec<f32>> {
        let (file, info) = self.expected(name, shape, types)?;
        let values = decoded(file.bytes(info), info.dtype);
        file.let_go(info);
        Ok(values)
    }

    fn expected(&self, name: &str, shape: &[usize], types: &[Dtype]) -> Result<(&Mapped, &TensorInfo)> {
        let Some((file, info)) = self.find(name) else {
            let hint = nearest(name, self.names()).map(|n| format!(" (nearest: {n})")).unwrap_or_default();
            return Err(Error::Model(format!("{}: {name} is missing{hint}", self.origin())));
        };
        let error = |problem: String| Error::Model(format!("{}: {name}: {problem}", file.path.display()));
        if info.shape != shape {
            return Err(error(format!("shape {:?}, but the configuration makes it {shape:?}", info.shape)));
        }
        if !types.contains(&info.dtype) {
            let known: Vec<String> = types.iter().map(|known| format!("{known:?}")).collect();
            return Err(error(format!("type {:?} is not supported, only {}", info.dtype, known.join(", "))));
        }
        Ok((file, info))
    }

    /// The shape and the values of a tensor; `None` if there is no such tensor, or its type is not a number
    /// or truth value of at most 32 bits.
    pub fn values(&self, name: &str) -> Option<(&[usize], Vec<f32>)> {
        let (file, info) = self.find(name)?;
        let known = [Dtype::BOOL, Dtype::U8, Dtype::F16, Dtype::BF16, Dtype::F32];
        let values = known.contains(&info.dtype).then(|| decoded(file.bytes(info), info.dtype))?;
        Some((&info.shape, values))
    }

    /// Whether two tensors of floating-point numbers have the same shape and the same values, to the bit. Reads them piece by piece, so
    /// the memory for it does not depend on their size.
    pub fn equal(&self, one: &str, other: &str) -> bool {
        let (Some((a, of_a)), Some((b, of_b))) = (self.find(one), self.find(other)) else { return false };
        let widths = [of_a, of_b].map(|info| info.dtype.bitsize() / 8);
        let same_type = of_a.dtype == of_b.dtype;
        let comparable = |info: &TensorInfo| matches!(info.dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32);
        if of_a.shape != of_b.shape || !comparable(of_a) || !comparable(of_b) {
            return false;
        }
        let pieces = a.bytes(of_a).chunks(AT_ONCE * widths[0]).zip(b.bytes(of_b).chunks(AT_ONCE * widths[1]));
        let mut alike = pieces.map(|(a, b)| match same_type {
            true => a == b,
            false => {
                let [a, b] = [decoded(a, of_a.dtype), decoded(b, of_b.dtype)];
                a.iter().zip(&b).all(|(a, b)| a.to_bits() == b.to_bits())
            }
        });
        let equal = alike.all(|alike| alike);
        a.let_go(of_a);
        b.let_go(of_b);
        equal
    }
}

/// Whether a pickle may be read.
fn allowed(pickled: bool, folder: &Path, name: &str) -> Result<()> {
    if pickled {
        return Ok(());
    }
    Err(Error::Model(format!(
        "{}: the weights are in {name}, a pickle: set `model.allow_pickle` = true, or convert the folder with `spo-run convert`",
        folder.display()
    )))
}

/// Numbers, or truth values as 0 and 1, from the bytes of a file.
pub(crate) fn decoded(bytes: &[u8], dtype: Dtype) -> Vec<f32> {
    match dtype {
        Dtype::F64 => bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        Dtype::U8 | Dtype::BOOL => bytes.iter().map(|&b| f32::from(b)).collect(),
        Dtype::F16 => bytes.as_chunks().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => bytes.as_chunks().0.iter().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    }
}

/// The names of the files in a folder that end like this, in order.
fn names_in(folder: &Path, end: &str) -> Vec<String> {
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(end)).collect();
    names.sort_unstable();
    names
}

/// The transpose of a matrix `[rows, columns]`.
pub(crate) fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns).flat_map(|j| (0..rows).map(move |i| values[i * columns + j])).collect()
}

impl Mapped {
    fn bytes(&self, info: &TensorInfo) -> &[u8] {
        let (begin, end) = info.data_offsets;
        &self.map[self.start + begin..self.start + end]
    }

    /// Drops a tensor that has been read from this process's memory; it can still be read again from the file.
    #[allow(unsafe_code)]
    fn let_go(&self, info: &TensorInfo) {
        let (begin, end) = info.data_offsets;
        // SAFETY: the map is shared, read-only and backed by a file, so dropped pages are read from the file
        // again. Dropping them only saves memory, so a failure of the call is harmless.
        #[cfg(unix)]
        let _ = unsafe {
            self.map.unchecked_advise_range(
                memmap2::UncheckedAdvice::DontNeed,
                self.start + begin,
                end - begin,
            )
        };
    }

    #[allow(unsafe_code)]
    fn open(path: PathBuf) -> Result<Self> {
        let file = open_regular(&path).map_err(|source| Error::io(&path, source))?;
        // SAFETY: the map is read-only, and is read through slices whose bounds are verified by the header
        // check below. If another process truncates the file in the meantime, this process dies with a bus
        // error. The alternative, copying gigabytes of weights through the heap, would double peak memory.
        let map = unsafe { Mmap::map(&file) }.map_err(|source| Error::io(&path, source))?;
        if path.extension().is_some_and(|kind| kind == "bin") {
            let tensors = pickle::tensors(&map)
                .map_err(|problem| Error::Model(format!("{} {problem}", path.display())))?;
            return Ok(Mapped { path, map, start: 0, tensors, notes: HashMap::new() });
        }
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| {
            Error::Model(format!("{}: truncated or not a safetensors file: {e}", path.display()))
        })?;
        let tensors = metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let notes = metadata.metadata().clone().unwrap_or_default();
        Ok(Mapped { path, map, start: header + 8, tensors, notes })
    }
}
