//! The head of a data set's README.md, which says which files are its subsets and splits.

use saphyr_parser::{Event, Parser, ScalarStyle, StrInput};
use serde_json::{Map, Value};

/// A subset of a data set (`configs` in the head).
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Subset {
    pub(crate) name: String,
    pub(crate) is_default: bool,
    /// Its splits, each with patterns of names.
    pub(crate) splits: Vec<(String, Vec<String>)>,
    /// The folder that its patterns begin at, or whose files it consists of.
    pub(crate) folder: Option<String>,
}

/// The subsets that a README.md lists. None if it lists none, or in words that are not understood: then names of files tell.
pub(crate) fn subsets(readme: &str) -> Vec<Subset> {
    let head =
        readme.trim_start_matches('\u{feff}').strip_prefix("---").and_then(|rest| rest.split_once("\n---"));
    let Some((head, _)) = head else { return Vec::new() };
    let Some(head) = yaml(head) else { return Vec::new() };
    let listed = match &head["configs"] {
        Value::Array(listed) => listed.iter().map(subset).collect(),
        _ => None,
    };
    listed.unwrap_or_default()
}

fn subset(of: &Value) -> Option<Subset> {
    let patterns = |of: &Value| match of {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(several) => several.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
        _ => None,
    };
    let splits = match &of["data_files"] {
        Value::Null => Vec::new(),
        Value::Array(several) if several.iter().all(Value::is_object) => {
            let split = |one: &Value| Some((one["split"].as_str()?.to_owned(), patterns(&one["path"])?));
            several.iter().map(split).collect::<Option<_>>()?
        }
        Value::Object(several) => {
            let split = |(name, of): (&String, &Value)| Some((name.clone(), patterns(of)?));
            several.iter().map(split).collect::<Option<_>>()?
        }
        // Files without a split are there to train on.
        files => vec![("train".to_owned(), patterns(files)?)],
    };
    let folder = of["data_dir"].as_str().map(|folder| folder.trim_matches('/').to_owned());
    let name = of["config_name"].as_str().unwrap_or("default").to_owned();
    let is_default = name == "default" || of["default"] == "true";
    Some(Subset { name, is_default, splits, folder })
}

/// Tables, lists and texts of a YAML document. Numbers and truth values stay texts.
fn yaml(text: &str) -> Option<Value> {
    let mut events = Parser::new_from_str(text);
    loop {
        match events.next()?.ok()?.0 {
            Event::StreamStart | Event::DocumentStart(_) => {}
            event => return value(event, &mut events, 0),
        }
    }
}

fn value<'t>(event: Event<'t>, events: &mut Parser<'t, StrInput<'t>>, depth: usize) -> Option<Value> {
    if depth > 32 {
        return None;
    }
    match event {
        Event::Scalar(text, style, ..) => {
            let none = style == ScalarStyle::Plain && ["", "~", "null"].contains(&&*text);
            Some(if none { Value::Null } else { Value::String(text.into_owned()) })
        }
        Event::SequenceStart(..) => {
            let mut items = Vec::new();
            loop {
                match events.next()?.ok()?.0 {
                    Event::SequenceEnd => return Some(Value::Array(items)),
                    event => items.push(value(event, events, depth + 1)?),
                }
            }
        }
        Event::MappingStart(..) => {
            let mut entries = Map::new();
            loop {
                match events.next()?.ok()?.0 {
                    Event::MappingEnd => return Some(Value::Object(entries)),
                    Event::Scalar(key, ..) => {
                        let event = events.next()?.ok()?.0;
                        entries.insert(key.into_owned(), value(event, events, depth + 1)?);
                    }
                    _ => return None,
                }
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subsets_and_their_splits_are_read() {
        let readme = "---\nlicense: mit\ndataset_info:\n- config_name: main\n  features: [{name: a}]\nconfigs:\n- config_name: main\n  data_files:\n  - split: train\n    path: main/train-*\n  - split: test\n    path: [a.jsonl, \"b.jsonl\"]\n  default: true\n- config_name: more\n  data_dir: /more/\n- config_name: one\n  data_files: one.csv\n---\n# Text\n---\n";
        let found = subsets(readme);
        let names = |of: &[&str]| of.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            found[0],
            Subset {
                name: "main".into(),
                is_default: true,
                splits: vec![
                    ("train".into(), names(&["main/train-*"])),
                    ("test".into(), names(&["a.jsonl", "b.jsonl"]))
                ],
                folder: None
            }
        );
        assert_eq!((found[1].folder.as_deref(), found[1].splits.len()), (Some("more"), 0));
        assert_eq!(found[2].splits, [("train".to_owned(), names(&["one.csv"]))]);
    }

    #[test]
    fn a_text_without_such_a_head_lists_none() {
        for text in [
            "",
            "# Title",
            "---\nlicense: mit\n---\n",
            "---\nconfigs: [\n---\n",
            "---\nconfigs: 1\n---\n",
            "---",
        ] {
            assert_eq!(subsets(text), [], "{text}");
        }
        assert_eq!(subsets(&format!("---\nconfigs: {}\n---\n", "[".repeat(5000))), []);
    }
}
