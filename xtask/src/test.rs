//! `cargo xtask test`: everything that CI runs, one stage after the other, with the minutes of each.

use crate::{Outcome, cargo, devices, layers, python, reliability, seeing};
use std::{fs, path::Path, time::Instant};

type Stage = (&'static str, fn() -> Outcome);

const STAGES: &[Stage] = &[
    ("format", || crate::run(cargo().args(["fmt", "--all", "--check"]))),
    ("layers", layers::check),
    ("tests", || {
        crate::run(cargo().args(["test", "--workspace", "--exclude", "immiscible-benches"]).args(NO_PYTHON))
    }),
    // What a build leaves out unless it is asked for. The tests download from a server of their own on this machine.
    ("features", || {
        crate::run(cargo().args(["test", "--package", "immiscible-data", "--features", "fetch,parquet"]))
    }),
    ("devices", || devices::suite("flex")),
    ("reliability", reliability::check),
    // Apart, because Criterion asks for other features of shared dependencies, with which all of Burn would be built again.
    ("benches", || crate::run(cargo().args(["test", "--package", "immiscible-benches"]))),
    ("lints", || {
        let clippy = ["clippy", "--workspace", "--all-targets"];
        crate::run(cargo().args(clippy).args(NO_PYTHON).args(["--", "-D", "warnings"]))
    }),
    ("docs", || {
        let doc = ["doc", "--workspace", "--no-deps"];
        crate::run(cargo().args(doc).args(NO_PYTHON).env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("consumer", consumer),
];

/// The stages that build more than one crate leave the Python wheel out: they must pass where there is no Python, and its
/// dependencies ask for other features of shared ones, with which all of Burn would be built a second time.
const NO_PYTHON: [&str; 2] = ["--exclude", "immiscible-python"];

/// Those that need Python and a package index.
const WITH_PYTHON: [Stage; 2] = [("python", python::check), ("seeing", seeing::check)];

/// `python`: also the stages that need Python.
pub(crate) fn run(python: bool) -> Outcome {
    let mut minutes = Vec::new();
    let mut outcome = Ok(());
    let last: &[Stage] = if python { &WITH_PYTHON } else { &[] };
    for (name, stage) in STAGES.iter().chain(last) {
        println!("== {name}");
        let start = Instant::now();
        outcome = stage();
        minutes.push((name, start.elapsed().as_secs_f64() / 60.0));
        if outcome.is_err() {
            eprintln!("== {name} failed");
            break;
        }
    }
    println!("== minutes");
    for (name, time) in &minutes {
        println!("{name:10} {time:6.1}");
    }
    println!("{:10} {:6.1}", "total", minutes.iter().map(|(_, time)| time).sum::<f64>());
    outcome
}

/// Builds and runs a crate outside the workspace whose only dependency is `immiscible-assign`, by path. Its code is
/// the example of that crate's README.
fn consumer() -> Outcome {
    let workspace = layers::workspace_root();
    let folder = layers::target_folder().join("consumer");
    let readme = workspace.join("crates/immiscible-assign/README.md");
    let made = make_consumer(&workspace, &folder, &readme);
    if let Err(error) = made {
        eprintln!("xtask: {}: {error}", folder.display());
        return Err(1);
    }
    crate::run(cargo().arg("run").current_dir(&folder).env("CARGO_TARGET_DIR", folder.join("target")))
}

fn make_consumer(workspace: &Path, folder: &Path, readme: &Path) -> std::io::Result<()> {
    let text = fs::read_to_string(readme)?;
    let example = text
        .split_once("```rust\n")
        .and_then(|(_, rest)| rest.split_once("```"))
        .map(|(example, _)| example)
        .ok_or_else(|| std::io::Error::other("the README of immiscible-assign has no Rust example"))?;
    fs::create_dir_all(folder.join("src"))?;
    fs::copy(workspace.join("Cargo.lock"), folder.join("Cargo.lock"))?;
    fs::write(folder.join("src/main.rs"), example)?;
    let path = workspace.join("crates/immiscible-assign");
    fs::write(
        folder.join("Cargo.toml"),
        format!(
            "[package]\nname = \"consumer\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
             [dependencies]\nimmiscible-assign = {{ path = {path:?} }}\nndarray = \"0.17\"\n"
        ),
    )
}
