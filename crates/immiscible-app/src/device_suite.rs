//! `immiscible-device-suite`: the same assertions on every device. What a device computes is compared with what the Python
//! package computed, or with the CPU.

mod coupling;
mod diffusion;
mod encoders;
mod networks;
mod training;

use crate::{Failure, device, panics};
use anyhow::{Context, Result, bail, ensure};
use burn::tensor::{Device, Tensor};
use clap::{Args, Parser};
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Runs the same checks on any device: networks against what diffusers computed; losses, samplers, couplings and training
/// against the CPU.
#[derive(Debug, Parser)]
#[command(name = "immiscible-device-suite", version, after_help = EXIT_STATUS)]
pub(crate) struct Alone {
    #[command(flatten)]
    pub(crate) arguments: Arguments,
}

/// What is checked on what.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The device to check, as `immiscible devices` lists them.
    #[arg(long, default_value = "flex")]
    device: String,
    /// The folder of the networks and of what diffusers computed with them.
    #[arg(long, value_name = "DIR", default_value = "crates/immiscible-models/tests/golden")]
    golden: PathBuf,
    /// Only the checks whose names begin so, such as network/dit; may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Write the outcome of every check here, too.
    #[arg(long, value_name = "FILE.json")]
    json: Option<PathBuf>,
    /// List the checks, and run none.
    #[arg(long)]
    list: bool,
}

const EXIT_STATUS: &str = "\
Exit status:
  0  every check passed
  1  a check failed
  2  the command is not as it must be, or there is no such device; nothing was checked";

/// The device that is checked, and the one that it is compared with.
struct Devices {
    tested: Device,
    cpu: Device,
}

/// Passes with a line of what was measured.
type Run = Box<dyn Fn(&Devices) -> Result<String>>;

struct Check {
    name: String,
    run: Run,
}

impl Check {
    fn new(name: String, run: impl Fn(&Devices) -> Result<String> + 'static) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// What became of a check.
#[derive(Serialize)]
struct Outcome {
    check: String,
    passed: bool,
    /// What was measured, or what is wrong.
    found: String,
    seconds: f64,
}

/// Whether every check passes.
pub(crate) fn run(arguments: &Arguments) -> Result<bool, Failure> {
    let checks = checks(arguments).map_err(Failure::usage)?;
    if arguments.list {
        for check in &checks {
            println!("{}", check.name);
        }
        return Ok(true);
    }
    let tested = device::by_name(&arguments.device).map_err(Failure::usage)?;
    let devices = Devices { tested, cpu: device::by_name("flex").map_err(Failure::usage)? };
    let hardware = device::describe(&arguments.device).map_err(Failure::usage)?;
    println!("{}: {hardware}", arguments.device);
    let mut outcomes: Vec<Outcome> = Vec::new();
    for check in &checks {
        outcomes.push(outcome(check, &devices));
        // After each of them, as the process may end in a driver.
        if let Some(path) = &arguments.json {
            let report = serde_json::json!({
                "device": arguments.device,
                "hardware": hardware,
                "checks_to_run": checks.len(),
                "checks": outcomes,
            });
            let text = serde_json::to_string_pretty(&report).map_err(Failure::run)?;
            std::fs::write(path, text + "\n")
                .with_context(|| format!("--json {}", path.display()))
                .map_err(Failure::run)?;
        }
    }
    let failed = outcomes.iter().filter(|outcome| !outcome.passed).count();
    let seconds: f64 = outcomes.iter().map(|outcome| outcome.seconds).sum();
    println!(
        "{} of {} checks passed on {} in {seconds:.0} s",
        outcomes.len() - failed,
        outcomes.len(),
        arguments.device
    );
    Ok(failed == 0)
}

fn checks(arguments: &Arguments) -> Result<Vec<Check>> {
    let mut checks = networks::checks(&arguments.golden)?;
    checks.extend(encoders::checks(&arguments.golden));
    checks.extend(diffusion::checks());
    checks.extend(coupling::checks());
    checks.extend(training::checks());
    let begins = |check: &Check, only: &String| check.name.starts_with(only.as_str());
    for only in &arguments.only {
        ensure!(
            checks.iter().any(|check| begins(check, only)),
            "--only {only:?}: no check begins so; see --list"
        );
    }
    if !arguments.only.is_empty() {
        checks.retain(|check| arguments.only.iter().any(|only| begins(check, only)));
    }
    Ok(checks)
}

fn outcome(check: &Check, devices: &Devices) -> Outcome {
    let start = Instant::now();
    let ran = panics::caught_silently(|| (check.run)(devices));
    let seconds = start.elapsed().as_secs_f64();
    let (passed, found) = match ran {
        Ok(Ok(found)) => (true, found),
        Ok(Err(error)) => (false, format!("{error:#}")),
        Err(panic) => (false, format!("panic: {panic}")),
    };
    println!("{:6} {:45} {seconds:7.1} s  {found}", if passed { "ok" } else { "FAILED" }, check.name);
    Outcome { check: check.name.clone(), passed, found, seconds }
}

/// The values of a tensor, on the host.
fn floats<const D: usize>(tensor: Tensor<D>) -> Result<Vec<f32>> {
    tensor.into_data().try_into_vec_as().context("reading the device")
}

/// max |found − expected| / max |expected|, which must not exceed `tolerance`.
fn compare(what: &str, found: &[f32], expected: &[f32], tolerance: f32) -> Result<f32> {
    ensure!(found.len() == expected.len(), "{what}: {} values instead of {}", found.len(), expected.len());
    if let Some(value) = found.iter().find(|value| !value.is_finite()) {
        bail!("{what}: {value} among the values");
    }
    let scale = expected.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let off = |pair: &(usize, (&f32, &f32))| (pair.1.0 - pair.1.1).abs();
    let worst = found.iter().zip(expected).enumerate().max_by(|a, b| off(a).total_cmp(&off(b)));
    let Some((i, (value, right))) = worst else { bail!("{what}: no values") };
    let error = (value - right).abs() / scale;
    ensure!(
        error <= tolerance,
        "{what}: value {i} is {value} instead of {right}: error {error:.1e}, allowed {tolerance:.0e}"
    );
    Ok(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_or_is_not_finite_does_not_pass() {
        assert_eq!(compare("x", &[1.0, 2.0], &[1.0, 2.0], 0.0).unwrap(), 0.0);
        assert!((compare("x", &[1.0, 2.2], &[1.0, 2.0], 0.11).unwrap() - 0.1).abs() < 1e-6);
        for (found, expected) in [
            (vec![1.0, 2.2], vec![1.0, 2.0]),
            (vec![1.0], vec![1.0, 2.0]),
            (vec![f32::NAN, 2.0], vec![1.0, 2.0]),
            (vec![0.0], vec![0.0]),
        ] {
            assert!(compare("x", &found, &expected, 0.09).is_err(), "{found:?}");
        }
    }

    #[test]
    fn a_check_that_panics_fails_and_says_why() {
        let devices = Devices { tested: Device::flex(), cpu: Device::flex() };
        let outcome = outcome(&Check::new("a".into(), |_| panic!("no kernel")), &devices);
        assert!(!outcome.passed && outcome.found.contains("no kernel"), "{}", outcome.found);
    }
}
