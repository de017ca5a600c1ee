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
        self.lines.push((section, format!("{key} = {}  # {from}", value.into())));
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
