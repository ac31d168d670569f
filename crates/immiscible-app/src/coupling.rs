//! `immiscible coupling`: what couplings do to a data set, without training.

mod bench;
mod images;
mod plot;
mod report;

use crate::{Failure, cli};
use anyhow::{Result, ensure};
use images::Images;
use immiscible_coupling::{Semidiscrete, SemidiscreteOptions};
use immiscible_random::Key;
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
        let images = Images::read(&arguments.data)?;
        ensure!(
            !arguments.class_wise || images.labels.is_some(),
            "--class-wise: {} has no labels; leave it out, or give --labels",
            images.what
        );
        anyhow::Ok(images)
    };
    let images = images().map_err(Failure::usage)?;
    let options = SemidiscreteOptions {
        class_wise: arguments.class_wise,
        mirrored_width: arguments.flip.then_some(images.width),
        chi_squared: arguments.chi_squared,
        most_steps: arguments.steps,
    };
    let start = Instant::now();
    let key = Key::new(arguments.seed);
    let prices = Semidiscrete::fit(images.rows.view(), images.labels.as_deref(), &options, key);
    let prices = prices.map_err(Failure::usage)?;
    let seconds = start.elapsed().as_secs_f64();
    prices.save(&arguments.out).map_err(Failure::run)?;
    println!("data        {}", images.what);
    for (label, potential) in &prices.of {
        let of = if prices.class_wise { format!("class {label:<6}") } else { "prices      ".into() };
        println!(
            "{of}{}, χ² {:.4} ± {:.4} after {} steps, alignment at most {:.3} ± {:.3}",
            potential.prices.len(),
            potential.chi_squared,
            potential.chi_squared_error,
            potential.steps,
            potential.alignment,
            potential.alignment_error
        );
    }
    println!("alignment   {:.3} is what no coupling of these images exceeds", prices.alignment());
    println!("written     {} in {seconds:.1} s", arguments.out.display());
    Ok(())
}
