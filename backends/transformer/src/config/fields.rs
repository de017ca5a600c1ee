//! Access to `config.json`, with errors that name the file and the key.

use serde_json::Value;
use spo_api::{Error, Result};

use crate::engine::Activation;

pub(crate) struct Fields<'a> {
    pub config: &'a Value,
    pub origin: &'a str,
}

impl Fields<'_> {
    pub fn error(&self, key: &str, problem: impl std::fmt::Display) -> Error {
        Error::Model(format!("{}: `{key}` {problem}", self.origin))
    }

    /// The value of a key; null counts as absent, as in transformers.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.config.get(key).filter(|v| !v.is_null())
    }

    fn typed<'v, T>(
        &'v self,
        key: &str,
        kind: &str,
        read: impl Fn(&'v Value) -> Option<T>,
    ) -> Result<Option<T>> {
        self.get(key)
            .map(|v| read(v).ok_or_else(|| self.error(key, format!("must be {kind}, got {v}"))))
            .transpose()
    }

    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "is missing"))
    }

    /// A size that determines allocations. Implausibly large values are rejected before anything is
    /// allocated.
    pub fn maybe_size(&self, key: &str) -> Result<Option<usize>> {
        self.bounded(key, "a positive whole number of at most 2^24", 1 << 24)
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        self.required(key, self.maybe_size(key)?)
    }

    fn bounded(&self, key: &str, kind: &str, most: u64) -> Result<Option<usize>> {
        self.typed(key, kind, |v| v.as_u64().filter(|n| (1..=most).contains(n)).map(|n| n as usize))
    }

    /// A number of layers, which may be 0.
    pub fn maybe_count(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a whole number of at least 0", |v| v.as_u64().map(|n| n as usize))
    }

    pub fn layers(&self, key: &str) -> Result<usize> {
        self.required(key, self.bounded(key, "a positive whole number of at most 10,000", 10_000)?)
    }

    /// The maximum sequence length. It determines no allocation, so large values are accepted.
    pub fn context(&self, key: &str) -> Result<usize> {
        self.required(key, self.bounded(key, "a positive whole number of at most 2^32", 1 << 32)?)
    }

    /// A number that is not below `least`, nor above `most`.
    pub fn maybe_within(&self, key: &str, least: f64, most: f64) -> Result<Option<f64>> {
        let within = |n: &f64| (least..=most).contains(n);
        self.typed(key, &format!("a number from {least} to {most}"), |v| v.as_f64().filter(within))
    }

    /// The epsilon of a norm.
    pub fn epsilon(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.maybe_within(key, 0.0, 1.0)?.unwrap_or(default))
    }

    /// The standard deviation of a random initialisation.
    pub fn initializer_range(&self) -> Result<f64> {
        Ok(self.maybe_within("initializer_range", 0.0, 1000.0)?.unwrap_or(0.02))
    }

    pub fn maybe_positive(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number above 0", |v| v.as_f64().filter(|n| *n > 0.0))
    }

    pub fn positive(&self, key: &str) -> Result<f64> {
        self.required(key, self.maybe_positive(key)?)
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.typed(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub fn maybe_text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", Value::as_str)
    }

    /// Rejects an option unless it has the implemented value.
    pub fn only_flag(&self, key: &str, implemented: bool) -> Result<()> {
        match self.flag(key, implemented)? == implemented {
            true => Ok(()),
            false => Err(self.error(key, format!("= {} is not supported", !implemented))),
        }
    }

    pub fn only_text(&self, key: &str, implemented: &[&str]) -> Result<()> {
        match self.maybe_text(key)? {
            Some(other) if !implemented.contains(&other) => Err(self.error(
                key,
                format!("= \"{other}\" is not supported, only \"{}\"", implemented.join("\", \"")),
            )),
            _ => Ok(()),
        }
    }

    /// An activation function by its name in transformers.
    pub fn activation(&self, key: &str, default: Activation) -> Result<Activation> {
        match self.maybe_text(key)? {
            None => Ok(default),
            Some("silu" | "swish") => Ok(Activation::Silu),
            Some("gelu") => Ok(Activation::Gelu),
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
            Some(other) => Err(self.error(
                key,
                format!(
                    "= \"{other}\" is not supported, only \"silu\", \"gelu\", \"gelu_new\", \"gelu_fast\", \
                     \"gelu_pytorch_tanh\""
                ),
            )),
        }
    }

    /// The default width of a head: the hidden size divided by the number of heads.
    pub fn head_width(&self, hidden: usize, heads: usize, key: &str) -> Result<usize> {
        match hidden.is_multiple_of(heads) {
            true => Ok(hidden / heads),
            false => Err(self.error(key, format!("= {heads} must divide the hidden size, {hidden}"))),
        }
    }

    /// The type in which the weights were published.
    pub fn dtype(&self) -> Result<String> {
        let known = ["float32", "float64", "bfloat16", "float16"];
        ["dtype", "torch_dtype"].into_iter().try_for_each(|key| self.only_text(key, &known))?;
        Ok(self.maybe_text("dtype")?.or(self.maybe_text("torch_dtype")?).unwrap_or("float32").to_owned())
    }
}
