//! The table of contents of a plugin: export and import.

use std::ffi::c_void;
use std::sync::OnceLock;

use schemars::Schema;
use serde_json::Value;

use super::handle::{Handle, PartTable};
use super::layout::{Table, TableError, read};
use super::status::{ErrorSink, answer};
use super::text::Text;
use super::watch::At;
use crate::{
    Backend, BilevelStep, Build, ConfigError, Entry, Error, Kind, Objective, Optimizer, Result, Schedule,
};

/// Version of the ABI. It changes when the meaning or the arguments of a function change, but not when fields
/// are appended to a table.
pub const ABI_VERSION: u32 = 2;

/// Name of the only symbol of a plugin: a function without arguments that returns a [`PluginTable`].
pub const SYMBOL: &str = "spo_plugin";

/// The contents of a plugin. The first two fields are the same in every version.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PluginTable {
    /// Size of this table in bytes.
    pub size: u32,
    /// The [`ABI_VERSION`] the plugin was built for.
    pub abi_version: u32,
    /// Name of the plugin.
    pub name: Text,
    /// Version of the plugin.
    pub version: Text,
    /// The parts of the plugin. An array of pointers, since the size of entries may grow.
    pub entries: *const *const EntryTable,
    /// Number of entries.
    pub entry_count: usize,
}

// SAFETY: repr(C), starts with its size, pointers may be null.
unsafe impl Table for PluginTable {
    const NAME: &'static str = "table of contents";
    const LEAST: usize = size_of::<Self>();
    const FUNCTIONS: &'static [(&'static str, usize)] = &[];
}

/// One part of a plugin.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct EntryTable {
    /// Size of this table in bytes.
    pub size: u32,
    /// 1 objective, 2 step, 3 backend, 4 optimizer, 5 schedule.
    pub kind: u32,
    /// The name used in recipes: lower-case letters, digits, `-`, `_`.
    pub name: Text,
    /// A one-line summary for listings.
    pub summary: Text,
    /// Source: paper and equation.
    pub source: Text,
    /// JSON Schema of the part's table in a recipe; its `description` is the documentation.
    pub schema: Text,
    /// First argument of `create`.
    pub context: *const c_void,
    /// The function table for this kind of part: an [`ObjectiveTable`](super::ObjectiveTable), ...
    pub functions: *const c_void,
    /// Optional: other names for the same part.
    pub aliases: *const Text,
    /// Number of aliases.
    pub alias_count: usize,
}

// SAFETY: repr(C), starts with its size, pointers may be null.
unsafe impl Table for EntryTable {
    const NAME: &'static str = "entry";
    const LEAST: usize = std::mem::offset_of!(Self, aliases);
    const FUNCTIONS: &'static [(&'static str, usize)] = &[];
}

/// A crate that exports its parts with [`export_plugins!`](crate::export_plugins).
#[derive(Clone, Copy, Debug)]
pub struct ExportedBy {
    /// Its name.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
}

inventory::collect!(ExportedBy);

/// Makes a crate of type `cdylib` a plugin: `spo-run` can load all parts that it has
/// [`register!`](crate::register)ed. Use it once, at the crate root.
///
/// The same crate can also be linked into a program.
#[macro_export]
macro_rules! export_plugins {
    () => {
        $crate::macro_support::submit! {
            $crate::abi::ExportedBy { name: env!("CARGO_PKG_NAME"), version: env!("CARGO_PKG_VERSION") }
        }
    };
}

/// A kind of part that can be loaded through the ABI.
pub(super) trait Crossing: Kind {
    /// The number of this kind in an [`EntryTable`].
    const NUMBER: u32;
    /// The function table for all Rust parts of this kind; `create` gets the entry from its context.
    const TABLE: &'static Self::Table;
    /// The type of the function table.
    type Table: PartTable;

    /// Checks the requirements of this kind that go beyond the required functions.
    ///
    /// # Safety
    /// Everything the table points to is readable.
    unsafe fn check(_table: &Self::Table) -> Result<(), TableError> {
        Ok(())
    }

    /// Wraps a part from the other side in the trait of its kind.
    fn import(part: Handle<Self::Table>) -> Result<Box<Self>>;
}

/// A [`Crossing`] without its type.
struct Row {
    kind: &'static str,
    number: u32,
    /// [`Crossing::TABLE`].
    functions: *const c_void,
    /// [`constructor`].
    build: unsafe fn(&EntryTable, &'static At, Value) -> Result<Build, TableError>,
}

fn row<K: Crossing + ?Sized>() -> Row {
    Row {
        kind: K::NAME,
        number: K::NUMBER,
        functions: std::ptr::from_ref(K::TABLE).cast(),
        build: constructor::<K>,
    }
}

fn rows() -> [Row; 5] {
    [
        row::<dyn Objective>(),
        row::<dyn BilevelStep>(),
        row::<dyn Backend>(),
        row::<dyn Optimizer>(),
        row::<dyn Schedule>(),
    ]
}

// Export: the plugin's side.

/// The entry point of a plugin written in Rust. It is defined once, in this crate, so that any number of
/// crates that export plugins can be linked into one program.
///
/// A library that links this crate but exports nothing returns a table without entries.
#[unsafe(no_mangle)]
pub extern "C" fn spo_plugin() -> *const PluginTable {
    static CONTENTS: OnceLock<Contents> = OnceLock::new();
    std::panic::catch_unwind(|| {
        let exporters: Vec<&ExportedBy> = inventory::iter::<ExportedBy>.into_iter().collect();
        let entries = inventory::iter::<Entry>
            .into_iter()
            .filter(|entry| exporters.iter().any(|by| by.name == entry.origin))
            .map(export)
            .collect();
        let by = exporters.first().map_or(("", ""), |by| (by.name, by.version));
        &raw const CONTENTS.get_or_init(|| Contents::new(by, entries)).table
    })
    .unwrap_or(std::ptr::null())
}

/// A table of contents together with the data it points to.
struct Contents {
    table: PluginTable,
}

// SAFETY: everything it points to lives as long as the program and is never written.
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

/// Converts an entry to a table; both live as long as the program.
fn export(entry: &'static Entry) -> &'static EntryTable {
    let row = rows().into_iter().find(|row| row.kind == entry.build.kind());
    let row = row.expect("every kind crosses");
    let schema: &str = Box::leak((entry.schema)().as_value().to_string().into_boxed_str());
    let aliases: &[Text] =
        Box::leak(entry.aliases.iter().map(|alias| Text::of(alias)).collect::<Vec<_>>().into_boxed_slice());
    Box::leak(Box::new(EntryTable {
        size: size_of::<EntryTable>() as u32,
        kind: row.number,
        name: Text::of(entry.name),
        summary: Text::of(entry.summary),
        source: Text::of(entry.source),
        schema: Text::of(schema),
        context: std::ptr::from_ref(entry).cast(),
        functions: row.functions,
        aliases: aliases.as_ptr(),
        alias_count: aliases.len(),
    }))
}

/// # Safety
/// `context` belongs to a table made by [`export`]; the other arguments follow the contract of the table.
pub(super) unsafe extern "C-unwind" fn create<K: Crossing + ?Sized>(
    context: *const c_void,
    config: Text,
    out: *mut *mut c_void,
    error: *const ErrorSink,
) -> i32 {
    // SAFETY: guaranteed by the caller.
    unsafe {
        answer(error, || {
            let config = config.strict("the configuration").map_err(ConfigError::whole)?;
            let config = serde_json::from_str(config)
                .map_err(|e| ConfigError::whole(format!("the configuration is not JSON: {e}")))?;
            *out = Box::into_raw(Box::new((*context.cast::<Entry>()).make::<K>(&config)?)).cast();
            Ok(())
        })
    }
}

/// # Safety
/// `this` came from [`create`] (for a session: from `open`) and is not used again.
pub(super) unsafe extern "C-unwind" fn destroy<P: ?Sized>(this: *mut c_void) {
    // SAFETY: guaranteed by the caller.
    drop(unsafe { Box::from_raw(this.cast::<Box<P>>()) });
}

/// The part behind the first argument of a function.
///
/// # Safety
/// `this` came from [`create`] (for a session: from `open`), and nothing else uses it now. The contract of
/// the tables guarantees this.
pub(super) unsafe fn part<'a, P: ?Sized>(this: *mut c_void) -> &'a mut P {
    // SAFETY: guaranteed by the caller.
    unsafe { &mut *this.cast::<Box<P>>() }
}

// Import: the program's side.

/// The contents of a loaded plugin.
pub struct LoadedPlugin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its parts, which can be added to a [`Registry`](crate::Registry).
    pub entries: Vec<&'static Entry>,
}

/// Reads a plugin's table of contents; `library` is the file name used in messages.
///
/// # Errors
/// A message that tells the user what to do.
///
/// # Safety
/// `table` was returned by the function [`SYMBOL`] of a loaded library. The library follows the contract in
/// `docs/plugin-abi.md` and is never unloaded.
pub unsafe fn import(table: *const PluginTable, library: &str) -> Result<LoadedPlugin, String> {
    if table.is_null() || !table.is_aligned() {
        return Err("it failed to set itself up: its table of contents is missing".into());
    }
    // SAFETY: the first two fields exist in every version.
    let version = unsafe { *table.cast::<u32>().add(1) };
    if version != ABI_VERSION {
        let remedy =
            if version < ABI_VERSION { "rebuild it with" } else { "use a newer spo-run, or build it with" };
        return Err(format!(
            "it was built for version {version} of the plugin ABI, this spo-run speaks version {ABI_VERSION}: \
             {remedy} the spo-api (or spo.h) of this version"
        ));
    }
    // SAFETY: guaranteed by the caller, here and below.
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
    // SAFETY: guaranteed by the caller, here and below.
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
        let row = rows().into_iter().find(|row| row.number == table.kind);
        let row = row.ok_or_else(|| format!("`{name}` is of the unknown kind {}", table.kind))?;
        let part = format!("{} `{name}`", row.kind);
        let at: &'static At = Box::leak(Box::new(At { part, library: library.to_owned() }));
        let build = (row.build)(&table, at, schema.as_value().clone())
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

/// Checks that a name is valid in recipes.
fn name(text: &'static str) -> Result<&'static str, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    if text.is_empty() || !text.chars().all(plain) {
        return Err(format!("the name {text:?} must be lower-case letters, digits, `-` and `_`"));
    }
    Ok(text)
}

/// The context of an entry, passed to its `create`.
#[derive(Clone, Copy)]
struct Context(*const c_void);

// SAFETY: the contract allows calls of `create` on any thread.
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
unsafe fn constructor<K: Crossing + ?Sized>(
    entry: &EntryTable,
    at: &'static At,
    schema: Value,
) -> Result<Build, TableError> {
    let context = Context(entry.context);
    // SAFETY: guaranteed by the caller; the tables live as long as the program.
    let table = unsafe { read(entry.functions.cast::<K::Table>()) }?;
    // SAFETY: as above.
    unsafe { K::check(&table) }?;
    Ok(K::build(Box::leak(Box::new(move |config: &Value| {
        // SAFETY: as above.
        let part = unsafe { Handle::create(table, context.get(), config, at) };
        // The part's own error takes precedence; what it accepts must still match its schema.
        let part = part.and_then(K::import).map_err(|e| refusal(e, config, &schema))?;
        crate::config::check_schema(config, &schema).map(|()| part)
    }))))
}

/// Converts a failed construction to a configuration error. Other kinds of error are reported for the table
/// as a whole.
fn refusal(error: Error, config: &Value, schema: &Value) -> ConfigError {
    match error {
        // Only the message and the key cross the ABI, so the kind of the error is determined again here.
        Error::Config(e) => {
            let (kind, _) = crate::config::diagnose(config, schema, e.key.as_deref());
            e.of_kind(kind)
        }
        other => ConfigError::whole(other.to_string()),
    }
}

/// Exports a linked part and imports it again, so that it behaves like a loaded one. For tests and
/// measurements of the ABI.
///
/// # Panics
/// If the part cannot be exported and imported, which is a bug in this crate.
pub fn through(entry: &'static Entry) -> &'static Entry {
    let plugin = LoadedPlugin { name: entry.origin.into(), version: "linked".into(), entries: vec![] };
    // SAFETY: `export` obeys the contract.
    unsafe { import_entry(export(entry), &plugin, "this program") }
        .expect("an exported entry can be imported")
}
