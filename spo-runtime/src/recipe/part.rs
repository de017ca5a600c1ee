//! A part in a recipe: its name, its own keys, and the runtime's keys in the same table.
//!
//! Every part is written as a bare name or as a table: `"dpo"` is short for `{ name = "dpo" }`. A table may
//! mix the part's keys with keys of the runtime (`weight` in a sum, `lr` of an optimizer), which [`Spec`]
//! separates. The part's own keys are checked when it is built, by the type that the registry knows.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, Error as _, MapAccess, Visitor};
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};
use spo_api::{ConfigError, ConfigErrorKind, Registry, nearest};

/// The runtime's keys in a part's table.
pub(crate) trait OwnKeys: DeserializeOwned + Serialize + JsonSchema {
    /// The kind of part, as named in the registry.
    const KIND: &'static str;
    /// The key that holds the part's name.
    const NAME: &'static str = "name";
    /// The part that is used if a table names none.
    const DEFAULT: Option<&'static str> = None;
}

/// A part as described in a recipe.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PartSpec {
    pub(crate) name: String,
    /// The part's own keys.
    pub(crate) config: Map<String, Value>,
    /// Its location in the recipe: `stage[1].objective`.
    pub(crate) place: String,
    /// Whether the recipe gives only its bare name.
    bare: bool,
    /// The key that holds the name in a table.
    key: &'static str,
    kind: &'static str,
    /// The runtime's keys in the same table.
    beside: Vec<String>,
}

impl PartSpec {
    /// A part given by its bare name.
    pub(crate) fn named<O: OwnKeys>(name: &str) -> Self {
        PartSpec {
            name: name.to_owned(),
            config: Map::new(),
            place: String::new(),
            bare: true,
            key: O::NAME,
            kind: O::KIND,
            beside: Vec::new(),
        }
    }

    /// The part with another table.
    pub(crate) fn with(self, config: Map<String, Value>) -> Self {
        PartSpec { bare: false, config, ..self }
    }

    /// Its kind and name.
    pub(crate) fn identity(&self) -> (&'static str, &str) {
        (self.kind, &self.name)
    }

    /// Builds the part. Errors name its location in the recipe.
    pub(crate) fn build<T>(
        &self,
        registry: &Registry,
        build: impl FnOnce(&Registry, &str, &Value) -> Result<T, ConfigError>,
    ) -> Result<T, ConfigError> {
        build(registry, &self.name, &Value::Object(self.config.clone()))
            .map_err(|error| self.located(self.explained(registry, error)))
    }

    /// An error about the part's table, located in the recipe.
    pub(crate) fn located(&self, mut error: ConfigError) -> ConfigError {
        let key = match (&error.key, error.kind) {
            (Some(key), _) if key.starts_with('[') => format!("{}{key}", self.place),
            (Some(key), _) => format!("{}.{key}", self.place),
            (None, ConfigErrorKind::UnknownName) if !self.bare => format!("{}.{}", self.place, self.key),
            (None, _) => self.place.clone(),
        };
        error.key = Some(key);
        error
    }

    /// Extends the error about an unknown key: suggests a similar key of the runtime, and names other parts
    /// that have this key, in case an option was given to the wrong part.
    fn explained(&self, registry: &Registry, mut error: ConfigError) -> ConfigError {
        let value = error.key.as_ref().and_then(|key| self.config.get(key)).and_then(Value::as_str);
        if let (ConfigErrorKind::UnknownName, Some(name)) = (error.kind, value)
            && registry
                .iter()
                .any(|entry| entry.build.kind() == self.kind && entry.names().any(|n| n == name))
        {
            error.message +=
                &format!("; `{name}` is {} of its own: `{} = \"{name}\"`", with_article(self.kind), self.key);
            error.suggestion = None;
            return error;
        }
        let Some(key) = error.key.clone().filter(|_| error.kind == ConfigErrorKind::UnknownKey) else {
            return error;
        };
        if !self.beside.is_empty() {
            let quoted: Vec<_> = self.beside.iter().map(|key| format!("`{key}`")).collect();
            error.message += &format!("; beside them {}", quoted.join(", "));
            let beside = self.beside.iter().map(String::as_str).chain(error.suggestion.as_deref());
            error.suggestion = nearest(&key, beside).map(str::to_owned);
        }
        let has_key = |entry: &&spo_api::Entry| (entry.schema)().as_value()["properties"].get(&key).is_some();
        let same_kind = registry.iter().filter(|entry| entry.build.kind() == self.kind);
        let owners: Vec<_> = same_kind.filter(has_key).map(|entry| entry.name).collect();
        if !owners.is_empty() {
            error.message += &format!("; `{key}` is an option of {}", owners.join(", "));
        }
        error
    }
}

/// A part together with the runtime's own keys.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spec<O> {
    pub(crate) part: PartSpec,
    pub(crate) own: O,
}

impl<O: OwnKeys> Spec<O> {
    /// A part given by its bare name. Fails if the runtime requires a key.
    pub(crate) fn named(name: &str) -> Result<Self, ConfigError> {
        let own = serde_json::from_value(Value::Object(Map::new()));
        let own = own.map_err(|e| ConfigError::whole(e.to_string()).of_kind(ConfigErrorKind::MissingKey))?;
        Ok(Spec { part: PartSpec { beside: keys::<O>(), ..PartSpec::named::<O>(name) }, own })
    }
}

/// A kind of part with its article.
fn with_article(kind: &str) -> String {
    format!("{} {kind}", if kind.starts_with(['a', 'o']) { "an" } else { "a" })
}

/// The names of the runtime's keys.
fn keys<O: OwnKeys>() -> Vec<String> {
    let schema = schemars::schema_for!(O);
    let properties = schema.as_value()["properties"].as_object();
    properties.into_iter().flatten().map(|(key, _)| key.clone()).collect()
}

struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::String(name) => Ok(Name(name)),
            other => Err(D::Error::custom(format!("must be the name of a part, got {other}"))),
        }
    }
}

impl<'de, O: OwnKeys> Deserialize<'de> for Spec<O> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct NameOrTable<O>(PhantomData<O>);

        impl<'de, O: OwnKeys> Visitor<'de> for NameOrTable<O> {
            type Value = Spec<O>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "the name of {} or a table", with_article(O::KIND))
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Spec<O>, E> {
                Spec::named(name).map_err(|error| E::custom(error.message))
            }

            fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<Spec<O>, A::Error> {
                let mut sorter = Sorter::<A, O> {
                    table,
                    own: keys::<O>(),
                    name: None,
                    config: Map::new(),
                    of: PhantomData,
                };
                let own = O::deserialize(MapAccessDeserializer::new(&mut sorter))?;
                let Some(name) = sorter.name.or(O::DEFAULT.map(str::to_owned)) else {
                    let (key, kind) = (O::NAME, O::KIND);
                    return Err(A::Error::custom(format!("missing key `{key}`: which {kind}?")));
                };
                let part = PartSpec {
                    config: sorter.config,
                    bare: false,
                    beside: sorter.own,
                    ..PartSpec::named::<O>(&name)
                };
                Ok(Spec { part, own })
            }
        }

        from.deserialize_any(NameOrTable(PhantomData))
    }
}

/// Reads a value that is written as a text, the short form of a table, or as the table.
pub(super) fn text_or_table<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    from: D,
    expected: &str,
    from_text: impl FnOnce(&str) -> T,
) -> Result<T, D::Error> {
    struct TextOrTable<'e, F, T>(&'e str, F, PhantomData<T>);

    impl<'de, F: FnOnce(&str) -> T, T: Deserialize<'de>> Visitor<'de> for TextOrTable<'_, F, T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E>(self, text: &str) -> Result<T, E> {
            Ok((self.1)(text))
        }

        fn visit_map<A: MapAccess<'de>>(self, table: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(table))
        }
    }

    from.deserialize_any(TextOrTable(expected, from_text, PhantomData))
}

/// Passes a table's own keys of `O` on for deserialization, and collects the others for the part.
struct Sorter<A, O> {
    table: A,
    own: Vec<String>,
    name: Option<String>,
    config: Map<String, Value>,
    of: PhantomData<O>,
}

impl<'de, A: MapAccess<'de>, O: OwnKeys> MapAccess<'de> for &mut Sorter<A, O> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.table.next_key::<String>()? {
            if key == O::NAME {
                self.name = Some(self.table.next_value::<Name>()?.0);
            } else if self.own.contains(&key) {
                return seed.deserialize(StrDeserializer::new(&key)).map(Some);
            } else {
                let value = self.table.next_value()?;
                self.config.insert(key, value);
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.table.next_value_seed(seed)
    }
}

impl<O: OwnKeys> Serialize for Spec<O> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        if self.part.bare {
            return to.serialize_str(&self.part.name);
        }
        let mut table = Map::from_iter([(O::NAME.to_owned(), Value::from(self.part.name.as_str()))]);
        table.extend(self.part.config.clone());
        let own = serde_json::to_value(&self.own).map_err(S::Error::custom)?;
        table.extend(own.as_object().cloned().unwrap_or_default());
        table.serialize(to)
    }
}

impl<O: OwnKeys> JsonSchema for Spec<O> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}_of_{}", O::schema_name(), O::KIND).into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// Accepts any string as the part's name. `super::schema` replaces it with the names in the registry.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut table = O::json_schema(generator);
        let table = table.ensure_object();
        table.remove("additionalProperties");
        table.remove("title");
        let properties = table.entry("properties").or_insert_with(|| Value::Object(Map::new()));
        if let Value::Object(properties) = properties {
            properties.insert(O::NAME.to_owned(), serde_json::json!({ "type": "string" }));
        }
        json_schema!({
            "anyOf": [{ "type": "string" }, table],
            "x-spo-part": { "kind": O::KIND, "name": O::NAME, "default": O::DEFAULT },
        })
    }
}

/// Kinds of parts for which the runtime has no keys of its own.
macro_rules! no_own_keys {
    ($($name:ident of $kind:literal),*) => {$(
        #[derive(Clone, Debug, PartialEq, Deserialize, Serialize, JsonSchema)]
        pub(crate) struct $name {}

        impl OwnKeys for $name {
            const KIND: &'static str = $kind;
        }
    )*};
}

no_own_keys!(ObjectiveAlone of "objective", ScheduleAlone of "schedule", TaskAlone of "task");
