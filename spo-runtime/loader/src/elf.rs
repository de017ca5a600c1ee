//! Checks a library's header before it is passed to the loader. The loader's message for a file that is not
//! a library says little, and the loader crashes on a truncated file.

use std::path::Path;

/// Machine names by their number in the ELF header.
const MACHINES: [(u16, &str); 5] =
    [(3, "x86"), (40, "arm"), (62, "x86_64"), (183, "aarch64"), (243, "riscv64")];

/// Returns what is wrong with a library's file, phrased as the end of a sentence. Only ELF, the format on
/// Linux, is checked. On other platforms the loader's own message is used.
pub fn check(path: &Path, bytes: &[u8]) -> Result<(), String> {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    check_for(std::env::consts::ARCH, path, bytes)
}

fn check_for(arch: &str, path: &Path, bytes: &[u8]) -> Result<(), String> {
    if !bytes.starts_with(b"\x7fELF") {
        let hint = match path.extension().and_then(|e| e.to_str()) {
            Some("rs" | "c" | "cpp" | "toml") => ": build it first, and name the library that comes of it",
            Some("rlib" | "a" | "o") => {
                ": only shared libraries can be loaded; the crate needs `crate-type = [\"cdylib\"]`"
            }
            _ => "",
        };
        return Err(format!("it is not a shared library{hint}"));
    }
    let short = || "it was cut short: the file ends before its contents do".to_owned();
    let number = |at: usize, size: usize| {
        let field = bytes.get(at..at + size)?;
        Some(field.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte)))
    };
    let field = |at, size| number(at, size).ok_or_else(short);
    let (wide, machine) = (field(4, 1)? == 2, field(18, 2)? as u16);
    let name = MACHINES.iter().find(|(number, _)| *number == machine).map(|(_, name)| *name);
    if name != Some(arch) {
        let name = name.map_or_else(|| format!("machine number {machine}"), str::to_owned);
        return Err(format!("it was built for {name}, this machine is {arch}"));
    }
    if !wide {
        return Err("it was built for 32 bits, this program for 64".into());
    }
    if field(16, 2)? != 3 {
        return Err("it is a program or an object file, not a shared library".into());
    }
    // Every segment must lie inside the file, because the loader maps them without a check.
    let (table, entry_size, entries) = (field(32, 8)?, field(54, 2)?, field(56, 2)?);
    for i in 0..entries {
        let at =
            table.checked_add(i * entry_size).and_then(|at| usize::try_from(at).ok()).ok_or_else(short)?;
        if at > bytes.len() {
            return Err(short());
        }
        let (offset, length) = (field(at + 8, 8)?, field(at + 32, 8)?);
        if offset.checked_add(length).is_none_or(|end| end > bytes.len() as u64) {
            return Err(short());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn itself() -> Vec<u8> {
        std::fs::read(std::env::current_exe().unwrap()).unwrap()
    }

    fn verdict(arch: &str, name: &str, bytes: &[u8]) -> String {
        check_for(arch, Path::new(name), bytes).err().unwrap_or_default()
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn every_kind_of_wrong_file_has_its_own_words() {
        let own = itself();
        let arch = std::env::consts::ARCH;
        assert_eq!(verdict(arch, "a", &own), "", "a position-independent program looks like a library");
        assert_eq!(verdict(arch, "a.so", b"text"), "it is not a shared library");
        assert!(verdict(arch, "a.rs", b"fn").contains("build it first"));
        assert!(verdict(arch, "a.rlib", b"!<arch>").contains("cdylib"));
        let mut other = own.clone();
        other[18..20].copy_from_slice(&243u16.to_le_bytes());
        assert_eq!(verdict("x86_64", "a.so", &other), "it was built for riscv64, this machine is x86_64");
        for length in [10, 60, 200, own.len() / 2] {
            assert!(verdict(arch, "a.so", &own[..length]).contains("cut short"), "{length}");
        }
    }

    #[test]
    fn no_header_makes_it_panic() {
        let own = itself();
        for at in 0..64 {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut broken = own[..4096.min(own.len())].to_vec();
                broken[at] = byte;
                let _ = check_for("x86_64", Path::new("a.so"), &broken);
            }
        }
    }
}
