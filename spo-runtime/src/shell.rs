//! Paths in commands that a person may copy into a shell.

use std::path::Path;

/// A path as a word of a POSIX shell.
pub(crate) fn word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "_-./=,+@%:".contains(c);
    // A command would take it for an option.
    let text = if text.starts_with('-') { format!("./{text}") } else { text };
    match !text.is_empty() && text.chars().all(plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_what_a_shell_reads_as_one() {
        for (path, expected) in [
            ("runs/objective=dpo,seed=1", "runs/objective=dpo,seed=1"),
            ("läufe/eins", "läufe/eins"),
            ("my runs", "'my runs'"),
            ("it's", r"'it'\''s'"),
            ("$(reboot)", "'$(reboot)'"),
            ("a\\b\"c", "'a\\b\"c'"),
            ("~x", "'~x'"),
            ("-rf", "./-rf"),
            ("", "''"),
        ] {
            assert_eq!(word(Path::new(path)), expected);
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_shell_gives_every_path_back() {
        for path in ["a b", "it's", "-n", "x\ny", "a\\", "\"", "`id`", "$HOME", "ä*?[", "#", "!", "\u{7f}"] {
            let command = format!("printf %s {}", word(Path::new(path)));
            let output = std::process::Command::new("sh").args(["-c", &command]).output().unwrap();
            let said = String::from_utf8(output.stdout).unwrap();
            assert_eq!(said.strip_prefix("./").unwrap_or(&said), path);
        }
    }
}
