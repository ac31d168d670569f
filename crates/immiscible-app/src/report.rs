//! `immiscible report`: one page on one or several runs, which opens without a network.

mod chart;
mod page;
mod run;

use crate::{Failure, cli, train};
use anyhow::{Context, Result, ensure};
use run::Run;
use std::path::Path;

/// Writes the page.
pub(crate) fn run(arguments: &cli::Report) -> Result<(), Failure> {
    let out = &arguments.out;
    let runs = read(arguments).map_err(Failure::usage)?;
    write(out, &page::page(&runs)).map_err(Failure::run)?;
    let (lines, damaged) =
        runs.iter().fold((0, 0), |(lines, damaged), run| (lines + run.records.len(), damaged + run.damaged));
    let skipped = if damaged > 0 { format!(", {damaged} damaged ones left out") } else { String::new() };
    let of = if let [run] = &runs[..] { run.name.clone() } else { format!("{} runs", runs.len()) };
    println!("{of}: {lines} lines of {}{skipped}: {}", train::METRICS, out.display());
    Ok(())
}

fn read(arguments: &cli::Report) -> Result<Vec<Run>> {
    let out = &arguments.out;
    ensure!(
        out.extension().is_some_and(|extension| extension == "html") && !out.is_dir(),
        "--out {}: write the name of a file that ends in .html",
        out.display()
    );
    let mut runs = arguments.runs.iter().map(|folder| Run::read(folder)).collect::<Result<Vec<_>>>()?;
    for (i, run) in runs.iter().enumerate() {
        let twice = runs[..i].iter().any(|other| other.folder == run.folder);
        ensure!(!twice, "{}: it is given twice; leave one out", arguments.runs[i].display());
    }
    // Runs of one name are told apart by where they are.
    let names: Vec<String> = runs.iter().map(|run| run.name.clone()).collect();
    for (run, folder) in runs.iter_mut().zip(&arguments.runs) {
        if names.iter().filter(|name| **name == run.name).count() > 1 {
            run.name = folder.display().to_string();
        }
    }
    Ok(runs)
}

fn write(out: &Path, page: &str) -> Result<()> {
    let folder = out.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    train::write(&folder.join(out.file_name().unwrap_or_default()), page)
}
