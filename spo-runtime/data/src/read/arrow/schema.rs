//! The columns of an Arrow file, and how each is laid out.

use std::collections::BTreeSet;

use polars_arrow_format::ipc::{
    DateUnit, DictionaryEncodingRef, Endianness, FieldRef, IntRef, Precision, SchemaRef, TimeUnit, TypeRef,
    planus,
};

use super::damaged;

/// Columns within columns, and all of them: a small file can say the same columns again and again.
const DEEPEST: usize = 64;
const MOST: usize = 10_000;

/// The columns.
pub(super) struct Schema {
    pub(super) fields: Vec<Field>,
}

pub(super) struct Field {
    pub(super) name: String,
    pub(super) layout: Layout,
    pub(super) children: Vec<Field>,
    /// For a column of numbers that stand for values: the number of their dictionary.
    pub(super) dictionary: Option<(i64, Integer)>,
}

/// How the values of a column lie in its buffers. `wide` offsets have 8 bytes and others 4.
#[derive(Clone, Copy)]
pub(super) enum Layout {
    Null,
    Bool,
    Integer(Integer),
    /// The bytes of a number.
    Float(usize),
    Text {
        wide: bool,
    },
    View,
    /// Texts of this many bytes.
    FixedText(usize),
    /// Numbers of this many bytes with this many decimals.
    Decimal(usize, usize),
    List {
        wide: bool,
    },
    ListView {
        wide: bool,
    },
    /// Lists of this many values.
    FixedList(usize),
    Struct,
}

#[derive(Clone, Copy)]
pub(super) struct Integer {
    pub(super) bytes: usize,
    pub(super) signed: bool,
}

impl Schema {
    /// # Errors
    /// When it is damaged, or has a column that cannot be read.
    pub(super) fn read(schema: SchemaRef<'_>) -> Result<Self, String> {
        if schema.endianness().map_err(damaged)? != Endianness::Little {
            return Err("an Arrow file of a big-endian machine: write it again on another".to_owned());
        }
        let mut fields = Vec::new();
        let mut count = 0;
        for field in schema.fields().map_err(damaged)?.into_iter().flatten() {
            fields.push(Field::read(field.map_err(damaged)?, 0, &mut count)?);
        }
        let mut seen = BTreeSet::new();
        match fields.iter().find(|field| !seen.insert(&*field.name)) {
            Some(twice) => Err(format!("two columns are called `{}`", twice.name)),
            None => Ok(Schema { fields }),
        }
    }

    /// The column whose values a dictionary holds.
    pub(super) fn coded(&self, dictionary: i64) -> Option<&Field> {
        fn find(fields: &[Field], id: i64) -> Option<&Field> {
            fields.iter().find_map(|field| match field.dictionary {
                Some((own, _)) if own == id => Some(field),
                _ => find(&field.children, id),
            })
        }
        find(&self.fields, dictionary)
    }
}

impl Field {
    fn read(field: FieldRef<'_>, depth: usize, count: &mut usize) -> Result<Self, String> {
        *count += 1;
        if *count > MOST || depth > DEEPEST {
            return Err(damaged(format!("more than {MOST} columns, or {DEEPEST} within one another")));
        }
        let name = field.name().map_err(damaged)?.unwrap_or_default().to_owned();
        let found = field.type_().map_err(damaged)?.ok_or_else(|| damaged("a column without a type"))?;
        let layout = layout(&found).map_err(damaged)?.map_err(|what| {
            format!(
                "column `{name}`: {what}, which is not read: cast it to text or numbers, or remove the column"
            )
        })?;
        let mut children = Vec::new();
        for child in field.children().map_err(damaged)?.into_iter().flatten() {
            children.push(Field::read(child.map_err(damaged)?, depth + 1, count)?);
        }
        if matches!(layout, Layout::List { .. } | Layout::ListView { .. } | Layout::FixedList(_))
            && children.len() != 1
        {
            return Err(damaged(format!("column `{name}`: a list of {} kinds of values", children.len())));
        }
        let dictionary = field.dictionary().and_then(|found| found.map(of_dictionary).transpose());
        let dictionary = dictionary.map_err(damaged)?;
        if let Some((_, Integer { bytes, .. })) = dictionary
            && !matches!(bytes, 1 | 2 | 4 | 8)
        {
            return Err(damaged(format!("column `{name}`: numbers of {bytes} bytes")));
        }
        Ok(Field { name, layout, children, dictionary })
    }
}

fn of_dictionary(found: DictionaryEncodingRef<'_>) -> planus::Result<(i64, Integer)> {
    // 32 bits with a sign unless given.
    let index = found.index_type()?.map(integer).transpose()?;
    Ok((found.id()?, index.unwrap_or(Integer { bytes: 4, signed: true })))
}

fn integer(found: IntRef<'_>) -> planus::Result<Integer> {
    Ok(Integer { bytes: usize::try_from(found.bit_width()?).unwrap_or(0) / 8, signed: found.is_signed()? })
}

/// The layout of a type; for one that is not read, what it is.
fn layout(found: &TypeRef<'_>) -> planus::Result<Result<Layout, String>> {
    let size = |number: i32| usize::try_from(number).unwrap_or(0);
    let whole = |bytes| Layout::Integer(Integer { bytes, signed: true });
    Ok(Ok(match found {
        TypeRef::Null(_) => Layout::Null,
        TypeRef::Bool(_) => Layout::Bool,
        TypeRef::Int(found) => match integer(*found)? {
            known @ Integer { bytes: 1 | 2 | 4 | 8, .. } => Layout::Integer(known),
            other => return Ok(Err(format!("whole numbers of {} bytes", other.bytes))),
        },
        TypeRef::FloatingPoint(found) => Layout::Float(match found.precision()? {
            Precision::Half => 2,
            Precision::Single => 4,
            Precision::Double => 8,
        }),
        TypeRef::Utf8(_) | TypeRef::Binary(_) => Layout::Text { wide: false },
        TypeRef::LargeUtf8(_) | TypeRef::LargeBinary(_) => Layout::Text { wide: true },
        TypeRef::Utf8View(_) | TypeRef::BinaryView(_) => Layout::View,
        TypeRef::FixedSizeBinary(found) => Layout::FixedText(size(found.byte_width()?)),
        TypeRef::Decimal(found) => match size(found.bit_width()?) / 8 {
            bytes @ (4 | 8 | 16) if found.scale()? >= 0 => Layout::Decimal(bytes, size(found.scale()?)),
            _ => return Ok(Err("a decimal number of more than 128 bits, or without decimals".to_owned())),
        },
        TypeRef::List(_) | TypeRef::Map(_) => Layout::List { wide: false },
        TypeRef::LargeList(_) => Layout::List { wide: true },
        TypeRef::ListView(_) => Layout::ListView { wide: false },
        TypeRef::LargeListView(_) => Layout::ListView { wide: true },
        TypeRef::FixedSizeList(found) => Layout::FixedList(size(found.list_size()?)),
        TypeRef::Struct(_) => Layout::Struct,
        // Points and spans of time are read as the numbers that they are stored as.
        TypeRef::Date(found) => whole(if found.unit()? == DateUnit::Day { 4 } else { 8 }),
        TypeRef::Time(found) => {
            whole(if matches!(found.unit()?, TimeUnit::Second | TimeUnit::Millisecond) { 4 } else { 8 })
        }
        TypeRef::Timestamp(_) | TypeRef::Duration(_) => whole(8),
        TypeRef::Interval(_) => return Ok(Err("an interval of the calendar".to_owned())),
        TypeRef::Union(_) => return Ok(Err("a union of types".to_owned())),
        TypeRef::RunEndEncoded(_) => return Ok(Err("run-end encoded".to_owned())),
    }))
}
