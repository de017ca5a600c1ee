//! Tables for other programs: as CSV and as Parquet.

use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, Repetition, Type as Physical};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;

/// A column's values, an entry per row.
#[derive(Clone, Debug)]
pub enum Column {
    /// Text.
    Text(Vec<String>),
    /// True or false.
    Flag(Vec<bool>),
    /// Integers; `None` where there is none.
    Count(Vec<Option<i64>>),
    /// Numbers; `None` where there is none.
    Number(Vec<Option<f64>>),
}

/// Named columns of equal length.
#[derive(Clone, Debug, Default)]
pub struct Table {
    columns: Vec<(String, Column)>,
}

impl Table {
    /// The table with one more column.
    pub fn with(mut self, name: impl Into<String>, column: Column) -> Self {
        self.columns.push((name.into(), column));
        self
    }

    fn rows(&self) -> usize {
        self.columns.first().map_or(0, |(_, column)| column.len())
    }

    /// As CSV, with a line of names; missing values are empty. A name or text that a spreadsheet would take for a formula
    /// begins with an apostrophe, which makes it a text there.
    pub fn csv(&self) -> Vec<u8> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let names = self.columns.iter().map(|(name, _)| no_formula(name)).collect();
        let row = |row| self.columns.iter().map(|(_, column)| column.text(row)).collect();
        let mut records = std::iter::once::<Vec<String>>(names).chain((0..self.rows()).map(row));
        let written = records.try_for_each(|record| writer.write_record(record));
        written
            .and_then(|()| Ok(writer.into_inner().map_err(csv::IntoInnerError::into_error)?))
            .expect("memory can be written to")
    }

    /// As a Parquet file, compressed with Snappy; missing values are null.
    pub fn parquet(&self) -> Vec<u8> {
        self.write_parquet().expect("memory can be written to")
    }

    fn write_parquet(&self) -> Result<Vec<u8>> {
        let fields = self.columns.iter().map(|(name, column)| column.field(name).map(Arc::new));
        let schema = Type::group_type_builder("table").with_fields(fields.collect::<Result<_>>()?).build()?;
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut bytes = Vec::new();
        let mut file = SerializedFileWriter::new(&mut bytes, Arc::new(schema), Arc::new(properties))?;
        let mut rows = file.next_row_group()?;
        for (_, column) in &self.columns {
            let mut writer = rows.next_column()?.expect("the schema has these columns");
            column.write(&mut writer)?;
            writer.close()?;
        }
        rows.close()?;
        file.close()?;
        Ok(bytes)
    }
}

impl Column {
    fn len(&self) -> usize {
        match self {
            Column::Text(values) => values.len(),
            Column::Flag(values) => values.len(),
            Column::Count(values) => values.len(),
            Column::Number(values) => values.len(),
        }
    }

    fn text(&self, row: usize) -> String {
        fn known(value: Option<impl ToString>) -> String {
            value.map_or(String::new(), |value| value.to_string())
        }
        match self {
            Column::Text(values) => no_formula(&values[row]),
            Column::Flag(values) => values[row].to_string(),
            Column::Count(values) => known(values[row]),
            Column::Number(values) => known(values[row]),
        }
    }

    fn field(&self, name: &str) -> Result<Type> {
        let (physical, meaning, repetition) = match self {
            Column::Text(_) => (Physical::BYTE_ARRAY, ConvertedType::UTF8, Repetition::REQUIRED),
            Column::Flag(_) => (Physical::BOOLEAN, ConvertedType::NONE, Repetition::REQUIRED),
            Column::Count(_) => (Physical::INT64, ConvertedType::NONE, Repetition::OPTIONAL),
            Column::Number(_) => (Physical::DOUBLE, ConvertedType::NONE, Repetition::OPTIONAL),
        };
        let field = Type::primitive_type_builder(name, physical);
        field.with_converted_type(meaning).with_repetition(repetition).build()
    }

    fn write(&self, into: &mut SerializedColumnWriter<'_>) -> Result<usize> {
        /// The values without the missing ones, and for every row its definition level: 1 if it has a value.
        fn split<T: Copy>(values: &[Option<T>]) -> (Vec<T>, Vec<i16>) {
            let levels = values.iter().map(|value| i16::from(value.is_some()));
            (values.iter().flatten().copied().collect(), levels.collect())
        }
        match self {
            Column::Text(values) => {
                let values: Vec<ByteArray> = values.iter().map(|text| text.as_str().into()).collect();
                into.typed::<ByteArrayType>().write_batch(&values, None, None)
            }
            Column::Flag(values) => into.typed::<BoolType>().write_batch(values, None, None),
            Column::Count(values) => {
                let (values, levels) = split(values);
                into.typed::<Int64Type>().write_batch(&values, Some(&levels), None)
            }
            Column::Number(values) => {
                let (values, levels) = split(values);
                into.typed::<DoubleType>().write_batch(&values, Some(&levels), None)
            }
        }
    }
}

/// A text that no spreadsheet runs: those that begin like a formula get an apostrophe in front.
fn no_formula(text: &str) -> String {
    match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::FileReader;
    use parquet::file::serialized_reader::SerializedFileReader;

    use super::*;

    #[test]
    fn a_spreadsheet_runs_no_text_of_a_table() {
        let texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "a=1", ""];
        let table = Table::default()
            .with("=name", Column::Text(texts.map(str::to_owned).to_vec()))
            .with("loss", Column::Number(vec![Some(-0.5); texts.len()]));
        let csv = table.csv();
        let mut read = csv::Reader::from_reader(&csv[..]);
        assert_eq!(read.headers().unwrap(), vec!["'=name", "loss"]);
        let rows: Vec<_> = read.records().map(Result::unwrap).collect();
        let seen: Vec<&str> = rows.iter().map(|row| &row[0]).collect();
        assert_eq!(seen, ["'=1+1", "'+1", "'-1", "'@SUM(A1)", "'\t=1", "a=1", ""]);
        assert!(rows.iter().all(|row| &row[1] == "-0.5"), "numbers stay numbers");
    }

    #[test]
    fn both_forms_say_the_same() {
        let table = Table::default()
            .with("arm", Column::Text(vec!["dpo, \"plain\"".into(), "spo".into()]))
            .with("done", Column::Flag(vec![true, false]))
            .with("seed", Column::Count(vec![Some(i64::MAX), None]))
            .with("eval/loss", Column::Number(vec![None, Some(0.1)]));
        let csv = String::from_utf8(table.csv()).unwrap();
        let rows = "\"dpo, \"\"plain\"\"\",true,9223372036854775807,\nspo,false,,0.1\n";
        assert_eq!(csv, format!("arm,done,seed,eval/loss\n{rows}"));
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("table.parquet");
        std::fs::write(&path, table.parquet()).unwrap();
        let reader = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
        let read: Vec<String> =
            reader.get_row_iter(None).unwrap().map(|row| row.unwrap().to_string()).collect();
        assert_eq!(
            read,
            [
                "{arm: \"dpo, \"plain\"\", done: true, seed: 9223372036854775807, eval/loss: null}",
                "{arm: \"spo\", done: false, seed: null, eval/loss: 0.1}"
            ]
        );
    }

    #[test]
    fn a_table_may_have_no_rows() {
        let table = Table::default().with("run", Column::Text(Vec::new()));
        assert_eq!(table.csv(), b"run\n");
        assert!(table.parquet().starts_with(b"PAR1"));
    }
}
