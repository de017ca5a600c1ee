//! Damaged files give errors that say what is wrong, and nothing is allocated for what a file only claims.

use std::path::Path;

use spo_gguf::{BlockType, Entry, Gguf, List, Value, write};

fn refused(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, bytes).unwrap();
    let said =
        Gguf::open(&path).err().unwrap_or_else(|| panic!("{} bytes are read", bytes.len())).to_string();
    said.replace(&path.display().to_string(), "FILE")
}

/// A small file: two keys, two tensors.
fn small() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    let metadata = [
        ("general.architecture".to_owned(), Value::from("llama")),
        ("list".to_owned(), Value::List(List::Integers(vec![1, 2, 3]))),
    ];
    let entry = |name: &str, kind| Entry { name: name.into(), shape: vec![2, 32], kind };
    let tensors = [entry("a", BlockType::F32), entry("b", BlockType::Q8_0)];
    write(&path, &metadata, &tensors, |i| Ok(vec![i as f32 + 1.0; 64])).unwrap();
    std::fs::read(&path).unwrap()
}

/// A file with other bytes after some text in it.
fn with(at: &str, skip: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = small();
    let found = file.windows(at.len()).position(|window| window == at.as_bytes()).unwrap() + at.len() + skip;
    file[found..found + bytes.len()].copy_from_slice(bytes);
    file
}

#[test]
fn what_is_written_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.gguf");
    std::fs::write(&path, small()).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.text("general.architecture").unwrap(), Some("llama"));
    assert_eq!(gguf.integers("list").unwrap(), Some(&[1, 2, 3][..]));
    assert_eq!(gguf.tensors()["b"].shape, [2, 32]);
    for (name, value) in [("a", 1.0), ("b", 2.0)] {
        assert!(gguf.values(&gguf.tensors()[name]).unwrap().iter().all(|x| (x - value).abs() < 1e-3));
    }
    let said = gguf.integer("general.architecture").unwrap_err().to_string();
    assert!(said.contains("`general.architecture` must be a whole number, but is a text"), "{said}");
    let said = gguf.required::<i64>("general.architectur", None).unwrap_err().to_string();
    assert!(said.contains("is missing (nearest: `general.architecture`)"), "{said}");
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_refused() {
    let file = small();
    for length in 0..file.len() {
        // What is left of padding at the end is no loss.
        if length >= file.len() - 28 {
            continue;
        }
        let said = refused(&file[..length]);
        assert!(said.contains("cut off"), "{length}: {said}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let huge = u64::MAX.to_le_bytes();
    let many = (1u64 << 40).to_le_bytes();
    let mut old = small();
    old[4] = 1;
    let mut big_endian = small();
    big_endian[4..8].copy_from_slice(&3u32.to_be_bytes());
    let counts = |at: usize, bytes: [u8; 8]| {
        let mut file = small();
        file[at..at + 8].copy_from_slice(&bytes);
        file
    };
    for (file, expected) in [
        (b"PK\x03\x04 a zip archive".to_vec(), "not a GGUF file: it begins with \"PK\\x03\\x04\""),
        (old, "version 1 of the format is not supported, only 2 and 3"),
        (big_endian, "big-endian"),
        (counts(8, huge), "there would be 18446744073709551615 the tensors"),
        (counts(8, many), "cut off or damaged: the tensors at byte"),
        (counts(16, many), "cut off or damaged: the metadata at byte"),
        (with("general.architecture", 4, &many), "cut off or damaged: general.architecture at byte"),
        (with("list", 8, &many), "cut off or damaged: list at byte"),
        (with("list", 0, &77u32.to_le_bytes()), "`list` has a value of the unknown type 77"),
        (with("list", 4, &9u32.to_le_bytes()), "`list` is a list of values of the unknown type 9"),
        (with("\0\0\0b", 0, &9u32.to_le_bytes()), "b has 9 dimensions, where 4 are the most"),
        (
            with("\0\0\0b", 4, &31u64.to_le_bytes()),
            "the rows of b have 31 numbers, which is no multiple of the 32",
        ),
        (with("\0\0\0b", 12, &many), "b of shape [1099511627776, 32] is longer than the file"),
        (
            with("\0\0\0b", 20, &23u32.to_le_bytes()),
            "b: type IQ4_XS is not supported, only F32, F16, BF16, Q4_0",
        ),
        (with("\0\0\0b", 20, &999u32.to_le_bytes()), "b: type number 999 is not supported"),
        (with("\0\0\0b", 24, &8u64.to_le_bytes()), "b is at 8, no multiple of 32"),
        (with("\0\0\0b", 24, &32u64.to_le_bytes()), "b begins within a"),
        (with("\0\0\0b", 24, &(1u64 << 62).to_le_bytes()), "cut off: b would end"),
        (with("\0\0\0b", 24, &(u64::MAX - 31).to_le_bytes()), "cut off: b would end"),
    ] {
        let said = refused(&file);
        assert!(said.contains(expected), "{said} does not say {expected}");
    }
}

#[test]
fn what_is_no_file_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let said = |path: &Path| Gguf::open(path).err().unwrap().to_string();
    assert!(said(folder.path()).contains("is not a regular file but a folder"));
    assert!(said(&folder.path().join("none.gguf")).contains("none.gguf"));
}
