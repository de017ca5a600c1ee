//! `spo-run plugin`: creates a plugin, or tests one.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Subcommand;
use spo_api::Registry;
use spo_loader::certify::{self, Event, Options, Verdict};
use spo_loader::scaffold::{New, Template, scaffold};
use spo_loader::{library, search};

use crate::error::{BadInput, bad};
use crate::recipe::document::Document;
use crate::reporter::say;
use crate::shell::word;

#[derive(Subcommand)]
pub(crate) enum PluginCommand {
    /// Write a new plugin that builds and passes its own tests, to be changed into your own.
    New {
        /// Name of the part, and of the folder: `my-loss`.
        name: String,
        /// The folder to make it in.
        #[arg(long = "in", value_name = "FOLDER", default_value = ".")]
        within: PathBuf,
        /// Write it in C instead of Rust.
        #[arg(long)]
        c: bool,
        /// Write an optimizer instead of a loss.
        #[arg(long, conflicts_with = "c")]
        optimizer: bool,
        /// The folder `spo-api` of a checkout of spo, for a Rust plugin to depend on; that of the checkout
        /// this program was built from unless given.
        #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../spo-api"))]
        api: PathBuf,
    },
    /// Hold every part of a plugin to its contract; exit code 1 if one fails.
    Test(Test),
}

/// `spo-run plugin test`.
#[derive(clap::Args)]
pub(crate) struct Test {
    /// The library, or the name of a built-in part.
    library: String,
    /// Only the part of this name.
    #[arg(long)]
    part: Option<String>,
    /// The part's table as inline TOML, if it has required keys: '{ beta = 0.1 }'.
    #[arg(long)]
    config: Option<String>,
    /// Leave out a check. May be repeated.
    #[arg(long, value_name = "CHECK")]
    skip: Vec<String>,
    /// For backends: the Hugging Face folder to open, instead of a tiny model with random weights.
    #[arg(long, value_name = "FOLDER")]
    model: Option<PathBuf>,
    /// Seconds a check may take.
    #[arg(long, default_value_t = 60)]
    patience: u64,
    /// Run the checks here and report them as JSON: what the command does in a process of its own, so that a
    /// crash is a finding.
    #[arg(long, hide = true)]
    worker: bool,
}

impl PluginCommand {
    /// Runs the command.
    ///
    /// # Errors
    /// [`BadInput`] if a plugin cannot be created or loaded; another error if a check fails.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match self {
            PluginCommand::New { name, within, c, optimizer, api } => {
                let template = match (c, optimizer) {
                    (true, _) => Template::LossInC,
                    (false, true) => Template::Optimizer,
                    (false, false) => Template::Loss,
                };
                begin(&New { name, within, api, template })
            }
            PluginCommand::Test(test) if test.worker => test.work(),
            PluginCommand::Test(test) => test.report(),
        }
    }
}

fn begin(new: &New<'_>) -> anyhow::Result<()> {
    let folder = scaffold(new).map_err(bad)?;
    let c = new.template == Template::LossInC;
    let build = if c { "make" } else { "cargo test && cargo build --release" };
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let library = format!("{prefix}{}{suffix}", new.name.replace('-', "_"));
    let library = if c { format!("./{library}") } else { format!("target/release/{library}") };
    say(&format!(
        "made {}; next:\n  cd {}\n  {build}\n  spo-run plugin test {library}",
        folder.display(),
        word(&folder)
    ));
    Ok(())
}

impl Test {
    /// The parts to test.
    fn registry(&self) -> Result<(Registry, Vec<&'static spo_api::Entry>), BadInput> {
        let mut registry = Registry::linked().map_err(|e| bad(e.to_string()))?;
        let built_in: Vec<_> = registry.iter().filter(|entry| entry.name == self.library).collect();
        let entries = if built_in.is_empty() {
            let before: Vec<_> = registry.iter().collect();
            let path = search::resolve(&self.library).map_err(bad)?;
            library::load(&mut registry, &path, None).map_err(|e| bad(e.to_string()))?;
            registry.iter().filter(|entry| !before.iter().any(|b| std::ptr::eq(*b, *entry))).collect()
        } else {
            built_in
        };
        let wanted = |entry: &&spo_api::Entry| self.part.as_ref().is_none_or(|name| entry.name == name);
        let (chosen, others): (Vec<_>, Vec<_>) = entries.into_iter().partition(wanted);
        if chosen.is_empty() {
            let others: Vec<_> = others.iter().map(|entry| entry.name).collect();
            return Err(bad(format!("it has no part of this name, only {}", others.join(", "))));
        }
        Ok((registry, chosen))
    }

    fn options(&self) -> Result<Options, BadInput> {
        let config = match &self.config {
            Some(text) => {
                let document = Document::parse("--config", format!("config = {text}"), &[])?;
                document.get("config").cloned()
            }
            None => None,
        };
        Ok(Options { config, skip: self.skip.clone(), model: self.model.clone() })
    }

    /// Runs the checks and prints each event as a line of JSON.
    fn work(&self) -> anyhow::Result<()> {
        let (_registry, entries) = self.registry()?;
        let options = self.options()?;
        let mut out = std::io::stdout().lock();
        for entry in entries {
            certify::certify(entry, &options, &mut |event| {
                let line = serde_json::to_string(&event).expect("text only");
                // The parent is gone: exit.
                if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                    std::process::exit(1);
                }
            });
        }
        Ok(())
    }

    /// Runs the checks in a child process, and reports its events and how it exits.
    fn report(&self) -> anyhow::Result<()> {
        self.options()?;
        let program = std::env::current_exe().context("cannot find this program to run the checks")?;
        let mut child = Command::new(program)
            .args(std::env::args_os().skip(1))
            .arg("--worker")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a process for the checks")?;
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut stderr = child.stderr.take().expect("piped");
        let words = std::thread::spawn(move || {
            let mut words = Tail::default();
            let _ = std::io::copy(&mut stderr, &mut words);
            words.text()
        });
        let (send, events) = mpsc::channel();
        std::thread::spawn(move || {
            let mut stdout = stdout;
            while let Some(line) = line(&mut stdout) {
                let Ok(event) = serde_json::from_slice::<Event>(&line) else { continue };
                if send.send(event).is_err() {
                    return;
                }
            }
        });
        let mut report = Report::default();
        let ended = loop {
            match events.recv_timeout(Duration::from_secs(self.patience.max(1))) {
                Ok(event) => report.add(event),
                Err(RecvTimeoutError::Disconnected) => break child.wait()?,
                Err(RecvTimeoutError::Timeout) => {
                    report.end(Verdict::Failed(format!(
                        "it has not returned for {} s (--patience allows more); the checks end here",
                        self.patience
                    )));
                    let _ = child.kill();
                    break child.wait()?;
                }
            }
        };
        let words = words.join().unwrap_or_default();
        if !report.began {
            return Err(refusal(ended, &words));
        }
        if report.open.is_some() {
            report.end(Verdict::Failed(format!("it ended the process ({ended}): {}", words.trim())));
        }
        say(&report.close().clone());
        if report.failed > 0 {
            let checks = if report.failed == 1 { "check" } else { "checks" };
            bail!("{} {checks} failed", report.failed);
        }
        Ok(())
    }
}

/// The longest line that is kept of what a worker prints, in bytes. Its events are shorter; a plugin may print anything.
const LONGEST: u64 = 1 << 20;

/// The next line, or its beginning; `None` at the end.
fn line(from: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut line = Vec::new();
    from.by_ref().take(LONGEST).read_until(b'\n', &mut line).ok().filter(|length| *length > 0)?;
    if !line.ends_with(b"\n") {
        from.skip_until(b'\n').ok()?;
    }
    Some(line)
}

/// The beginning and the end of what a worker prints on standard error. However much a plugin prints, this is all that
/// is kept.
#[derive(Default)]
struct Tail {
    begin: Vec<u8>,
    end: VecDeque<u8>,
    left_out: u64,
}

impl Tail {
    /// Bytes kept of each.
    const KEPT: usize = 1 << 13;

    fn text(self) -> String {
        let begin = String::from_utf8_lossy(&self.begin).into_owned();
        let end: Vec<u8> = self.end.into();
        let end = String::from_utf8_lossy(&end);
        match self.left_out {
            0 => begin + &end,
            n => format!("{begin}\n... ({n} bytes are left out)\n{end}"),
        }
    }
}

impl Write for Tail {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let (first, rest) = bytes.split_at(bytes.len().min(Self::KEPT - self.begin.len()));
        self.begin.extend(first);
        let rest_kept = &rest[rest.len().saturating_sub(Self::KEPT)..];
        let full = (self.end.len() + rest_kept.len()).saturating_sub(Self::KEPT);
        self.end.drain(..full);
        self.end.extend(rest_kept);
        self.left_out += (rest.len() - rest_kept.len() + full) as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The error for a worker that exited before its first check.
fn refusal(ended: ExitStatus, words: &str) -> anyhow::Error {
    let words = words.trim().to_owned();
    match ended.code() {
        Some(2) => BadInput(words).into(),
        _ if words.is_empty() => anyhow::anyhow!("loading the library ended the process ({ended})"),
        _ => anyhow::anyhow!("{}", words.trim_start_matches("error: ")),
    }
}

/// The report of a plugin's tests, printed as events arrive.
#[derive(Default)]
struct Report {
    began: bool,
    part: String,
    open: Option<String>,
    passed: usize,
    failed: usize,
    skipped: usize,
}

impl Report {
    fn add(&mut self, event: Event) {
        self.began = true;
        match event {
            Event::Began { part, check } => {
                if part != self.part {
                    say(&part.clone());
                    self.part = part;
                }
                self.open = Some(check);
            }
            Event::Ended(verdict) => self.end(verdict),
        }
    }

    fn end(&mut self, verdict: Verdict) {
        let check = self.open.take().unwrap_or_default();
        let (mark, words, count) = match verdict {
            Verdict::Passed(words) => ("ok", words, &mut self.passed),
            Verdict::Failed(words) => ("FAILED", words, &mut self.failed),
            Verdict::Skipped(words) => ("skipped", words, &mut self.skipped),
        };
        *count += 1;
        say(&format!("  {check:20} {mark:8} {words}"));
    }

    fn close(&self) -> String {
        let skipped = if self.skipped > 0 { format!(", {} skipped", self.skipped) } else { String::new() };
        format!("{} passed, {} failed{skipped}", self.passed, self.failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_much_is_printed_little_is_kept() {
        let mut few = Tail::default();
        few.write_all(b"few ").unwrap();
        few.write_all(b"words").unwrap();
        assert_eq!(few.text(), "few words");
        let mut many = Tail::default();
        for i in 0..100_000 {
            many.write_all(format!("{i}\n").as_bytes()).unwrap();
        }
        many.write_all(&[b'x'; 3 * Tail::KEPT]).unwrap();
        let text = many.text();
        assert!(text.len() < 2 * Tail::KEPT + 100, "{}", text.len());
        assert!(text.starts_with("0\n1\n2\n") && text.ends_with("xxx"));
        // What is left out, and what is kept, is what was printed.
        let printed = (0..100_000).map(|i: u32| i.to_string().len() + 1).sum::<usize>() + 3 * Tail::KEPT;
        assert!(
            text.contains(&format!("({} bytes are left out)", printed - 2 * Tail::KEPT)),
            "{}",
            &text[..9000]
        );
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_one_read() {
        let endless = [vec![b'x'; 3 << 20], b"\n{}\nlast".to_vec()].concat();
        let mut from = BufReader::new(&endless[..]);
        assert_eq!(line(&mut from).unwrap().len() as u64, LONGEST);
        assert_eq!(line(&mut from).unwrap(), b"{}\n");
        assert_eq!(line(&mut from).unwrap(), b"last");
        assert_eq!(line(&mut from), None);
    }
}
