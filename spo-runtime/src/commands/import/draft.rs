//! A recipe as it is written: lines of TOML, each with where it comes from.

use toml::Value;

/// The sections of a recipe that can be written, in their order.
const SECTIONS: [&str; 8] = [
    "[run]",
    "[model]",
    "[model.adapter]",
    "[data]",
    "[evaluation]",
    "[checkpoint]",
    "[[stage]]",
    "[stage.optimizer]",
];

#[derive(Default)]
pub(super) struct Draft {
    /// The section, and the line in it.
    lines: Vec<(&'static str, String)>,
    /// Keys that were not carried over, and why.
    left_out: Vec<String>,
    /// What changes results and is not carried over.
    pub(super) loud: Vec<String>,
}

impl Draft {
    /// Writes a key of a section. `from` says what it was.
    pub(super) fn set(&mut self, section: &'static str, key: &str, value: impl Into<Value>, from: &str) {
        self.lines.push((section, format!("{key} = {}  # {from}", inline(&value.into()))));
    }

    /// Whether a key was written.
    pub(super) fn has(&self, section: &str, key: &str) -> bool {
        let begin = format!("{key} = ");
        self.lines.iter().any(|(of, line)| *of == section && line.starts_with(&begin))
    }

    pub(super) fn leave_out(&mut self, setting: &str, why: &str) {
        self.left_out.push(format!("{setting}: {why}"));
    }

    /// Something that changes results, and is not carried over.
    pub(super) fn warn(&mut self, setting: &str, why: &str) {
        self.loud.push(format!("{setting}: {why}"));
    }

    /// Whether a setting, by its key, was not carried over.
    pub(super) fn lacks(&self, key: &str) -> bool {
        let of_key = |line: &String| line.strip_prefix(key).is_some_and(|rest| rest.starts_with([' ', ':']));
        self.left_out.iter().chain(&self.loud).any(of_key)
    }

    /// The recipe, below its title.
    pub(super) fn text(&self, title: &str) -> String {
        let mut text = format!("# {title}\n");
        let lists = [
            ("NOT carried over, and results will differ:", &self.loud),
            ("Not carried over, with little or no effect on results:", &self.left_out),
        ];
        for (title, list) in lists.into_iter().filter(|(_, list)| !list.is_empty()) {
            text += &format!("#\n# {title}\n");
            list.iter().for_each(|line| text += &format!("# - {line}\n"));
        }
        for section in SECTIONS {
            let lines: Vec<&str> =
                self.lines.iter().filter(|(of, _)| *of == section).map(|(_, line)| &**line).collect();
            if !lines.is_empty() {
                text += &format!("\n{section}\n{}\n", lines.join("\n"));
            }
        }
        text
    }
}

/// A value on one line: names first, and small numbers with an exponent.
fn inline(value: &Value) -> String {
    match value {
        Value::Float(x) if *x != 0.0 && x.abs() < 1e-3 => format!("{x:e}"),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Table(table) => {
            let (first, rest): (Vec<_>, Vec<_>) = table.iter().partition(|(key, _)| *key == "name");
            let entries =
                first.into_iter().chain(rest).map(|(key, value)| format!("{key} = {}", inline(value)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
        other => other.to_string(),
    }
}
