//! A folder in which the real binary is run.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

/// How a run of the binary ended.
pub struct Outcome {
    /// Exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Outcome {
    /// Itself, if the run succeeded.
    ///
    /// # Panics
    /// With everything that was printed, unless the run succeeded.
    #[track_caller]
    pub fn success(self) -> Self {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// A temporary folder in which `spo-run` is run. It does not see the plugins that the user has
/// installed, nor those that the user trusts.
pub struct Place {
    folder: tempfile::TempDir,
    program: PathBuf,
}

impl Place {
    /// A new, empty folder for this binary.
    ///
    /// # Panics
    /// When no folder can be made.
    pub fn new(program: impl AsRef<Path>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Place { folder, program: program.as_ref().to_owned() }
    }

    /// A path inside it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file, and the folders it is in.
    ///
    /// # Panics
    /// When it cannot be written.
    #[track_caller]
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
        std::fs::write(path, content).expect("a written file");
    }

    /// Reads a file.
    ///
    /// # Panics
    /// When it is not there, or no text.
    #[track_caller]
    pub fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// The binary, to be run here.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(self.folder.path());
        command.env("XDG_DATA_HOME", self.folder.path()).env("XDG_CONFIG_HOME", self.path("config"));
        // The cache of the hub is a folder of this place, and nothing is downloaded.
        command.env("HF_HOME", "hub").env("HF_HUB_OFFLINE", "1").env_remove("HF_HUB_CACHE");
        command
    }

    /// Runs a line of a POSIX shell here, in which `$0` is the binary.
    ///
    /// # Panics
    /// When there is no shell.
    pub fn shell(&self, line: &str) -> std::process::Output {
        let binary = self.command(&[]);
        let mut shell = Command::new("sh");
        shell.args(["-c", line]).arg(binary.get_program()).current_dir(self.folder.path());
        shell.envs(binary.get_envs().filter_map(|(key, value)| Some((key, value?))));
        shell.output().expect("a shell")
    }

    /// Runs the binary here.
    pub fn run(&self, arguments: &[&str]) -> Outcome {
        self.run_with_input(arguments, "")
    }

    /// Runs the binary here with a text as standard input.
    ///
    /// # Panics
    /// When it does not start, or prints what is no text.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Outcome {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary starts");
        child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("the input is read");
        let output = child.wait_with_output().expect("the binary ends");
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).expect("text"),
            stderr: String::from_utf8(output.stderr).expect("text"),
        }
    }

    /// The lines of a run's `metrics.jsonl`.
    ///
    /// # Panics
    /// When there are none.
    #[track_caller]
    pub fn metrics(&self, run: &str) -> Vec<Value> {
        let text = self.read(&format!("{run}/metrics.jsonl"));
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
    }
}
