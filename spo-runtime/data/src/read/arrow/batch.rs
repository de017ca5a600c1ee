//! Record batches and dictionaries: which buffers belong to which column.

use std::collections::HashMap;
use std::io::Read;
use std::rc::Rc;
use std::sync::Arc;

use lz4_flex::frame::FrameDecoder;
use polars_arrow_format::ipc::{CompressionType, DictionaryBatchRef, RecordBatchRef};
use ruzstd::decoding::StreamingDecoder;

use super::super::allowed::Allowed;
use super::column::{Buffer, Column, Values};
use super::damaged;
use super::schema::{Field, Layout, Schema};
use crate::guard::guarded;
use crate::source::Record;

/// The values of each dictionary, in the parts that they came in.
pub(super) type Dictionaries = HashMap<i64, Rc<Vec<Rc<Column>>>>;

/// The number that stands before a compressed buffer which is not compressed after all.
const AS_IT_IS: i64 = -1;

/// Rows, column by column.
pub(super) struct Batch {
    pub(super) rows: usize,
    columns: Vec<(String, Column)>,
}

impl Batch {
    /// # Errors
    /// When the file is damaged, or unpacks to too much.
    pub(super) fn read(
        batch: RecordBatchRef<'_>,
        schema: &Schema,
        body: Arc<Vec<u8>>,
        allowed: &Allowed,
        dictionaries: &Dictionaries,
    ) -> Result<Self, String> {
        let rows = usize::try_from(batch.length().map_err(damaged)?).map_err(damaged)?;
        let mut parts = Parts::new(batch, body, allowed, dictionaries)?;
        let column = |field: &Field| Ok((field.name.clone(), parts.column(field)?));
        let columns = schema.fields.iter().map(column).collect::<Result<_, String>>()?;
        Ok(Batch { rows, columns })
    }

    /// A row.
    ///
    /// # Errors
    /// When the file is damaged, or the values take too much.
    pub(super) fn record(&self, row: usize, allowed: &Allowed) -> Result<Record, String> {
        let value = |(name, column): &(String, Column)| match column.value(row, allowed) {
            Ok(value) => Ok((name.clone(), value)),
            Err(e) => Err(format!("column `{name}`: {e}")),
        };
        self.columns.iter().map(value).collect()
    }
}

/// Adds what a message says of a dictionary.
///
/// # Errors
/// As [`Batch::read`].
pub(super) fn dictionary(
    found: DictionaryBatchRef<'_>,
    schema: &Schema,
    body: Arc<Vec<u8>>,
    allowed: &Allowed,
    dictionaries: &mut Dictionaries,
) -> Result<(), String> {
    let id = found.id().map_err(damaged)?;
    let batch = found.data().map_err(damaged)?.ok_or_else(|| damaged("a dictionary without values"))?;
    let field = schema.coded(id).ok_or_else(|| damaged(format!("no column has the dictionary {id}")))?;
    let values = Rc::new(Parts::new(batch, body, allowed, dictionaries)?.values(field)?);
    let more = found.is_delta().map_err(damaged)?;
    let known = dictionaries.get(&id).filter(|_| more).map_or_else(Vec::new, |known| known.to_vec());
    dictionaries.insert(id, Rc::new([known, vec![values]].concat()));
    Ok(())
}

/// The nodes and buffers of a batch, which are handed out in the order of the columns.
struct Parts<'a> {
    lengths: std::vec::IntoIter<i64>,
    buffers: std::vec::IntoIter<(i64, i64)>,
    /// For each column of views, how many buffers hold its texts.
    variadic: std::vec::IntoIter<i64>,
    compression: Option<CompressionType>,
    body: Arc<Vec<u8>>,
    allowed: &'a Allowed,
    dictionaries: &'a Dictionaries,
}

impl<'a> Parts<'a> {
    fn new(
        batch: RecordBatchRef<'_>,
        body: Arc<Vec<u8>>,
        allowed: &'a Allowed,
        dictionaries: &'a Dictionaries,
    ) -> Result<Self, String> {
        let nodes = batch.nodes().map_err(damaged)?;
        let buffers = batch.buffers().map_err(damaged)?;
        let variadic = batch.variadic_buffer_counts().map_err(damaged)?;
        let compression = batch.compression().map_err(damaged)?;
        let compression = compression.map(|found| found.codec()).transpose().map_err(damaged)?;
        let lengths: Vec<_> = nodes.into_iter().flatten().map(|node| node.length()).collect();
        let places = buffers.into_iter().flatten().map(|buffer| (buffer.offset(), buffer.length()));
        let variadic: Vec<_> = variadic.into_iter().flatten().collect();
        Ok(Parts {
            lengths: lengths.into_iter(),
            buffers: places.collect::<Vec<_>>().into_iter(),
            variadic: variadic.into_iter(),
            compression,
            body,
            allowed,
            dictionaries,
        })
    }

    fn column(&mut self, field: &Field) -> Result<Column, String> {
        let Some((id, integer)) = field.dictionary else { return self.values(field) };
        let length = self.length()?;
        let validity = self.validity()?;
        let indices = self.buffer()?;
        let parts = self.dictionaries.get(&id).cloned().unwrap_or_default();
        Ok(Column { length, validity, values: Values::Coded(integer, indices, parts) })
    }

    /// The column without its dictionary.
    fn values(&mut self, field: &Field) -> Result<Column, String> {
        let length = self.length()?;
        let validity = if matches!(field.layout, Layout::Null) { None } else { self.validity()? };
        let values = match field.layout {
            Layout::Null => Values::Null,
            Layout::Bool => Values::Bool(self.buffer()?),
            Layout::Integer(integer) => Values::Integer(integer, self.buffer()?),
            Layout::Float(bytes) => Values::Float(bytes, self.buffer()?),
            Layout::Text { wide } => Values::Text { wide, offsets: self.buffer()?, data: self.buffer()? },
            Layout::View => {
                let views = self.buffer()?;
                let count = self.variadic.next().unwrap_or(0);
                let data = (0..count).map(|_| self.buffer()).collect::<Result<_, _>>()?;
                Values::View { views, data }
            }
            Layout::FixedText(width) => Values::FixedText(width, self.buffer()?),
            Layout::Decimal(bytes, decimals) => Values::Decimal(bytes, decimals, self.buffer()?),
            Layout::List { wide } => {
                Values::List { wide, offsets: self.buffer()?, child: self.only_child(field)? }
            }
            Layout::ListView { wide } => {
                let (offsets, sizes) = (self.buffer()?, self.buffer()?);
                Values::ListView { wide, offsets, sizes, child: self.only_child(field)? }
            }
            Layout::FixedList(size) => Values::FixedList(size, self.only_child(field)?),
            Layout::Struct => {
                let child = |child: &Field| Ok((child.name.clone(), self.column(child)?));
                Values::Struct(field.children.iter().map(child).collect::<Result<_, String>>()?)
            }
        };
        Ok(Column { length, validity, values })
    }

    fn only_child(&mut self, field: &Field) -> Result<Box<Column>, String> {
        self.column(&field.children[0]).map(Box::new)
    }

    fn length(&mut self) -> Result<usize, String> {
        let length = self.lengths.next().ok_or_else(|| damaged("a column is missing from a batch"))?;
        usize::try_from(length).map_err(damaged)
    }

    fn validity(&mut self) -> Result<Option<Buffer>, String> {
        let buffer = self.buffer()?;
        Ok((!buffer.is_empty()).then_some(buffer))
    }

    fn buffer(&mut self) -> Result<Buffer, String> {
        let (offset, length) =
            self.buffers.next().ok_or_else(|| damaged("a column is missing from a batch"))?;
        let (offset, length) = (usize::try_from(offset), usize::try_from(length));
        let (offset, length) = (offset.map_err(damaged)?, length.map_err(damaged)?);
        let buffer = Buffer::new(self.body.clone(), offset..offset.saturating_add(length))?;
        match self.compression {
            Some(codec) if length > 0 => self.unpacked(codec, &buffer),
            _ => Ok(buffer),
        }
    }

    /// What is compressed in a buffer: its length, and then itself.
    fn unpacked(&self, codec: CompressionType, buffer: &Buffer) -> Result<Buffer, String> {
        let (length, packed) = buffer
            .bytes()
            .split_first_chunk()
            .ok_or_else(|| damaged("a compressed buffer without a length"))?;
        let length = i64::from_le_bytes(*length);
        if length == AS_IT_IS {
            return buffer.without(8);
        }
        let length = u64::try_from(length).map_err(damaged)?;
        self.allowed.take(length)?;
        let unpack = || -> std::io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            match codec {
                CompressionType::Lz4Frame => {
                    FrameDecoder::new(packed).take(length).read_to_end(&mut bytes)?
                }
                CompressionType::Zstd => {
                    let decoder = StreamingDecoder::new(packed).map_err(std::io::Error::other)?;
                    decoder.take(length).read_to_end(&mut bytes)?
                }
            };
            Ok(bytes)
        };
        let bytes =
            guarded(unpack).map_err(|_| damaged("a compressed buffer is damaged"))?.map_err(damaged)?;
        match bytes.len() as u64 == length {
            true => Buffer::new(Arc::new(bytes), 0..length as usize),
            false => Err(damaged("a compressed buffer is shorter than it says")),
        }
    }
}
