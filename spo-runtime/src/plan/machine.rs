//! The machine that a run is on, as far as the system tells.

use std::process::Command;

/// The name of the processor's model.
pub(super) fn cpu() -> Option<String> {
    let name = match std::env::consts::OS {
        "macos" => {
            let output = Command::new("sysctl").args(["-n", "machdep.cpu.brand_string"]).output().ok()?;
            String::from_utf8(output.stdout).ok()?
        }
        _ => {
            let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            line.split_once(':')?.1.to_owned()
        }
    };
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

/// The most memory that a process has had in use, in bytes, if the system tells.
pub(crate) fn peak_memory(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(1024 * peak.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?)
}
