//! Compiles the shim against the libtorch that torch-sys was pointed to, and lets the tests find it.

use std::env;
use std::path::Path;

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    println!("cargo:rerun-if-changed=src/shim/shim.cpp");
    let libtorch = env::var("LIBTORCH").unwrap_or_else(|_| {
        eprintln!(
            "LIBTORCH is not set: run `cargo xtask libtorch`, which sets everything up and builds this"
        );
        std::process::exit(1);
    });
    let libtorch = Path::new(&libtorch);
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .warnings(false)
        .include(libtorch.join("include"))
        .include(libtorch.join("include/torch/csrc/api/include"))
        .file("src/shim/shim.cpp")
        .compile("spo_shim");
    // The libraries find one another beside themselves, so they must be loaded from where they really are.
    let library =
        libtorch.join("lib").join(if cfg!(target_os = "macos") { "libc10.dylib" } else { "libc10.so" });
    let folder = library.canonicalize().expect("LIBTORCH holds libc10");
    let folder = folder.parent().expect("a file is in a folder");
    println!("cargo:rustc-link-arg-tests=-Wl,-rpath,{}", folder.display());
    // Not every test calls libc10 by itself, but all need it.
    println!("cargo:rustc-link-lib=c10");
}
