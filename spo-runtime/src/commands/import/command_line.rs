//! Command lines: `trl dpo --learning_rate 5e-7 ...`, also behind `accelerate launch` and with a script.

use std::path::Path;

use super::file;
use super::settings::{Setting, Settings, Value};
use super::trl::Trainer;
use crate::error::{BadInput, bad};

/// The settings of a command line, those of its `--config` first, and the trainer that it starts.
pub(super) fn read(words: &[String]) -> Result<(Settings, Option<Trainer>), BadInput> {
    let wrong = |problem: String| bad(format!("the command line: {problem}"));
    // One argument is a whole line in quotes.
    let words: Vec<&str> = match words {
        [line] => line.split_whitespace().collect(),
        words => words.iter().map(String::as_str).collect(),
    };
    let words: Vec<&str> = words.into_iter().filter(|word| *word != "\\").collect();
    let mut trainer = None;
    let mut settings = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let word = words[at];
        at += 1;
        let Some(option) = word.strip_prefix("--") else {
            let name = Path::new(word).file_stem().and_then(|stem| stem.to_str()).unwrap_or(word);
            if let Some(named) = Trainer::named(name).filter(|_| name != "trl") {
                trainer = Some(named);
            }
            continue;
        };
        let (key, given) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        let mut values: Vec<&str> = given.into_iter().collect();
        if given.is_none() {
            while let Some(value) = words.get(at).filter(|value| !value.starts_with("--")) {
                // The script or the trainer's name may follow an option of the launcher.
                if trainer.is_none() && (*value == "trl" || value.ends_with(".py")) {
                    break;
                }
                values.push(value);
                at += 1;
            }
        }
        let text = |value: &&str| Value::Text((*value).to_owned());
        let value = match &*values {
            [] => Value::Text("true".into()),
            [one] => text(one),
            several => Value::List(several.iter().map(text).collect()),
        };
        let key = key.replace('-', "_");
        // argparse turns off what is on by default.
        let (key, value) = match key.strip_prefix("no_") {
            Some(on) if values.is_empty() && key != "no_cuda" => (on.to_owned(), Value::Text("false".into())),
            _ => (key, value),
        };
        settings.push(Setting { key, value, place: "the command line".into() });
    }
    if trainer.is_none() && settings.is_empty() {
        return Err(wrong("expected `trl dpo --model_name_or_path ...`".into()));
    }
    let config = settings.iter().position(|setting| setting.key == "config");
    if let Some(Setting { value: Value::Text(file), .. }) = config.map(|at| settings.remove(at)) {
        let mut of_file = file::read(Path::new(&file))?.into_settings();
        of_file.append(&mut settings);
        settings = of_file;
    }
    Ok((Settings::new(settings), trainer))
}
