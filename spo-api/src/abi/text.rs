//! Text and bytes across the plugin ABI.

use std::ffi::c_void;

use crate::Error;

/// Borrowed UTF-8 text. Null means none.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// First byte.
    pub bytes: *const u8,
    /// Number of bytes; there is no terminating zero.
    pub length: usize,
}

impl Text {
    /// No text.
    pub const NONE: Text = Text { bytes: std::ptr::null(), length: 0 };

    /// Borrows a string, which must stay in place while the result is used.
    pub const fn of(text: &str) -> Self {
        Text::bytes_of(text.as_bytes())
    }

    /// Like [`of`](Self::of), for bytes that need not be UTF-8.
    pub(super) const fn bytes_of(bytes: &[u8]) -> Self {
        Text { bytes: bytes.as_ptr(), length: bytes.len() }
    }

    /// The bytes; empty for null.
    ///
    /// # Safety
    /// The bytes are readable for as long as the result is used.
    pub(super) unsafe fn bytes<'a>(self) -> &'a [u8] {
        if self.bytes.is_null() || self.length == 0 {
            return &[];
        }
        // SAFETY: guaranteed by the caller.
        unsafe { std::slice::from_raw_parts(self.bytes, self.length.min(isize::MAX as usize)) }
    }

    /// The text, with invalid UTF-8 replaced by the replacement character.
    ///
    /// # Safety
    /// As [`bytes`](Self::bytes).
    pub(super) unsafe fn lossy(self) -> String {
        // SAFETY: guaranteed by the caller.
        String::from_utf8_lossy(unsafe { self.bytes() }).into_owned()
    }

    /// The text, or an error that refers to it as `what`.
    ///
    /// # Safety
    /// As [`bytes`](Self::bytes).
    pub(super) unsafe fn strict<'a>(self, what: &str) -> Result<&'a str, String> {
        // SAFETY: guaranteed by the caller.
        std::str::from_utf8(unsafe { self.bytes() }).map_err(|e| format!("{what} is not UTF-8: {e}"))
    }
}

/// Receives a result whose size the caller cannot know.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ByteSink {
    /// First argument of `write`.
    pub context: *mut c_void,
    /// Appends bytes; may be called repeatedly.
    pub write: unsafe extern "C-unwind" fn(context: *mut c_void, bytes: *const u8, length: usize),
}

impl ByteSink {
    /// Collects what `fill` writes.
    pub(super) fn collect(fill: impl FnOnce(*const ByteSink)) -> Vec<u8> {
        unsafe extern "C-unwind" fn write(context: *mut c_void, bytes: *const u8, length: usize) {
            // SAFETY: the context is the vector below; the writer guarantees that its bytes are readable.
            unsafe { (*context.cast::<Vec<u8>>()).extend_from_slice(Text { bytes, length }.bytes()) }
        }
        let mut out = Vec::new();
        fill(&ByteSink { context: (&raw mut out).cast(), write });
        out
    }

    /// Writes all of `bytes`.
    ///
    /// # Safety
    /// `sink` is valid.
    pub(super) unsafe fn put(sink: *const ByteSink, bytes: &[u8]) {
        // SAFETY: guaranteed by the caller.
        unsafe { ((*sink).write)((*sink).context, bytes.as_ptr(), bytes.len()) }
    }
}

/// Parses JSON received from the other side.
pub(super) fn from_json<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|e| Error::Engine(format!("{what} cannot be read: {e}")))
}

/// Serializes JSON for the other side.
pub(super) fn to_json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("maps with string keys only")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_text_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let text = Text { bytes: bytes.as_ptr(), length: bytes.len() };
            // SAFETY: the bytes outlive the test.
            let (lossy, strict) = unsafe { (text.lossy(), text.strict("this")) };
            prop_assert_eq!(&lossy, &String::from_utf8_lossy(&bytes));
            match std::str::from_utf8(&bytes) {
                Ok(right) => prop_assert_eq!(strict.unwrap(), right),
                Err(_) => prop_assert!(strict.unwrap_err().starts_with("this is not UTF-8")),
            }
        }

        #[test]
        fn a_sink_keeps_all_pieces_in_order(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..9), 0..9)) {
            // SAFETY: the sink is valid inside the closure.
            let out = ByteSink::collect(|sink| pieces.iter().for_each(|p| unsafe { ByteSink::put(sink, p) }));
            prop_assert_eq!(out, pieces.concat());
        }
    }

    #[test]
    fn null_is_no_text() {
        let odd = Text { length: 7, ..Text::NONE };
        // SAFETY: a null pointer is not dereferenced.
        assert_eq!(unsafe { odd.strict("x") }, Ok(""));
    }
}
