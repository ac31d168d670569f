//! `immiscible assign`: which noise each image takes, from arrays in files. It touches no device.

mod report;

use crate::config::did_you_mean;
use crate::{Failure, cli};
use anyhow::{Context, Result, bail, ensure};
use immiscible_assign::{
    ASSIGNERS, AssignError, Assigner, Assignment, Candidates, Cost, Precision, Problem, by_name,
    drop_percent, linear_sum_assignment, mean_distance,
};
use immiscible_data::npy::{self, Npy, Real};
use ndarray::{ArrayView1, ArrayView2, ArrayView3, Axis, aview1};
use report::Report;
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

/// The values of `--precision`.
const PRECISIONS: [(&str, Precision); 2] = [("float32", Precision::F32), ("int8", Precision::Int8)];

fn assign(arguments: &cli::Assign) -> Result<(Vec<u32>, Report)> {
    let (solver, cost, precision) = (&arguments.solver, &arguments.cost, &arguments.precision);
    known("--solver", solver, &ASSIGNERS.iter().map(|(name, _)| *name).collect::<Vec<_>>())?;
    known("--cost", cost, &Cost::ALL.map(Cost::name))?;
    known("--precision", precision, &PRECISIONS.map(|(name, _)| name))?;
    if let Some(out) = &arguments.out {
        let named = out.extension().is_some_and(|extension| extension == "npy");
        ensure!(named, "--out {}: write a name that ends in .npy", out.display());
    }
    let solver = by_name(solver)?;
    let (assignment, report) = match (&arguments.cost_matrix, &arguments.data, &arguments.noise) {
        (Some(costs), ..) => from_costs(&*solver, costs, &arguments.labels)?,
        (None, Some(data), Some(noise)) => from_images(&*solver, data, noise, arguments)?,
        _ => bail!("give two files, DATA.npy and NOISE.npy, or one with --cost-matrix C.npy"),
    };
    let (before, after) = (assignment.identity_cost, assignment.cost);
    let report = Report {
        solver: solver.name(),
        per_image: !solver.shares_noise(),
        threads: rayon::current_num_threads(),
        cost_before: before,
        cost_after: after,
        cost_drop_percent: (before > 0.0 && after >= 0.0).then(|| drop_percent(before, after)),
        lower_bound: assignment.lower_bound,
        gap_percent: assignment.gap_percent(),
        out: arguments.out.clone(),
        ..report
    };
    Ok((assignment.noise_of, report))
}

/// Makes the cost matrix of images and noises, and solves it.
fn from_images(
    solver: &dyn Assigner,
    data: &Path,
    noise: &Path,
    arguments: &cli::Assign,
) -> Result<(Assignment, Report)> {
    let cost: Cost = arguments.cost.parse()?;
    let (precision, used) =
        PRECISIONS.into_iter().find(|(name, _)| *name == arguments.precision).unwrap_or(PRECISIONS[0]);
    let (data, noise) = (npy::read::<f32>(data)?, npy::read::<f32>(noise)?);
    let images = finite_rows(&data)?;
    let candidates = candidates(&data, &noise, solver)?;
    let labels = read_labels(&arguments.labels, images.nrows())?;
    let problem = Problem { cost, precision: used, ..Problem::new(images, candidates) };
    let (costs, cost_ms) = timed(|| problem.cost_matrix())
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
        dimension: Some(images.ncols()),
        groups: labels.map(count),
        cost: Some(cost.name()),
        precision,
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
    let file = npy::read::<f64>(path)?;
    let path = path.display();
    ensure!(
        file.shape.len() == 2,
        "{path} has the shape {:?}; costs are a matrix, a row for each image, a column for each noise",
        file.shape
    );
    let costs = finite_rows(&file)?;
    let (rows, columns) = costs.dim();
    ensure!(
        rows <= columns || !solver.shares_noise(),
        "{path} has {rows} rows but {columns} columns; give a column for each noise, at least one for each image's row, \
         or use --solver knn"
    );
    let labels = read_labels(labels, rows)?;
    let single = costs.mapv(|c| c as f32);
    let lossless = single.iter().zip(costs).all(|(&single, &c)| f64::from(single) == c);
    let double = !lossless && labels.is_none() && solver.name() == "exact";
    let (assignment, solve_ms) = if double {
        timed(|| in_double_precision(costs))?
    } else {
        if let Some(((row, column), c)) = costs.indexed_iter().find(|(at, _)| !single[*at].is_finite()) {
            bail!(
                "{path} holds {c:e} at row {row}, column {column}, outside the range of float32, in which {} works; scale \
                 the matrix down",
                solver.name()
            );
        }
        timed(|| solver.solve(single.view(), labels.as_deref()))?
    };
    let report = Report {
        images: rows,
        noises: columns,
        groups: labels.map(count),
        precision: if double { "float64" } else { "float32" },
        solve_ms,
        ..Report::default()
    };
    Ok((assignment, report))
}

/// The exact solution, and the bound that its column prices prove.
fn in_double_precision(costs: ArrayView2<f64>) -> Result<Assignment, AssignError> {
    let solution = linear_sum_assignment(costs)?;
    let (identity_cost, lower_bound) = (costs.diag().sum(), Some(bound(costs, &solution.v)));
    let (noise_of, cost) = if solution.cost < identity_cost {
        (solution.columns, solution.cost)
    } else {
        ((0..costs.nrows() as u32).collect(), identity_cost)
    };
    Ok(Assignment { noise_of, cost, identity_cost, lower_bound })
}

/// What any assignment costs at least, whoever names the prices v: each row pays no less than its least c − v, and all
/// columns together are worth no less than Σ v if each is used, or if none of the v is above 0.
fn bound(costs: ArrayView2<f64>, v: &[f64]) -> f64 {
    let ceiling = if costs.is_square() { f64::INFINITY } else { 0.0 };
    let v: Vec<f64> = v.iter().map(|v| v.min(ceiling)).collect();
    let least =
        |row: ArrayView1<f64>| row.iter().zip(&v).fold(f64::INFINITY, |least, (c, v)| least.min(c - v));
    costs.rows().into_iter().map(least).chain(v.iter().copied()).sum()
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

/// The rows of an array: at least one, of at least one value, all of them finite.
fn finite_rows<T: Real + fmt::Display>(file: &Npy<T>) -> Result<ArrayView2<'_, T>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn any_prices_prove_a_bound_and_the_solver_s_prove_the_optimum() {
        let square = array![[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]];
        let pool = array![[4.0, 1.0, 3.0, 9.0], [2.0, 0.5, 5.0, 9.0]];
        for (costs, optimum) in [(square, 5.0), (pool, 3.0)] {
            for v in [[0.0; 4], [9.0, 0.5, 0.1, -2.0], [-5.0, 1.0, 7.0, 3.0]] {
                assert!(bound(costs.view(), &v[..costs.ncols()]) <= optimum, "{v:?}");
            }
            let assignment = in_double_precision(costs.view()).unwrap();
            assert_eq!((assignment.cost, assignment.gap_percent()), (optimum, Some(0.0)));
        }
    }
}
