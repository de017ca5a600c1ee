//! `cargo xtask figures`: whether the figures in `docs/spo/` are those of this version.
//!
//! The commands that a section of these pages shows are run as they stand. Every figure in the tables of the section, and
//! every figure with an interval in its text, must be among what they print.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The pages with figures and the commands that make them.
const PAGES: [&str; 4] =
    ["docs/spo/enumerable.md", "docs/spo/transformer.md", "docs/spo/budget.md", "docs/spo/fronts.md"];

/// A part of a page under one heading.
#[derive(Debug, Default, PartialEq, Eq)]
struct Section {
    title: String,
    /// Its shell commands.
    commands: String,
    /// The rows of its tables, without headers.
    rows: Vec<Vec<String>>,
    /// Its other lines.
    text: String,
}

/// Checks the sections whose page and heading contain `wanted`, as in `enumerable.md, The arms`. Runs are made in `target/figures`, and kept there while
/// `spo-run` is the same.
///
/// # Errors
/// Names the figures that the commands do not print, or the command that failed.
pub fn check(wanted: &str, program: &Path) -> Result<String, String> {
    let program = &program.canonicalize().map_err(|e| format!("{}: {e}", program.display()))?;
    let folder = fresh_folder(program)?;
    let (mut told, mut wrong) = (String::new(), Vec::new());
    for page in PAGES {
        for section in sections(&read(&project().join(page))?) {
            let place = format!("{page}, {}", section.title);
            if !place.to_lowercase().contains(&wanted.to_lowercase()) || !section.has_figures() {
                continue;
            }
            eprintln!("{place}");
            let printed = run(&section.commands, &folder, program)?;
            let (checked, missing) = (section.figures(), section.missing(&printed));
            told += &format!("{place}: {checked} figures, {} differ\n", missing.len());
            wrong.extend(missing.into_iter().map(|figure| format!("{place}: {figure}")));
        }
    }
    match (told.is_empty(), wrong.is_empty()) {
        (true, _) => Err(format!("no section with figures is called `{wanted}` in {}", PAGES.join(", "))),
        (false, true) => Ok(told),
        (false, false) => {
            Err(format!("{told}the commands do not print these figures:\n  {}", wrong.join("\n  ")))
        }
    }
}

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// The folder for the runs, without those of another build of `spo-run`.
fn fresh_folder(program: &Path) -> Result<PathBuf, String> {
    let folder = project().join("target/figures");
    let bad = |e: std::io::Error| format!("{}: {e}", folder.display());
    let changed = |path: &Path| std::fs::metadata(path).and_then(|data| data.modified());
    let stamp = folder.join("began");
    let built = changed(program).map_err(|e| format!("{}: {e}", program.display()))?;
    if changed(&stamp).is_ok_and(|began| began > built) {
        return Ok(folder);
    }
    if folder.exists() {
        std::fs::remove_dir_all(&folder).map_err(bad)?;
    }
    std::fs::create_dir_all(&folder).map_err(bad)?;
    std::fs::write(&stamp, "").map_err(bad)?;
    Ok(folder)
}

/// What shell commands print. `spo-run` is the program at this path, `cargo xtask` this program.
fn run(commands: &str, folder: &Path, program: &Path) -> Result<String, String> {
    let quoted = |path: &Path| format!("'{}'", path.display());
    let this = std::env::current_exe().map_err(|e| format!("this program is gone: {e}"))?;
    let recipes = project().join("recipes").canonicalize().map_err(|e| format!("recipes: {e}"))?;
    let script = commands
        .replace("cargo xtask", &quoted(&this))
        .replace("spo-run recipes/", &format!("{} --quiet recipes/", quoted(program)))
        .replace("spo-run report ", &format!("{} report ", quoted(program)))
        .replace(" recipes/", &format!(" {}/", recipes.display()));
    let done = Command::new("sh").args(["-euc", &script]).current_dir(folder).output();
    let done = done.map_err(|e| format!("cannot run sh: {e}"))?;
    match done.status.success() {
        true => Ok(String::from_utf8_lossy(&done.stdout).into_owned()),
        false => {
            Err(format!("{}\nof these commands failed:\n{commands}", String::from_utf8_lossy(&done.stderr)))
        }
    }
}

/// The sections of a page.
fn sections(page: &str) -> Vec<Section> {
    let mut all = vec![Section::default()];
    let mut language = None;
    for line in page.lines() {
        let last = all.last_mut().expect("there is one");
        match (line.strip_prefix("```"), language) {
            (Some(_), Some(_)) => language = None,
            (Some(of), None) => language = Some(of),
            (None, Some("sh")) => last.commands += &format!("{line}\n"),
            (None, Some(_)) => {}
            (None, None) if line.starts_with('#') => {
                let title = line.trim_start_matches('#').trim().to_owned();
                all.push(Section { title, ..Section::default() });
            }
            (None, None) => match cells(line) {
                Some(row) => last.rows.push(row),
                None => last.text += &format!("{line}\n"),
            },
        }
    }
    all
}

/// The cells of a table's row; `None` for other lines, and for the line below a header.
fn cells(line: &str) -> Option<Vec<String>> {
    let inner = line.strip_prefix('|')?.trim_end().strip_suffix('|')?;
    let cells: Vec<String> = inner.split('|').map(|cell| cell.trim().to_owned()).collect();
    let rule = cells.iter().all(|cell| cell.chars().all(|c| c == '-' || c == ':'));
    (!rule).then_some(cells)
}

/// The numbers with decimals in a text, each with its interval: `49.5`, `-1.70`, `+0.4 ± 3.4`.
fn figures(text: &str) -> Vec<String> {
    let words: Vec<&str> =
        text.split_whitespace().map(|word| word.trim_matches(['(', ')', ',', ';', ':', '.', '%'])).collect();
    let number = |word: &str| word.contains('.') && word.parse::<f64>().is_ok();
    let figure = |(i, word): (usize, &&str)| match (words.get(i + 1), words.get(i + 2)) {
        _ if !number(word) || i > 0 && words[i - 1] == "±" => None,
        (Some(&"±"), Some(half)) => Some(format!("{word} ± {half}")),
        _ => Some((*word).to_owned()),
    };
    words.iter().enumerate().filter_map(figure).collect()
}

impl Section {
    /// Whether it has commands, and figures that they are to print.
    fn has_figures(&self) -> bool {
        let prints = ["xtask table", "spo-run report"].iter().any(|command| self.commands.contains(command));
        prints && self.figures() > 0
    }

    /// The number of figures in its tables.
    fn figures(&self) -> usize {
        self.rows.iter().flat_map(|row| row.iter().skip(1)).map(|cell| figures(cell).len()).sum()
    }

    /// The figures that are not among what the commands print. A row that is called like a printed one must be equal to
    /// it; in other rows every figure must be printed somewhere, and in the text those with an interval, whatever their
    /// sign.
    fn missing(&self, printed: &str) -> Vec<String> {
        let printed: Vec<Vec<String>> = printed.lines().filter_map(cells).collect();
        let mut known: BTreeSet<String> =
            printed.iter().flat_map(|row| row.iter().skip(1).flat_map(|c| figures(c))).collect();
        let means: Vec<String> =
            known.iter().filter_map(|f| Some(f.split_once(" ± ")?.0.to_owned())).collect();
        known.extend(means);
        let sizes: BTreeSet<&str> =
            known.iter().map(|figure| figure.trim_start_matches(['+', '-'])).collect();
        let mut missing = Vec::new();
        for row in &self.rows {
            let alike: Vec<_> =
                printed.iter().filter(|other| other[0] == row[0] && other.len() == row.len()).collect();
            if !alike.is_empty() {
                if !alike.contains(&row) {
                    missing.push(format!("{}, but printed is {}", row.join(" | "), alike[0].join(" | ")));
                }
                continue;
            }
            let unknown =
                row.iter().skip(1).flat_map(|cell| figures(cell)).filter(|figure| !known.contains(figure));
            missing.extend(unknown.map(|figure| format!("{figure} of `{}`", row[0])));
        }
        let told = figures(&self.text).into_iter().filter(|figure| figure.contains('±'));
        missing.extend(told.filter(|figure| !sizes.contains(figure.trim_start_matches(['+', '-']))));
        missing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# Title
## The arms
In all, 17.2 ± 6.4 points more, and 3 seeds.
| stage | exact match, % |
|---|---:|
| sft | 49.5 |
| sum, λ = 0.1 | 4.0 ± 1.8 (-1.70) |

```sh
spo-run recipes/a.toml
cargo xtask table runs/a/*/
```
## Others
";

    #[test]
    fn a_figure_that_is_not_printed_is_found() {
        let all = sections(PAGE);
        assert_eq!(
            all.iter().map(|s| s.title.as_str()).collect::<Vec<_>>(),
            ["", "Title", "The arms", "Others"]
        );
        assert_eq!(all.iter().map(Section::has_figures).collect::<Vec<_>>(), [false, false, true, false]);
        let arms = &all[2];
        assert_eq!(arms.commands, "spo-run recipes/a.toml\ncargo xtask table runs/a/*/\n");
        let printed = "| stage | a | b |\n| sft | 49.5 |\n| x | -17.2 ± 6.4 | 4.0 ± 1.8 | -1.70 |\n";
        assert_eq!(arms.missing(printed), Vec::<String>::new());
        let other = printed.replace("49.5", "50.0").replace("± 1.8", "± 1.9").replace("6.4", "6.5");
        assert_eq!(
            arms.missing(&other),
            ["sft | 49.5, but printed is sft | 50.0", "4.0 ± 1.8 of `sum, λ = 0.1`", "17.2 ± 6.4"]
        );
    }

    /// The summary repeats figures of the other pages.
    #[test]
    fn the_summary_says_what_the_pages_say() {
        let of = |page: &str| figures(&read(&project().join(page)).unwrap().replace('|', " "));
        let known: BTreeSet<String> = PAGES.iter().flat_map(|page| of(page)).collect();
        let sizes: BTreeSet<&str> =
            known.iter().map(|figure| figure.trim_start_matches(['+', '-'])).collect();
        let told = of("docs/spo.md").into_iter().filter(|figure| figure.contains('±'));
        let unknown: Vec<String> =
            told.filter(|f| !sizes.contains(f.trim_start_matches(['+', '-']))).collect();
        assert!(unknown.is_empty(), "docs/spo.md has figures that its pages lack: {unknown:?}");
    }
}
