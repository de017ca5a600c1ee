//! The rules for names that become folders: those of stages, of a sweep's arms, and of the run.

use spo_api::ConfigError;

/// Names that a stage or an arm cannot have: the model as it was opened, and what the program itself puts into a
/// folder.
const TAKEN: [&str; 6] = ["model", "checkpoints", "nonfinite", "tensorboard", "sweep", "results"];

/// The endings of the program's own files and folders.
const ENDINGS: [&str; 11] = [
    ".json", ".jsonl", ".toml", ".log", ".lock", ".html", ".csv", ".parquet", ".svg", ".partial", ".removed",
];

/// The longest name, in bytes. File systems allow 255, and the program adds a seed, an ending and a dot.
const LONGEST: usize = 200;

/// Checks the name of a stage or of an arm.
pub(super) fn check(at: &str, name: &str) -> Result<(), ConfigError> {
    let refuse = |message: String| Err(ConfigError::at(at, message));
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.=+".contains(c);
    if name.is_empty() || !name.chars().all(plain) || name.starts_with(['.', '-']) {
        return refuse(
            "must be letters, digits, `-`, `_`, `.`, `=` and `+`, and begin with a letter or a digit: it names a folder"
                .to_owned(),
        );
    }
    fits(at, name)?;
    // Some file systems do not tell capitals from small letters.
    let small = name.to_ascii_lowercase();
    if TAKEN.contains(&&*small) {
        return refuse(format!("`{name}` is taken: the program calls something else so"));
    }
    match ENDINGS.iter().find(|ending| small.ends_with(*ending)) {
        Some(ending) => {
            refuse(format!("must not end with `{ending}`: it names a folder beside files of that kind"))
        }
        None => Ok(()),
    }
}

/// Checks the name of a run, which names its folder unless the recipe has an `output`.
pub(super) fn check_run(at: &str, name: &str) -> Result<(), ConfigError> {
    let bad = |c: char| c.is_control() || "/\\".contains(c);
    if name.trim().is_empty() || name.starts_with('.') || name.contains(bad) {
        let message = "must not be empty, begin with a dot, or hold a slash: it names a folder";
        return Err(ConfigError::at(at, message));
    }
    fits(at, name)
}

fn fits(at: &str, name: &str) -> Result<(), ConfigError> {
    match name.len() {
        ..=LONGEST => Ok(()),
        bytes => {
            let message = format!("has {bytes} bytes, and names a folder: at most {LONGEST}");
            Err(ConfigError::at(at, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_folder_beside_the_programs_own() {
        for name in ["sft", "dpo-lr-5e-4", "beta=0.5", "v1.2", "Model-2", "html", &"x".repeat(200)] {
            assert_eq!(check("stage[0].name", name), Ok(()), "{name}");
        }
        for name in [
            "",
            ".",
            "..",
            ".hidden",
            "-x",
            "a/b",
            "a b",
            "ü",
            "model",
            "Checkpoints",
            "sweep",
            "results",
            "run.json",
            "METRICS.JSONL",
            "recipe.toml",
            "x.partial",
            "a.log",
            &"x".repeat(201),
        ] {
            let error = check("stage[0].name", name).expect_err(name);
            assert_eq!(error.key.as_deref(), Some("stage[0].name"));
        }
        for name in ["my run", "läuft", "2026-11-27"] {
            assert_eq!(check_run("run.name", name), Ok(()), "{name}");
        }
        for name in ["", " ", "..", "../x", "a/b", "a\\b", "a\nb", &"x".repeat(300)] {
            assert!(check_run("run.name", name).is_err(), "{name}");
        }
    }
}
