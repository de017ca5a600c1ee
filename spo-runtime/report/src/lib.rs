//! Reports on runs: one HTML page with charts and text, and files for other tools.
//!
//! [`load`] reads run folders, [`arms`] finds what to compare, [`figures`] and [`stats`] compare it,
//! [`plots`] and [`words`] draw and describe the result, and [`page`] assembles the page.
#![forbid(unsafe_code)]

pub mod arms;
pub mod chart;
pub mod export;
pub mod figures;
pub mod front;
pub mod load;
pub mod page;
pub mod plots;
pub mod stats;
pub mod svg;
pub mod table;
pub mod tensorboard;
pub mod words;

use std::path::{Path, PathBuf};

/// What a report is asked for.
#[derive(clap::Args)]
pub struct Arguments {
    /// Folders of runs, or folders that hold some.
    #[arg(required = true)]
    runs: Vec<PathBuf>,
    /// The page to write; report.html in the run's folder, or in the current one if there are several.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Compare the stages of this name; by default those that learn preferences.
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// The arm that others are held against; by default that of their sweep, else the first.
    #[arg(long, value_name = "ARM")]
    baseline: Option<String>,
    #[command(flatten)]
    front: front::Options,
    /// Write every picture as an SVG file too.
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
    /// Write what was read and computed as CSV files.
    #[arg(long, value_name = "FOLDER")]
    csv: Option<PathBuf>,
    /// Write the same as Parquet files.
    #[arg(long, value_name = "FOLDER")]
    parquet: Option<PathBuf>,
    /// Write TensorBoard event files.
    #[arg(long, value_name = "FOLDER")]
    tensorboard: Option<PathBuf>,
}

/// Why a report could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folders or options that were given cannot be used.
    #[error("{0}")]
    Input(String),
    /// A file cannot be written.
    #[error(transparent)]
    Write(#[from] spo_api::Error),
}

/// Writes the page and the files that were asked for. Returns what to print: the files written, and what was missing.
///
/// # Errors
/// [`Error`].
pub fn report(arguments: &Arguments) -> Result<Vec<String>, Error> {
    let runs = load::runs(&arguments.runs)?;
    let mut arms = arms::arms(&runs, arguments.stage.as_deref())?;
    let mut told: Vec<String> = Vec::new();
    if let Some(name) = &arguments.baseline {
        let names = || arms.iter().map(|arm| arm.label.as_str());
        let Some(at) = names().position(|label| label == name) else {
            let all = match names().collect::<Vec<_>>().join(", ") {
                none if none.is_empty() => "there is nothing to compare yet".to_owned(),
                all => format!("there are {all}"),
            };
            return Err(Error::Input(format!("no arm is called `{name}`: {all}")));
        };
        arms[..=at].rotate_right(1);
    } else if let Some(at) = arms.iter().position(|arm| arm.baseline) {
        arms[..=at].rotate_right(1);
    } else if let (Some(cell), Some(first)) = (runs.iter().find_map(|run| run.cell.as_ref()), arms.first()) {
        told.push(format!(
            "note: nothing of the sweep's baseline `{}` is compared here; differences are to {}",
            cell.baseline, first.label
        ));
    }
    for run in &runs {
        let notes = run.gaps.iter().chain(&run.hints);
        told.extend(notes.map(|note| format!("note: {}: {note}", run.label)));
    }
    let fronts = front::Fronts::new(&arms, arguments.front).filter(|_| !arms.is_empty());
    let page = page::Page::new(&runs, &arms, fronts.as_ref());
    let output = match (&arguments.output, &arguments.runs[..]) {
        (Some(file), _) => file.clone(),
        (None, [_]) if runs.len() == 1 => runs[0].folder.join("report.html"),
        (None, _) => PathBuf::from("report.html"),
    };
    write(&output, page.html().as_bytes())?;
    told.push(format!("wrote {}", output.display()));
    told.extend(fronts.as_ref().map(front::Fronts::tables));
    if let Some(folder) = &arguments.svg {
        let pictures = page.pictures();
        for (name, svg) in &pictures {
            write(&folder.join(format!("{name}.svg")), svg.standalone().as_bytes())?;
        }
        told.push(format!("wrote {} pictures into {}", pictures.len(), folder.display()));
    }
    type Form = (&'static str, &'static str, fn(&table::Table) -> Vec<u8>);
    let forms: [(_, Form); 2] = [
        (&arguments.csv, ("CSV", "csv", table::Table::csv)),
        (&arguments.parquet, ("Parquet", "parquet", table::Table::parquet)),
    ];
    for (folder, (called, extension, bytes)) in forms {
        let Some(folder) = folder else { continue };
        for (name, table) in export::tables(&runs, &arms) {
            write(&folder.join(format!("{name}.{extension}")), &bytes(&table))?;
        }
        told.push(format!("wrote {called} files into {}", folder.display()));
    }
    if let Some(folder) = &arguments.tensorboard {
        for (place, bytes) in tensorboard::files(&runs) {
            write(&folder.join(place), &bytes)?;
        }
        told.push(format!("wrote TensorBoard files into {}", folder.display()));
    }
    Ok(told)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), spo_api::Error> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).map_err(|e| spo_api::Error::io(folder, e))?;
    }
    spo_api::write_whole(path, |out| out.write_all(bytes).map_err(|e| spo_api::Error::io(path, e)))
}
