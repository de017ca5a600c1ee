//! Parquet files, row by row.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::FileReader;
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::Field;
use serde_json::{Number, Value};

use crate::error::{At, DataError, Place, Result};
use crate::source::Visit;

pub(crate) fn rows(path: &Path, visit: &mut Visit<'_>) -> Result<()> {
    let file = std::fs::File::open(path).map_err(|e| DataError::io(path, &e))?;
    let reader = guarded(|| SerializedFileReader::new(file)).map_err(|e| DataError::in_file(path, e))?;
    let mut rows = guarded(|| reader.get_row_iter(None)).map_err(|e| DataError::in_file(path, e))?;
    let name: Arc<Path> = path.into();
    for index in 1.. {
        let place = Place { file: name.clone(), at: At::Row(index) };
        let row = guarded(|| rows.next().transpose()).map_err(|e| DataError::new(e).at(&place))?;
        let Some(row) = row else { break };
        let record = row
            .get_column_iter()
            .map(|(column, field)| match value(field) {
                Ok(value) => Ok((column.clone(), value)),
                Err(e) => Err(DataError::new(format!("column `{column}`: {}", e.message)).at(&place)),
            })
            .collect::<Result<_>>()?;
        if !visit(place, record)? {
            break;
        }
    }
    Ok(())
}

/// The library panics on some damaged files. Report that as a read error too.
fn guarded<T>(read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T, String> {
    match std::panic::catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(ParquetError::General(message))) if message.starts_with("Disabled feature") => {
            let codec = message.rsplit(' ').next().unwrap_or_default();
            Err(format!(
                "compressed with {codec}, which is not read: write it with snappy, gzip, lz4 or none, for example with \
                 pandas: `to_parquet(FILE, compression=\"snappy\")`"
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
        Field::Float16(x) => number(f64::from(*x)),
        Field::Float(x) => number(f64::from(*x)),
        Field::Double(x) => number(*x),
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

/// NaN and infinity become null, because JSON has neither.
fn number(x: f64) -> Value {
    Number::from_f64(x).map_or(Value::Null, Value::Number)
}
