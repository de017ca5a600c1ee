use std::collections::BTreeMap;

use schemars::Schema;
use serde_json::Value;

use crate::{Backend, BilevelStep, ConfigError, Objective, Optimizer, Schedule};

/// Makes a part from its table in the recipe.
pub type Constructor<P> = &'static (dyn Fn(&Value) -> Result<Box<P>, ConfigError> + Send + Sync);

/// A kind of part: the trait that its parts implement.
pub trait Kind: 'static {
    /// What recipes and messages call it.
    const NAME: &'static str;
    /// The constructor of a part of this kind; none of another.
    fn constructor(build: Build) -> Option<Constructor<Self>>;
    /// The way back.
    fn build(constructor: Constructor<Self>) -> Build;
}

/// Lists the kinds: each trait's name among the variants of [`Build`], and in words.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident: $trait:ident, $name:literal;)+) => {
        /// Constructor of a part, by kind.
        #[derive(Clone, Copy)]
        pub enum Build {
            $($(#[$doc])* $variant(Constructor<dyn $trait>),)+
        }

        impl Build {
            /// The kind in words, as recipes and messages call it.
            pub fn kind(&self) -> &'static str {
                match self {
                    $(Build::$variant(_) => $name,)+
                }
            }

            /// Makes the part and throws it away.
            ///
            /// # Errors
            /// When the table is not one it accepts.
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
    /// Of an objective.
    Objective: Objective, "objective";
    /// Of a bilevel step.
    Step: BilevelStep, "step";
    /// Of an optimizer.
    Optimizer: Optimizer, "optimizer";
    /// Of a schedule of the learning rate.
    Schedule: Schedule, "schedule";
    /// Of a backend.
    Backend: Backend, "backend";
}

/// A registered part: everything the runtime knows of it. Written by [`register!`](crate::register).
pub struct Entry {
    /// The name recipes use.
    pub name: &'static str,
    /// Other names for the same thing.
    pub aliases: &'static [&'static str],
    /// One line for a list.
    pub summary: &'static str,
    /// Paper and equation.
    pub source: &'static str,
    /// The crate that registered it, or the plugin it was loaded from.
    pub origin: &'static str,
    /// JSON Schema of its table; the description is the type's doc comment.
    pub schema: &'static (dyn Fn() -> Schema + Send + Sync),
    /// Its constructor.
    pub build: Build,
}

inventory::collect!(Entry);

impl Entry {
    /// Makes the part.
    ///
    /// # Errors
    /// For a bad table.
    ///
    /// # Panics
    /// When it is of another kind.
    pub fn make<K: Kind + ?Sized>(&self, config: &Value) -> Result<Box<K>, ConfigError> {
        let constructor = K::constructor(self.build);
        constructor.unwrap_or_else(|| panic!("`{}` is no {}", self.name, K::NAME))(config)
    }
}

/// Registers a part under a name, for every program that links the crate.
///
/// The type must be a [`Part`](crate::Part) and implement the trait of its kind: `objective`
/// ([`Objective`] or [`PairLoss`](crate::PairLoss)), `step` ([`BilevelStep`]), `optimizer`
/// ([`Optimizer`]), `schedule` ([`Schedule`]) or `backend` ([`Backend`]). A crate that is listed as a dependency and never named is not linked: the program
/// must say `use the_crate as _;`.
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

/// A library that parts were loaded from.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub struct Library {
    /// Its name, as it gives it.
    pub name: String,
    /// Its version, as it gives it.
    pub version: String,
    /// Its file.
    pub path: std::path::PathBuf,
    /// Hash of the file.
    pub sha256: String,
}

/// All parts a program knows, by kind and name.
pub struct Registry {
    libraries: Vec<Library>,
    entries: BTreeMap<(&'static str, &'static str), &'static Entry>,
    aliases: BTreeMap<(&'static str, &'static str), &'static Entry>,
}

impl Registry {
    /// The parts that were linked into the program.
    ///
    /// # Errors
    /// Those of [`add`](Self::add).
    pub fn linked() -> crate::Result<Self> {
        let mut registry =
            Registry { libraries: Vec::new(), entries: BTreeMap::new(), aliases: BTreeMap::new() };
        for entry in inventory::iter::<Entry> {
            registry.add(entry)?;
        }
        Ok(registry)
    }

    /// Adds a part, as a plugin brings it.
    ///
    /// # Errors
    /// When another of its kind has its name or alias; the error names where both come from.
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
    /// Those of [`add`](Self::add).
    pub fn add_library(&mut self, library: Library, entries: &[&'static Entry]) -> crate::Result<()> {
        entries.iter().try_for_each(|entry| self.add(entry))?;
        self.libraries.push(library);
        Ok(())
    }

    /// The libraries that parts were loaded from.
    pub fn libraries(&self) -> &[Library] {
        &self.libraries
    }

    /// All entries, by kind, then by name.
    pub fn iter(&self) -> impl Iterator<Item = &'static Entry> + '_ {
        self.entries.values().copied()
    }

    /// All entries of a kind, by name.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'static Entry> + 'a {
        self.iter().filter(move |entry| entry.build.kind() == kind)
    }

    /// The entry of a kind (`objective`, `step`, `optimizer`, `schedule`, `backend`) with this name or alias.
    ///
    /// # Errors
    /// A [`ConfigError`] that lists the valid names and suggests the nearest.
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
    /// For an unknown name or a bad table; so for the others below.
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

    /// Builds a schedule of the learning rate.
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
