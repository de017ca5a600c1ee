//! `cargo xtask browser`: installs a headless browser for the test that opens a report.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Chromium as an npm package, which needs no system libraries.
const PACKAGE: &str = "@sparticuz/chromium@153.0.0";

/// Unpacks the browser into the temporary folder and prints its path.
const UNPACK: &str = r#"import c from "@sparticuz/chromium"; console.log(await c.executablePath())"#;

/// The longest time that a command may take.
const PATIENCE: Duration = Duration::from_secs(180);

/// The path of the browser, which is installed into `target/browser` if it is not there yet.
///
/// # Errors
/// When there is no npm or no network, or the browser does not start on this machine.
pub fn install() -> Result<PathBuf, String> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"));
    let folder = target.join("browser");
    let program = folder.join("unpacked/chromium");
    if !program.exists() {
        let failed = |e: std::io::Error| format!("{}: {e}", folder.display());
        // Installed in another folder and renamed, so that an attempt that was interrupted leaves no broken browser.
        let aside = target.join("browser.partial");
        let _ = std::fs::remove_dir_all(&aside);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(aside.join("unpacked")).map_err(failed)?;
        std::fs::write(aside.join("package.json"), "{ \"private\": true }\n").map_err(failed)?;
        let npm = ["install", "--no-audit", "--no-fund", "--ignore-scripts", "--fetch-retries=1", PACKAGE];
        run(Command::new("npm").args(npm).current_dir(&aside))?;
        let unpack = ["--input-type=module", "--eval", UNPACK];
        run(Command::new("node").args(unpack).current_dir(&aside).env("TMPDIR", "unpacked"))?;
        std::fs::rename(&aside, &folder).map_err(failed)?;
    }
    run(Command::new(&program).args(["--headless", "--no-sandbox", "--version"]))?;
    program.canonicalize().map_err(|e| e.to_string())
}

fn run(command: &mut Command) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut child = child.map_err(|e| format!("cannot start {name}: {e}"))?;
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        match child.try_wait().map_err(|e| format!("{name}: {e}"))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{name} failed ({status})")),
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
    let _ = child.kill();
    Err(format!("{name} took more than {} seconds", PATIENCE.as_secs()))
}
