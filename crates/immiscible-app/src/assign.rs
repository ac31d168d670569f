//! `immiscible assign`: which noise each image takes, from arrays in files. It touches no device.

use crate::config::did_you_mean;
use crate::{Failure, cli};
use anyhow::{Context, Result, bail, ensure};
use immiscible_assign::{
    ASSIGNERS, AssignError, Assigner, Assignment, Candidates, Cost, by_name, drop_percent, mean_distance,
};
use immiscible_data::npy::{self, Npy};
use ndarray::{Array2, ArrayView2, ArrayView3, Axis, aview1};
use serde::Serialize;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Solves one assignment and tells what it brought.
pub(crate) fn run(arguments: &cli::Assign) -> Result<(), Failure> {
    let (noise_of, report) = assign(arguments).map_err(|error| match error.downcast_ref() {
        Some(AssignError::Solver { .. }) => Failure::run(error),
        _ => Failure::usage(error),
    })?;
    if let Some(out) = &arguments.out {
        let noise_of: Vec<i64> = noise_of.into_iter().map(i64::from).collect();
        npy::write(out, aview1(&noise_of)).map_err(Failure::run)?;
    }
    if arguments.json {
        println!("{}", serde_json::to_string(&report).map_err(Failure::run)?);
    } else {
        print!("{report}");
    }
    Ok(())
}

fn assign(arguments: &cli::Assign) -> Result<(Vec<u32>, Report)> {
    known("--solver", &arguments.solver, &ASSIGNERS.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
    known("--cost", &arguments.cost, &Cost::ALL.map(Cost::name))?;
    let (solver, cost) = (by_name(&arguments.solver)?, arguments.cost.parse()?);
    if let Some(out) = &arguments.out {
        let named = out.extension().is_some_and(|extension| extension == "npy");
        ensure!(named, "--out {}: write a name that ends in .npy", out.display());
    }
    let (assignment, report) = match (&arguments.cost_matrix, &arguments.data, &arguments.noise) {
        (Some(costs), ..) => from_costs(&*solver, costs, &arguments.labels)?,
        (None, Some(data), Some(noise)) => from_images(&*solver, cost, data, noise, &arguments.labels)?,
        _ => bail!("give two files, DATA.npy and NOISE.npy, or one with --cost-matrix C.npy"),
    };
    let report = Report {
        solver: solver.name(),
        threads: rayon::current_num_threads(),
        cost_before: assignment.identity_cost,
        cost_after: assignment.cost,
        cost_drop_percent: (assignment.identity_cost > 0.0)
            .then(|| drop_percent(assignment.identity_cost, assignment.cost)),
        out: arguments.out.clone(),
        ..report
    };
    Ok((assignment.noise_of, report))
}

/// Makes the cost matrix of images and noises, and solves it.
fn from_images(
    solver: &dyn Assigner,
    cost: Cost,
    data: &Path,
    noise: &Path,
    labels: &Option<PathBuf>,
) -> Result<(Assignment, Report)> {
    let (data, noise) = (npy::read::<f32>(data)?, npy::read::<f32>(noise)?);
    let images = finite_rows(&data)?;
    let candidates = candidates(&data, &noise, solver)?;
    let labels = read_labels(labels, images.nrows())?;
    let (costs, cost_ms) = timed(|| cost_matrix(cost, images, candidates))
        .with_context(|| format!("{} with {}", data.path.display(), noise.path.display()))?;
    let (assignment, solve_ms) = timed(|| solver.solve(costs.view(), labels.as_deref()))?;
    let (noises, drawn) = match candidates {
        Candidates::Shared(noise) => (noise.nrows(), noise.split_at(Axis(0), images.nrows()).0),
        Candidates::PerImage(noise) => (noise.dim().1, noise.index_axis_move(Axis(1), 0)),
    };
    let before = mean_distance(images, drawn)?;
    let after = mean_distance(images, assignment.gather(&candidates)?.view())?;
    let report = Report {
        images: images.nrows(),
        noises,
        per_image: !solver.shares_noise(),
        dimension: Some(images.ncols()),
        groups: labels.map(count),
        cost: Some(cost.name()),
        distance_before: Some(before),
        distance_after: Some(after),
        distance_drop_percent: Some(drop_percent(before, after)),
        cost_ms: Some(cost_ms),
        solve_ms,
        ..Report::default()
    };
    Ok((assignment, report))
}

/// Solves a cost matrix of the user's own.
fn from_costs(solver: &dyn Assigner, path: &Path, labels: &Option<PathBuf>) -> Result<(Assignment, Report)> {
    let file = npy::read::<f32>(path)?;
    let costs = finite_rows(&file)?;
    let (rows, columns) = costs.dim();
    let path = path.display();
    ensure!(
        file.shape.len() == 2,
        "{path} has the shape {:?}; costs are a matrix, a row for each image, a column for each noise",
        file.shape
    );
    ensure!(
        rows <= columns || !solver.shares_noise(),
        "{path} has {rows} rows but {columns} columns; give a column for each noise, at least one for each image's row, \
         or use --solver knn"
    );
    let labels = read_labels(labels, rows)?;
    let (assignment, solve_ms) = timed(|| solver.solve(costs, labels.as_deref()))?;
    let report = Report {
        images: rows,
        noises: columns,
        per_image: !solver.shares_noise(),
        groups: labels.map(count),
        solve_ms,
        ..Report::default()
    };
    Ok((assignment, report))
}

/// The noises as this solver wants them.
fn candidates<'a>(data: &Npy<f32>, noise: &'a Npy<f32>, solver: &dyn Assigner) -> Result<Candidates<'a>> {
    let (images, dimension) = data.rows()?.dim();
    let rows = finite_rows(noise)?;
    let (noises, found) = rows.dim();
    let (data, path) = (data.path.display(), noise.path.display());
    if !solver.shares_noise() {
        let k = match noise.shape.as_slice() {
            [first, k, rest @ ..] if *first == images && !rest.is_empty() && found == k * dimension => *k,
            _ if found == dimension && noises % images == 0 => noises / images,
            shape => bail!(
                "{path} has the shape {shape:?}; --solver {} needs [{images}, k, …] with {dimension} values for each \
                 noise, or {images}·k rows of as many",
                solver.name()
            ),
        };
        return Ok(Candidates::PerImage(ArrayView3::from_shape((images, k, dimension), &noise.values)?));
    }
    ensure!(
        found == dimension,
        "{path} has {found} values in a noise, but {data} has {dimension} in an image; give both the same shape"
    );
    ensure!(
        noises >= images,
        "{path} holds {noises} noises for the {images} images of {data}; give at least one for each"
    );
    Ok(Candidates::Shared(rows))
}

/// The cost of each image with every noise that it may take.
fn cost_matrix(
    cost: Cost,
    images: ArrayView2<f32>,
    candidates: Candidates,
) -> Result<Array2<f32>, AssignError> {
    match candidates {
        Candidates::Shared(noise) => cost.matrix(images, noise),
        Candidates::PerImage(noise) => {
            let mut costs = Array2::zeros((images.nrows(), noise.dim().1));
            let pairs = images.axis_chunks_iter(Axis(0), 1).zip(noise.outer_iter());
            for (mut row, (image, own)) in costs.axis_chunks_iter_mut(Axis(0), 1).zip(pairs) {
                row.assign(&cost.matrix(image, own)?);
            }
            Ok(costs)
        }
    }
}

/// The rows of an array: at least one, of at least one value, all of them finite.
fn finite_rows(file: &Npy<f32>) -> Result<ArrayView2<'_, f32>> {
    let rows = file.rows()?;
    let path = file.path.display();
    ensure!(
        !rows.is_empty(),
        "{path} is empty: its shape is {:?}; give at least one row of at least one value",
        file.shape
    );
    if let Some(bad) = file.values.iter().position(|x| !x.is_finite()) {
        let (row, column) = (bad / rows.ncols(), bad % rows.ncols());
        bail!("{path} holds {} at row {row}, column {column}; every value must be finite", file.values[bad]);
    }
    Ok(rows)
}

fn read_labels(path: &Option<PathBuf>, images: usize) -> Result<Option<Vec<u32>>> {
    let Some(path) = path else {
        return Ok(None);
    };
    let labels = npy::read_labels(path)?;
    let (path, found) = (path.display(), labels.len());
    ensure!(found == images, "{path} holds {found} labels for {images} images; give one for each image");
    Ok(Some(labels))
}

/// How many groups the labels make.
fn count(labels: Vec<u32>) -> usize {
    labels.into_iter().collect::<BTreeSet<_>>().len()
}

fn timed<T>(work: impl FnOnce() -> Result<T, AssignError>) -> Result<(T, f64), AssignError> {
    let start = Instant::now();
    let done = work()?;
    Ok((done, 1e3 * start.elapsed().as_secs_f64()))
}

/// # Errors
/// One line with a suggestion, if `name` is not one of `names`.
fn known(option: &str, name: &str, names: &[&str]) -> Result<()> {
    let suggestion = did_you_mean(name, names.iter().copied());
    ensure!(names.contains(&name), "{option} {name}: unknown{suggestion}; known: {}", names.join(", "));
    Ok(())
}

/// What an assignment brought and took.
#[derive(Default, Serialize)]
struct Report {
    images: usize,
    /// In the shared set, or for each image.
    noises: usize,
    /// Whether each image has noises of its own.
    per_image: bool,
    /// Values in an image; unknown where costs were given.
    dimension: Option<usize>,
    groups: Option<usize>,
    solver: &'static str,
    cost: Option<&'static str>,
    threads: usize,
    distance_before: Option<f64>,
    distance_after: Option<f64>,
    distance_drop_percent: Option<f64>,
    cost_before: f64,
    cost_after: f64,
    /// Has no meaning where the cost before is negative.
    cost_drop_percent: Option<f64>,
    cost_ms: Option<f64>,
    solve_ms: f64,
    out: Option<PathBuf>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sizes     {} images, {} noises", self.images, self.noises)?;
        if self.per_image {
            write!(f, " for each")?;
        }
        if let Some(dimension) = self.dimension {
            write!(f, ", {dimension} values each")?;
        }
        if let Some(groups) = self.groups {
            write!(f, ", {groups} labels")?;
        }
        write!(f, "\nsolver    {}", self.solver)?;
        if let Some(cost) = self.cost {
            write!(f, ", cost {cost}")?;
        }
        writeln!(f, ", {} threads", self.threads)?;
        if let (Some(before), Some(after), Some(drop)) =
            (self.distance_before, self.distance_after, self.distance_drop_percent)
        {
            writeln!(f, "distance  mean {before:.4} before, {after:.4} after: {drop:.2} % less")?;
        }
        write!(f, "cost      {} before, {} after", number(self.cost_before), number(self.cost_after))?;
        if let Some(drop) = self.cost_drop_percent {
            write!(f, ": {drop:.2} % less")?;
        }
        write!(f, "\ntime      ")?;
        if let Some(ms) = self.cost_ms {
            write!(f, "{ms:.2} ms cost, ")?;
        }
        writeln!(f, "{:.2} ms solve", self.solve_ms)?;
        match &self.out {
            Some(out) => writeln!(f, "noise_of  {}", out.display()),
            None => Ok(()),
        }
    }
}

/// Costs come in any unit.
fn number(x: f64) -> String {
    if x == 0.0 || (1e-2..1e9).contains(&x.abs()) { format!("{x:.4}") } else { format!("{x:.4e}") }
}
