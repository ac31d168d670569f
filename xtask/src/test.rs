//! `cargo xtask test`: what CI runs, and the checks of other devices, one stage after the other, with the minutes of each.

use crate::{Outcome, cargo, devices, diffusers, layers, python, reliability, seeing};
use std::{fs, path::Path, time::Instant};

/// Features of the command that the stages ask for. All of them ask for the same, so that Burn is built once.
const FEATURES: [&str; 2] = ["--features", "immiscible-app/fetch"];

type Stage = (&'static str, fn() -> Outcome);

const STAGES: &[Stage] = &[
    ("format", || crate::run(cargo().args(["fmt", "--all", "--check"]))),
    ("layers", layers::check),
    ("tests", || {
        let test = ["test", "--workspace", "--exclude", "immiscible-benches"];
        crate::run(cargo().args(test).args(NO_PYTHON).args(FEATURES))
    }),
    // What a build leaves out unless it is asked for. The tests download from a server of their own on this machine.
    ("features", || {
        crate::run(cargo().args(["test", "--package", "immiscible-data", "--features", "fetch,parquet"]))
    }),
    ("device", || devices::suite("flex", &FEATURES)),
    ("reliability", || reliability::check(&FEATURES)),
    // Apart, because Criterion asks for other features of shared dependencies, with which all of Burn would be built again.
    ("benches", || crate::run(cargo().args(["test", "--package", "immiscible-benches"]))),
    ("lints", || lints(&FEATURES)),
    ("docs", || {
        let mut doc = cargo();
        doc.args(["doc", "--workspace", "--no-deps"]).args(NO_PYTHON).args(FEATURES);
        crate::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("consumer", consumer),
];

/// The stages that build more than one crate leave the Python wheel out: they must pass where there is no Python, and its
/// dependencies ask for other features of shared ones, with which all of Burn would be built a second time.
const NO_PYTHON: [&str; 2] = ["--exclude", "immiscible-python"];

/// Those that need Python and a package index.
const WITH_PYTHON: &[Stage] = &[("python", python::check), ("seeing", || seeing::check(&FEATURES))];

/// Those of the other backends, for which Burn is built again.
const DEVICES: &[Stage] = &[
    ("wgpu", || match devices::install_software_vulkan() {
        Ok(()) => {
            let features = ["--features", "immiscible-app/fetch,immiscible-app/wgpu-untuned"];
            devices::suite("wgpu", &features)?;
            // How devices are named, opened and told apart.
            let test = ["test", "--package", "immiscible-app", "--lib", "device::"];
            crate::run(cargo().args(test).args(features))
        }
        Err(reason) => {
            println!("skipped: the device suite on WGPU: {reason}");
            Ok(())
        }
    }),
    ("backends", || {
        lints(&["--features", "immiscible-app/fetch,immiscible-app/cuda-cpp,immiscible-app/vulkan"])
    }),
];

/// Checks the code, which needs no driver.
fn lints(features: &[&str]) -> Outcome {
    let mut clippy = cargo();
    clippy.args(["clippy", "--workspace", "--all-targets"]).args(NO_PYTHON).args(features);
    // Else the build of Burn's compiler for CUDA fetches LLVM, which only a link needs.
    crate::run(clippy.env("DOCS_RS", "1").args(["--", "-D", "warnings"]))
}

/// `cargo xtask test`, or the part of it that the arguments ask for.
pub(crate) fn of(arguments: &[String]) -> Outcome {
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => run(STAGES),
        ["--python"] => run(&[STAGES, WITH_PYTHON].concat()),
        ["--devices"] => run(DEVICES),
        ["--devices", stage] if DEVICES.iter().any(|(name, _)| name == stage) => {
            run(&DEVICES.iter().filter(|(name, _)| name == stage).copied().collect::<Vec<_>>())
        }
        ["--device", device] => devices::suite_alone(device),
        ["--diffusers"] => diffusers::check(),
        other => {
            eprintln!("xtask: cargo xtask test {}: see cargo xtask help", other.join(" "));
            Err(2)
        }
    }
}

fn run(stages: &[Stage]) -> Outcome {
    let mut minutes = Vec::new();
    let mut outcome = Ok(());
    for (name, stage) in stages {
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
        println!("{name:11} {time:6.1}");
    }
    println!("{:11} {:6.1}", "total", minutes.iter().map(|(_, time)| time).sum::<f64>());
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
