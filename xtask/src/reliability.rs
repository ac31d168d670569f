//! `cargo xtask reliability`: the built command is killed, starved of room and fed damaged checkpoints, and what it makes of
//! that is compared with a run that was left alone.

mod calls;
mod damage;
mod full;
mod kills;
mod report;
mod signals;
mod soak;
mod subject;

use crate::{Outcome, cargo, layers};
use std::path::PathBuf;
use subject::Subject;

const HELP: &str = "\
cargo xtask reliability [OPTIONS]   writes docs/reports/reliability.md and .json; what is asked for 0 times stays there

  --kills N      kill -9 at random times during training and saving (1000)
  --signals N    SIGTERM at random times (100)
  --damages N    flipped bits and truncations of a checkpoint (10000)
  --full N       points at which there is no more room (200)
  --calls N      system calls of each kind that fail while it saves, one a run (40)
  --soak N       steps of one run whose memory and open files are watched (10000)
  --seed S       of everything random (0)
  --machine M    a line for the report
  --out NAME     another file than docs/reports/reliability
";

/// How much of everything.
pub(crate) struct Plan {
    kills: u64,
    signals: u64,
    damages: u64,
    full: u64,
    calls: u64,
    soak: u64,
    seed: u64,
    machine: String,
    /// Without the ending; none to only check.
    out: Option<PathBuf>,
}

impl Plan {
    fn full() -> Self {
        Self {
            kills: 1_000,
            signals: 100,
            damages: 10_000,
            full: 200,
            calls: 40,
            soak: 10_000,
            seed: 0,
            machine: "not named".into(),
            out: Some(layers::workspace_root().join("docs/reports/reliability")),
        }
    }

    /// What fits into every run of the tests.
    fn short() -> Self {
        Self { kills: 10, signals: 5, damages: 100, full: 10, calls: 0, soak: 0, out: None, ..Self::full() }
    }

    fn read(arguments: &[String]) -> Result<Self, String> {
        let mut plan = Self::full();
        for pair in arguments.chunks(2) {
            let [option, value] = pair else {
                return Err(format!("{} needs a value", pair[0]));
            };
            let number = || value.parse().map_err(|_| format!("{option} {value}: write a whole number"));
            match &**option {
                "--kills" => plan.kills = number()?,
                "--signals" => plan.signals = number()?,
                "--damages" => plan.damages = number()?,
                "--full" => plan.full = number()?,
                "--calls" => plan.calls = number()?,
                "--soak" => plan.soak = number()?,
                "--seed" => plan.seed = number()?,
                "--machine" => plan.machine.clone_from(value),
                "--out" => plan.out = Some(value.into()),
                _ => return Err(format!("unknown option {option}; see cargo xtask reliability --help")),
            }
        }
        Ok(plan)
    }
}

pub(crate) fn run(arguments: &[String]) -> Outcome {
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return Ok(());
    }
    match Plan::read(arguments) {
        Ok(plan) => carry_out(&plan, &[]),
        Err(reason) => {
            eprintln!("xtask: {reason}");
            Err(2)
        }
    }
}

/// The short version, without a report. `features` are arguments of cargo.
pub(crate) fn check(features: &[&str]) -> Outcome {
    carry_out(&Plan::short(), features)
}

fn carry_out(plan: &Plan, features: &[&str]) -> Outcome {
    if !cfg!(target_os = "linux") {
        eprintln!("xtask: reliability needs Linux: it kills by signals and reads /proc");
        return Ok(());
    }
    let build = ["build", "--package", "immiscible-app", "--bin", "immiscible"];
    crate::run(cargo().args(build).args(features))?;
    match all(plan) {
        Ok(true) => Ok(()),
        Ok(false) => Err(1),
        Err(reason) => {
            eprintln!("xtask: reliability: {reason}");
            Err(1)
        }
    }
}

type Stage = fn(&Subject, u64) -> Result<Vec<report::Line>, String>;

/// Whether everything is as it must be.
fn all(plan: &Plan) -> Result<bool, String> {
    let subject = Subject::new(plan.seed)?;
    let mut passed = true;
    let stages: [(&str, u64, Stage); 6] = [
        ("kills", plan.kills, kills::run),
        ("signals", plan.signals, signals::run),
        ("damages", plan.damages, damage::run),
        ("full", plan.full, full::run),
        ("calls", plan.calls, calls::run),
        ("soak", plan.soak, soak::run),
    ];
    for (name, n, stage) in stages.into_iter().filter(|(_, n, _)| *n > 0) {
        let lines = stage(&subject, n)?;
        for line in &lines {
            println!("{line}");
            passed &= line.passed();
        }
        if let Some(out) = &plan.out {
            report::write(out, name, &lines, &plan.machine)?;
        }
    }
    subject.done();
    Ok(passed)
}
