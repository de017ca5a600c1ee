//! Parquet files, row by row.

mod pages;

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use parquet::data_type::DataType;
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::RowGroupReader;
use parquet::record::Field;
use parquet::record::reader::RowIter;
use serde_json::Value;
use spo_api::open_regular;

use self::pages::Group;
use super::allowed::{Allowed, PER_ROW, PER_VALUE, whole};
use super::number::float;
use crate::error::{At, DataError, Place, Result};
use crate::guard::guarded;
use crate::source::Visit;

/// Rows read at a time.
const BATCH: usize = 256;

/// Passes on the first `wanted` rows.
pub(crate) fn rows(path: &Path, wanted: usize, visit: &mut Visit<'_>) -> Result<()> {
    let refuse = |e: String| DataError::in_file(path, e);
    let file = open_regular(path).map_err(|e| DataError::io(path, &e))?;
    let bytes = file.metadata().map_err(|e| DataError::io(path, &e))?.len();
    let metadata = readable(|| ParquetMetaDataReader::new().parse_and_finish(&file)).map_err(refuse)?;
    let file = Arc::new(file);
    refuse_bomb(&file, &metadata, bytes, wanted).map_err(refuse)?;
    let name: Arc<Path> = path.into();
    let mut index = 0;
    for group in groups(&file, &metadata, bytes) {
        let group = group.map_err(refuse)?;
        let mut rows =
            readable(|| RowIter::from_row_group(None, &group)).map_err(refuse)?.with_batch_size(BATCH);
        loop {
            let place = Place { file: name.clone(), at: At::Row(index + 1) };
            let row = readable(|| rows.next().transpose()).map_err(|e| DataError::new(e).at(&place))?;
            let Some(row) = row else { break };
            index += 1;
            let record = row
                .get_column_iter()
                .map(|(column, field)| match value(field) {
                    Ok(value) => Ok((column.clone(), value)),
                    Err(e) => Err(DataError::new(format!("column `{column}`: {}", e.message)).at(&place)),
                })
                .collect::<Result<_>>()?;
            if !visit(place, record)? {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The row groups of a file of so many bytes.
fn groups<'a>(
    file: &'a Arc<File>,
    metadata: &'a ParquetMetaData,
    bytes: u64,
) -> impl Iterator<Item = Result<Group<'a>, String>> {
    let open = move |group| readable(|| Group::new(file.clone(), group, whole(bytes)));
    metadata.row_groups().iter().map(open)
}

/// Refuses a file whose first `wanted` rows take far more memory than its `bytes`: a few bytes can say that a long
/// value comes a billion times.
///
/// # Errors
/// When they do, or when the file cannot be read.
fn refuse_bomb(
    file: &Arc<File>,
    metadata: &ParquetMetaData,
    bytes: u64,
    wanted: usize,
) -> Result<(), String> {
    let allowed = Allowed::new(bytes);
    let mut wanted = wanted as u64;
    for group in groups(file, metadata, bytes) {
        let group = group?;
        let rows = u64::try_from(group.metadata().num_rows()).map_err(|_| "a negative number of rows")?;
        allowed.take(rows.min(wanted).saturating_mul(PER_ROW))?;
        for column in 0..group.num_columns() {
            // The pages' heads tell how many values to expect: one row may hold them all.
            let mut pages = readable(|| group.get_column_page_reader(column))?;
            let mut values = 0_u64;
            while let Some(page) = readable(|| pages.peek_next_page())? {
                values = values.saturating_add(page.num_levels.unwrap_or(0) as u64);
                readable(|| pages.skip_next_page())?;
            }
            allowed.fits(values.saturating_mul(PER_VALUE))?;
            let mut values = readable(|| group.get_column_reader(column))?;
            let mut left = rows.min(wanted);
            while left > 0 {
                let (read, size) = read_batch(&mut values, left)?;
                allowed.take(size)?;
                if read == 0 {
                    break;
                }
                left = left.saturating_sub(read);
            }
        }
        wanted = wanted.saturating_sub(rows);
        if wanted == 0 {
            break;
        }
    }
    Ok(())
}

/// Reads a batch of a column: how many rows it is, and their size in bytes. Texts are not copied.
fn read_batch(column: &mut ColumnReader, rows: u64) -> Result<(u64, u64), String> {
    let rows = rows.min(BATCH as u64) as usize;
    match column {
        ColumnReader::BoolColumnReader(column) => sized(column, rows, |_| 1),
        ColumnReader::Int32ColumnReader(column) => sized(column, rows, |_| 4),
        ColumnReader::Int64ColumnReader(column) => sized(column, rows, |_| 8),
        ColumnReader::Int96ColumnReader(column) => sized(column, rows, |_| 12),
        ColumnReader::FloatColumnReader(column) => sized(column, rows, |_| 4),
        ColumnReader::DoubleColumnReader(column) => sized(column, rows, |_| 8),
        ColumnReader::ByteArrayColumnReader(column) => sized(column, rows, |text| text.len()),
        ColumnReader::FixedLenByteArrayColumnReader(column) => sized(column, rows, |text| text.len()),
    }
}

fn sized<T: DataType>(
    column: &mut ColumnReaderImpl<T>,
    rows: usize,
    size: impl Fn(&T::T) -> usize,
) -> Result<(u64, u64), String> {
    let (mut definition, mut repetition, mut values) = (Vec::new(), Vec::new(), Vec::new());
    let (read, _, levels) =
        readable(|| column.read_records(rows, Some(&mut definition), Some(&mut repetition), &mut values))?;
    let sizes: u64 = values.iter().map(|value| size(value) as u64).sum();
    Ok((read as u64, sizes + levels as u64 * PER_VALUE))
}

/// The library panics on some damaged files. Report that as a read error too.
fn readable<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, String> {
    match guarded(read) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(ParquetError::General(message))) if message.starts_with("Disabled feature") => {
            let codec = message.rsplit(' ').next().unwrap_or_default();
            Err(format!(
                "compressed with {codec}, which is not read: write it with zstd, snappy, gzip or lz4, for example with \
                 pandas: `to_parquet(FILE, compression=\"zstd\")`"
            ))
        }
        Ok(Err(error)) => Err(format!("not a readable parquet file: {error}")),
        Err(_) => Err("the parquet file is damaged".to_owned()),
    }
}

fn value(field: &Field) -> Result<Value> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(x) => Value::Bool(*x),
        Field::Byte(x) => (*x).into(),
        Field::Short(x) => (*x).into(),
        Field::Int(x) => (*x).into(),
        Field::Long(x) => (*x).into(),
        Field::UByte(x) => (*x).into(),
        Field::UShort(x) => (*x).into(),
        Field::UInt(x) => (*x).into(),
        Field::ULong(x) => (*x).into(),
        Field::Float16(x) => float(f64::from(*x)),
        Field::Float(x) => float(f64::from(*x)),
        Field::Double(x) => float(*x),
        Field::Str(text) => Value::String(text.clone()),
        Field::Bytes(bytes) => Value::String(
            String::from_utf8(bytes.data().to_vec())
                .map_err(|_| DataError::new("bytes that are not UTF-8"))?,
        ),
        Field::Group(row) => Value::Object(
            row.get_column_iter()
                .map(|(name, field)| Ok((name.clone(), value(field)?)))
                .collect::<Result<_>>()?,
        ),
        Field::ListInternal(list) => Value::Array(list.elements().iter().map(value).collect::<Result<_>>()?),
        // Text columns never have these types. A row that has them in other columns is still read.
        other => Value::String(other.to_string()),
    })
}
