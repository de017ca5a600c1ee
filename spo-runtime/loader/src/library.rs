//! Loads plugin libraries.

use std::path::Path;

use sha2::{Digest, Sha256};
use spo_api::abi::{self, PluginTable};
use spo_api::{Entry, Library, Registry, read_whole};

/// The longest library, in MiB.
const LONGEST: u64 = 4096;

/// Why a library was not loaded. The message names its file and tells the user what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It cannot be read, is not a library, or was built for another machine or another version of the ABI.
    Unusable(String),
    /// It is valid, but uses a name that is already taken.
    Clash(String),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Refusal::Unusable(words) | Refusal::Clash(words)) = self;
        f.write_str(words)
    }
}

/// Loads a library and adds its parts to the registry.
///
/// Loading a library runs its code before anything can be checked, so load only what the user named. The
/// library stays loaded until the program ends. If it is linked against libtorch, libtorch is loaded first,
/// from the folder `libtorch` if the user named one.
///
/// # Errors
/// See [`Refusal`].
pub fn load(registry: &mut Registry, path: &Path, libtorch: Option<&Path>) -> Result<(), Refusal> {
    load_if(registry, path, libtorch, &|_| true)
}

/// Loads a library as [`load`] does, but adds its parts only if one of them is among these, given by kind and name.
///
/// # Errors
/// As [`load`].
pub fn load_with(
    registry: &mut Registry,
    path: &Path,
    libtorch: Option<&Path>,
    wanted: &[(&str, &str)],
) -> Result<(), Refusal> {
    let is_wanted = |entry: &Entry| {
        wanted.iter().any(|(kind, name)| entry.build.kind() == *kind && entry.names().any(|own| own == *name))
    };
    load_if(registry, path, libtorch, &is_wanted)
}

/// Whether a library may have a part of one of these names: they are in its file, as its table of contents is. This
/// runs no code. A file that cannot be read may have anything: loading it says what is wrong.
pub fn may_have(path: &Path, names: &[&str]) -> bool {
    let Ok(bytes) = read_whole(path, LONGEST) else { return true };
    names.iter().any(|name| bytes.windows(name.len()).any(|here| here == name.as_bytes()))
}

fn load_if(
    registry: &mut Registry,
    path: &Path,
    libtorch: Option<&Path>,
    wanted: &dyn Fn(&Entry) -> bool,
) -> Result<(), Refusal> {
    let at = path.display();
    let words = |problem: String| format!("the plugin {at} cannot be loaded: {problem}");
    let refuse = |problem: String| Refusal::Unusable(words(problem));
    // Return early, without reading the file, if this path is already loaded.
    if registry.libraries().any(|library| library.path == path) {
        return Ok(());
    }
    let bytes = read_whole(path, LONGEST).map_err(|e| refuse(e.to_string()))?;
    let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if registry.libraries().any(|library| library.sha256 == sha256) {
        return Ok(());
    }
    crate::elf::check(path, &bytes).map_err(refuse)?;
    // A bare name would be searched for in the system's folders.
    let absolute = std::path::absolute(path).map_err(|e| refuse(e.to_string()))?;
    if crate::libtorch::is_needed(&bytes) {
        crate::libtorch::load(&absolute, libtorch).map_err(refuse)?;
    }
    crate::guard::install();
    let _here = abi::Here::now();
    // SAFETY: this runs the library's initialisers. The user named the library and so trusts it like the
    // program itself.
    let library = unsafe { libloading::Library::new(&absolute) }.map_err(|e| refuse(loader_words(&e)))?;
    type EntryPoint = unsafe extern "C" fn() -> *const PluginTable;
    // SAFETY: the symbol has this type in every version of the ABI.
    let entry_point = unsafe { library.get::<EntryPoint>(abi::SYMBOL) }.map(|symbol| *symbol);
    let entry_point = entry_point.map_err(|_| {
        let symbol = abi::SYMBOL;
        refuse(format!("it is a library, but no plugin: it has no function `{symbol}`; a Rust crate needs `spo_api::export_plugins!()`"))
    })?;
    // Never unload: the library's tables must stay valid, and unloading would run destructors of threads
    // that are still alive.
    std::mem::forget(library);
    // SAFETY: the function takes no arguments, and its result is checked.
    let table = unsafe { entry_point() };
    // SAFETY: the table belongs to a library that is never unloaded.
    let plugin = unsafe { abi::import(table, &at.to_string()) }.map_err(refuse)?;
    if !plugin.entries.iter().any(|entry| wanted(entry)) {
        return Ok(());
    }
    let library = Library { name: plugin.name, version: plugin.version, path: path.to_owned(), sha256 };
    registry.add_library(library, &plugin.entries).map_err(|e| Refusal::Clash(words(e.to_string())))
}

/// The loader's error message, without the path that it repeats.
pub(crate) fn loader_words(error: &libloading::Error) -> String {
    use std::error::Error;
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}
