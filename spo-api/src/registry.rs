use std::collections::BTreeMap;

use schemars::Schema;
use serde_json::Value;

use crate::{Backend, BilevelStep, ConfigError, Objective, Optimizer, Schedule};

/// Builds a part from its table in the recipe.
pub type Constructor<P> = &'static (dyn Fn(&Value) -> Result<Box<P>, ConfigError> + Send + Sync);

/// A kind of part, implemented by the trait that its parts share.
pub trait Kind: 'static {
    /// The name of the kind in recipes and messages.
    const NAME: &'static str;
    /// The constructor, if `build` is of this kind.
    fn constructor(build: Build) -> Option<Constructor<Self>>;
    /// Wraps a constructor: the inverse of [`constructor`](Self::constructor).
    fn build(constructor: Constructor<Self>) -> Build;
}

/// Lists the kinds: the variant of [`Build`], the trait, and the name used in messages.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident: $trait:ident, $name:literal;)+) => {
        /// Constructor of a part, by kind.
        #[derive(Clone, Copy)]
        pub enum Build {
            $($(#[$doc])* $variant(Constructor<dyn $trait>),)+
        }

        impl Build {
            /// The name of the kind in recipes and messages.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Build::$variant(_) => $name,)+
                }
            }

            /// Builds the part and discards it.
            ///
            /// # Errors
            /// When the part does not accept the table.
            pub fn check(&self, config: &Value) -> Result<(), ConfigError> {
                match self {
                    $(Build::$variant(build) => build(config).map(drop),)+
                }
            }
        }

        $(impl Kind for dyn $trait {
            const NAME: &'static str = $name;

            fn constructor(build: Build) -> Option<Constructor<Self>> {
                match build {
                    Build::$variant(constructor) => Some(constructor),
                    _ => None,
                }
            }

            fn build(constructor: Constructor<Self>) -> Build {
                Build::$variant(constructor)
            }
        })+
    };
}

kinds! {
    /// An objective's constructor.
    Objective: Objective, "objective";
    /// A bilevel step's constructor.
    Step: BilevelStep, "step";
    /// An optimizer's constructor.
    Optimizer: Optimizer, "optimizer";
    /// A learning-rate schedule's constructor.
    Schedule: Schedule, "schedule";
    /// A backend's constructor.
    Backend: Backend, "backend";
}

/// A registered part, with everything the runtime knows about it. Created by
/// [`register!`](crate::register).
pub struct Entry {
    /// The name used in recipes.
    pub name: &'static str,
    /// Other names for the same part.
    pub aliases: &'static [&'static str],
    /// A one-line summary for lists.
    pub summary: &'static str,
    /// Paper and equation.
    pub source: &'static str,
    /// The crate that registered it, or the plugin it was loaded from.
    pub origin: &'static str,
    /// JSON Schema of the part's table. The description is the type's doc comment.
    pub schema: &'static (dyn Fn() -> Schema + Send + Sync),
    /// The constructor.
    pub build: Build,
}

inventory::collect!(Entry);

impl Entry {
    /// Its name, and its aliases.
    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        std::iter::once(self.name).chain(self.aliases.iter().copied())
    }

    /// Builds the part.
    ///
    /// # Errors
    /// When the table is not valid for the part.
    ///
    /// # Panics
    /// When the part is of another kind.
    pub fn make<K: Kind + ?Sized>(&self, config: &Value) -> Result<Box<K>, ConfigError> {
        let constructor = K::constructor(self.build);
        constructor.unwrap_or_else(|| panic!("`{}` is no {}", self.name, K::NAME))(config)
    }
}

/// Registers a part under a name, for every program that links the crate.
///
/// The type must be a [`Part`](crate::Part) and implement the trait of its kind: `objective` ([`Objective`]
/// or [`PairLoss`](crate::PairLoss)), `step` ([`BilevelStep`]), `optimizer` ([`Optimizer`]), `schedule`
/// ([`Schedule`]) or `backend` ([`Backend`]). A crate that is only listed as a dependency, but never named
/// in the code, is not linked. The program must contain `use the_crate as _;`.
///
/// ```text
/// register!(objective Dpo {
///     name: "dpo",
///     aliases: ["sigmoid"],
///     summary: "logistic loss on the margin",
///     source: "Rafailov et al. 2023, eq. 7",
/// });
/// ```
#[macro_export]
macro_rules! register {
    (objective $($rest:tt)*) => { $crate::register!(@entry Objective $($rest)*); };
    (step $($rest:tt)*) => { $crate::register!(@entry Step $($rest)*); };
    (optimizer $($rest:tt)*) => { $crate::register!(@entry Optimizer $($rest)*); };
    (schedule $($rest:tt)*) => { $crate::register!(@entry Schedule $($rest)*); };
    (backend $($rest:tt)*) => { $crate::register!(@entry Backend $($rest)*); };
    (@entry $kind:ident $type:ty {
        name: $name:literal,
        $(aliases: [$($alias:literal),* $(,)?],)?
        summary: $summary:literal,
        source: $source:literal $(,)?
    }) => {
        $crate::macro_support::submit! {
            $crate::Entry {
                name: $name,
                aliases: &[$($($alias),*)?],
                summary: $summary,
                source: $source,
                origin: env!("CARGO_PKG_NAME"),
                schema: &|| $crate::macro_support::schema_for!($type),
                build: $crate::Build::$kind(&|config| Ok(Box::new($crate::parse::<$type>(config)?))),
            }
        }
    };
}

/// A library from which parts were loaded.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Library {
    /// The name that the library reports.
    pub name: String,
    /// The version that the library reports.
    pub version: String,
    /// The path of the library's file.
    pub path: std::path::PathBuf,
    /// SHA-256 of the file.
    pub sha256: String,
}

/// All parts available to a program, by kind and name.
pub struct Registry {
    libraries: Vec<(Library, Vec<&'static Entry>)>,
    entries: BTreeMap<(&'static str, &'static str), &'static Entry>,
    aliases: BTreeMap<(&'static str, &'static str), &'static Entry>,
}

impl Registry {
    /// A registry of the parts that are linked into the program.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn linked() -> crate::Result<Self> {
        let mut registry =
            Registry { libraries: Vec::new(), entries: BTreeMap::new(), aliases: BTreeMap::new() };
        for entry in inventory::iter::<Entry> {
            registry.add(entry)?;
        }
        Ok(registry)
    }

    /// Adds a part, for example one from a plugin.
    ///
    /// # Errors
    /// When another part of the same kind already has its name or one of its aliases. The error names the
    /// origin of both.
    pub fn add(&mut self, entry: &'static Entry) -> crate::Result<()> {
        let kind = entry.build.kind();
        for name in std::iter::once(&entry.name).chain(entry.aliases) {
            if let Ok(other) = self.get(kind, name) {
                return Err(crate::Error::Config(ConfigError::whole(format!(
                    "two {kind}s are called `{name}`: one from {}, one from {}",
                    other.origin, entry.origin
                ))));
            }
        }
        self.entries.insert((kind, entry.name), entry);
        self.aliases.extend(entry.aliases.iter().map(|alias| ((kind, *alias), entry)));
        Ok(())
    }

    /// Adds all parts of a loaded library.
    ///
    /// # Errors
    /// As [`add`](Self::add).
    pub fn add_library(&mut self, library: Library, entries: &[&'static Entry]) -> crate::Result<()> {
        entries.iter().try_for_each(|entry| self.add(entry))?;
        self.libraries.push((library, entries.to_vec()));
        Ok(())
    }

    /// The libraries from which parts were loaded.
    pub fn libraries(&self) -> impl Iterator<Item = &Library> {
        self.libraries.iter().map(|(library, _)| library)
    }

    /// The libraries from which one of these parts was loaded, given by kind and name or alias.
    pub fn libraries_of(&self, parts: &[(&str, &str)]) -> Vec<Library> {
        let used: Vec<_> = parts.iter().filter_map(|(kind, name)| self.get(kind, name).ok()).collect();
        let is_used = |entry: &&Entry| used.iter().any(|other| std::ptr::eq(*other, *entry));
        let those = self.libraries.iter().filter(|(_, entries)| entries.iter().any(is_used));
        those.map(|(library, _)| library.clone()).collect()
    }

    /// All entries, ordered by kind, then by name.
    pub fn iter(&self) -> impl Iterator<Item = &'static Entry> + '_ {
        self.entries.values().copied()
    }

    /// All entries of a kind, ordered by name.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'static Entry> + 'a {
        self.iter().filter(move |entry| entry.build.kind() == kind)
    }

    /// The entry of a kind (`objective`, `step`, `optimizer`, `schedule`, `backend`) with this name or
    /// alias.
    ///
    /// # Errors
    /// A [`ConfigError`] that lists the valid names and suggests the nearest one.
    pub fn get(&self, kind: &str, name: &str) -> Result<&'static Entry, ConfigError> {
        if let Some(entry) = self.entries.get(&(kind, name)).or_else(|| self.aliases.get(&(kind, name))) {
            return Ok(entry);
        }
        let of_kind = |parts: &BTreeMap<(&'static str, &'static str), _>| -> Vec<_> {
            parts.keys().filter(|(k, _)| *k == kind).map(|(_, name)| *name).collect()
        };
        Err(ConfigError::unknown_name(kind, name, &of_kind(&self.entries), &of_kind(&self.aliases)))
    }

    /// Builds an objective.
    ///
    /// # Errors
    /// When the name is unknown or the table is not valid for the part.
    pub fn objective(&self, name: &str, config: &Value) -> Result<Box<dyn Objective>, ConfigError> {
        self.get("objective", name)?.make(config)
    }

    /// Builds a bilevel step.
    ///
    /// # Errors
    /// As [`objective`](Self::objective).
    pub fn step(&self, name: &str, config: &Value) -> Result<Box<dyn BilevelStep>, ConfigError> {
        self.get("step", name)?.make(config)
    }

    /// Builds an optimizer.
    ///
    /// # Errors
    /// As [`objective`](Self::objective).
    pub fn optimizer(&self, name: &str, config: &Value) -> Result<Box<dyn Optimizer>, ConfigError> {
        self.get("optimizer", name)?.make(config)
    }

    /// Builds a learning-rate schedule.
    ///
    /// # Errors
    /// As [`objective`](Self::objective).
    pub fn schedule(&self, name: &str, config: &Value) -> Result<Box<dyn Schedule>, ConfigError> {
        self.get("schedule", name)?.make(config)
    }

    /// Builds a backend.
    ///
    /// # Errors
    /// As [`objective`](Self::objective).
    pub fn backend(&self, name: &str, config: &Value) -> Result<Box<dyn Backend>, ConfigError> {
        self.get("backend", name)?.make(config)
    }
}
