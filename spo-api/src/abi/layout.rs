//! Function tables, and reading tables that are shorter or longer than in this version of the crate.

use std::mem::{MaybeUninit, size_of};

/// A struct of the ABI. It starts with its size in bytes, as a `u32`, and new fields are added at its end.
///
/// # Safety
/// The type is `#[repr(C)]`, and its first field is `size: u32`. A value is valid if the functions in
/// `FUNCTIONS` are not null, even if everything else is zero.
pub unsafe trait Table: Copy {
    /// The name used in messages.
    const NAME: &'static str;
    /// Minimum size in bytes: up to the first optional field.
    const LEAST: usize;
    /// Names and offsets of the required functions.
    const FUNCTIONS: &'static [(&'static str, usize)];
}

/// A table that cannot be used.
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

/// Checks that two functions which belong together are both present or both absent.
pub(super) fn both_or_none<T: Table>(names: [&str; 2], there: [bool; 2]) -> Result<(), TableError> {
    match there {
        [true, true] | [false, false] => Ok(()),
        _ => {
            let [one, other] = names;
            Err(TableError::new::<T>(format!("has one of `{one}` and `{other}` without the other")))
        }
    }
}

/// Copies a table. Fields beyond its size are absent in the copy.
///
/// # Errors
/// If the table is too short or lacks a required function. Code that has a table therefore need not check
/// again.
///
/// # Safety
/// `table` is null, or points to as many readable bytes as its first four bytes say.
pub(super) unsafe fn read<T: Table>(table: *const T) -> Result<T, TableError> {
    if table.is_null() {
        return Err(TableError::new::<T>("is missing (a null pointer)"));
    }
    if !table.is_aligned() {
        return Err(TableError::new::<T>("is not aligned as its fields demand"));
    }
    // SAFETY: the pointer is not null and aligned, and every table has a size.
    let size = unsafe { *table.cast::<u32>() } as usize;
    if size < T::LEAST {
        return Err(TableError::new::<T>(format!(
            "is truncated: it says that it has {size} bytes, at least {} are needed",
            T::LEAST
        )));
    }
    let mut copy = MaybeUninit::<T>::zeroed();
    let length = size.min(size_of::<T>());
    // SAFETY: the caller guarantees `size` readable bytes; the functions lie within them.
    unsafe {
        std::ptr::copy_nonoverlapping(table.cast::<u8>(), copy.as_mut_ptr().cast::<u8>(), length);
        for (name, offset) in T::FUNCTIONS {
            if copy.as_ptr().byte_add(*offset).cast::<*const ()>().read().is_null() {
                return Err(TableError::new::<T>(format!("has no function `{name}`")));
            }
        }
        Ok(copy.assume_init())
    }
}

/// Defines a function table: its name in messages, then data fields, required functions, and optional
/// functions, which may be null or lie beyond the size of an older table. The table of a `part` starts with
/// `create` and `destroy`.
macro_rules! table {
    (
        $(#[$meta:meta])*
        part $name:ident, $words:literal;
        data { $($data:tt)* }
        required { $($required:tt)* }
        optional { $($optional:tt)* }
    ) => {
        $crate::abi::layout::table! {
            $(#[$meta])*
            $name, $words;
            data { $($data)* }
            required {
                /// Creates a part from its configuration, as JSON. `context` is the context of the entry.
                create: fn(
                    context: *const std::ffi::c_void,
                    config: $crate::abi::Text,
                    out: *mut *mut std::ffi::c_void,
                    error: *const $crate::abi::ErrorSink
                ) -> i32;
                /// Frees the part.
                destroy: fn(this: *mut std::ffi::c_void);
                $($required)*
            }
            optional { $($optional)* }
        }
        impl $crate::abi::handle::PartTable for $name {
            fn create(&self) -> $crate::abi::Create {
                self.create
            }
            fn destroy(&self) -> $crate::abi::handle::Destroy {
                self.destroy
            }
        }
    };
    (
        $(#[$meta:meta])*
        $name:ident, $words:literal;
        data { $($(#[$data_doc:meta])* $data:ident: $data_type:ty;)* }
        required { $($(#[$required_doc:meta])* $required:ident: fn($($in:tt)*) $(-> $out:ty)?;)+ }
        optional { $($(#[$optional_doc:meta])* $optional:ident: fn($($optional_in:tt)*) $(-> $optional_out:ty)?;)* }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Clone, Copy)]
        pub struct $name {
            /// Size of this table in bytes.
            pub size: u32,
            $($(#[$data_doc])* pub $data: $data_type,)*
            $($(#[$required_doc])* pub $required: unsafe extern "C-unwind" fn($($in)*) $(-> $out)?,)+
            $(
                $(#[$optional_doc])*
                pub $optional: Option<unsafe extern "C-unwind" fn($($optional_in)*) $(-> $optional_out)?>,
            )*
        }

        // SAFETY: repr(C), starts with its size. Data fields are pointers and may be null, as may optional
        // functions.
        unsafe impl $crate::abi::layout::Table for $name {
            const NAME: &'static str = $words;
            const LEAST: usize = Self::FUNCTIONS[Self::FUNCTIONS.len() - 1].1 + size_of::<fn()>();
            const FUNCTIONS: &'static [(&'static str, usize)] =
                &[$((stringify!($required), std::mem::offset_of!(Self, $required))),+];
        }

        // SAFETY: by contract, a table and what it points to are immutable and can be read from any thread.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
    };
}
pub(super) use table;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    table! {
        /// For the test below.
        Example, "example";
        data { extra: *const (); }
        required { needed: fn(); }
        optional { later: fn(u32) -> u32; }
    }

    proptest! {
        /// Memory with arbitrary content: exactly the bytes covered by its size are read, and a size that is
        /// too small is rejected.
        #[test]
        fn a_table_of_any_size_is_read_as_far_as_it_goes(content in prop::collection::vec(any::<u64>(), 1..6), null: bool) {
            let mut content = content;
            if null && content.len() > 2 {
                content[2] = 0;
            }
            let bytes = content.len() * 8;
            let claimed = (content[0] as u32 as usize) % (bytes + 1);
            content[0] = (content[0] & !0xffff_ffff) | claimed as u64;
            // SAFETY: the size is at most that of the memory. No function is called.
            let table = unsafe { read(content.as_ptr().cast::<Example>()) };
            if claimed < 24 {
                prop_assert!(table.err().unwrap().to_string().contains("truncated"));
            } else if content[2] == 0 {
                prop_assert_eq!(table.err().unwrap().to_string(), "its example has no function `needed`");
            } else {
                let table = table.unwrap_or_else(|e| panic!("{e}"));
                prop_assert_eq!(table.extra as u64, content[1]);
                let covered = claimed.saturating_sub(24).min(8);
                let mask = if covered == 8 { u64::MAX } else { (1 << (8 * covered)) - 1 };
                let later = table.later.map_or(0, |later| later as usize as u64);
                prop_assert_eq!(later, content.get(3).copied().unwrap_or(0) & mask);
            }
        }
    }

    #[test]
    fn pointers_to_nothing_are_refused() {
        // SAFETY: null and misaligned pointers are not dereferenced.
        let (null, odd) = unsafe {
            (read(std::ptr::null::<Example>()), read(std::ptr::dangling::<u8>().cast::<Example>()))
        };
        assert!(null.err().unwrap().to_string().contains("null pointer"));
        assert!(odd.err().unwrap().to_string().contains("aligned"));
    }
}
