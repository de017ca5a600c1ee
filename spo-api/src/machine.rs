//! The memory of this machine.

use std::fs::read_to_string;
use std::path::Path;

/// Bytes of memory that this process may use, by the system: that of the machine, or less where the control group of the
/// process (a container, a job of a cluster) limits it. `None` where the system does not tell.
pub fn memory() -> Option<u64> {
    let total = read_to_string("/proc/meminfo").ok().as_deref().and_then(total);
    let groups = read_to_string("/proc/self/cgroup").unwrap_or_default();
    total.into_iter().chain(limits(Path::new("/sys/fs/cgroup"), &groups)).min()
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The limits of these control groups and of those they are in, below the folder where they are mounted. Version 2 has
/// one hierarchy for everything; in version 1, that of memory has a folder of its own.
fn limits(root: &Path, groups: &str) -> Vec<u64> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (root, file) = match controllers {
            "" => (root.to_owned(), "memory.max"),
            list if list.split(',').any(|one| one == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            // "max", or nothing at all, is no limit.
            found.extend(
                read_to_string(root.join(group).join(file)).ok().and_then(|n| n.trim().parse::<u64>().ok()),
            );
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_all_limits_counts() {
        assert_eq!(total("MemTotal:       16000000 kB\nMemFree: 1 kB\n"), Some(16_384_000_000));
        assert_eq!(total("MemFree: 1 kB\n"), None);
        let root = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| {
            let path = root.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("a/b/memory.max", "max\n");
        write("a/memory.max", "5000\n");
        write("memory/job/memory.limit_in_bytes", "7000\n");
        let limits = |groups: &str| limits(root.path(), groups);
        assert_eq!(limits("0::/a/b\n"), [5000]);
        assert_eq!(limits("4:cpu,cpuacct:/job\n3:memory:/job\n"), [7000]);
        assert_eq!(limits("0::/\nnonsense\n"), [0u64; 0]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_has_memory() {
        assert!(memory().unwrap() > 64 << 20);
    }
}
