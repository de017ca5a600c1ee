//! How much a file may become: a few bytes can say that a long value comes a billion times.

use std::cell::Cell;

use super::{ALLOWANCE, GROWTH};

/// What a row and a value take at least, in bytes.
pub(super) const PER_ROW: u64 = 64;
pub(super) const PER_VALUE: u64 = 8;

/// How much of a file is still to be read.
pub(super) struct Allowed {
    /// Of the whole file.
    bytes: u64,
    left: Cell<u64>,
}

impl Allowed {
    /// For a file of this size.
    pub(super) fn new(bytes: u64) -> Self {
        Allowed { bytes, left: Cell::new(whole(bytes)) }
    }

    /// Counts bytes that are read.
    ///
    /// # Errors
    /// When they are too many.
    pub(super) fn take(&self, bytes: u64) -> Result<(), String> {
        self.fits(bytes)?;
        self.left.set(self.left.get() - bytes);
        Ok(())
    }

    /// # Errors
    /// When so many bytes would be too many.
    pub(super) fn fits(&self, bytes: u64) -> Result<(), String> {
        if bytes <= self.left.get() {
            return Ok(());
        }
        Err(format!(
            "the file has {} bytes, and its rows take more than {GROWTH} times as much and {} MiB: the same long \
             values again and again. If they are meant, write the rows as JSON lines",
            self.bytes,
            ALLOWANCE >> 20
        ))
    }
}

/// How many bytes a file of this size may become.
pub(super) fn whole(bytes: u64) -> u64 {
    bytes.saturating_mul(GROWTH).saturating_add(ALLOWANCE)
}
