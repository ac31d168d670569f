//! Measures assignment beside other people's solvers and writes a report: `cargo xtask bench assignment`.

mod assigners;
mod clock;
mod data;
mod end_to_end;
mod hard_cases;
mod markdown;
mod memory;
mod peers;
mod provenance;
mod python;
mod race;
mod report;
mod run;
mod svg;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use immiscible_assign::Cost;

/// The registered assigner that the report calls "ours".
const OURS: &str = "exact";

/// Measures every assigner, Python's and Rust's solvers on the same matrices, and writes `assignment-<date>.md`, .json and .svg.
#[derive(Parser)]
#[command(name = "cargo xtask bench assignment")]
struct Options {
    /// Batch sizes, ascending.
    #[arg(long, value_delimiter = ',', default_value = "64,128,256,512,1024,2048,4096,8192")]
    batches: Vec<usize>,
    /// Values of an image of the synthetic data set `smooth`: 3·s² or s².
    #[arg(long, default_value_t = 3072)]
    dim: usize,
    /// `smooth`, `latents`, `digits`, an .npy file [N, …] of float32, or what immiscible-data reads: IDX, CIFAR-10, a folder
    /// of images. Repeatable; LABEL=… names it in the report.
    #[arg(long, default_value = "smooth")]
    data: Vec<String>,
    /// Costs of the matrices for the peers.
    #[arg(long, value_delimiter = ',', default_value = "squared_l2,dot")]
    costs: Vec<Cost>,
    /// Threads of every solver.
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// Seconds that one run may take. What would take longer, by its last size and cubic growth, is left out and marked.
    #[arg(long, default_value_t = 60.0)]
    budget: f64,
    /// Interpreter with numpy, our wheel and the Python peers; `none` leaves them out.
    #[arg(long, default_value = "python3")]
    python: PathBuf,
    /// Folder of the report.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reports"))]
    out: PathBuf,
    /// Measures nothing: writes the .md and .svg of that .json anew.
    #[arg(long, value_name = "JSON")]
    render: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == memory::COMMAND => memory::child(rest),
        _ => start(&Options::parse()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench assignment: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn start(options: &Options) -> anyhow::Result<()> {
    let report = match &options.render {
        Some(json) => {
            let text = fs::read_to_string(json).with_context(|| json.display().to_string())?;
            serde_json::from_str(&text).with_context(|| json.display().to_string())?
        }
        None => run::run(options)?,
    };
    report.write(&options.out)
}
