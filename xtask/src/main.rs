//! Developer commands, run as `cargo xtask COMMAND`.

mod bench;
mod devices;
mod diffusers;
mod golden;
mod layers;
mod python;
mod reliability;
mod seeing;
mod test;

use std::process::{Command, ExitCode};

const HELP: &str = "\
cargo xtask COMMAND

  train [OPTIONS]   train and sample; no options: the `digits` preset on the CPU
                    --preset P --device flex|cuda|vulkan|wgpu --coupling independent|assignment|window|knn
                    --set KEY=VALUE --run NAME, and every other option of `immiscible train`
  sample [OPTIONS]  draw samples from a run or a diffusers folder: every option of `immiscible sample`
  report RUN…       one page on several runs: curves, samples, coupling, throughput, and what differs
  checkpoint COMMAND  compare checkpoints with their manifests: every command of `immiscible checkpoint`
  export RUN --to DIR  write a run's network as a folder that diffusers opens
  assign [OPTIONS]  which noise each image takes, from .npy files: every option of `immiscible assign`
  data COMMAND      fetch data sets, check them, or encode them: every command of `immiscible data`
  devices           the devices of this machine; --features cuda,vulkan,wgpu builds those backends in first
  list              presets, couplings, assigners, schedules, objectives, samplers, networks, data sources
  bench assignment  every assigner beside SciPy and other solvers on the same matrices; writes docs/reports/
                    --batches 64,128 --data smooth|latents|[LABEL=]PATH --threads 1 --python PATH; see --help
  bench coupling DATA  what each coupling reaches on a data set, and what it costs: `immiscible coupling bench`
  bench loader      images a second for each core, from memory and from files; writes docs/reports/
                    --folder PATH --threads 2
  bench step        time and memory of training steps by network, coupling and batch size: `immiscible bench-step`
                    --device D --networks ddpm-cifar10 --couplings knn --batches 16,32 --out NAME; see --help
  device-test       packs the command, the device suite and measurements into one file of at most 40 MiB for machines
                    without a toolchain, and runs it where this one has the device: --device D --out DIR, and for cuda
                    --nvrtc, with which NVIDIA's compiler makes the kernels
  reliability       kills, full disks, damaged checkpoints, signals and a long run; writes docs/reports/reliability.md
                    --kills 1000 --machine NAME; see --help
  test              format, layers, tests, lints, docs, a crate that uses one of ours
                    --python: also the Python wheel and its tests, and what TensorBoard and Chromium read of a run
                    --devices: only the device suite on WGPU over Vulkan in software, and checks of every backend's code;
                    wgpu or backends after it is one of them
                    --device D: only the device suite on flex, cuda, vulkan or wgpu, with its feature
                    --diffusers: only that models go to the Python package diffusers and back (installs torch)
  golden            makes what networks, schedules and samplers are tested against anew, with diffusers (installs torch)
                    --check: elsewhere, and compares it with what is committed
";

/// Commands of the `immiscible` binary.
const OF_IMMISCIBLE: &[&str] =
    &["assign", "checkpoint", "coupling", "data", "devices", "export", "list", "report", "sample", "train"];

/// Why a command did not succeed: the exit status to pass on, after the reason was printed.
type Outcome = Result<(), u8>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.first().map(String::as_str) {
        Some(command) if OF_IMMISCIBLE.contains(&command) => immiscible(&arguments),
        Some("bench") => bench::run(&arguments[1..]),
        Some("device-test") => devices::test(&arguments[1..]),
        Some("reliability") => reliability::run(&arguments[1..]),
        Some("test") => test::of(&arguments[1..]),
        Some("golden") if arguments.len() == 1 => golden::run(false),
        Some("golden") if arguments[1..] == ["--check"] => golden::run(true),
        Some("help" | "--help" | "-h") => {
            print!("{HELP}");
            Ok(())
        }
        Some(other) => {
            eprintln!("xtask: unknown command `{other}`; see cargo xtask help");
            Err(2)
        }
        None => {
            print!("{HELP}");
            Err(2)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(code) => ExitCode::from(code),
    }
}

/// Builds the `immiscible` binary with the backend that the arguments name, and runs it. `--features` is for cargo.
fn immiscible(arguments: &[String]) -> Outcome {
    let mut arguments = arguments.to_vec();
    let mut build = cargo();
    build.args(["run", "--quiet", "--package", "immiscible-app", "--bin", "immiscible"]);
    if let Some(i) = arguments.iter().position(|argument| argument == "--features") {
        build.args(arguments.drain(i..(i + 2).min(arguments.len())));
    }
    if let Some(feature) = backend_feature(&arguments) {
        build.args(["--features", feature]);
    }
    if let [data, fetch, ..] = &arguments[..]
        && [&**data, fetch] == ["data", "fetch"]
    {
        build.args(["--features", "fetch"]);
    }
    eprintln!("building immiscible (the first time takes several minutes)");
    run(build.arg("--").args(arguments))
}

/// The kinds of devices that are cargo features; the CPU is always there.
const BACKENDS: [&str; 3] = ["cuda", "vulkan", "wgpu"];

/// The cargo feature that compiles the requested device in.
fn backend_feature(arguments: &[String]) -> Option<&'static str> {
    let device = arguments.iter().enumerate().find_map(|(i, argument)| match argument.as_str() {
        "--device" => arguments.get(i + 1).map(String::as_str),
        argument => argument
            .strip_prefix("--device=")
            .or(argument.strip_prefix("--set=").unwrap_or(argument).strip_prefix("device=")),
    })?;
    // As TOML or as the shell leaves it.
    let kind = device.trim_matches(['"', '\'']).split(':').next()?;
    BACKENDS.into_iter().find(|backend| *backend == kind)
}

/// The cargo that runs this program.
fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Runs a command in the foreground and passes its failure on.
fn run(command: &mut Command) -> Outcome {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("xtask: {}: {error}", command.get_program().display());
            Err(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_readme_is_one() {
        let own = ["bench", "device", "golden", "reliability", "test"];
        let readme = include_str!("../../README.md");
        for rest in readme.split("cargo xtask ").skip(1) {
            let end = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
            let command = &rest[..end];
            assert!(own.contains(&command) || OF_IMMISCIBLE.contains(&command), "cargo xtask {command}");
        }
    }

    #[test]
    fn a_device_adds_its_feature() {
        let feature = |line: &str| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            backend_feature(&arguments)
        };
        assert_eq!(feature("train --device cuda:1 --run a"), Some("cuda"));
        assert_eq!(feature("sample --device=vulkan"), Some("vulkan"));
        assert_eq!(feature("train --set device=wgpu:0"), Some("wgpu"));
        assert_eq!(feature("train --set=device=\"cuda\""), Some("cuda"));
        assert_eq!(feature("train --device flex"), None);
        assert_eq!(feature("train --device"), None);
        assert_eq!(feature("train --set train.steps=3"), None);
    }
}
