//! The tables of a plugin in C that fills them wrongly: each is refused in words, or can be used.

use std::ffi::c_void;

use serde_json::json;
use spo_api::abi::{self, EntryTable, ExportedBy, PluginTable, Text};
use spo_api::macro_support::submit;
use spo_objectives as _;
use test_support::fuzz::fuzz_what_keeps_memory;

submit! { ExportedBy { name: "spo-objectives", version: "0" } }

unsafe extern "C" {
    fn spo_plugin() -> *const PluginTable;
}

/// Text that a plugin may have anywhere.
const TEXTS: [&[u8]; 8] =
    [b"", b"dpo", b"a b", b"\xff\xfe", b"{}", b"[1", b"{\"type\": 7}", b"x\0y\n\x1b[2J"];

/// Numbers for sizes, counts and kinds. No size says more than there is: that much a plugin must keep to.
const NUMBERS: [u32; 8] = [0, 1, 2, 3, 5, 8, 40, 4_000_000_000];

/// The words of a function table, without some of its functions.
fn functions(table: *const c_void, byte: u8, cut: bool) -> *const c_void {
    // SAFETY: every function table begins with its size in bytes, and is as large.
    let words = unsafe {
        let size = *table.cast::<u32>() as usize;
        std::slice::from_raw_parts(table.cast::<usize>(), size / size_of::<usize>())
    };
    if words.is_empty() {
        return table;
    }
    let mut copy = words.to_vec();
    let at = usize::from(byte) % copy.len();
    match cut {
        true => copy[0] = at * size_of::<usize>(),
        false => copy[at] = 0,
    }
    copy.leak().as_ptr().cast()
}

/// The tables of this program with faults: every four bytes say where and which.
fn damaged(orders: &[u8]) -> *const PluginTable {
    // SAFETY: what this program exports obeys the contract.
    let (mut contents, mut entries) = unsafe {
        let contents = *spo_plugin();
        let entries = std::slice::from_raw_parts(contents.entries, contents.entry_count);
        (contents, entries.iter().map(|entry| **entry).collect::<Vec<EntryTable>>())
    };
    for order in orders.chunks_exact(4).take(6) {
        let [which, field, fault, more] = [order[0], order[1], order[2], order[3]];
        let text = match fault {
            0 => Text::NONE,
            fault => {
                let bytes = TEXTS[usize::from(fault) % TEXTS.len()];
                Text { bytes: bytes.as_ptr(), length: bytes.len() }
            }
        };
        let number = NUMBERS[usize::from(fault) % NUMBERS.len()];
        let count = entries.len();
        let entry = &mut entries[usize::from(which) % count];
        match field % 14 {
            0 => entry.size = number.min(entry.size),
            // A kind that exists belongs to its functions.
            1 => entry.kind = if (1..=5).contains(&number) { 0 } else { number },
            2 => entry.name = text,
            3 => entry.summary = text,
            4 => entry.source = text,
            5 => entry.schema = text,
            6 => entry.functions = std::ptr::null(),
            7 => entry.functions = entry.functions.wrapping_byte_add(1),
            8 if whole(entry.functions) => entry.functions = functions(entry.functions, fault, more % 2 == 0),
            9 => (entry.aliases, entry.alias_count) = (std::ptr::null(), number as usize),
            10 => {
                (entry.aliases, entry.alias_count) =
                    (Box::leak(Box::new([text; 3])).as_ptr(), usize::from(more) % 4);
            }
            11 => contents.abi_version = number,
            12 => contents.size = number.min(contents.size),
            13 => contents.name = text,
            _ => {}
        }
    }
    let pointers: Vec<*const EntryTable> = entries.leak().iter().map(std::ptr::from_ref).collect();
    contents.entries = pointers.leak().as_ptr();
    Box::leak(Box::new(contents))
}

/// Whether this still is the pointer to a table.
fn whole(table: *const c_void) -> bool {
    !table.is_null() && table.cast::<usize>().is_aligned()
}

#[test]
fn damaged_tables() {
    let mut refused = 0;
    let tried = fuzz_what_keeps_memory(
        "tables",
        &[vec![0; 24], (0..24).collect()],
        &["\u{1}\u{2}\u{3}\u{4}"],
        |orders| {
            // SAFETY: faulty tables still point to what is there.
            match unsafe { abi::import(damaged(orders), "faulty.so") } {
                Ok(plugin) => {
                    for entry in plugin.entries {
                        // Without its configuration, a part may refuse to be made.
                        let _ = entry.build.check(&json!({}));
                    }
                }
                Err(message) => {
                    refused += 1;
                    assert!(message.len() < 2000, "{message}");
                }
            }
        },
    );
    assert!(refused > tried / 10, "only {refused} of {tried} were refused");
}
