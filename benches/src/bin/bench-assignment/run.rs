//! The order of the measurements.

use std::{
    cell::Cell,
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use immiscible_assign::{Assignment, Cost, by_name};
use immiscible_benches::fields;
use immiscible_data::npy;
use ndarray::{Array2, ArrayView2};

use crate::{
    OURS, Options,
    assigners::{self, Batch, within},
    clock::{Measured, Sample, typical},
    data::Images,
    end_to_end, hard_cases,
    peers::PEERS,
    provenance,
    python::{Job, Python},
    race::{Budget, alternate, batches, rounds},
    report::{Matrix, Race, Report, gap_percent},
};

/// Everything, one data set after the other. The report is written after each, so that a run that is stopped leaves what
/// it has.
pub(crate) fn run(options: &Options) -> anyhow::Result<Report> {
    ensure!(
        options.batches.is_sorted() && options.batches.iter().all(|&batch| batch > 1),
        "--batches must ascend from 2 or more"
    );
    ensure!(options.threads > 0 && options.budget > 0.0, "--threads and --budget must be above 0");
    let data = options.data.iter().map(|named| Images::open(named, options.dim));
    let data: Vec<Images> = data.collect::<anyhow::Result<_>>()?;
    rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global()?;
    let folder = tempfile::tempdir()?;
    let mut run = Run {
        folder: folder.path().to_owned(),
        budget: Budget::new(1e3 * options.budget),
        python: None,
        report: Report {
            provenance: provenance::provenance(options.threads, options.budget),
            notes: Vec::new(),
            matrices: Vec::new(),
            races: Vec::new(),
            assigners: Vec::new(),
            end_to_end: Vec::new(),
            hard_cases: Vec::new(),
        },
    };
    run.start_python(&options.python, options.threads);
    if PEERS.is_empty() {
        run.note("no Rust peers: built without the feature `peers`");
    }
    for images in &data {
        for &batch in &options.batches {
            let draws = (0..batches(batch) as u64).map(|seed| images.draw(seed, batch));
            match draws.collect::<anyhow::Result<Vec<_>>>() {
                Ok(draws) => run.batch(images, &draws, options)?,
                Err(error) => run.note(&format!("{} at {batch} left out: {error:#}", images.label)),
            }
        }
        run.report.write(&options.out)?;
    }
    run.report.hard_cases = hard_cases::measure(&mut run.budget)?;
    Ok(run.report)
}

struct Run {
    report: Report,
    budget: Budget,
    python: Option<Python>,
    /// For matrices that other processes read.
    folder: PathBuf,
}

impl Run {
    fn note(&mut self, note: &str) {
        eprintln!("{note}");
        self.report.notes.push(note.to_owned());
    }

    fn start_python(&mut self, interpreter: &Path, threads: usize) {
        if interpreter.as_os_str() == "none" {
            return self.note("no Python peers: --python none");
        }
        match Python::start(interpreter, threads) {
            Ok(python) => {
                for (name, reason) in &python.hello.missing {
                    self.note(&format!("{name} left out: {reason}"));
                }
                self.report.provenance.versions.extend(python.hello.versions.clone());
                self.python = Some(python);
            }
            Err(error) => self.note(&format!("no Python peers: {error:#}")),
        }
    }

    /// Solvers of matrices meet all the batches, the rest is measured on the first one.
    fn batch(&mut self, images: &Images, draws: &[Array2<f32>], options: &Options) -> anyhow::Result<()> {
        let Some(first) = draws.first() else { return Ok(()) };
        let size = first.nrows();
        eprintln!("{} at {size}", images.label);
        for &cost in &options.costs {
            let matrices = draws.iter().zip(0..).map(|(drawn, seed)| {
                cost.matrix(drawn.view(), fields::noise(seed, size, images.dimension).view())
            });
            self.matrices(images, cost, &matrices.collect::<Result<Vec<_>, _>>()?)?;
        }
        let noise = fields::noise(0, size, images.dimension);
        let batch = Batch { data: &images.label, images: first.view(), noise: noise.view() };
        let rows = assigners::measure(&batch, &mut self.budget, &self.folder, options.threads)?;
        self.report.assigners.extend(rows);
        let rows = end_to_end::measure(&batch, &mut self.budget, &self.folder)?;
        self.report.end_to_end.extend(rows);
        Ok(())
    }

    /// Ours alone, then beside the peers of both languages.
    fn matrices(&mut self, images: &Images, cost: Cost, matrices: &[Array2<f32>]) -> anyhow::Result<()> {
        let size = matrices.first().map_or(0, |matrix| matrix.nrows());
        let solver = by_name(OURS)?;
        let who = format!("{}, {cost}, ours", images.label);
        let turn = Cell::new(0);
        let call = || {
            turn.set(turn.get() + 1);
            solver.solve(matrices[turn.get() % matrices.len()].view(), None)
        };
        let (ours, answer) = within(&mut self.budget, &who, size, (rounds(size), matrices.len()), &call);
        let answers = answer.map(|_| matrices.iter().map(|matrix| solver.solve(matrix.view(), None)));
        let answers: Option<Vec<Assignment>> = answers.map(Iterator::collect::<Result<_, _>>).transpose()?;
        let gaps = answers.iter().flatten().map(|answer| answer.gap_percent());
        self.report.matrices.push(Matrix {
            data: images.label.clone(),
            dimension: images.dimension,
            cost: cost.to_string(),
            batch: size,
            ours,
            gap_percent: gaps.fold(None, |largest, gap| if gap > largest { gap } else { largest }),
        });
        let Some(answers) = answers else { return Ok(()) };
        let table = Table { data: &images.label, cost, size, matrices, answers };
        self.race_python(&table)?;
        self.race_rust(&table);
        Ok(())
    }

    fn race_python(&mut self, table: &Table) -> anyhow::Result<()> {
        let Some(python) = &mut self.python else { return Ok(()) };
        let mut solvers = Vec::new();
        for peer in python.hello.peers() {
            match self.budget.refuse(&table.who(peer), table.size) {
                Some(reason) => self.report.races.push(table.race(peer, Measured::Skipped(reason))),
                None => solvers.push(peer.to_owned()),
            }
        }
        let mut files = Vec::new();
        for (number, matrix) in table.matrices.iter().enumerate() {
            files.push(self.folder.join(format!("cost-{number}.npy")));
            npy::write(&files[number], matrix.view())?;
        }
        let job = Job {
            matrices: &files,
            rounds: rounds(table.size),
            budget_ms: self.budget.repeat_ms(),
            solvers: solvers.iter().map(String::as_str).collect(),
        };
        let answers = match python.race(&job) {
            Ok(answers) => answers,
            Err(error) => {
                self.python = None;
                self.note(&format!(
                    "no Python peers from {}, {} at {} on: {error:#}",
                    table.data, table.cost, table.size
                ));
                return Ok(());
            }
        };
        for peer in solvers {
            let answer = answers.get(&peer).context("Python left out a solver")?;
            let samples: Vec<Sample> = answer
                .cpu_ms
                .iter()
                .zip(&answer.wall_ms)
                .map(|(&cpu_ms, &wall_ms)| Sample { cpu_ms, wall_ms })
                .collect();
            let measured = match &answer.error {
                Some(error) => Measured::Skipped(error.clone()),
                None => Measured::of(&samples, table.matrices.len()),
            };
            let ours = typical(&answer.ours_cpu_ms, table.matrices.len());
            self.finish(table, &peer, measured, ours, &answer.totals);
        }
        Ok(())
    }

    fn race_rust(&mut self, table: &Table) {
        let Ok(solver) = by_name(OURS) else { return };
        let matrices = table.matrices;
        let mut running = Vec::new();
        for (peer, prepare) in PEERS {
            match self.budget.refuse(&table.who(peer), table.size) {
                Some(reason) => self.report.races.push(table.race(peer, Measured::Skipped(reason))),
                None => {
                    let prepared: Vec<_> = matrices.iter().map(|matrix| prepare(matrix.view())).collect();
                    let solve = move |round: usize| prepared[round % prepared.len()]();
                    running.push((*peer, Box::new(solve) as Box<dyn Fn(usize) -> Vec<usize>>));
                }
            }
        }
        let (names, solvers): (Vec<_>, Vec<_>) = running.into_iter().unzip();
        let matrix = |round: usize| matrices[round % matrices.len()].view();
        let ours = |round| drop(std::hint::black_box(solver.solve(matrix(round), None)));
        let raced = alternate(rounds(table.size), self.budget.repeat_ms(), ours, &solvers);
        for (peer, raced) in names.into_iter().zip(raced) {
            let rounds = raced.answers.iter().enumerate();
            let totals: Vec<_> = rounds.map(|(round, columns)| table.total(columns, matrix(round))).collect();
            self.finish(
                table,
                peer,
                Measured::of(&raced.peer, matrices.len()),
                typical(&raced.ours.iter().map(|sample| sample.cpu_ms).collect::<Vec<_>>(), matrices.len()),
                &totals,
            );
        }
    }

    fn finish(
        &mut self,
        table: &Table,
        peer: &str,
        measured: Measured,
        ours: Option<f64>,
        totals: &[Option<f64>],
    ) {
        if let Some(ms) = measured.cpu_ms() {
            self.budget.record(&table.who(peer), table.size, ms);
            if totals.contains(&None) {
                self.note(&format!("{}: no permutation from {peer} at {}", table.data, table.size));
            }
        }
        self.report.races.push(Race {
            ours_cpu_ms: ours,
            gap_percent: table.gap_percent(totals),
            ..table.race(peer, measured)
        });
    }
}

/// Cost matrices of one size, and what our solver found on them.
struct Table<'a> {
    data: &'a str,
    cost: Cost,
    size: usize,
    matrices: &'a [Array2<f32>],
    answers: Vec<Assignment>,
}

impl Table<'_> {
    fn who(&self, peer: &str) -> String {
        format!("{}, {}, {peer}", self.data, self.cost)
    }

    fn race(&self, peer: &str, timing: Measured) -> Race {
        Race {
            data: self.data.to_owned(),
            cost: self.cost.to_string(),
            batch: self.size,
            peer: peer.to_owned(),
            timing,
            ours_cpu_ms: None,
            gap_percent: None,
        }
    }

    /// The largest distance of what a peer's answers cost from ours, in per cent of the gain; `None` if there is no answer, or
    /// one is no permutation.
    fn gap_percent(&self, totals: &[Option<f64>]) -> Option<f64> {
        let ours = self.answers.iter().cycle();
        let gaps = totals
            .iter()
            .zip(ours)
            .map(|(total, ours)| Some(gap_percent((*total)?, ours.cost, ours.identity_cost)));
        gaps.reduce(|a, b| Some(if a?.abs() < b?.abs() { b? } else { a? })).flatten()
    }

    /// The cost of an answer, `None` if it is no permutation.
    fn total(&self, columns: &[usize], matrix: ArrayView2<f32>) -> Option<f64> {
        let columns: Vec<u32> = columns.iter().map(|&j| j as u32).collect();
        let valid = columns.len() == self.size && hard_cases::is_permutation(&columns);
        valid.then(|| columns.iter().enumerate().map(|(i, &j)| f64::from(matrix[(i, j as usize)])).sum())
    }
}
