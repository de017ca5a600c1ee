//! Writing a file, one tensor in memory at a time.

use std::path::Path;

use spo_api::{Error, Result, write_whole};

use crate::block::BlockType;
use crate::file::{ALIGNMENT, MAGIC, VERSION};
use crate::value::{List, Value};

/// A tensor to write.
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Its shape, rows first.
    pub shape: Vec<usize>,
    /// The type of its numbers. Rows must be made of whole blocks.
    pub kind: BlockType,
}

impl Entry {
    fn bytes(&self) -> usize {
        let (row, rows) = self.shape.split_last().map_or((1, 1), |(row, rows)| (*row, rows.iter().product()));
        rows * self.kind.bytes(row).expect("rows of whole blocks")
    }
}

/// Writes a file, atomically. `values` is called with the index of each tensor, for its numbers.
///
/// # Errors
/// Those of `values`, and [`Error::Io`] when the file cannot be written.
///
/// # Panics
/// When a type is none of files, or the rows of a tensor are not made of whole blocks.
pub fn write(
    path: &Path,
    metadata: &[(String, Value)],
    tensors: &[Entry],
    values: impl Fn(usize) -> Result<Vec<f32>>,
) -> Result<()> {
    let mut header = Vec::new();
    header.extend(MAGIC);
    header.extend(VERSION.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut header, key);
        put(&mut header, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut header, &tensor.name);
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|&side| header.extend((side as u64).to_le_bytes()));
        header.extend(tensor.kind.number().expect("a type of files").to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT as usize);
    }
    pad(&mut header);
    write_whole(path, |out| {
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(|source| Error::io(path, source));
        put(&header)?;
        for (i, tensor) in tensors.iter().enumerate() {
            let mut blocks = tensor.kind.encode(&values(i)?);
            pad(&mut blocks);
            put(&blocks)?;
        }
        Ok(())
    })
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// A value with its type. Whole numbers are as wide as llama.cpp expects them: sizes and ids in 32 bits without a sign,
/// lists in 32 bits with one. Numbers are f32.
fn put(out: &mut Vec<u8>, value: &Value) {
    let mut kind = |kind: u32| out.extend(kind.to_le_bytes());
    match value {
        Value::Integer(n) => match u32::try_from(*n) {
            Ok(n) => {
                kind(4);
                out.extend(n.to_le_bytes());
            }
            Err(_) => {
                kind(11);
                out.extend(n.to_le_bytes());
            }
        },
        Value::Number(n) => {
            kind(6);
            out.extend((*n as f32).to_le_bytes());
        }
        Value::Flag(on) => {
            kind(7);
            out.push(u8::from(*on));
        }
        Value::Text(of) => {
            kind(8);
            text(out, of);
        }
        Value::List(list) => {
            let (of, count) = match list {
                List::Integers(all) => (5u32, all.len()),
                List::Numbers(all) => (6, all.len()),
                List::Flags(all) => (7, all.len()),
                List::Texts(all) => (8, all.len()),
            };
            kind(9);
            out.extend(of.to_le_bytes());
            out.extend((count as u64).to_le_bytes());
            match list {
                List::Integers(all) => all.iter().for_each(|&n| out.extend((n as i32).to_le_bytes())),
                List::Numbers(all) => all.iter().for_each(|&n| out.extend((n as f32).to_le_bytes())),
                List::Flags(all) => out.extend(all.iter().map(|&on| u8::from(on))),
                List::Texts(all) => all.iter().for_each(|of| text(out, of)),
            }
        }
    }
}
