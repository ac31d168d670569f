//! The stage `python` of `cargo xtask test --python`: lints of the PyO3 crate, the wheel in release, its tests against
//! SciPy. It needs python3 and a package index; where one of them is missing, it says so and passes. The same environment
//! serves `cargo xtask bench`.

use crate::{Outcome, cargo, layers};
use std::{
    ffi::OsStr,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What the stage installs in an environment of its own, in the target folder.
const PACKAGES: &[&str] = &["maturin>=1.9.4,<2", "numpy>=1.24", "pytest", "scipy"];
/// Solvers to compare with. Some must be compiled, so any of them may be missing.
const PEERS: &[&str] = &["lapjv", "lapx", "POT"];

const PIP: [&str; 5] = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"];

pub(crate) fn check() -> Outcome {
    let source = layers::workspace_root().join("crates/immiscible-python");
    let target = layers::target_folder().join("python");
    let Some(python) = or_skip(environment(&target.join("venv"), PACKAGES)) else {
        return Ok(());
    };
    let clippy = ["clippy", "--package", "immiscible-python", "--all-targets", "--", "-D", "warnings"];
    crate::run(cargo().args(clippy).env("PYO3_PYTHON", &python))?;

    install_wheel(&python)?;
    crate::run(
        Command::new(&python)
            .args(["-B", "-m", "pytest", "--quiet", "-rs", "-p", "no:cacheprovider", "tests"])
            .current_dir(&source),
    )
}

/// The Python of the environment with the wheel of these sources and the peers that can be had, or one line that says why
/// there is none.
pub(crate) fn with_peers() -> Result<Result<PathBuf, String>, u8> {
    let python = match environment(&layers::target_folder().join("python/venv"), PACKAGES) {
        Ok(python) => python,
        Err(reason) => return Ok(Err(reason)),
    };
    install_wheel(&python)?;
    for peer in PEERS {
        if let Err(reason) = quietly(Command::new(&python).args(PIP).arg(peer)) {
            println!("without {peer}: {reason}");
        }
    }
    Ok(Ok(python))
}

/// Builds the wheel in release and installs it.
fn install_wheel(python: &Path) -> Outcome {
    let source = layers::workspace_root().join("crates/immiscible-python");
    let wheels = layers::target_folder().join("python/wheels");
    emptied(&wheels).map_err(|error| failed(&wheels, &error))?;
    crate::run(
        Command::new(python)
            .args(["-m", "maturin", "build", "--quiet", "--release", "--interpreter"])
            .args([python.as_os_str(), "--out".as_ref(), wheels.as_os_str()])
            .current_dir(source),
    )?;
    let wheel = only_file(&wheels).map_err(|error| failed(&wheels, &error))?;
    crate::run(Command::new(python).args(PIP).args(["--force-reinstall", "--no-deps"]).arg(wheel))
}

/// A Python, or none after a line that says why: what needs it is skipped.
pub(crate) fn or_skip(python: Result<PathBuf, String>) -> Option<PathBuf> {
    python.inspect_err(|reason| println!("skipped: {reason}")).ok()
}

/// The Python of an environment that has the packages, made if it is not there yet.
///
/// # Errors
/// One line: why it cannot be had.
pub(crate) fn environment(venv: &Path, packages: &[&str]) -> Result<PathBuf, String> {
    let python = venv.join(if cfg!(windows) { "Scripts/python.exe" } else { "bin/python" });
    if !python.exists() {
        let system = if cfg!(windows) { "python" } else { "python3" };
        quietly(Command::new(system).args(["-m", "venv"]).arg(venv)).inspect_err(|_| {
            // Half an environment would be taken for a whole one the next time.
            let _ = fs::remove_dir_all(venv);
        })?;
    }
    quietly(Command::new(&python).args(PIP).args(packages))?;
    Ok(python)
}

/// Runs a command, whose output matters only if it fails.
///
/// # Errors
/// The command and the last line that it printed.
pub(crate) fn quietly(command: &mut Command) -> Result<(), String> {
    let output = command.stdin(Stdio::null()).output();
    let words = [command.get_program()].into_iter().chain(command.get_args());
    let command = words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ");
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let printed = [output.stdout, output.stderr].concat();
            let printed = String::from_utf8_lossy(&printed);
            let line = printed.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed");
            Err(format!("{command}: {line}"))
        }
        Err(error) => Err(format!("{command}: {error}")),
    }
}

/// Makes the folder, or removes what is in it.
pub(crate) fn emptied(folder: &Path) -> io::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder)?;
    }
    fs::create_dir_all(folder)
}

fn only_file(folder: &Path) -> io::Result<PathBuf> {
    let file = fs::read_dir(folder)?.next().ok_or_else(|| io::Error::other("maturin left no wheel"))?;
    Ok(file?.path())
}

/// Prints what went wrong with a path; the exit status.
pub(crate) fn failed(path: &Path, error: &io::Error) -> u8 {
    eprintln!("xtask: {}: {error}", path.display());
    1
}
