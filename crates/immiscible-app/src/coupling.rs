//! `immiscible coupling`: what couplings do to a data set, without training.

mod bench;
mod images;
mod plot;
mod report;

use crate::{Failure, cli};
use anyhow::{Context, Result, ensure};
use images::Images;
use immiscible_coupling::{Potential, Semidiscrete, SemidiscreteOptions};
use immiscible_random::Key;
use std::path::Path;
use std::time::Instant;

pub(crate) fn run(command: &cli::Coupling) -> Result<(), Failure> {
    match command {
        cli::Coupling::Fit(arguments) => fit(arguments),
        cli::Coupling::Bench(arguments) => bench::run(arguments),
    }
}

/// Fits semidiscrete prices and writes them.
fn fit(arguments: &cli::CouplingFit) -> Result<(), Failure> {
    let images = || {
        ensure!(
            arguments.chi_squared > 0.0 && arguments.chi_squared.is_finite(),
            "--chi-squared {}: write a value > 0; 0.05 is usual",
            arguments.chi_squared
        );
        let images = Images::read(&arguments.data, None)?;
        ensure!(
            !arguments.class_wise || images.labels.is_some(),
            "--class-wise: {} has no labels; leave it out, or give --labels",
            images.what
        );
        ensure!(
            !arguments.flip || images.shape.is_some(),
            "--flip: the rows of {} are no images; give an array [N, ..., H, W], or leave it out",
            images.what
        );
        writable("out", &arguments.out)?;
        anyhow::Ok(images)
    };
    let images = images().map_err(Failure::usage)?;
    let options = SemidiscreteOptions {
        class_wise: arguments.class_wise,
        mirrored_width: images.shape.map(|[_, _, width]| width).filter(|_| arguments.flip),
        chi_squared: arguments.chi_squared,
        most_steps: arguments.steps,
    };
    let start = Instant::now();
    let key = Key::new(arguments.seed);
    let prices =
        Semidiscrete::fit(images.rows.view(), images.labels.as_deref(), &options, key, |label, potential| {
            let of = if options.class_wise { format!("class {label}, ") } else { String::new() };
            eprintln!("{of}{} steps: {}", potential.steps, goodness(potential));
        });
    let prices = prices.map_err(Failure::usage)?;
    let seconds = start.elapsed().as_secs_f64();
    prices.save(&arguments.out).context("--out").map_err(Failure::run)?;
    println!("data        {}", images.what);
    for (label, potential) in &prices.of {
        let of = if prices.class_wise { format!("class {label:<6}") } else { "prices      ".into() };
        println!("{of}{} after {} steps, {}", potential.prices.len(), potential.steps, goodness(potential));
    }
    let kind = if prices.class_wise { "class-wise coupling" } else { "coupling" };
    println!(
        "alignment   no {kind} of these images with standard normal noise has more than {:.3}",
        prices.alignment()
    );
    let worst = prices.of.values().map(|potential| potential.chi_squared).fold(0.0, f64::max);
    if worst > arguments.chi_squared {
        println!("warning     χ² is still above {}; write more --steps", arguments.chi_squared);
    }
    println!("written     {} in {seconds:.1} s", arguments.out.display());
    Ok(())
}

/// How good prices are.
fn goodness(potential: &Potential) -> String {
    let Potential { chi_squared, chi_squared_error, alignment, alignment_error, .. } = potential;
    format!(
        "χ² {chi_squared:.4} ± {chi_squared_error:.4}, alignment at most {alignment:.3} ± {alignment_error:.3}"
    )
}

/// Whether a file of this name can be written, before any work is done for it.
pub(crate) fn writable(flag: &str, out: &Path) -> Result<()> {
    ensure!(out.file_name().is_some(), "--{flag} {}: write the name of a file", out.display());
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    ensure!(
        folder.is_none_or(Path::is_dir),
        "--{flag} {}: its folder is not there; make it, or write another",
        out.display()
    );
    Ok(())
}
