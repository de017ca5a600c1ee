//! `cargo xtask libtorch`: gets libtorch, builds the tch backend with it, and installs both where `spo-run` finds them.

use std::ffi::OsStr;
use std::fs;
use std::io::Result as IoResult;
use std::path::{Path, PathBuf};
use std::process::Command;

use spo_loader::libtorch::{self, VERSION};
use spo_loader::search;

/// The wheel of PyTorch, and the NVIDIA libraries that, on Linux, even its CPU library is linked to.
const WHEELS: [&str; 3] = ["torch==2.11.0", "nvidia-cuda-runtime==13.0.96", "nvidia-cuda-cupti==13.0.85"];

/// Libraries of the wheel that are removed: those for Python, and those for GPUs, which need gigabytes of further
/// packages. A machine with a GPU has a PyTorch that includes them.
const UNUSED: [&str; 4] = ["libtorch_cuda", "libc10_cuda", "libtorch_nvshmem", "libtorch_python"];

/// A libtorch, and a folder to link with.
pub struct Libtorch {
    /// The `torch` package, or an unpacked libtorch.
    folder: PathBuf,
    /// What the tch crate is built with: headers, and only the CPU libraries. A plugin that is linked to these can
    /// still use a GPU, and also starts where there is none.
    link: PathBuf,
}

/// Gets libtorch, builds the backend and installs both: `cargo xtask libtorch`.
///
/// # Errors
/// When libtorch cannot be had, or the backend cannot be built or installed.
pub fn install() -> Result<(), String> {
    let libtorch = Libtorch::obtain()?;
    libtorch.cargo(["build"])?;
    let plugins = search::folders().pop().ok_or("neither HOME nor XDG_DATA_HOME is set")?;
    let file = library();
    let built = target().join("release").join(&file);
    let place = || -> IoResult<()> {
        fs::create_dir_all(&plugins)?;
        let aside = plugins.join(format!(".{file}"));
        fs::copy(&built, &aside)?;
        fs::rename(&aside, plugins.join(&file))?;
        link(&libtorch.folder, &plugins.join("libtorch"))
    };
    place().map_err(|e| format!("cannot install into {}: {e}", plugins.display()))?;
    println!("libtorch {VERSION}: {}", libtorch.folder.display());
    println!("the tch backend: {}", plugins.join(&file).display());
    println!("a recipe uses it with [backend] name = \"tch\"");
    Ok(())
}

/// Runs a cargo command on the crate of the tch backend: `cargo xtask libtorch test`.
///
/// # Errors
/// When libtorch cannot be had, or the command fails.
pub fn cargo(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<(), String> {
    Libtorch::obtain()?.cargo(arguments)
}

/// Runs a cargo command.
///
/// # Errors
/// `failure` when the command fails; another message when it cannot be started.
pub fn succeed(mut command: Command, failure: &str) -> Result<(), String> {
    let status = command.status().map_err(|e| format!("cannot start cargo: {e}"))?;
    status.success().then_some(()).ok_or_else(|| failure.to_owned())
}

impl Libtorch {
    /// The libtorch that the user names or that was downloaded before. If there is none, it is downloaded.
    fn obtain() -> Result<Self, String> {
        if named().is_none() && !libtorch::is_at(&downloaded()?) {
            download(&downloaded()?)?;
        }
        Self::present()
    }

    /// The libtorch that the user names or that was downloaded before.
    fn present() -> Result<Self, String> {
        let folder = match named() {
            Some(named) => named?,
            None => downloaded()?,
        };
        if !libtorch::is_at(&folder) {
            return Err(format!(
                "there is no libtorch in {}; `cargo xtask libtorch` gets it",
                folder.display()
            ));
        }
        let folder = folder.canonicalize().map_err(|e| format!("{}: {e}", folder.display()))?;
        libtorch::check(&folder)?;
        let link = home()?.join("link");
        arrange(&folder, &link).map_err(|e| format!("cannot arrange {}: {e}", link.display()))?;
        Ok(Libtorch { folder, link })
    }

    /// The libtorch to test with. Only a build server (`CI` is set) downloads one for this.
    ///
    /// # Errors
    /// The reason why there is none.
    pub fn for_tests() -> Result<Self, String> {
        let server = std::env::var_os("CI").is_some_and(|value| !value.is_empty());
        if server { Self::obtain() } else { Self::present() }
    }

    /// Lints and tests the tch backend. Skipped tests are noted in the file `skipped`.
    ///
    /// # Errors
    /// When a lint or a test fails.
    pub fn test(&self, skipped: &Path) -> Result<(), String> {
        self.cargo(["clippy", "--all-targets", "--", "-D", "warnings"])?;
        self.cargo(["build"])?;
        let mut tests = self.command("test");
        tests.env(test_support::SKIPPED, skipped);
        succeed(tests, "`cargo test` failed on the tch backend")
    }

    fn cargo(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Result<(), String> {
        let mut arguments = arguments.into_iter();
        let command = arguments.next().expect("a command of cargo");
        let mut cargo = self.command(&command);
        cargo.args(arguments);
        succeed(cargo, &format!("`cargo {}` failed on the tch backend", command.as_ref().display()))
    }

    /// A cargo command on the crate of the tch backend, with the environment that it needs.
    fn command(&self, command: impl AsRef<OsStr>) -> Command {
        let mut cargo = Command::new(env!("CARGO"));
        cargo
            .arg(command)
            .arg("--release")
            .arg("--manifest-path")
            .arg(root().join("backends/tch/Cargo.toml"));
        cargo.env("LIBTORCH", &self.link).env("CARGO_TARGET_DIR", target());
        // For the end-to-end tests of the backend, which run `spo-run`.
        cargo.env("SPO_RUN", target().with_file_name("release").join("spo-run"));
        cargo
            .env("SPO_TCH_PLUGIN", target().join("release").join(library()))
            .env("SPO_TCH_LIBTORCH", &self.folder);
        for other in ["LIBTORCH_USE_PYTORCH", "LIBTORCH_INCLUDE", "LIBTORCH_LIB", "LIBTORCH_STATIC"] {
            cargo.env_remove(other);
        }
        cargo
    }
}

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The build folder of the tch backend, which has its own dependencies.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from).join("tch")
}

fn library() -> String {
    format!("{}spo_backend_tch{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX)
}

/// The folder for this version of libtorch, beside the user's plugins. If its path changes, the C++ part is built
/// again.
fn home() -> Result<PathBuf, String> {
    let plugins = search::folders().pop().ok_or("neither HOME nor XDG_DATA_HOME is set")?;
    Ok(plugins.with_file_name(format!("libtorch-{VERSION}")))
}

fn downloaded() -> Result<PathBuf, String> {
    Ok(home()?.join("packages/torch"))
}

/// The folder that `LIBTORCH` names, or, with `LIBTORCH_USE_PYTORCH=1`, that of Python's torch.
fn named() -> Option<Result<PathBuf, String>> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(folder) = set("LIBTORCH") {
        return Some(Ok(folder.into()));
    }
    set("LIBTORCH_USE_PYTORCH")?;
    let program = "import torch, os; print(os.path.dirname(torch.__file__))";
    let answer = Command::new(python()).args(["-c", program]).output();
    Some(match answer {
        Ok(output) if output.status.success() => {
            Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end().to_owned()))
        }
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            let last = words.lines().last().unwrap_or("it did not say why").to_owned();
            Err(format!("LIBTORCH_USE_PYTORCH is set, but {} has no torch: {last}", python()))
        }
        Err(e) => Err(format!("LIBTORCH_USE_PYTORCH is set, but {} cannot be started: {e}", python())),
    })
}

/// The name of the Python interpreter, that of the active environment if there is one.
fn python() -> &'static str {
    if std::env::var_os("VIRTUAL_ENV").is_some() { "python" } else { "python3" }
}

/// Downloads and unpacks the wheels, with pip or uv.
fn download(package: &Path) -> Result<(), String> {
    let packages = package.parent().expect("a package stands in a folder");
    let aside = packages.with_file_name("partial");
    let failed = |e: std::io::Error| format!("cannot prepare {}: {e}", aside.display());
    if aside.exists() {
        fs::remove_dir_all(&aside).map_err(failed)?;
    }
    fs::create_dir_all(&aside).map_err(failed)?;
    eprintln!("getting libtorch {VERSION} (about 530 MB, once) into {}", packages.display());
    let wheels = if cfg!(target_os = "linux") { &WHEELS[..] } else { &WHEELS[..1] };
    // The wheel's Python parts are not used, so its Python version need not be that of the interpreter.
    let options = ["install", "--no-deps", "--only-binary=:all:", "--python-version", "3.12", "--target"];
    let pip: &[&str] = &[python(), "-m", "pip"];
    let installed = [pip, &["uv", "pip"]].into_iter().any(|program| {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(options).arg(&aside).args(wheels);
        command.status().is_ok_and(|status| status.success())
    });
    if !installed {
        return Err(
            "neither `python3 -m pip` nor `uv pip` could get the wheel of torch 2.11.0; set LIBTORCH to an \
                    unpacked libtorch, or LIBTORCH_USE_PYTORCH=1 where Python has torch"
                .into(),
        );
    }
    for entry in fs::read_dir(aside.join("torch/lib")).map_err(failed)?.flatten() {
        if UNUSED.iter().any(|name| entry.file_name().to_string_lossy().starts_with(name)) {
            fs::remove_file(entry.path()).map_err(failed)?;
        }
    }
    if packages.exists() {
        fs::remove_dir_all(packages).map_err(failed)?;
    }
    fs::rename(&aside, packages).map_err(failed)
}

/// Creates the folder to link with.
fn arrange(folder: &Path, at: &Path) -> IoResult<()> {
    fs::create_dir_all(at.join("lib"))?;
    link(&folder.join("include"), &at.join("include"))?;
    let (prefix, suffix) = (std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let file = |name: &str| Path::new("lib").join(format!("{prefix}{name}{suffix}"));
    for name in ["torch_cpu", "c10"] {
        link(&folder.join(file(name)), &at.join(file(name)))?;
    }
    // The tch crate links `torch`, which only refers to the other libraries.
    match cfg!(target_os = "linux") {
        true => write(&at.join(file("torch")), "INPUT(-ltorch_cpu)\n")?,
        false => link(&folder.join(file("torch")), &at.join(file("torch")))?,
    }
    write(&at.join("build-version"), VERSION)
}

/// Writes a file unless it has this content already: cargo rebuilds when its time changes.
fn write(path: &Path, content: &str) -> IoResult<()> {
    match fs::read_to_string(path) {
        Ok(present) if present == content => Ok(()),
        _ => fs::write(path, content),
    }
}

/// Creates or redirects a symbolic link.
fn link(to: &Path, at: &Path) -> IoResult<()> {
    if fs::read_link(at).is_ok_and(|present| present == to) {
        return Ok(());
    }
    match fs::remove_file(at) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    #[cfg(unix)]
    return std::os::unix::fs::symlink(to, at);
    #[cfg(not(unix))]
    return Err(std::io::Error::other("symbolic links are needed: Linux or macOS"));
}
