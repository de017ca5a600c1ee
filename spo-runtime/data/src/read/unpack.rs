//! Compressed files, unpacked as they are read: gzip, Zstandard and xz, told by their first bytes.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use spo_api::open_regular;

use super::allowed::whole;
use super::{ALLOWANCE, GROWTH};
use crate::error::{DataError, Result};
use crate::guard::guarded;

/// Bytes read at a time.
const BUFFER: usize = 1 << 16;

/// The memory that an xz file may ask for, in KiB. The largest preset of `xz` asks for a quarter of it.
const XZ_MEMORY: u32 = 256 << 10;

/// The ends of names of compressed files.
pub(crate) const EXTENSIONS: [&str; 4] = ["gz", "zst", "zstd", "xz"];

/// How a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    Gzip,
    Zstd,
    Xz,
}

impl Packing {
    fn of(head: &[u8]) -> Option<Packing> {
        match head {
            [0x1f, 0x8b, ..] => Some(Packing::Gzip),
            // The last is a frame to be skipped, with which some programs begin.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Packing::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(Packing::Xz),
            _ => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
            Packing::Xz => "xz",
        }
    }

    /// The program that unpacks it.
    pub(crate) fn program(self) -> &'static str {
        match self {
            Packing::Gzip => "gunzip",
            Packing::Zstd => "unzstd",
            Packing::Xz => "unxz",
        }
    }
}

/// The content of a file, unpacked if it is compressed.
pub(crate) struct Content {
    pub(crate) packing: Option<Packing>,
    pub(crate) reader: Box<dyn BufRead>,
}

/// Opens a file.
///
/// # Errors
/// When it is not a regular file, or cannot be read.
pub(crate) fn open(path: &Path) -> Result<Content> {
    let failed = |e: io::Error| DataError::io(path, &e);
    let file = open_regular(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    let mut file = BufReader::with_capacity(BUFFER, file);
    let packing = Packing::of(file.fill_buf().map_err(failed)?);
    let Some(packing) = packing else { return Ok(Content { packing: None, reader: Box::new(file) }) };
    let unpacked: Box<dyn Read> = match packing {
        Packing::Gzip => Box::new(MultiGzDecoder::new(file)),
        Packing::Zstd => Box::new(Frames { file, decoder: FrameDecoder::new() }),
        Packing::Xz => Box::new(XzReader::new_mem_limit(file, true, XZ_MEMORY)),
    };
    let bounded = Bounded { unpacked, packing, bytes, left: whole(bytes) };
    Ok(Content { packing: Some(packing), reader: Box::new(BufReader::with_capacity(BUFFER, bounded)) })
}

/// What is unpacked, up to a limit: a few bytes can say that another comes a billion times.
struct Bounded {
    unpacked: Box<dyn Read>,
    packing: Packing,
    /// The size of the file.
    bytes: u64,
    left: u64,
}

impl Read for Bounded {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let name = self.packing.name();
        let damaged =
            |e: &dyn std::fmt::Display| io::Error::other(format!("not a readable {name} file: {e}"));
        let length = match guarded(|| self.unpacked.read(into)) {
            Ok(read) => read.map_err(|e| damaged(&e))?,
            Err(_) => return Err(damaged(&"it is damaged")),
        };
        if length as u64 > self.left {
            return Err(io::Error::other(format!(
                "the file has {} bytes, and unpacked more than {GROWTH} times as many and {} MiB. If that is meant, \
                 unpack it with `{}`",
                self.bytes,
                ALLOWANCE >> 20,
                self.packing.program()
            )));
        }
        self.left -= length as u64;
        Ok(length)
    }
}

/// The frames of a Zstandard file, one after another.
struct Frames<R> {
    file: R,
    decoder: FrameDecoder,
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.decoder.can_collect() > 0 {
                return self.decoder.read(into);
            }
            if !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.file, one).map_err(io::Error::other)?;
                continue;
            }
            let (said, computed) =
                (self.decoder.get_checksum_from_data(), self.decoder.get_calculated_checksum());
            if said.is_some() && said != computed {
                return Err(io::Error::other("the checksum is another"));
            }
            if into.is_empty() || self.file.fill_buf()?.is_empty() {
                return Ok(0);
            }
            match self.decoder.init(&mut self.file) {
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let length = u64::from(length);
                    if io::copy(&mut self.file.by_ref().take(length), &mut io::sink())? < length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    self.decoder = FrameDecoder::new();
                }
                begun => begun.map_err(io::Error::other)?,
            }
        }
    }
}
