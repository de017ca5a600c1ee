//! Metadata.

/// The value of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A whole number of any width. Those above 2^63 are not used by any key.
    Integer(i64),
    /// A number in f32 or f64.
    Number(f64),
    /// A truth value.
    Flag(bool),
    /// UTF-8. Bytes that are none are replaced.
    Text(String),
    /// Values of one type.
    List(List),
}

/// Values of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum List {
    /// Whole numbers.
    Integers(Vec<i64>),
    /// Numbers in f32 or f64.
    Numbers(Vec<f64>),
    /// Truth values.
    Flags(Vec<bool>),
    /// Texts.
    Texts(Vec<String>),
}

impl Value {
    /// What it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Value::Integer(_) => "a whole number",
            Value::Number(_) => "a number",
            Value::Flag(_) => "true or false",
            Value::Text(_) => "a text",
            Value::List(List::Integers(_)) => "a list of whole numbers",
            Value::List(List::Numbers(_)) => "a list of numbers",
            Value::List(List::Flags(_)) => "a list of truth values",
            Value::List(List::Texts(_)) => "a list of texts",
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Value::Text(text.to_owned())
    }
}
