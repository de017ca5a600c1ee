//! Every call that changes a file fails once, or the disk is full from there on, or the process dies there. Whatever
//! happens, nothing is lost: what is run again reaches the same bits.
//!
//! By default some of the calls fail, in turn; with `SPO_FAULTS=all`, every one.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use test_support::{Place, skip};

use crate::{place, project};

const RECIPE: &str = concat!(
    tiny!(24, 6),
    r#"
[run]
output = "runs/run"
[checkpoint]
every = 2
minutes = 0
[cache]
stages = ["sft"]
[[stage]]
name = "sft"
objective = "sft"
steps = 4
batch_size = 8
optimizer = { lr = 3e-3 }
[[stage]]
name = "align"
objective = "dpo"
steps = 4
batch_size = 8
optimizer = { lr = 1e-3 }
"#
);

/// The library that makes calls fail; `None` if it cannot be compiled here.
fn shim(place: &Place) -> Option<PathBuf> {
    let (source, library) = (project("tests/faults/shim.c"), place.path("shim.so"));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .arg("-ldl")
        .status();
    compiled.is_ok_and(|status| status.success()).then_some(library)
}

/// A command that must survive faults.
struct Work {
    name: &'static str,
    arguments: &'static [&'static str],
    /// What finishes it after a fault: the same command, or this one if a record was written.
    again: Option<(&'static str, &'static [&'static str])>,
    /// Files that must be the same in the end.
    results: &'static [&'static str],
    /// Whether it works on a finished run.
    on_a_run: bool,
}

const WORKS: [Work; 3] = [
    Work {
        name: "run",
        arguments: &["recipe.toml", "--quiet"],
        again: Some(("runs/run/run.json", &["resume", "runs/run", "--quiet"])),
        results: &[
            "runs/run/metrics.jsonl",
            "runs/run/held_out.jsonl",
            "runs/run/sft/model.safetensors",
            "runs/run/align/model.safetensors",
            "runs/run/align/config.json",
            "runs/run/align/tokenizer.json",
        ],
        on_a_run: false,
    },
    Work {
        name: "sweep",
        arguments: &["sweep.toml", "--quiet"],
        again: Some(("runs/run/sweep.json", &["resume", "runs/run", "--quiet"])),
        results: &[
            "runs/run/base,seed=1/metrics.jsonl",
            "runs/run/base,seed=2/metrics.jsonl",
            "runs/run/base,seed=2/align/model.safetensors",
            "runs/run/results.csv",
        ],
        on_a_run: false,
    },
    Work {
        name: "report",
        arguments: &["report", "runs/run", "--csv", "out"],
        again: None,
        results: &["runs/run/metrics.jsonl", "out/metrics.csv"],
        on_a_run: true,
    },
];

impl Work {
    fn command(&self, place: &Place, folder: &Path, arguments: &[&str]) -> Command {
        let mut command = place.command(arguments);
        command.current_dir(folder).env("RAYON_NUM_THREADS", "1");
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
        command
    }

    /// A new folder with what the work begins from.
    fn folder(&self, place: &Place, name: &str) -> PathBuf {
        let folder = place.path(name);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("recipe.toml"), RECIPE).unwrap();
        let sweep = RECIPE.replace("[checkpoint]", "[sweep]\nseeds = [1, 2]\n[checkpoint]");
        std::fs::write(folder.join("sweep.toml"), sweep).unwrap();
        if self.on_a_run {
            let run = self.command(place, &folder, WORKS[0].arguments).status().unwrap();
            assert!(run.success());
        }
        folder
    }

    fn results(&self, folder: &Path) -> Vec<Vec<u8>> {
        let read = |name: &&str| {
            std::fs::read(folder.join(name))
                .unwrap_or_else(|e| panic!("{}: {}: {e}", self.name, folder.join(name).display()))
        };
        self.results.iter().map(read).collect()
    }

    /// Runs it with a fault, then finishes it, and compares.
    fn with_fault(&self, place: &Place, shim: &Path, (mode, at): (&str, usize), expected: &[Vec<u8>]) {
        let what = format!("{}, {mode} at {at}", self.name);
        let folder = self.folder(place, &format!("{}-{mode}-{at}", self.name));
        let mut faulty = self.command(place, &folder, self.arguments);
        faulty.env("LD_PRELOAD", shim).env("SPO_FAULT_AT", at.to_string()).env("SPO_FAULT_MODE", mode);
        let said = String::from_utf8_lossy(&faulty.output().unwrap().stderr).into_owned();
        assert!(!said.contains("panicked"), "{what}: {said}");
        let again = match self.again {
            Some((record, arguments)) if folder.join(record).exists() => arguments,
            _ => self.arguments,
        };
        let finished = self.command(place, &folder, again).output().unwrap();
        assert!(
            finished.status.success(),
            "{what}: {said}\nthen {}",
            String::from_utf8_lossy(&finished.stderr)
        );
        for (name, (found, expected)) in self.results.iter().zip(self.results(&folder).iter().zip(expected)) {
            assert!(found == expected, "{what}: {name} differs after: {said}");
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[test]
fn every_call_to_the_file_system_may_fail() {
    let place = place();
    let Some(shim) = shim(&place) else {
        return skip("faults are injected by a library in C, and `cc` does not make one here");
    };
    let stride = if std::env::var("SPO_FAULTS").is_ok_and(|faults| faults == "all") { 1 } else { 7 };
    let mut faults = Vec::new();
    let undisturbed: Vec<(&Work, Vec<Vec<u8>>)> = WORKS
        .iter()
        .map(|work| {
            let folder = work.folder(&place, &format!("{}-undisturbed", work.name));
            let count = place.path("count");
            let mut counted = work.command(&place, &folder, work.arguments);
            counted.env("LD_PRELOAD", &shim).env("SPO_FAULT_AT", "0").env("SPO_FAULT_COUNT", &count);
            assert!(counted.status().unwrap().success());
            // A sweep runs each cell in a process of its own, which counts for itself.
            let processes = std::fs::read_to_string(&count).unwrap();
            std::fs::remove_file(&count).unwrap();
            let largest = |column: usize| {
                let numbers = processes
                    .lines()
                    .map(|line| line.split(' ').nth(column).unwrap().parse::<usize>().unwrap());
                numbers.max().unwrap()
            };
            let counts = [largest(0), largest(1)];
            assert!(counts[0] >= if work.on_a_run { 3 } else { 40 }, "{}: {counts:?}", work.name);
            for mode in ["once", "full", "die"] {
                faults.extend((1..=counts[0]).map(|at| (work, mode, at)));
            }
            faults.extend((1..=counts[1]).map(|at| (work, "memory", at)));
            (work, work.results(&folder))
        })
        .collect();
    let all = faults.len();
    let faults: Vec<_> = faults.into_iter().step_by(stride).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((work, mode, at)) = faults.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (_, expected) = undisturbed.iter().find(|(of, _)| of.name == work.name).unwrap();
                    work.with_fault(&place, &shim, (mode, *at), expected);
                }
            });
        }
    });
    println!("{} of {all} faults", faults.len());
}
