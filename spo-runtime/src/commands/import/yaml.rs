//! The part of YAML that configurations are written in: tables, lists and texts.

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};

use super::settings::Value;

/// A key, its value, and its line.
type Entry = (String, Value, usize);

/// A line, and what is wrong there.
type Problem = (usize, String);

/// The entries of a document that is a table.
pub(super) fn read(text: &str) -> Result<Vec<Entry>, Problem> {
    let mut reader = Reader { events: Parser::new_from_str(text), line: 1 };
    loop {
        match reader.next()? {
            Some(Event::MappingStart(..)) => break,
            Some(Event::StreamStart | Event::DocumentStart(_)) => {}
            Some(Event::StreamEnd | Event::DocumentEnd) | None => {
                return Err((1, "the file has no keys".into()));
            }
            Some(_) => return Err((reader.line, "a configuration is a table: `key: value`".into())),
        }
    }
    let mut entries: Vec<Entry> = Vec::new();
    while let Some((key, line)) = reader.key()? {
        if entries.iter().any(|(known, ..)| *known == key) {
            return Err((line, format!("`{key}` is there twice")));
        }
        let value = reader.value()?;
        entries.push((key, value, line));
    }
    Ok(entries)
}

struct Reader<'t> {
    events: Parser<'t, saphyr_parser::StrInput<'t>>,
    line: usize,
}

impl<'t> Reader<'t> {
    fn next(&mut self) -> Result<Option<Event<'t>>, Problem> {
        match self.events.next() {
            None => Ok(None),
            Some(Ok((event, span))) => {
                self.line = span.start.line();
                Ok(Some(event))
            }
            Some(Err(error)) => Err(malformed(&error)),
        }
    }

    /// The next key of a table; `None` at its end.
    fn key(&mut self) -> Result<Option<(String, usize)>, Problem> {
        match self.next()? {
            Some(Event::Scalar(key, ..)) => Ok(Some((key.into_owned(), self.line))),
            Some(Event::MappingEnd) => Ok(None),
            _ => Err((self.line, "a key must be a text".into())),
        }
    }

    fn value(&mut self) -> Result<Value, Problem> {
        match self.next()? {
            Some(event) => self.value_of(event),
            None => Err((self.line, "the file ends within a value".into())),
        }
    }

    fn value_of(&mut self, event: Event<'t>) -> Result<Value, Problem> {
        match event {
            Event::Scalar(text, style, ..) => {
                let none = style == ScalarStyle::Plain
                    && ["", "~", "null", "Null", "NULL", "None"].contains(&&*text);
                Ok(if none { Value::None } else { Value::Text(text.into_owned()) })
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        Some(Event::SequenceEnd) => return Ok(Value::List(items)),
                        Some(event) => items.push(self.value_of(event)?),
                        None => return Err((self.line, "the file ends within a list".into())),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut entries = Vec::new();
                while let Some((key, _)) = self.key()? {
                    let value = self.value()?;
                    entries.push((key, value));
                }
                Ok(Value::Table(entries))
            }
            Event::Alias(_) => Err((self.line, "aliases are not read: write the value itself".into())),
            _ => Err((self.line, "expected a text, a list or a table".into())),
        }
    }
}

fn malformed(error: &ScanError) -> (usize, String) {
    (error.marker().line(), format!("not YAML: {}", error.info()))
}
