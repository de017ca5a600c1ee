//! A column of a record batch: its buffers, and the value in a row.

use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::super::allowed::{Allowed, PER_VALUE};
use super::super::number::float;
use super::damaged;
use super::schema::Integer;

/// A piece of the body of a message, or what was unpacked of it.
#[derive(Clone)]
pub(super) struct Buffer {
    body: Arc<Vec<u8>>,
    range: Range<usize>,
}

/// The values of a column in a batch.
pub(super) struct Column {
    pub(super) length: usize,
    /// A bit for each row that holds a value; absent if all do.
    pub(super) validity: Option<Buffer>,
    pub(super) values: Values,
}

pub(super) enum Values {
    Null,
    Bool(Buffer),
    Integer(Integer, Buffer),
    Float(usize, Buffer),
    Text {
        wide: bool,
        offsets: Buffer,
        data: Buffer,
    },
    View {
        views: Buffer,
        data: Vec<Buffer>,
    },
    FixedText(usize, Buffer),
    Decimal(usize, usize, Buffer),
    List {
        wide: bool,
        offsets: Buffer,
        child: Box<Column>,
    },
    ListView {
        wide: bool,
        offsets: Buffer,
        sizes: Buffer,
        child: Box<Column>,
    },
    FixedList(usize, Box<Column>),
    Struct(Vec<(String, Column)>),
    /// Numbers of values in parts of a dictionary, which follow each other.
    Coded(Integer, Buffer, Rc<Vec<Rc<Column>>>),
}

/// Longest text that is in its view, in bytes.
const IN_VIEW: usize = 12;

impl Buffer {
    /// # Errors
    /// When the range is not within the body.
    pub(super) fn new(body: Arc<Vec<u8>>, range: Range<usize>) -> Result<Self, String> {
        match body.get(range.clone()) {
            Some(_) => Ok(Buffer { body, range }),
            None => Err(outside()),
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.body[self.range.clone()]
    }

    pub(super) fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// What follows the first bytes.
    pub(super) fn without(&self, bytes: usize) -> Result<Self, String> {
        Buffer::new(self.body.clone(), self.range.start + bytes..self.range.end)
    }

    /// The bytes of a value of this size.
    fn at<const N: usize>(&self, index: usize) -> Result<[u8; N], String> {
        let start = index.checked_mul(N);
        let found = start.and_then(|start| self.bytes().get(start..)?.first_chunk());
        found.copied().ok_or_else(outside)
    }

    fn bit(&self, index: usize) -> Result<bool, String> {
        Ok(self.at::<1>(index / 8)?[0] >> (index % 8) & 1 == 1)
    }

    fn offset(&self, index: usize, wide: bool) -> Result<usize, String> {
        let offset = match wide {
            true => i64::from_le_bytes(self.at(index)?),
            false => i64::from(i32::from_le_bytes(self.at(index)?)),
        };
        usize::try_from(offset).map_err(|_| outside())
    }

    fn range(&self, index: usize, wide: bool) -> Result<Range<usize>, String> {
        let range = self.offset(index, wide)?..self.offset(index + 1, wide)?;
        if range.start <= range.end { Ok(range) } else { Err(outside()) }
    }

    fn integer(&self, index: usize, Integer { bytes, signed }: Integer) -> Result<Value, String> {
        Ok(match (bytes, signed) {
            (1, true) => i8::from_le_bytes(self.at(index)?).into(),
            (2, true) => i16::from_le_bytes(self.at(index)?).into(),
            (4, true) => i32::from_le_bytes(self.at(index)?).into(),
            (_, true) => i64::from_le_bytes(self.at(index)?).into(),
            (1, false) => u8::from_le_bytes(self.at(index)?).into(),
            (2, false) => u16::from_le_bytes(self.at(index)?).into(),
            (4, false) => u32::from_le_bytes(self.at(index)?).into(),
            (_, false) => u64::from_le_bytes(self.at(index)?).into(),
        })
    }

    fn text(&self, range: Range<usize>, allowed: &Allowed) -> Result<Value, String> {
        let bytes = self.bytes().get(range).ok_or_else(outside)?;
        allowed.take(bytes.len() as u64)?;
        let text = std::str::from_utf8(bytes).map_err(|_| "bytes that are not UTF-8")?;
        Ok(text.into())
    }
}

fn outside() -> String {
    damaged("it says that a value is where there is none")
}

impl Column {
    /// The value in a row.
    ///
    /// # Errors
    /// When the file is damaged, or the values take too much.
    pub(super) fn value(&self, row: usize, allowed: &Allowed) -> Result<Value, String> {
        allowed.take(PER_VALUE)?;
        if row >= self.length {
            return Err(outside());
        }
        if let Some(validity) = &self.validity
            && !validity.bit(row)?
        {
            return Ok(Value::Null);
        }
        let listed = |child: &Column, range: Range<usize>| -> Result<Value, String> {
            let items: Result<_, String> = range.map(|row| child.value(row, allowed)).collect();
            Ok(Value::Array(items?))
        };
        match &self.values {
            Values::Null => Ok(Value::Null),
            Values::Bool(bits) => Ok(bits.bit(row)?.into()),
            Values::Integer(integer, data) => data.integer(row, *integer),
            Values::Float(2, data) => Ok(float(f64::from(half::f16::from_le_bytes(data.at(row)?)))),
            Values::Float(4, data) => Ok(float(f64::from(f32::from_le_bytes(data.at(row)?)))),
            Values::Float(_, data) => Ok(float(f64::from_le_bytes(data.at(row)?))),
            Values::Text { wide, offsets, data } => data.text(offsets.range(row, *wide)?, allowed),
            Values::View { views, data } => {
                let view: [u8; 16] = views.at(row)?;
                let word = |at: usize| {
                    let word = [view[at], view[at + 1], view[at + 2], view[at + 3]];
                    usize::try_from(i32::from_le_bytes(word)).map_err(|_| outside())
                };
                let length = word(0)?;
                if length <= IN_VIEW {
                    let start = row * view.len() + 4;
                    return views.text(start..start + length, allowed);
                }
                let start = word(12)?;
                data.get(word(8)?).ok_or_else(outside)?.text(start..start + length, allowed)
            }
            Values::FixedText(width, data) => {
                let start = row.checked_mul(*width).ok_or_else(outside)?;
                data.text(start..start.saturating_add(*width), allowed)
            }
            Values::Decimal(bytes, decimals, data) => {
                let whole = match bytes {
                    4 => i32::from_le_bytes(data.at(row)?).into(),
                    8 => i64::from_le_bytes(data.at(row)?).into(),
                    _ => i128::from_le_bytes(data.at(row)?),
                };
                // As text first, which rounds once.
                let text = format!("{whole}e-{decimals}");
                Ok(float(text.parse().map_err(|_| outside())?))
            }
            Values::List { wide, offsets, child } => listed(child, offsets.range(row, *wide)?),
            Values::ListView { wide, offsets, sizes, child } => {
                let start = offsets.offset(row, *wide)?;
                listed(child, start..start.saturating_add(sizes.offset(row, *wide)?))
            }
            Values::FixedList(size, child) => {
                let start = row.checked_mul(*size).ok_or_else(outside)?;
                listed(child, start..start.saturating_add(*size))
            }
            Values::Struct(fields) => {
                let field = |(name, column): &(String, Column)| -> Result<_, String> {
                    Ok((name.clone(), column.value(row, allowed)?))
                };
                Ok(Value::Object(fields.iter().map(field).collect::<Result<Map<_, _>, _>>()?))
            }
            Values::Coded(integer, data, parts) => {
                let index =
                    data.integer(row, *integer)?.as_u64().and_then(|index| usize::try_from(index).ok());
                let mut index = index.ok_or_else(outside)?;
                for part in parts.iter() {
                    if index < part.length {
                        return part.value(index, allowed);
                    }
                    index -= part.length;
                }
                Err(outside())
            }
        }
    }
}
