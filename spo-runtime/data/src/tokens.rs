//! The token ids of a row: in memory, or in a file that holds those of all rows.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use sha2::{Digest, Sha256};
use spo_api::{Error, Group, Result};

use crate::error::DataError;
use crate::hash;

/// Where the prompts and answers of a row are.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tokens {
    Memory(Vec<Group>),
    /// From this byte of a file.
    File(Arc<TokenFile>, u64),
}

impl Tokens {
    /// # Errors
    /// When the file cannot be read.
    pub(crate) fn groups(&self) -> Result<Cow<'_, [Group]>> {
        match self {
            Tokens::Memory(groups) => Ok(Cow::Borrowed(groups)),
            Tokens::File(file, start) => {
                let groups = file.read(*start).map_err(|e| Error::io(&file.folder, e))?;
                Ok(Cow::Owned(groups))
            }
        }
    }
}

/// Token ids on disk. The file has no name, so that nobody else changes it and nothing is left of it.
///
/// A row is the number of its groups, and for each group the number of its texts and the texts, the prompt first: a byte
/// that says how many bytes each id has, the number of ids, and the ids. Numbers are little-endian and have 4 bytes.
pub(crate) struct TokenFile {
    file: Mutex<File>,
    /// Where it lies, for errors.
    folder: PathBuf,
    /// The hash of all of it, once it is written.
    sha256: OnceLock<String>,
}

impl TokenFile {
    /// Reads the row that begins at this byte.
    fn read(&self, start: u64) -> io::Result<Vec<Group>> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(start))?;
        // Most rows are shorter.
        let mut file = io::BufReader::with_capacity(1 << 13, &mut *file);
        let groups = number(&mut file)?;
        (0..groups).map(|_| group(&mut file)).collect()
    }

    /// Writes all bytes of it.
    pub(crate) fn copy(&self, into: &mut impl Write) -> io::Result<u64> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.rewind()?;
        io::copy(&mut *file, into)
    }

    /// The hash of all of it.
    pub(crate) fn sha256(&self) -> &str {
        self.sha256.get().map_or("", String::as_str)
    }

    /// A file that has been written before, with its hash.
    pub(crate) fn open(path: &Path, sha256: String) -> io::Result<Arc<Self>> {
        let folder = path.parent().unwrap_or(path).to_owned();
        Ok(Arc::new(TokenFile { file: File::open(path)?.into(), folder, sha256: sha256.into() }))
    }
}

impl fmt::Debug for TokenFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TokenFile({})", self.folder.display())
    }
}

/// Two files are the same if they are one.
impl PartialEq for TokenFile {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// A [`TokenFile`] that is being written.
pub(crate) struct Writer {
    into: BufWriter<File>,
    file: Arc<TokenFile>,
    hasher: Sha256,
    at: u64,
}

impl Writer {
    /// A new file without a name in a folder.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn new(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let file = tempfile::tempfile_in(folder)?;
        let into = BufWriter::with_capacity(1 << 20, file.try_clone()?);
        let file = TokenFile { file: file.into(), folder: folder.to_owned(), sha256: OnceLock::new() };
        Ok(Writer { into, file: Arc::new(file), hasher: Sha256::new(), at: 0 })
    }

    /// Writes the groups of a row. They can be read after [`finish`](Self::finish).
    pub(crate) fn put(&mut self, groups: &[Group]) -> io::Result<Tokens> {
        let mut row = Vec::new();
        row.extend((groups.len() as u32).to_le_bytes());
        for Group { prompt, completions } in groups {
            row.extend((completions.len() as u32 + 1).to_le_bytes());
            for ids in std::iter::once(prompt).chain(completions) {
                let bytes = width(ids);
                row.push(bytes as u8);
                row.extend((ids.len() as u32).to_le_bytes());
                ids.iter().for_each(|id| row.extend(&id.to_le_bytes()[..bytes]));
            }
        }
        self.hasher.update(&row);
        self.into.write_all(&row)?;
        let start = self.at;
        self.at += row.len() as u64;
        Ok(Tokens::File(self.file.clone(), start))
    }

    /// Ends the file.
    ///
    /// # Errors
    /// When the last rows cannot be written.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.into.flush()?;
        let _ = self.file.sha256.set(hash::hex(self.hasher.clone()));
        Ok(())
    }

    /// What is said when writing failed.
    pub(crate) fn failed(&self, error: &io::Error) -> DataError {
        unwritable(&self.file.folder, error)
    }
}

/// What is said where no tokens can be written.
pub(crate) fn unwritable(folder: &Path, error: &io::Error) -> DataError {
    let message = format!(
        "cannot write the tokens of the rows: {error} (`cache.folder` says where, for `check` TMPDIR)"
    );
    DataError { failed: true, ..DataError::in_file(folder, message) }
}

/// Bytes that hold the largest of these ids.
fn width(ids: &[u32]) -> usize {
    let largest = ids.iter().max().copied().unwrap_or(0);
    (4 - largest.leading_zeros() as usize / 8).max(1)
}

fn number(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn group(from: &mut impl Read) -> io::Result<Group> {
    let texts = number(from)?;
    let prompt = ids(from)?;
    let completions = (1..texts).map(|_| ids(from)).collect::<io::Result<_>>()?;
    Ok(Group { prompt, completions })
}

fn ids(from: &mut impl Read) -> io::Result<Vec<u32>> {
    let mut width = [0];
    from.read_exact(&mut width)?;
    let width = usize::from(width[0]);
    if !(1..=4).contains(&width) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the tokens in it are damaged"));
    }
    let count = u64::from(number(from)?);
    let mut bytes = Vec::new();
    from.by_ref().take(count * width as u64).read_to_end(&mut bytes)?;
    if bytes.len() as u64 != count * width as u64 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let id = |bytes: &[u8]| bytes.iter().rev().fold(0, |id, byte| id << 8 | u32::from(*byte));
    Ok(bytes.chunks_exact(width).map(id).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ids() -> impl Strategy<Value = Vec<u32>> {
        prop_oneof![0..300_u32, Just(u32::MAX), 1 << 15..1_u32 << 25]
            .prop_flat_map(|most| prop::collection::vec(0..=most, 0..40))
    }

    proptest! {
        #[test]
        fn rows_come_back_in_any_order(rows in prop::collection::vec(
            prop::collection::vec((ids(), prop::collection::vec(ids(), 0..3)), 0..3), 1..20))
        {
            let folder = tempfile::tempdir().unwrap();
            let group = |(prompt, completions)| Group { prompt, completions };
            let rows: Vec<Vec<Group>> = rows.into_iter().map(|row| row.into_iter().map(group).collect()).collect();
            let mut writer = Writer::new(folder.path()).unwrap();
            let tokens: Vec<_> = rows.iter().map(|row| writer.put(row).unwrap()).collect();
            writer.finish().unwrap();
            for (row, tokens) in rows.iter().zip(&tokens).rev() {
                prop_assert_eq!(&*tokens.groups().unwrap(), row.as_slice());
            }
            // Nothing is left in the folder.
            prop_assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        }
    }
}
