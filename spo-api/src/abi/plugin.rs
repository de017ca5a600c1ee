//! A plugin's table of contents, from both ends.

use std::ffi::c_void;
use std::sync::OnceLock;

use schemars::Schema;
use serde_json::Value;

use super::layout::{Table, read};
use super::status::{ErrorSink, answer, call};
use super::text::Text;
use super::watch::{self, At};
use super::{BackendTable, ObjectiveTable, StepTable, backend, objective, step};
use crate::{Build, ConfigError, Entry, Error, Result};

/// Version of the border. It changes when a function changes its meaning or its arguments; tables that
/// grow at their end leave it alone.
pub const ABI_VERSION: u32 = 1;

/// Name of the one symbol of a plugin: a function without arguments that returns a [`PluginTable`].
pub const SYMBOL: &str = "spo_plugin";

/// What a plugin is and holds. The first two fields stay as they are in every version.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PluginTable {
    /// Bytes of this table.
    pub size: u32,
    /// [`ABI_VERSION`] it was built for.
    pub abi_version: u32,
    /// Name of the plugin.
    pub name: Text,
    /// Version of the plugin.
    pub version: Text,
    /// What it holds: pointers, since entries may grow.
    pub entries: *const *const EntryTable,
    /// Number of entries.
    pub entry_count: usize,
}

// SAFETY: repr(C), begins with its size, pointers may be null.
unsafe impl Table for PluginTable {
    const NAME: &'static str = "table of contents";
    const REQUIRED: usize = size_of::<Self>();
}

/// One part of a plugin.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EntryTable {
    /// Bytes of this table.
    pub size: u32,
    /// 1 objective, 2 step, 3 backend.
    pub kind: u32,
    /// The name recipes use: lower-case letters, digits, `-`, `_`.
    pub name: Text,
    /// One line for a list.
    pub summary: Text,
    /// Paper and equation.
    pub source: Text,
    /// JSON Schema of its table in a recipe; its `description` is the documentation.
    pub schema: Text,
    /// For `create`.
    pub context: *const c_void,
    /// An [`ObjectiveTable`], [`StepTable`] or [`BackendTable`].
    pub functions: *const c_void,
    /// Optional: other names for the same thing.
    pub aliases: *const Text,
    /// Number of aliases.
    pub alias_count: usize,
}

// SAFETY: repr(C), begins with its size, pointers may be null.
unsafe impl Table for EntryTable {
    const NAME: &'static str = "entry";
    const REQUIRED: usize = std::mem::offset_of!(Self, aliases);
}

/// A crate that exports its parts, by [`export_plugins!`](crate::export_plugins).
#[derive(Clone, Copy, Debug)]
pub struct ExportedBy {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

inventory::collect!(ExportedBy);

/// Makes a crate of type `cdylib` a plugin: everything it has [`register!`](crate::register)ed can be
/// loaded by `spo-run`. Say it once, at the crate's root.
///
/// The same crate can be linked into a program as well.
#[macro_export]
macro_rules! export_plugins {
    () => {
        $crate::macro_support::submit! {
            $crate::abi::ExportedBy { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") }
        }
    };
}

// The plugin's end.

/// The entry point of a plugin written in Rust. It stands here, once, so that any number of crates that
/// export plugins can be linked into one program.
///
/// A library that links this crate and exports nothing gives a table without entries.
#[unsafe(no_mangle)]
pub extern "C" fn spo_plugin() -> *const PluginTable {
    static CONTENTS: OnceLock<Contents> = OnceLock::new();
    std::panic::catch_unwind(|| {
        let exporters: Vec<&ExportedBy> = inventory::iter::<ExportedBy>.into_iter().collect();
        let entries = inventory::iter::<Entry>
            .into_iter()
            .filter(|entry| exporters.iter().any(|by| by.name == entry.origin))
            .filter(|entry| !matches!(entry.build, Build::Optimizer(_) | Build::Schedule(_)))
            .map(export)
            .collect();
        let by = exporters.first().map_or(("", ""), |by| (by.name, by.version));
        &raw const CONTENTS.get_or_init(|| Contents::new(by, entries)).table
    })
    .unwrap_or(std::ptr::null())
}

/// A table of contents with what it points to.
struct Contents {
    table: PluginTable,
}

// SAFETY: all it points to lives as long as the program and is never written.
unsafe impl Send for Contents {}
// SAFETY: as above.
unsafe impl Sync for Contents {}

impl Contents {
    fn new((name, version): (&'static str, &'static str), entries: Vec<&'static EntryTable>) -> Self {
        let entries: &[*const EntryTable] =
            Box::leak(entries.into_iter().map(std::ptr::from_ref).collect::<Vec<_>>().into_boxed_slice());
        Contents {
            table: PluginTable {
                size: size_of::<PluginTable>() as u32,
                abi_version: ABI_VERSION,
                name: Text::of(name),
                version: Text::of(version),
                entries: entries.as_ptr(),
                entry_count: entries.len(),
            },
        }
    }
}

/// An entry as a table; both live as long as the program.
fn export(entry: &'static Entry) -> &'static EntryTable {
    let (kind, functions) = match entry.build {
        Build::Objective(_) => (1, (&raw const objective::TABLE).cast()),
        Build::Step(_) => (2, (&raw const step::TABLE).cast()),
        Build::Backend(_) => (3, (&raw const backend::TABLE).cast()),
        Build::Optimizer(_) | Build::Schedule(_) => unreachable!("they do not cross yet"),
    };
    let schema: &str = Box::leak((entry.schema)().as_value().to_string().into_boxed_str());
    let aliases: &[Text] =
        Box::leak(entry.aliases.iter().map(|alias| Text::of(alias)).collect::<Vec<_>>().into_boxed_slice());
    Box::leak(Box::new(EntryTable {
        size: size_of::<EntryTable>() as u32,
        kind,
        name: Text::of(entry.name),
        summary: Text::of(entry.summary),
        source: Text::of(entry.source),
        schema: Text::of(schema),
        context: std::ptr::from_ref(entry).cast(),
        functions,
        aliases: aliases.as_ptr(),
        alias_count: aliases.len(),
    }))
}

/// A kind of part that can be exported.
pub(super) trait Exported {
    /// Makes one from its table in the recipe.
    fn build(entry: &Entry, config: &Value) -> Result<Box<Self>, ConfigError>;
}

/// `create` of a kind: makes a part from its table in the recipe, as JSON. `context` is that of the entry.
pub type Create = unsafe extern "C-unwind" fn(
    context: *const c_void,
    config: Text,
    out: *mut *mut c_void,
    error: *const ErrorSink,
) -> i32;

/// # Safety
/// `context` is that of a table that [`export`] made; the rest by the contract of the table.
pub(super) unsafe extern "C-unwind" fn create<P: Exported + ?Sized>(
    context: *const c_void,
    config: Text,
    out: *mut *mut c_void,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: the caller's.
    unsafe {
        answer(error, || {
            let config = config.strict("the configuration").map_err(ConfigError::whole)?;
            let config = serde_json::from_str(config)
                .map_err(|e| ConfigError::whole(format!("the configuration is not JSON: {e}")))?;
            let part = P::build(&*context.cast::<Entry>(), &config)?;
            *out = Box::into_raw(Box::new(part)).cast();
            Ok(())
        })
    }
}

/// # Safety
/// `this` came from [`create`] and is not used again.
pub(super) unsafe extern "C-unwind" fn destroy<P: ?Sized>(this: *mut c_void) {
    // SAFETY: the caller's.
    drop(unsafe { Box::from_raw(this.cast::<Box<P>>()) });
}

// The program's end.

/// What a plugin turned out to hold.
pub struct LoadedPlugin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its parts, ready for a [`Registry`](crate::Registry).
    pub entries: Vec<&'static Entry>,
}

/// Reads a plugin's table of contents; `library` names its file in messages.
///
/// # Errors
/// In words that tell the user what to do.
///
/// # Safety
/// `table` is what the function [`SYMBOL`] of a loaded library returned; the library obeys the contract
/// of `docs/plugin-abi.md` and is never unloaded.
pub unsafe fn import(table: *const PluginTable, library: &str) -> Result<LoadedPlugin, String> {
    if table.is_null() || !table.is_aligned() {
        return Err("it failed to set itself up: its table of contents is missing".into());
    }
    // SAFETY: the first two fields are there in every version.
    let version = unsafe { *table.cast::<u32>().add(1) };
    if version != ABI_VERSION {
        let remedy =
            if version < ABI_VERSION { "rebuild it with" } else { "use a newer spo-run, or build it with" };
        return Err(format!(
            "it was built for version {version} of the plugin ABI, this spo-run speaks version {ABI_VERSION}: \
             {remedy} the spo-api (or spo.h) of this version"
        ));
    }
    // SAFETY: the caller's, here and below.
    unsafe {
        let table = read(table).map_err(|e| e.to_string())?;
        let plugin = LoadedPlugin {
            name: table.name.strict("its name")?.to_owned(),
            version: table.version.strict("its version")?.to_owned(),
            entries: Vec::with_capacity(table.entry_count.min(1024)),
        };
        if table.entry_count == 0 || table.entries.is_null() {
            return Err("it holds no parts: did it `register!` any, and say `export_plugins!()`?".into());
        }
        (0..table.entry_count).try_fold(plugin, |mut plugin, i| {
            let entry = import_entry(*table.entries.add(i), &plugin, library);
            plugin.entries.push(entry.map_err(|problem| format!("in its entry {i}, {problem}"))?);
            Ok(plugin)
        })
    }
}

/// # Safety
/// As [`import`].
unsafe fn import_entry(
    table: *const EntryTable,
    plugin: &LoadedPlugin,
    library: &str,
) -> Result<&'static Entry, String> {
    // SAFETY: the caller's, here and below.
    unsafe {
        let table = read(table).map_err(|e| e.to_string())?;
        let text =
            |what: &str, text: Text| text.strict(what).map(|t| &*Box::leak(t.to_owned().into_boxed_str()));
        let name = name(text("the name", table.name)?)?;
        let schema: Schema = serde_json::from_str(text("the schema", table.schema)?)
            .map_err(|e| format!("the schema of `{name}` is not a JSON Schema: {e}"))?;
        let mut aliases = Vec::new();
        if !table.aliases.is_null() {
            for i in 0..table.alias_count {
                aliases.push(self::name(text("an alias", *table.aliases.add(i))?)?);
            }
        }
        let kind = ["objective", "step", "backend"].get((table.kind as usize).wrapping_sub(1));
        let kind = kind.ok_or_else(|| format!("`{name}` is of the unknown kind {}", table.kind))?;
        let at: &'static At =
            Box::leak(Box::new(At { part: format!("{kind} `{name}`"), library: library.to_owned() }));
        let build = build(&table, at, schema.as_value().clone())
            .map_err(|e| format!("`{name}` cannot be used: {e}"))?;
        Ok(Box::leak(Box::new(Entry {
            name,
            aliases: Box::leak(aliases.into_boxed_slice()),
            summary: text("the summary", table.summary)?,
            source: text("the source", table.source)?,
            origin: Box::leak(format!("{} {} ({library})", plugin.name, plugin.version).into_boxed_str()),
            schema: Box::leak(Box::new(move || schema.clone())),
            build,
        })))
    }
}

/// A name as recipes can use it.
fn name(text: &'static str) -> Result<&'static str, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if text.is_empty() || !text.chars().all(plain) {
        return Err(format!("the name {text:?} must be lower-case letters, digits, `-` and `_`"));
    }
    Ok(text)
}

/// The context of an entry, handed back to its `create`.
#[derive(Clone, Copy)]
struct Context(*const c_void);

// SAFETY: the contract allows `create` on any thread.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    fn get(self) -> *const c_void {
        self.0
    }
}

/// The constructor of an imported part.
///
/// # Safety
/// As [`import`].
unsafe fn build(table: &EntryTable, at: &'static At, schema: Value) -> Result<Build, String> {
    let words = |e: super::TableError| e.to_string();
    let context = Context(table.context);
    // A constructor speaks of configurations; any other failure is one of the table as a whole.
    fn refused(error: Error, config: &Value, schema: &Value) -> ConfigError {
        match error {
            // Words and key cross the border; the kind is found again here.
            Error::Config(e) => {
                let (kind, _) = crate::config::diagnose(config, schema, e.key.as_deref());
                e.of_kind(kind)
            }
            other => ConfigError::whole(other.to_string()),
        }
    }
    // Its own words come first; what it lets pass, its schema must allow.
    fn allowed<P>(made: Result<P>, config: &Value, schema: &Value) -> Result<P, ConfigError> {
        let part = made.map_err(|e| refused(e, config, schema))?;
        crate::config::check_schema(config, schema).map(|()| part)
    }
    // SAFETY: the caller's; the tables live as long as the program.
    unsafe {
        Ok(match table.kind {
            1 => {
                let table = objective::check(table.functions.cast::<ObjectiveTable>()).map_err(words)?;
                Build::Objective(Box::leak(Box::new(move |config: &Value| {
                    allowed(objective::import(&table, context.get(), at, config), config, &schema)
                })))
            }
            2 => {
                let table = step::check(table.functions.cast::<StepTable>()).map_err(words)?;
                Build::Step(Box::leak(Box::new(move |config: &Value| {
                    allowed(step::import(&table, context.get(), at, config), config, &schema)
                })))
            }
            _ => {
                let table = backend::check(table.functions.cast::<BackendTable>()).map_err(words)?;
                Build::Backend(Box::leak(Box::new(move |config: &Value| {
                    allowed(backend::import(&table, context.get(), at, config), config, &schema)
                })))
            }
        })
    }
}

/// Makes an instance of a part.
///
/// # Safety
/// The function and the context are those of one entry.
pub(super) unsafe fn make(
    create: Create,
    context: *const c_void,
    at: &'static At,
    config: &Value,
) -> Result<*mut c_void> {
    let config = config.to_string();
    let mut this = std::ptr::null_mut();
    let _inside = watch::enter(at);
    // SAFETY: the caller's.
    call(at, |error| unsafe { create(context, Text::of(&config), &mut this, error) })?;
    Ok(this)
}

/// A linked part as it would be had it been loaded: exported, and imported again. For tests and
/// measurements of the border.
///
/// # Panics
/// When the part cannot cross, which is a mistake of this crate.
pub fn through(entry: &'static Entry) -> &'static Entry {
    let plugin = LoadedPlugin { name: entry.origin.into(), version: "linked".into(), entries: vec![] };
    // SAFETY: `export` obeys the contract.
    unsafe { import_entry(export(entry), &plugin, "this program") }
        .expect("an exported entry can be imported")
}
