//! `spo-run --version`: the version, and what a report of a mistake should tell beside it.

use spo_api::Registry;
use spo_loader::search;

/// The version, and how this program was built and what it finds on this machine.
pub(super) fn long() -> String {
    let features = [
        ("cuda", cfg!(feature = "cuda")),
        ("hub", cfg!(feature = "hub")),
        ("metal", cfg!(feature = "metal")),
    ];
    let backends = Registry::linked().map_or_else(
        |error| error.to_string(),
        |registry| {
            let backends = registry.iter().filter(|entry| entry.build.kind() == "backend");
            backends.map(|entry| entry.name).collect::<Vec<_>>().join(", ")
        },
    );
    let libraries: Vec<String> =
        search::libraries().iter().map(|library| library.display().to_string()).collect();
    let or_none = |list: &[String]| if list.is_empty() { "none".to_owned() } else { list.join(", ") };
    format!(
        "{}\nfeatures: {}\nengines: {backends}\nsystem: {} {}\nCPU: {} threads, {}\nlibraries found: {}",
        env!("CARGO_PKG_VERSION"),
        or_none(&there(features)),
        std::env::consts::OS,
        std::env::consts::ARCH,
        std::thread::available_parallelism().map_or(1, usize::from),
        or_none(&cpu_features()),
        or_none(&libraries)
    )
}

/// The extensions of the processor that kernels can use.
fn cpu_features() -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    #[cfg(target_arch = "aarch64")]
    let found = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("dotprod", std::arch::is_aarch64_feature_detected!("dotprod")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        ("i8mm", std::arch::is_aarch64_feature_detected!("i8mm")),
    ];
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let found: [(&str, bool); 0] = [];
    there(found)
}

/// The names of what is there.
fn there<const N: usize>(found: [(&str, bool); N]) -> Vec<String> {
    found.into_iter().filter(|(_, there)| *there).map(|(name, _)| name.to_owned()).collect()
}
