//! Pages of Parquet that are packed with Zstandard or Brotli.
//!
//! The library unpacks these with code in C, or with a whole compressor, which take a minute to build. So it is told
//! that such a column is not packed, and its pages are unpacked here.

use std::fs::File;
use std::io::Read;
use std::sync::Arc;

use brotli_decompressor::Decompressor;
use parquet::basic::{Compression, CompressionCodec};
use parquet::bloom_filter::Sbbf;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ColumnChunkMetaData, RowGroupMetaData};
use parquet::file::reader::RowGroupReader;
use parquet::file::serialized_reader::SerializedPageReader;
use parquet::record::reader::RowIter;
use parquet::schema::types::Type;
use ruzstd::decoding::StreamingDecoder;

/// What is read of a packed page at a time, in bytes.
const BUFFER: usize = 1 << 14;

/// The columns of some rows.
pub(super) struct Group<'a> {
    file: Arc<File>,
    metadata: &'a RowGroupMetaData,
    /// The same columns, as if none were packed with anything that is unpacked here.
    columns: Vec<(Option<Codec>, ColumnChunkMetaData)>,
    /// How long a page may become, in bytes.
    limit: u64,
}

impl<'a> Group<'a> {
    pub(super) fn new(file: Arc<File>, metadata: &'a RowGroupMetaData, limit: u64) -> Result<Self> {
        let plain = |column: &ColumnChunkMetaData| {
            let codec = Codec::of(column);
            let column = match codec {
                None => column.clone(),
                Some(_) => {
                    let builder = column.clone().into_builder();
                    builder.set_compression(Compression::UNCOMPRESSED).build()?
                }
            };
            Ok((codec, column))
        };
        let columns = metadata.columns().iter().map(plain).collect::<Result<_>>()?;
        Ok(Group { file, metadata, columns, limit })
    }
}

impl RowGroupReader for Group<'_> {
    fn metadata(&self) -> &RowGroupMetaData {
        self.metadata
    }

    fn num_columns(&self) -> usize {
        self.columns.len()
    }

    fn get_column_page_reader(&self, index: usize) -> Result<Box<dyn PageReader>> {
        let (codec, column) = &self.columns[index];
        let rows = usize::try_from(self.metadata.num_rows())?;
        let packed = SerializedPageReader::new(self.file.clone(), column, rows, None)?;
        Ok(match *codec {
            None => Box::new(packed),
            Some(codec) => Box::new(Pages { packed, codec, limit: self.limit }),
        })
    }

    fn get_column_bloom_filter(&self, _: usize) -> Option<&Sbbf> {
        None
    }

    fn get_row_iter(&self, columns: Option<Type>) -> Result<RowIter<'_>> {
        RowIter::from_row_group(columns, self)
    }
}

#[derive(Clone, Copy)]
enum Codec {
    Zstd,
    Brotli,
}

impl Codec {
    fn of(column: &ColumnChunkMetaData) -> Option<Self> {
        match column.compression_codec() {
            CompressionCodec::ZSTD => Some(Codec::Zstd),
            CompressionCodec::BROTLI => Some(Codec::Brotli),
            _ => None,
        }
    }

    /// Unpacks all of `packed` behind its first `plain` bytes, which are not packed.
    fn unpack(self, packed: &[u8], plain: usize, limit: u64) -> Result<Vec<u8>> {
        let damaged = |what: &str| ParquetError::General(what.to_owned());
        let (levels, packed) = packed.split_at_checked(plain).ok_or_else(|| damaged("a page is cut"))?;
        let mut bytes = levels.to_vec();
        if packed.is_empty() {
            return Ok(bytes);
        }
        let mut reader: Box<dyn Read> = match self {
            Codec::Zstd => Box::new(StreamingDecoder::new(packed).map_err(|e| damaged(&e.to_string()))?),
            Codec::Brotli => Box::new(Decompressor::new(packed, BUFFER)),
        };
        let read = reader.by_ref().take(limit).read_to_end(&mut bytes)?;
        match (read as u64) < limit {
            true => Ok(bytes),
            false => Err(damaged("a page unpacks to far more than the file has")),
        }
    }
}

/// The pages of a column, unpacked.
struct Pages {
    packed: SerializedPageReader<File>,
    codec: Codec,
    limit: u64,
}

impl PageReader for Pages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let Some(mut page) = self.packed.get_next_page()? else { return Ok(None) };
        let (codec, limit) = (self.codec, self.limit);
        match &mut page {
            Page::DataPage { buf, .. } | Page::DictionaryPage { buf, .. } => {
                *buf = codec.unpack(buf, 0, limit)?.into();
            }
            Page::DataPageV2 {
                buf, def_levels_byte_len, rep_levels_byte_len, is_compressed: true, ..
            } => {
                let levels = *def_levels_byte_len as usize + *rep_levels_byte_len as usize;
                *buf = codec.unpack(buf, levels, limit)?.into();
            }
            Page::DataPageV2 { .. } => {}
        }
        Ok(Some(page))
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.packed.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.packed.skip_next_page()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.packed.at_record_boundary()
    }
}

impl Iterator for Pages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_unpacked_up_to_a_limit_behind_what_is_not_packed() {
        let packed = include_bytes!("../../../tests/fixtures/rows.jsonl.zst");
        let page = [b"levels", packed.as_slice()].concat();
        let unpacked = Codec::Zstd.unpack(&page, 6, 1 << 20).unwrap();
        assert!(unpacked.starts_with(b"levels{\"prompt\": \"Add 0"));
        let length = unpacked.len() as u64 - 6;
        assert!(Codec::Zstd.unpack(&page, 6, length + 1).is_ok());
        for (page, plain, limit) in
            [(&page, 6, length), (&page, page.len() + 1, 1 << 20), (&page, 0, 1 << 20)]
        {
            assert!(Codec::Zstd.unpack(page, plain, limit).is_err());
        }
        assert!(Codec::Brotli.unpack(packed, 0, 1 << 20).is_err());
        assert_eq!(Codec::Brotli.unpack(b"ab", 2, 1).unwrap(), b"ab");
    }
}
