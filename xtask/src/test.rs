//! `cargo xtask test`: everything that CI runs, one stage after the other, with the minutes of each.

use crate::{Outcome, cargo, devices, layers, python, reliability, seeing};
use std::{fs, path::Path, process::Command, time::Instant};

/// Which features of the command the stages ask for. All of them ask for the same, so that Burn is built once.
#[derive(Clone, Copy)]
struct Features {
    /// Of what runs.
    built: [&'static str; 2],
    /// Of what is only checked, and needs no driver.
    checked: [&'static str; 2],
    /// Devices that the device suite runs on.
    devices: &'static [&'static str],
}

const CPU: Features = Features { built: FETCH, checked: FETCH, devices: &["flex"] };
const FETCH: [&str; 2] = ["--features", "immiscible-app/fetch"];

impl Features {
    /// WGPU as far as it can run here, and every backend as far as it can be checked.
    fn all() -> Self {
        let checked = ["--features", "immiscible-app/fetch,immiscible-app/cuda,immiscible-app/vulkan"];
        match devices::install_software_vulkan() {
            Ok(()) => Self {
                built: ["--features", "immiscible-app/fetch,immiscible-app/wgpu-untuned"],
                checked,
                devices: &["flex", "wgpu"],
            },
            Err(reason) => {
                println!("skipped: the device suite on WGPU: {reason}");
                Self { checked, ..CPU }
            }
        }
    }

    /// A command that only checks.
    fn check(self, command: &[&str]) -> Command {
        let mut check = cargo();
        // Else the build of Burn's compiler for CUDA fetches LLVM, which only a link needs.
        check.args(command).args(NO_PYTHON).args(self.checked).env("DOCS_RS", "1");
        check
    }
}

type Stage = (&'static str, fn(Features) -> Outcome);

const STAGES: &[Stage] = &[
    ("format", |_| crate::run(cargo().args(["fmt", "--all", "--check"]))),
    ("layers", |_| layers::check()),
    ("tests", |features| {
        let test = ["test", "--workspace", "--exclude", "immiscible-benches"];
        crate::run(cargo().args(test).args(NO_PYTHON).args(features.built))
    }),
    // What a build leaves out unless it is asked for. The tests download from a server of their own on this machine.
    ("features", |_| {
        crate::run(cargo().args(["test", "--package", "immiscible-data", "--features", "fetch,parquet"]))
    }),
    ("devices", |features| {
        features.devices.iter().try_for_each(|device| devices::suite(device, &features.built))
    }),
    ("reliability", |features| reliability::check(&features.built)),
    // Apart, because Criterion asks for other features of shared dependencies, with which all of Burn would be built again.
    ("benches", |_| crate::run(cargo().args(["test", "--package", "immiscible-benches"]))),
    ("lints", |features| {
        let mut clippy = features.check(&["clippy", "--workspace", "--all-targets"]);
        crate::run(clippy.args(["--", "-D", "warnings"]))
    }),
    ("docs", |features| {
        let mut doc = features.check(&["doc", "--workspace", "--no-deps"]);
        crate::run(doc.env("RUSTDOCFLAGS", "-D warnings"))
    }),
    ("consumer", |_| consumer()),
];

/// The stages that build more than one crate leave the Python wheel out: they must pass where there is no Python, and its
/// dependencies ask for other features of shared ones, with which all of Burn would be built a second time.
const NO_PYTHON: [&str; 2] = ["--exclude", "immiscible-python"];

/// Those that need Python and a package index.
const WITH_PYTHON: [Stage; 2] =
    [("python", |_| python::check()), ("seeing", |features| seeing::check(&features.built))];

/// What is run only when it is asked for.
#[derive(Clone, Copy, Default)]
pub(crate) struct Extra {
    /// The device suite on WGPU over Vulkan in software, and checks of every backend.
    devices: bool,
    /// The stages that need Python and a package index.
    python: bool,
}

impl Extra {
    /// What the arguments ask for; none if they ask for something else.
    pub(crate) fn read(arguments: &[String]) -> Option<Self> {
        let mut extra = Self::default();
        for argument in arguments {
            match &**argument {
                "--devices" => extra.devices = true,
                "--python" => extra.python = true,
                _ => return None,
            }
        }
        Some(extra)
    }
}

pub(crate) fn run(extra: Extra) -> Outcome {
    let features = if extra.devices { Features::all() } else { CPU };
    let mut minutes = Vec::new();
    let mut outcome = Ok(());
    let last: &[Stage] = if extra.python { &WITH_PYTHON } else { &[] };
    for (name, stage) in STAGES.iter().chain(last) {
        println!("== {name}");
        let start = Instant::now();
        outcome = stage(features);
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
