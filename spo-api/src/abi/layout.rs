//! How a table is read that may be shorter or longer than the one this crate was built with.

use std::mem::{MaybeUninit, size_of};

/// A table of functions that begins with its size in bytes, as a `u32`.
///
/// # Safety
/// The type is `#[repr(C)]`, its first field is `size: u32`, and a value of all zeros is valid.
pub unsafe trait Table: Copy {
    /// What it is called in messages.
    const NAME: &'static str;
    /// Bytes that must be there: up to the first optional field.
    const REQUIRED: usize;
}

/// A table that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its {table} {problem}")]
pub struct TableError {
    /// [`Table::NAME`].
    pub table: &'static str,
    /// What is wrong, as the end of a sentence.
    pub problem: String,
}

impl TableError {
    pub(super) fn new<T: Table>(problem: impl Into<String>) -> Self {
        TableError { table: T::NAME, problem: problem.into() }
    }
}

/// Copies a table, leaving what lies beyond its size absent.
///
/// # Safety
/// `table` is null or points to as many readable bytes as its first four say.
pub(super) unsafe fn read<T: Table>(table: *const T) -> Result<T, TableError> {
    if table.is_null() {
        return Err(TableError::new::<T>("is missing (a null pointer)"));
    }
    if !table.is_aligned() {
        return Err(TableError::new::<T>("is not aligned as its fields demand"));
    }
    // SAFETY: not null, aligned, and a size is always there.
    let size = unsafe { *table.cast::<u32>() } as usize;
    if size < T::REQUIRED {
        return Err(TableError::new::<T>(format!(
            "is truncated: it says that it has {size} bytes, at least {} are needed",
            T::REQUIRED
        )));
    }
    let mut copy = MaybeUninit::<T>::zeroed();
    let length = size.min(size_of::<T>());
    // SAFETY: the caller vouches for `size` bytes; the rest stays zero, which is valid.
    unsafe {
        std::ptr::copy_nonoverlapping(table.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), length);
        Ok(copy.assume_init())
    }
}

/// The function in a field, or a [`TableError`] that names the field.
macro_rules! required {
    ($table:expr, $type:ty, $($field:ident),+ $(,)?) => {
        $(if $table.$field.is_none() {
            return Err($crate::abi::layout::TableError::new::<$type>(
                concat!("has no function `", stringify!($field), "`"),
            ));
        })+
    };
}
pub(super) use required;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[repr(C)]
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Example {
        size: u32,
        needed: u32,
        extra: u64,
    }

    // SAFETY: repr(C), begins with its size, integers may be zero.
    unsafe impl Table for Example {
        const NAME: &'static str = "example";
        const REQUIRED: usize = std::mem::offset_of!(Example, extra);
    }

    proptest! {
        /// Memory of any content: what its size covers is read, no more, and too little is refused.
        #[test]
        fn a_table_of_any_size_is_read_as_far_as_it_goes(content in prop::collection::vec(any::<u64>(), 1..6)) {
            let bytes = content.len() * 8;
            let mut content = content;
            let claimed = (content[0] as u32 as usize) % (bytes + 1);
            content[0] = (content[0] & !0xffff_ffff) | claimed as u64;
            // SAFETY: the size was cut to what is there.
            let table = unsafe { read(content.as_ptr().cast::<Example>()) };
            if claimed < 8 {
                prop_assert!(table.unwrap_err().to_string().contains("truncated"));
            } else {
                let table = table.unwrap();
                prop_assert_eq!(table.needed, (content[0] >> 32) as u32);
                let covered = claimed.saturating_sub(8).min(8);
                let mask = if covered == 8 { u64::MAX } else { (1 << (8 * covered)) - 1 };
                prop_assert_eq!(table.extra, content.get(1).copied().unwrap_or(0) & mask);
            }
        }
    }

    #[test]
    fn pointers_to_nothing_are_refused() {
        // SAFETY: null and misaligned pointers are not followed.
        let (null, odd) = unsafe {
            (read(std::ptr::null::<Example>()), read(std::ptr::dangling::<u8>().cast::<Example>()))
        };
        assert!(null.unwrap_err().to_string().contains("null pointer"));
        assert!(odd.unwrap_err().to_string().contains("aligned"));
    }
}
