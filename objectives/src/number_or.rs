use std::{borrow::Cow, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{Error, IntoDeserializer, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A value that is usually a plain number, but can also be one of the variants of the enum `T`:
/// `lambda = 1.0` or `lambda = { ramp = { to = 1.0, steps = 100 } }`.
///
/// An untagged enum would also work, but reports every mistake as "did not match any variant".
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum NumberOr<T> {
    /// The number itself.
    Number(f64),
    /// A variant of the enum.
    Form(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for NumberOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Forms<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Forms<T> {
            type Value = NumberOr<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number, a name or a table")
            }
            fn visit_f64<E>(self, x: f64) -> Result<Self::Value, E> {
                Ok(NumberOr::Number(x))
            }
            fn visit_i64<E>(self, x: i64) -> Result<Self::Value, E> {
                Ok(NumberOr::Number(x as f64))
            }
            fn visit_u64<E>(self, x: u64) -> Result<Self::Value, E> {
                Ok(NumberOr::Number(x as f64))
            }
            fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
                let known = !matches!(T::deserialize(name.into_deserializer()), Err(Refusal::UnknownName));
                T::deserialize(name.into_deserializer()).map(NumberOr::Form).map_err(|error: E| match known {
                    true => E::custom(format_args!("`{name}` needs a table: `{{ {name} = {{ .. }} }}`")),
                    false => error,
                })
            }
            fn visit_map<M: MapAccess<'de>>(self, table: M) -> Result<Self::Value, M::Error> {
                T::deserialize(MapAccessDeserializer::new(table)).map(NumberOr::Form)
            }
        }

        deserializer.deserialize_any(Forms(PhantomData))
    }
}

/// Why a bare name matches no variant. serde distinguishes the cases by the error constructor it calls.
#[derive(Debug)]
enum Refusal {
    UnknownName,
    NeedsTable,
}

impl Error for Refusal {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Refusal::NeedsTable
    }
    fn unknown_variant(_: &str, _: &'static [&'static str]) -> Self {
        Refusal::UnknownName
    }
}

impl std::error::Error for Refusal {}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl<T: JsonSchema> JsonSchema for NumberOr<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("NumberOr{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "number" }, generator.subschema_for::<T>()] })
    }
}
