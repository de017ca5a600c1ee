//! The tensors that a file of `torch.save` holds: their names, types, shapes and places.
//!
//! Such a file is a zip archive of a pickle and of one file for each storage. A pickle is a program, which Python runs;
//! this reads only those that do nothing but list tensors, and runs nothing. The numbers stay where they are in the file.

use std::collections::{BTreeMap, HashMap};
use std::io::Cursor;
use std::ops::Range;

use safetensors::Dtype;
use safetensors::tensor::TensorInfo;
use zip::{CompressionMethod, ZipArchive};

/// The longest pickle that is read: a hundred thousand tensors take half of it.
const LONGEST: usize = 1 << 25;

/// The most values that a pickle may make.
const MOST: usize = 1 << 22;

/// The tensors of a file, with places counted from its beginning.
///
/// # Errors
/// What is wrong with the file.
pub(super) fn tensors(file: &[u8]) -> Result<BTreeMap<String, TensorInfo>, String> {
    let archive = Archive::new(file)?;
    Reader::new(file, &archive).run()
}

/// Where the parts of an archive are in its file.
struct Archive {
    pickle: Range<usize>,
    storages: HashMap<String, Range<usize>>,
}

impl Archive {
    fn new(file: &[u8]) -> Result<Self, String> {
        let mut zip = ZipArchive::new(Cursor::new(file)).map_err(|e| {
            format!("is damaged, or was written by a torch before 1.6 (not a zip archive: {e}); save it anew with a newer one")
        })?;
        let mut parts = HashMap::new();
        for index in 0..zip.len() {
            let part = zip.by_index_raw(index).map_err(|e| format!("is damaged: {e}"))?;
            let name = part.name().map_err(|e| format!("is damaged: {e}"))?.into_owned();
            if part.compression() != CompressionMethod::Stored || part.encrypted() {
                return Err(format!("has {name} compressed or encrypted, which torch does not do"));
            }
            let start = part.data_start().and_then(|start| usize::try_from(start).ok());
            let length = usize::try_from(part.size()).ok().filter(|_| part.size() == part.compressed_size());
            let end = start.zip(length).and_then(|(start, length)| start.checked_add(length));
            match start.zip(end).filter(|(_, end)| *end <= file.len()) {
                Some((start, end)) => parts.insert(name, start..end),
                None => return Err(format!("is damaged: {name} goes beyond its end")),
            };
        }
        let roots: Vec<&str> = parts.keys().filter_map(|name| name.strip_suffix("data.pkl")).collect();
        let [root] = roots[..] else {
            return Err(format!("holds {} pickles (data.pkl), not one", roots.len()));
        };
        let root = root.to_owned();
        if parts.get(&format!("{root}byteorder")).is_some_and(|order| &file[order.clone()] != b"little") {
            return Err("has its numbers in the order of big-endian machines, which is not supported".into());
        }
        let pickle = parts[&format!("{root}data.pkl")].clone();
        if pickle.len() > LONGEST {
            return Err(format!("has a pickle of {} bytes, more than {LONGEST}", pickle.len()));
        }
        let data = format!("{root}data/");
        let storage =
            |(name, range): (String, Range<usize>)| Some((name.strip_prefix(&data)?.to_owned(), range));
        Ok(Archive { pickle, storages: parts.into_iter().filter_map(storage).collect() })
    }
}

/// A value on the stack. What is in it lies elsewhere, so values are small, and none is in another.
#[derive(Clone, Copy)]
enum Value<'p> {
    Number(i64),
    Text(&'p str),
    /// A function or a class: its module and its name.
    Global(Function),
    Tuple(usize),
    Dict(usize),
    Storage(usize),
    Tensor(usize),
    /// What no tensor depends on: None, truth values, fractions, lists.
    Other,
}

/// The functions and classes that a pickle of tensors names.
#[derive(Clone, Copy)]
enum Function {
    Tensor,
    Parameter,
    Dict,
    Storage(Dtype),
}

impl Function {
    fn named(module: &str, name: &str) -> Option<Self> {
        Some(match (module, name) {
            ("torch._utils", "_rebuild_tensor_v2") => Function::Tensor,
            ("torch._utils", "_rebuild_parameter") => Function::Parameter,
            ("collections", "OrderedDict") => Function::Dict,
            ("torch", "FloatStorage") => Function::Storage(Dtype::F32),
            ("torch", "HalfStorage") => Function::Storage(Dtype::F16),
            ("torch", "BFloat16Storage") => Function::Storage(Dtype::BF16),
            ("torch", "DoubleStorage") => Function::Storage(Dtype::F64),
            ("torch", "LongStorage") => Function::Storage(Dtype::I64),
            ("torch", "IntStorage") => Function::Storage(Dtype::I32),
            ("torch", "ShortStorage") => Function::Storage(Dtype::I16),
            ("torch", "CharStorage") => Function::Storage(Dtype::I8),
            ("torch", "ByteStorage") => Function::Storage(Dtype::U8),
            ("torch", "BoolStorage") => Function::Storage(Dtype::BOOL),
            _ => return None,
        })
    }
}

struct Reader<'p> {
    rest: &'p [u8],
    archive: &'p Archive,
    stack: Vec<Value<'p>>,
    marks: Vec<usize>,
    memo: HashMap<u32, Value<'p>>,
    tuples: Vec<Vec<Value<'p>>>,
    dicts: Vec<Vec<(Value<'p>, Value<'p>)>>,
    storages: Vec<(Dtype, Range<usize>)>,
    tensors: Vec<TensorInfo>,
    /// Number of values made so far.
    made: usize,
}

type Done<T> = Result<T, String>;

fn damaged<T>() -> Done<T> {
    Err("is damaged: its pickle makes no sense".into())
}

impl<'p> Reader<'p> {
    fn new(file: &'p [u8], archive: &'p Archive) -> Self {
        Reader {
            rest: &file[archive.pickle.clone()],
            archive,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
            tuples: Vec::new(),
            dicts: Vec::new(),
            storages: Vec::new(),
            tensors: Vec::new(),
            made: 0,
        }
    }

    fn bytes(&mut self, count: usize) -> Done<&'p [u8]> {
        match self.rest.split_at_checked(count) {
            Some((bytes, rest)) => {
                self.rest = rest;
                Ok(bytes)
            }
            None => damaged(),
        }
    }

    fn number<const N: usize>(&mut self) -> Done<[u8; N]> {
        self.bytes(N)?.try_into().or_else(|_| damaged())
    }

    fn text(&mut self, length: usize) -> Done<Value<'p>> {
        std::str::from_utf8(self.bytes(length)?).map(Value::Text).or_else(|_| damaged())
    }

    /// A name up to the end of its line.
    fn line(&mut self) -> Done<&'p str> {
        let Some(length) = self.rest.iter().position(|&byte| byte == b'\n') else { return damaged() };
        let line = self.bytes(length + 1)?;
        std::str::from_utf8(&line[..length]).or_else(|_| damaged())
    }

    fn push(&mut self, value: Value<'p>) -> Done<()> {
        self.count()?;
        self.stack.push(value);
        Ok(())
    }

    fn count(&mut self) -> Done<()> {
        self.made += 1;
        match self.made > MOST {
            true => Err(format!("has a pickle of more than {MOST} values")),
            false => Ok(()),
        }
    }

    /// Takes a value that was put on the stack after the last mark.
    fn pop(&mut self) -> Done<Value<'p>> {
        match self.stack.len() > self.marks.last().copied().unwrap_or(0) {
            true => self.stack.pop().map_or_else(damaged, Ok),
            false => damaged(),
        }
    }

    /// Takes everything that was put on the stack after the last mark, and the mark.
    fn pop_mark(&mut self) -> Done<Vec<Value<'p>>> {
        let Some(mark) = self.marks.pop() else { return damaged() };
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, items: Vec<Value<'p>>) -> Done<()> {
        self.tuples.push(items);
        self.push(Value::Tuple(self.tuples.len() - 1))
    }

    fn popped_tuple(&mut self, count: usize) -> Done<()> {
        let mut items = (0..count).map(|_| self.pop()).collect::<Done<Vec<_>>>()?;
        items.reverse();
        self.tuple(items)
    }

    fn dict(&mut self) -> Done<()> {
        self.dicts.push(Vec::new());
        self.push(Value::Dict(self.dicts.len() - 1))
    }

    fn set(&mut self, items: &[Value<'p>]) -> Done<()> {
        let (Some(Value::Dict(dict)), true) = (self.stack.last(), items.len().is_multiple_of(2)) else {
            return damaged();
        };
        self.dicts[*dict].extend(items.as_chunks().0.iter().map(|[key, value]| (*key, *value)));
        Ok(())
    }

    fn keep(&mut self, at: u32) -> Done<()> {
        let Some(last) = self.stack.last() else { return damaged() };
        self.memo.insert(at, *last);
        Ok(())
    }

    fn recall(&mut self, at: u32) -> Done<()> {
        let Some(value) = self.memo.get(&at).copied() else { return damaged() };
        self.push(value)
    }

    /// Reads the pickle to its end: a dictionary of tensors.
    fn run(mut self) -> Done<BTreeMap<String, TensorInfo>> {
        loop {
            match self.number::<1>()?[0] {
                0x80 => drop(self.number::<1>()?),
                b'(' => {
                    self.count()?;
                    self.marks.push(self.stack.len());
                }
                b'.' => break,
                b'0' => drop(self.pop()?),
                b'N' | 0x88 | 0x89 | b']' => self.push(Value::Other)?,
                b'G' => {
                    self.number::<8>()?;
                    self.push(Value::Other)?;
                }
                b'K' => {
                    let [byte] = self.number()?;
                    self.push(Value::Number(byte.into()))?;
                }
                b'M' => {
                    let number = u16::from_le_bytes(self.number()?);
                    self.push(Value::Number(number.into()))?;
                }
                b'J' => {
                    let number = i32::from_le_bytes(self.number()?);
                    self.push(Value::Number(number.into()))?;
                }
                0x8a => {
                    let length = usize::from(self.number::<1>()?[0]);
                    let bytes = self.bytes(length)?;
                    if length > 8 {
                        return damaged();
                    }
                    let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
                    let mut all = [sign; 8];
                    all[..length].copy_from_slice(bytes);
                    self.push(Value::Number(i64::from_le_bytes(all)))?;
                }
                b'X' => {
                    let length = u32::from_le_bytes(self.number()?);
                    let text = self.text(length as usize)?;
                    self.push(text)?;
                }
                0x8c => {
                    let [length] = self.number()?;
                    let text = self.text(length.into())?;
                    self.push(text)?;
                }
                b')' => self.tuple(Vec::new())?,
                0x85 => self.popped_tuple(1)?,
                0x86 => self.popped_tuple(2)?,
                0x87 => self.popped_tuple(3)?,
                b't' => {
                    let items = self.pop_mark()?;
                    self.tuple(items)?;
                }
                b'}' => self.dict()?,
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set(&[key, value])?;
                }
                b'u' => {
                    let items = self.pop_mark()?;
                    self.set(&items)?;
                }
                // Lists, and what is added to an object beside its items, are of no use here.
                b'a' | b'b' => drop(self.pop()?),
                b'e' => drop(self.pop_mark()?),
                b'q' => {
                    let [at] = self.number()?;
                    self.keep(at.into())?;
                }
                b'r' => {
                    let at = u32::from_le_bytes(self.number()?);
                    self.keep(at)?;
                }
                b'h' => {
                    let [at] = self.number()?;
                    self.recall(at.into())?;
                }
                b'j' => {
                    let at = u32::from_le_bytes(self.number()?);
                    self.recall(at)?;
                }
                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    let Some(function) = Function::named(module, name) else {
                        return Err(format!(
                            "wants to call {module}.{name}, which a file of weights does not need: it is not read"
                        ));
                    };
                    self.push(Value::Global(function))?;
                }
                b'Q' => {
                    let storage = self.pop()?;
                    self.storage(storage)?;
                }
                b'R' => {
                    let arguments = self.pop()?;
                    let function = self.pop()?;
                    self.call(function, arguments)?;
                }
                other => {
                    return Err(format!(
                        "has the instruction {other:#04x}, which a file of weights does not need"
                    ));
                }
            }
        }
        self.named()
    }

    fn items(&self, tuple: Value<'p>) -> Done<&[Value<'p>]> {
        match tuple {
            Value::Tuple(index) => Ok(&self.tuples[index]),
            _ => damaged(),
        }
    }

    /// Whole numbers that are not negative.
    fn sizes(&self, tuple: Value<'p>) -> Done<Vec<usize>> {
        /// More than any tensor has dimensions.
        const DIMENSIONS: usize = 16;
        let items = self.items(tuple)?;
        if items.len() > DIMENSIONS {
            return damaged();
        }
        items.iter().map(|value| size(*value)).collect()
    }

    /// `("storage", type, name, device, length)`.
    fn storage(&mut self, given: Value<'p>) -> Done<()> {
        let [Value::Text("storage"), Value::Global(Function::Storage(dtype)), Value::Text(name), _, length] =
            *self.items(given)?
        else {
            return damaged();
        };
        let Some(range) = self.archive.storages.get(name).cloned() else {
            return Err(format!("is damaged: its storage {name} is missing"));
        };
        if size(length)?.checked_mul(dtype.bitsize() / 8) != Some(range.len()) {
            return Err(format!("is damaged: its storage {name} is cut off"));
        }
        self.storages.push((dtype, range));
        self.push(Value::Storage(self.storages.len() - 1))
    }

    fn call(&mut self, function: Value<'p>, arguments: Value<'p>) -> Done<()> {
        let Value::Global(function) = function else { return damaged() };
        match (function, self.items(arguments)?) {
            (Function::Dict, []) => self.dict(),
            (Function::Parameter, &[tensor @ Value::Tensor(_), ..]) => self.push(tensor),
            (Function::Tensor, &[Value::Storage(storage), offset, shape, strides, ..]) => {
                let tensor = self.tensor(storage, offset, shape, strides)?;
                self.tensors.push(tensor);
                self.push(Value::Tensor(self.tensors.len() - 1))
            }
            _ => damaged(),
        }
    }

    fn tensor(
        &self,
        storage: usize,
        offset: Value<'p>,
        shape: Value<'p>,
        strides: Value<'p>,
    ) -> Done<TensorInfo> {
        let (dtype, range) = &self.storages[storage];
        let (shape, strides) = (self.sizes(shape)?, self.sizes(strides)?);
        if shape.len() != strides.len() {
            return damaged();
        }
        let mut elements = 1usize;
        for (&side, &stride) in shape.iter().zip(&strides).rev() {
            if side > 1 && stride != elements {
                return Err(
                    "holds a tensor whose rows do not lie one after another: save it with `.contiguous()`"
                        .into(),
                );
            }
            elements = elements.checked_mul(side).map_or_else(damaged, Ok)?;
        }
        let width = dtype.bitsize() / 8;
        let place = |elements: usize| elements.checked_mul(width)?.checked_add(range.start);
        let begin = place(size(offset)?);
        let end = begin.and_then(|begin| elements.checked_mul(width)?.checked_add(begin));
        match begin.zip(end).filter(|(_, end)| *end <= range.end) {
            Some((begin, end)) => Ok(TensorInfo { dtype: *dtype, shape, data_offsets: (begin, end) }),
            None => damaged(),
        }
    }

    fn named(mut self) -> Done<BTreeMap<String, TensorInfo>> {
        let Some(Value::Dict(top)) = self.stack.pop() else {
            return Err("holds no dictionary of tensors".into());
        };
        let mut named = BTreeMap::new();
        for (key, value) in &self.dicts[top] {
            match (key, value) {
                (Value::Text(name), Value::Tensor(tensor)) => {
                    named.insert((*name).to_owned(), self.tensors[*tensor].clone());
                }
                (Value::Text(name), _) => {
                    return Err(format!("holds `{name}`, which is no tensor: it is no file of weights"));
                }
                _ => return damaged(),
            }
        }
        Ok(named)
    }
}

fn size(value: Value<'_>) -> Done<usize> {
    match value {
        Value::Number(number) => usize::try_from(number).or_else(|_| damaged()),
        _ => damaged(),
    }
}
