//! The layers of the workspace: which of our crates may depend on which, and the wall around Burn.

use crate::{Outcome, cargo};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// For every crate the crates of the workspace that it may use. A crate that is not listed here has no place yet.
const ALLOWED: &[(&str, &[&str])] = &[
    ("immiscible-assign", &[]),
    ("immiscible-random", &[]),
    ("immiscible-coupling", L0),
    ("immiscible-data", L0),
    ("immiscible-models", L0),
    ("immiscible-schedule", L0),
    ("immiscible-metrics", METRICS),
    ("immiscible-sample", L1),
    ("immiscible-train", L1),
    ("immiscible-app", EVERY_LIBRARY),
    ("immiscible-python", &["immiscible-assign"]),
    ("immiscible-benches", EVERY_LIBRARY),
    ("xtask", &[]),
];

const L0: &[&str] = &["immiscible-assign", "immiscible-random"];
const L1: &[&str] = &[
    "immiscible-assign",
    "immiscible-random",
    "immiscible-coupling",
    "immiscible-data",
    "immiscible-models",
    "immiscible-schedule",
];
const METRICS: &[&str] = &[
    "immiscible-assign",
    "immiscible-random",
    "immiscible-coupling",
    "immiscible-data",
    "immiscible-models",
    "immiscible-schedule",
    "immiscible-sample",
];
const EVERY_LIBRARY: &[&str] = &[
    "immiscible-assign",
    "immiscible-random",
    "immiscible-coupling",
    "immiscible-data",
    "immiscible-models",
    "immiscible-schedule",
    "immiscible-metrics",
    "immiscible-sample",
    "immiscible-train",
];

/// Crates from which Burn must not be reachable.
const BURN_FREE: &[&str] = &[
    "immiscible-assign",
    "immiscible-random",
    "immiscible-data",
    "immiscible-metrics",
    "immiscible-python",
    "xtask",
];

/// Checks every edge between our crates, and that Burn stays behind its wall.
pub(crate) fn check() -> Outcome {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().cloned().unwrap_or_default();
    let ours: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let mut wrong = Vec::new();
    for package in &packages {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = ALLOWED.iter().find(|(crate_name, _)| *crate_name == name) else {
            wrong.push(format!("{name} has no layer; add it to ALLOWED in xtask/src/layers.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            // Tests may use any crate: nobody who depends on this one builds them.
            if dependency["kind"] == "dev" {
                continue;
            }
            let dependency = dependency["name"].as_str().unwrap_or_default();
            if ours.contains(&dependency) && !allowed.contains(&dependency) {
                wrong.push(format!("{name} must not depend on {dependency}"));
            }
        }
    }
    for name in BURN_FREE {
        let tree = cargo().args(["tree", "-p", name, "-e", "normal", "--prefix", "none"]).output();
        match tree {
            Ok(output) if output.status.success() => {
                let tree = String::from_utf8_lossy(&output.stdout);
                if tree.lines().any(|line| line.starts_with("burn ") || line.starts_with("burn-")) {
                    wrong.push(format!("{name} must not reach burn"));
                }
            }
            _ => wrong.push(format!("cargo tree -p {name} failed")),
        }
    }
    for line in &wrong {
        eprintln!("{line}");
    }
    println!("{} crates, {} that must not reach burn: {} wrong", ours.len(), BURN_FREE.len(), wrong.len());
    if wrong.is_empty() { Ok(()) } else { Err(1) }
}

/// The root folder of the workspace.
pub(crate) fn workspace_root() -> PathBuf {
    PathBuf::from(metadata()["workspace_root"].as_str().unwrap_or("."))
}

/// The commit of the sources, where git knows it, and whether they differ from it.
pub(crate) fn commit() -> Option<String> {
    let describe = ["describe", "--always", "--dirty", "--exclude", "*"];
    let output = Command::new("git").args(describe).current_dir(workspace_root()).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok().filter(|_| output.status.success())?;
    Some(commit.trim().to_owned())
}

/// The folder that cargo builds into.
pub(crate) fn target_folder() -> PathBuf {
    PathBuf::from(metadata()["target_directory"].as_str().unwrap_or("target"))
}

/// What cargo knows of the workspace's own packages.
fn metadata() -> Value {
    let output = cargo().args(["metadata", "--format-version", "1", "--no-deps"]).output();
    output.ok().and_then(|output| serde_json::from_slice(&output.stdout).ok()).unwrap_or_default()
}
