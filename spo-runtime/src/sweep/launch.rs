//! Runs the cells of a sweep, each in its own process, within limits on cores and memory.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use spo_api::Library;

use super::cells::Cell;
use crate::plan::machine;
use crate::recipe::{Recipe, Sweep};
use crate::reporter::Reporter;
use crate::stop::Stop;
use crate::store::output;

/// Interval at which the cells are polled.
const POLL: Duration = Duration::from_millis(20);

/// A cell with its recipe.
type Planned<'a> = (&'a Cell, &'a Recipe);

/// A running cell.
struct Running<'a> {
    cell: Planned<'a>,
    child: Child,
    log: PathBuf,
    /// Where its part of the log begins.
    log_start: u64,
    began: Instant,
    /// Peak memory so far, in bytes.
    peak: u64,
}

/// The cells to run.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) sweep: &'a Sweep,
    /// The folder of the sweep.
    pub(crate) folder: &'a Path,
    pub(crate) cells: &'a [Cell],
    /// The recipe of each cell.
    pub(crate) recipes: &'a [Recipe],
    /// Libraries that parts were loaded from.
    pub(crate) libraries: &'a [Library],
    /// Whether cells run that will need more memory than the machine has.
    pub(crate) force: bool,
}

/// Runs all cells that are not complete. A failed cell does not stop the others.
///
/// # Errors
/// An error naming the cells that failed; [`Interrupted`](crate::stop::Interrupted) after a signal, once the
/// running cells have stopped too.
pub(crate) fn launch(job: &Job<'_>, stop: &Stop, reporter: &Reporter) -> anyhow::Result<()> {
    let Job { sweep, folder, cells, recipes, libraries, force } = *job;
    let complete = |(cell, recipe): &Planned<'_>| output::is_complete(&folder.join(&cell.name), recipe);
    let cells: Vec<Planned<'_>> = cells.iter().zip(recipes).collect();
    let (finished, unfinished): (Vec<_>, Vec<_>) = cells.iter().copied().partition(complete);
    let (done, mut waiting) = (finished.len(), VecDeque::from(unfinished));
    let mut launcher = Launcher {
        sweep,
        folder,
        libraries,
        force,
        done,
        total: cells.len(),
        failed: Vec::new(),
        largest: None,
    };
    if done > 0 {
        reporter.note(&format!("{done} of {} cells are complete already", cells.len()));
    }
    let mut running: Vec<Running<'_>> = Vec::new();
    let mut asked = None;
    while !(running.is_empty() && (waiting.is_empty() || asked.is_some())) {
        if asked.is_none() && stop.asked().is_some() {
            asked = stop.asked();
            for cell in &running {
                // The cells have their own process group, so Ctrl-C has not reached them.
                terminate(&cell.child);
            }
        }
        let mut at_work = Vec::new();
        for mut cell in running {
            cell.peak = cell.peak.max(machine::peak_memory(cell.child.id()).unwrap_or(0));
            match cell.child.try_wait().context("cannot wait for a cell")? {
                None => at_work.push(cell),
                // The cell of a launcher that was killed may have taken the lock in between. It is left to finish.
                Some(status) if !status.success() && cell.lost_the_lock() => waiting.push_front(cell.cell),
                Some(status) => {
                    let status = Ended { complete: complete(&cell.cell), status, stopping: asked.is_some() };
                    launcher.ended(cell, status, reporter);
                }
            }
        }
        running = at_work;
        if asked.is_none() && launcher.has_room(running.len()) {
            // A launcher that was killed may have left cells running. These are left to finish.
            let free = waiting.iter().position(|(cell, _)| !output::in_use(&folder.join(&cell.name)));
            if let Some(cell) = free.and_then(|i| waiting.remove(i)) {
                if complete(&cell) {
                    launcher.done += 1;
                } else {
                    running.push(launcher.start(cell, reporter)?);
                }
                continue;
            }
        }
        std::thread::sleep(POLL);
    }
    if let Some(interrupted) = asked {
        return Err(interrupted.into());
    }
    match launcher.failed.as_slice() {
        [] => Ok(()),
        failed => bail!("{} of {} cells failed: {}", failed.len(), cells.len(), failed.join(", ")),
    }
}

/// Asks a cell to stop.
fn terminate(cell: &Child) {
    #[cfg(unix)]
    let _ =
        rustix::process::kill_process(rustix::process::Pid::from_child(cell), rustix::process::Signal::TERM);
    #[cfg(not(unix))]
    let _ = cell;
}

/// How a cell's process ended.
struct Ended {
    status: ExitStatus,
    /// Whether its run is complete, by its record.
    complete: bool,
    /// Whether it was asked to stop.
    stopping: bool,
}

impl Running<'_> {
    /// Whether it ended because another process writes to its folder.
    fn lost_the_lock(&self) -> bool {
        last_error(&self.log, self.log_start).is_some_and(|error| error.contains(output::IN_USE))
    }
}

struct Launcher<'a> {
    sweep: &'a Sweep,
    folder: &'a Path,
    /// Plugins that every cell loads.
    libraries: &'a [Library],
    force: bool,
    done: usize,
    total: usize,
    failed: Vec<String>,
    /// The largest peak memory of a cell, once one has run.
    largest: Option<u64>,
}

impl Launcher<'_> {
    /// Whether another cell fits next to `running` others.
    fn has_room(&self, running: usize) -> bool {
        let fits = || match (self.sweep.memory, self.largest) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(gib), Some(largest)) => (running + 1) as f64 * largest as f64 <= gib * f64::from(1 << 30),
        };
        running == 0 || (running < self.sweep.jobs && fits())
    }

    fn start<'c>(&self, planned: Planned<'c>, reporter: &Reporter) -> anyhow::Result<Running<'c>> {
        let cell = planned.0;
        let beside = |extension: &str| self.folder.join(format!("{}.{extension}", cell.name));
        let log = beside("log");
        let open = || -> std::io::Result<(File, u64)> {
            let mut file = OpenOptions::new().create(true).append(true).open(&log)?;
            let start = file.seek(SeekFrom::End(0))?;
            Ok((file, start))
        };
        let (file, log_start) = open().with_context(|| format!("cannot write {}", log.display()))?;
        let program = std::env::current_exe().context("cannot find the program itself")?;
        let mut command = Command::new(program);
        command.arg(beside("toml")).stdin(Stdio::null());
        for library in self.libraries {
            command.arg("--plugin").arg(&library.path);
        }
        if self.force {
            command.arg("--force");
        }
        command.stdout(file.try_clone().context("cannot share the log")?).stderr(file);
        if self.sweep.jobs > 1 && std::env::var_os("RAYON_NUM_THREADS").is_none() {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            command.env("RAYON_NUM_THREADS", (cores / self.sweep.jobs).max(1).to_string());
        }
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("cannot start cell `{}`", cell.name))?;
        reporter.note(&format!("{} begins", cell.name));
        Ok(Running { cell: planned, child, log, log_start, began: Instant::now(), peak: 0 })
    }

    fn ended(&mut self, cell: Running<'_>, Ended { status, complete, stopping }: Ended, reporter: &Reporter) {
        self.largest = self.largest.max(Some(cell.peak).filter(|peak| *peak > 0));
        let seconds = cell.began.elapsed().as_secs_f64();
        let name = &cell.cell.0.name;
        if status.success() && complete {
            self.done += 1;
            reporter.note(&format!("{name} done in {seconds:.1} s ({}/{})", self.done, self.total));
        } else if stopping {
            reporter.note(&format!("{name} has stopped"));
        } else {
            let said = last_error(&cell.log, cell.log_start).unwrap_or_else(|| match status.success() {
                true => "it ended before it was complete".to_owned(),
                false => status.to_string(),
            });
            reporter.note(&format!("{name} failed: {said}; see {}", cell.log.display()));
            self.failed.push(name.clone());
        }
    }
}

/// The last error a cell printed.
fn last_error(log: &Path, start: u64) -> Option<String> {
    let (mut file, mut text) = (File::open(log).ok()?, Vec::new());
    // A cell that has printed very much has said what ended it at the end.
    let end = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(1 << 20)))).ok()?;
    file.take(1 << 20).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().rfind(|line| line.starts_with("error")).map(str::to_owned)
}
