//! Reading a file: its header at once, its tensors one by one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use spo_api::{Error, Result, nearest, open_regular};

use crate::block::BlockType;
use crate::value::{List, Value};

pub(crate) const MAGIC: &[u8; 4] = b"GGUF";
/// The version that is written. Version 2 differs in nothing that is read here.
pub(crate) const VERSION: u32 = 3;
/// Where the data of tensors begin is a multiple of this, unless the file says otherwise.
pub(crate) const ALIGNMENT: u64 = 32;

/// The longest name of a key or a tensor, in bytes.
const LONGEST_NAME: u64 = 1 << 16;

/// The header of a file, and the file.
pub struct Gguf {
    path: PathBuf,
    file: File,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, Tensor>,
}

/// Where a tensor is, and what it is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    /// The type of its numbers.
    pub kind: BlockType,
    /// Its shape, rows first: the last side is the length of a row. (Files have it the other way round.)
    pub shape: Vec<usize>,
    /// From the beginning of the file.
    offset: u64,
    bytes: usize,
}

impl Tensor {
    /// How many numbers it has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// The length of a row.
    pub fn width(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }
}

/// The GGUF file that a path means: the path itself if it is such a file by its name or its first bytes, or the one in a
/// folder without safetensors weights. `None` if it is something else.
pub fn file_of(path: &Path) -> Option<PathBuf> {
    if !path.is_dir() {
        let named = path.extension().is_some_and(|kind| kind.eq_ignore_ascii_case("gguf"));
        return (named || begins_so(path)).then(|| path.to_owned());
    }
    let entries = path.read_dir().ok()?.flatten().map(|entry| entry.path());
    let mut found = None;
    for entry in entries {
        match entry.extension().and_then(|kind| kind.to_str()) {
            Some("safetensors") => return None,
            Some("gguf") if found.is_some() => return None,
            Some("gguf") => found = Some(entry),
            _ => {}
        }
    }
    found
}

fn begins_so(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = open_regular(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *MAGIC
}

impl Gguf {
    /// Reads the header of a file. Nothing is allocated for a count or a length that the file is too short for.
    ///
    /// # Errors
    /// [`Error::Io`] if it is no regular file, or cannot be read; [`Error::Model`] if it is damaged, cut off, of
    /// another version, one part of several, or has tensors of a type that is not supported.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_regular(path).map_err(|source| Error::io(path, source))?;
        let length = file.metadata().map_err(|source| Error::io(path, source))?.len();
        let mut header = Header { path, from: BufReader::with_capacity(1 << 16, &file), length, read: 0 };
        let (metadata, tensors) = header.parse()?;
        let gguf = Gguf { path: path.to_owned(), file, metadata, tensors };
        match gguf.integer("split.count")? {
            Some(parts) if parts > 1 => {
                let number = gguf.integer("split.no")?.unwrap_or(0) + 1;
                let problem = format!(
                    "is part {number} of {parts}: put them together with llama.cpp's `llama-gguf-split --merge`, and \
                     give the whole"
                );
                Err(Error::Model(format!("{}: {problem}", path.display())))
            }
            _ => Ok(gguf),
        }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors, by name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }

    /// The bytes of a tensor: its rows one after another.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be read.
    pub fn read(&self, tensor: &Tensor) -> Result<Vec<u8>> {
        let mut bytes = vec![0; tensor.bytes];
        let mut file = &self.file;
        let read = file.seek(SeekFrom::Start(tensor.offset)).and_then(|_| file.read_exact(&mut bytes));
        read.map_err(|source| Error::io(&self.path, source))?;
        Ok(bytes)
    }

    /// The numbers of a tensor.
    ///
    /// # Errors
    /// [`Error::Io`] when they cannot be read.
    pub fn values(&self, tensor: &Tensor) -> Result<Vec<f32>> {
        let blocks = self.read(tensor)?;
        let mut values = vec![0.0; tensor.elements()];
        tensor.kind.decode(&blocks, &mut values);
        Ok(values)
    }

    /// An error that names the file and a key.
    pub fn error(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::Model(format!("{}: `{key}` {problem}", self.path.display()))
    }

    fn typed<'v, T>(
        &'v self,
        key: &str,
        kind: &str,
        read: impl Fn(&'v Value) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let wrong = || self.error(key, format!("must be {kind}, but is {}", value.kind()));
        read(value).ok_or_else(wrong).map(Some)
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// [`Error::Model`] with the nearest key if it is not.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| {
            let hint = nearest(key, self.metadata.keys().map(String::as_str));
            self.error(
                key,
                format!("is missing{}", hint.map(|n| format!(" (nearest: `{n}`)")).unwrap_or_default()),
            )
        })
    }

    /// A whole number; of a list of equal ones (one for each layer), that.
    ///
    /// # Errors
    /// [`Error::Model`] if the key has a value of another type.
    pub fn integer(&self, key: &str) -> Result<Option<i64>> {
        self.typed(key, "a whole number", |value| match value {
            Value::Integer(n) => Some(*n),
            Value::List(List::Integers(all)) => {
                all.first().copied().filter(|first| all.iter().all(|n| n == first))
            }
            _ => None,
        })
    }

    /// A number. One that was written in f32 is the shortest decimal that stands for it: 1e-5, and not
    /// 0.000009999999747.
    ///
    /// # Errors
    /// As [`integer`](Self::integer).
    pub fn number(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", |value| match value {
            Value::Number(n) => Some(*n),
            Value::Integer(n) => Some(*n as f64),
            _ => None,
        })
    }

    /// A truth value.
    ///
    /// # Errors
    /// As [`integer`](Self::integer).
    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |value| if let Value::Flag(on) = value { Some(*on) } else { None })
    }

    /// A text.
    ///
    /// # Errors
    /// As [`integer`](Self::integer).
    pub fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(
            key,
            "a text",
            |value| if let Value::Text(text) = value { Some(text.as_str()) } else { None },
        )
    }

    /// A list of texts.
    ///
    /// # Errors
    /// As [`integer`](Self::integer).
    pub fn texts(&self, key: &str) -> Result<Option<&[String]>> {
        self.typed(key, "a list of texts", |value| match value {
            Value::List(List::Texts(texts)) => Some(texts.as_slice()),
            _ => None,
        })
    }

    /// A list of whole numbers.
    ///
    /// # Errors
    /// As [`integer`](Self::integer).
    pub fn integers(&self, key: &str) -> Result<Option<&[i64]>> {
        self.typed(key, "a list of whole numbers", |value| match value {
            Value::List(List::Integers(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// A list of numbers.
    ///
    /// # Errors
    /// As [`integer`](Self::integer).
    pub fn numbers(&self, key: &str) -> Result<Option<&[f64]>> {
        self.typed(key, "a list of numbers", |value| match value {
            Value::List(List::Numbers(numbers)) => Some(numbers.as_slice()),
            _ => None,
        })
    }
}

/// The header while it is read. It keeps count of what is left of the file.
struct Header<'a> {
    path: &'a Path,
    from: BufReader<&'a File>,
    length: u64,
    read: u64,
}

impl Header<'_> {
    fn error(&self, problem: impl std::fmt::Display) -> Error {
        Error::Model(format!("{}: {problem}", self.path.display()))
    }

    /// Checks that the file has so many bytes more.
    fn expect(&self, bytes: u64, what: &str) -> Result<()> {
        match bytes <= self.length - self.read {
            true => Ok(()),
            false => Err(self.error(format!(
                "cut off or damaged: {what} at byte {} would take {bytes} bytes, and {} are left",
                self.read,
                self.length - self.read
            ))),
        }
    }

    fn bytes<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        self.expect(N as u64, what)?;
        let mut bytes = [0; N];
        self.from.read_exact(&mut bytes).map_err(|source| Error::io(self.path, source))?;
        self.read += N as u64;
        Ok(bytes)
    }

    fn u32(&mut self, what: &str) -> Result<u32> {
        self.bytes(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64> {
        self.bytes(what).map(u64::from_le_bytes)
    }

    /// A count of things that take so many bytes each at least.
    fn count(&mut self, each: u64, what: &str) -> Result<usize> {
        let count = self.u64(what)?;
        match count.checked_mul(each) {
            Some(bytes) => self.expect(bytes, what)?,
            None => return Err(self.error(format!("damaged: there would be {count} {what}"))),
        }
        Ok(count as usize)
    }

    fn text(&mut self, what: &str) -> Result<String> {
        let length = self.u64(what)?;
        self.expect(length, what)?;
        let mut bytes = vec![0; length as usize];
        self.from.read_exact(&mut bytes).map_err(|source| Error::io(self.path, source))?;
        self.read += length;
        // Vocabularies hold pieces of characters.
        Ok(String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
    }

    fn name(&mut self, what: &str) -> Result<String> {
        let name = self.text(what)?;
        match name.len() as u64 <= LONGEST_NAME {
            true => Ok(name),
            false => Err(self.error(format!("damaged: {what} has {} bytes", name.len()))),
        }
    }

    fn value(&mut self, key: &str) -> Result<Value> {
        let kind = self.u32(key)?;
        if kind != 9 {
            return self.single(kind, key);
        }
        let kind = self.u32(key)?;
        Ok(Value::List(match kind {
            0..=5 | 10 | 11 => {
                let count = self.count(width(kind), key)?;
                List::Integers((0..count).map(|_| self.integer(kind, key)).collect::<Result<_>>()?)
            }
            6 | 12 => {
                let count = self.count(width(kind), key)?;
                List::Numbers((0..count).map(|_| self.number(kind, key)).collect::<Result<_>>()?)
            }
            7 => {
                let count = self.count(1, key)?;
                List::Flags((0..count).map(|_| Ok(self.bytes::<1>(key)?[0] != 0)).collect::<Result<_>>()?)
            }
            8 => {
                let count = self.count(8, key)?;
                List::Texts((0..count).map(|_| self.text(key)).collect::<Result<_>>()?)
            }
            other => {
                return Err(self.error(format!("`{key}` is a list of values of the unknown type {other}")));
            }
        }))
    }

    fn single(&mut self, kind: u32, key: &str) -> Result<Value> {
        Ok(match kind {
            0..=5 | 10 | 11 => Value::Integer(self.integer(kind, key)?),
            6 | 12 => Value::Number(self.number(kind, key)?),
            7 => Value::Flag(self.bytes::<1>(key)?[0] != 0),
            8 => Value::Text(self.text(key)?),
            other => return Err(self.error(format!("`{key}` has a value of the unknown type {other}"))),
        })
    }

    fn integer(&mut self, kind: u32, key: &str) -> Result<i64> {
        Ok(match kind {
            0 => i64::from(u8::from_le_bytes(self.bytes(key)?)),
            1 => i64::from(i8::from_le_bytes(self.bytes(key)?)),
            2 => i64::from(u16::from_le_bytes(self.bytes(key)?)),
            3 => i64::from(i16::from_le_bytes(self.bytes(key)?)),
            4 => i64::from(u32::from_le_bytes(self.bytes(key)?)),
            5 => i64::from(i32::from_le_bytes(self.bytes(key)?)),
            10 => i64::try_from(u64::from_le_bytes(self.bytes(key)?)).unwrap_or(i64::MAX),
            _ => i64::from_le_bytes(self.bytes(key)?),
        })
    }

    fn number(&mut self, kind: u32, key: &str) -> Result<f64> {
        match kind {
            6 => {
                let single = f32::from_le_bytes(self.bytes(key)?);
                Ok(single.to_string().parse().unwrap_or_else(|_| f64::from(single)))
            }
            _ => self.bytes(key).map(f64::from_le_bytes),
        }
    }

    fn parse(&mut self) -> Result<(BTreeMap<String, Value>, BTreeMap<String, Tensor>)> {
        let magic: [u8; 4] = self.bytes("the beginning")?;
        if magic != *MAGIC {
            return Err(self.error(format!(
                "not a GGUF file: it begins with \"{}\", and not with \"GGUF\"",
                magic.escape_ascii()
            )));
        }
        let version = self.u32("the version")?;
        if !(2..=VERSION).contains(&version) {
            let known = "only 2 and 3";
            return Err(self.error(match version.swap_bytes() {
                2 | 3 => "its numbers are big-endian, which is not supported".to_owned(),
                _ => format!("version {version} of the format is not supported, {known}"),
            }));
        }
        // The least that a tensor and a key take: their lengths, types and counts.
        let tensors = self.count(24, "the tensors")?;
        let keys = self.count(13, "the metadata")?;
        let mut metadata = BTreeMap::new();
        for _ in 0..keys {
            let key = self.name("a key")?;
            let value = self.value(&key)?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(self.error(format!("`{key}` is there twice")));
            }
        }
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT,
            Some(Value::Integer(n @ 1..=0x0100_0000)) if n % 8 == 0 => *n as u64,
            Some(_) => return Err(self.error("`general.alignment` must be a multiple of 8, of at most 2^24")),
        };
        let mut found = BTreeMap::new();
        for _ in 0..tensors {
            let (name, tensor) = self.tensor(alignment)?;
            if found.insert(name.clone(), tensor).is_some() {
                return Err(self.error(format!("the tensor {name} is there twice")));
            }
        }
        self.place(&mut found, alignment)?;
        Ok((metadata, found))
    }

    /// The name of a tensor and what is said of it. Its offset is still that from the first.
    fn tensor(&mut self, alignment: u64) -> Result<(String, Tensor)> {
        let name = self.name("the name of a tensor")?;
        let sides = self.u32(&name)?;
        if sides > 4 {
            return Err(self.error(format!("damaged: {name} has {sides} dimensions, where 4 are the most")));
        }
        let mut shape = Vec::new();
        for _ in 0..sides {
            let side = self.u64(&name)?;
            shape.push(usize::try_from(side).unwrap_or(usize::MAX));
        }
        shape.reverse();
        let kind = self.u32(&name)?;
        let kind = BlockType::numbered(kind).map_err(|problem| self.error(format!("{name}: {problem}")))?;
        let offset = self.u64(&name)?;
        let row = shape.last().copied().unwrap_or(1);
        let Some(of_row) = kind.bytes(row) else {
            let (kind, length) = (kind.name(), kind.length());
            return Err(self.error(format!(
                "damaged: the rows of {name} have {row} numbers, which is no multiple of the {length} in a block of {kind}"
            )));
        };
        let rows = shape.iter().rev().skip(1).try_fold(1usize, |rows, &side| rows.checked_mul(side));
        let bytes =
            rows.and_then(|rows| rows.checked_mul(of_row)).filter(|bytes| *bytes as u64 <= self.length);
        let Some(bytes) = bytes else {
            return Err(
                self.error(format!("cut off or damaged: {name} of shape {shape:?} is longer than the file"))
            );
        };
        if !offset.is_multiple_of(alignment) {
            return Err(self.error(format!("damaged: {name} is at {offset}, no multiple of {alignment}")));
        }
        Ok((name, Tensor { kind, shape, offset, bytes }))
    }

    /// Adds to offsets where the first tensor begins, and checks that all lie in the file and none in another.
    fn place(&self, tensors: &mut BTreeMap<String, Tensor>, alignment: u64) -> Result<()> {
        let start = self.read.next_multiple_of(alignment);
        let mut in_order: Vec<(&String, &mut Tensor)> = tensors.iter_mut().collect();
        in_order.sort_by_key(|(_, tensor)| tensor.offset);
        let mut before: Option<(&String, u64)> = None;
        for (name, tensor) in in_order {
            let end = tensor.offset.checked_add(start).and_then(|at| at.checked_add(tensor.bytes as u64));
            let Some(end) = end.filter(|end| *end <= self.length) else {
                return Err(self.error(format!(
                    "cut off: {name} would end {} bytes after the beginning, and the file has {}: get it again",
                    u128::from(tensor.offset) + u128::from(start) + tensor.bytes as u128,
                    self.length
                )));
            };
            tensor.offset += start;
            if let Some((other, _)) = before.filter(|(_, ends)| *ends > tensor.offset) {
                return Err(self.error(format!("damaged: {name} begins within {other}")));
            }
            before = Some((name, end));
        }
        Ok(())
    }
}

/// Bytes of a number in metadata.
fn width(kind: u32) -> u64 {
    match kind {
        0 | 1 => 1,
        2 | 3 => 2,
        10..=12 => 8,
        _ => 4,
    }
}
