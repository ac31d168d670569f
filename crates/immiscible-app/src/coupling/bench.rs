//! `immiscible coupling bench`.

use super::images::Images;
use super::plot::{plot, title};
use super::report::{Full, Report, Row};
use super::writable;
use crate::{Failure, cli, provenance::Provenance};
use anyhow::{Context, Result, anyhow, bail, ensure};
use immiscible_assign::{Cost, Precision};
use immiscible_coupling::{
    CouplingConfig, Marginal, Moments, PairContext, Probe, Select, Semidiscrete, SemidiscreteOptions,
};
use immiscible_random::{Key, Stream};
use ndarray::{Array2, Axis, Slice};
use std::path::Path;
use std::time::Instant;

/// Images of a batch for couplings that look at one image at a time.
const BATCH: usize = 256;
/// Principal components whose variance is told.
const COMPONENTS: usize = 8;
/// Pools above this are paired by `window`.
const MATRIX: usize = 1024;
/// Images of variants: distances that are no products take long.
const VARIANT: usize = 4096;

/// Tries couplings on a data set and tells what each reaches and costs.
pub(crate) fn run(arguments: &cli::CouplingBench) -> Result<(), Failure> {
    let prepare = || {
        for (flag, values) in [("pools", &arguments.pools), ("candidates", &arguments.candidates)] {
            if let Some(value) = values.iter().find(|value| **value < 2) {
                bail!("--{flag} {value}: write at least 2");
            }
        }
        let images = Images::read(&arguments.data, arguments.name.as_deref())?;
        let n = images.rows.nrows();
        let largest = arguments.pools.iter().copied().max().unwrap_or(BATCH);
        ensure!(largest <= n, "--pools {largest}: the data has {n} images; write at most {n}");
        let rows = arguments.rows.unwrap_or(n.min(8192)).max(largest);
        ensure!(rows <= n, "--rows {rows}: the data has {n} images; write at most {n}");
        if let Some(out) = &arguments.out {
            writable("out", out)?;
        }
        let prices = arguments.prices.as_ref().map(|path| prices_of(path, &images).context("--prices"));
        let prices = prices.transpose()?;
        anyhow::Ok((images, rows, prices))
    };
    // Before the machine is busy with this.
    let provenance = Provenance::of_this();
    let (images, rows, prices) = prepare().map_err(Failure::usage)?;
    let key = Key::new(arguments.seed);
    let whole = images.what.clone();
    let images = images.some(rows, key);
    let moments = Moments::of(images.rows.view(), COMPONENTS);
    if moments.rest + moments.variances.iter().sum::<f64>() <= 0.0 {
        let alike = anyhow!("{}: all images are alike, and nothing can be coupled", images.what);
        return Err(Failure::usage(alike));
    }
    let full = if arguments.no_prices {
        None
    } else {
        let (of, prices) = match prices {
            Some(prices) => (whole, prices),
            None => {
                eprintln!("fitting semidiscrete prices to {rows} images; --no-prices leaves them out");
                let options = SemidiscreteOptions::default();
                let fitted = Semidiscrete::fit(images.rows.view(), None, &options, key, |_, potential| {
                    eprintln!("{} steps: χ² {:.3}", potential.steps, potential.chi_squared);
                });
                ("these images".into(), fitted.map_err(Failure::usage)?)
            }
        };
        prices.of.into_values().next().map(|potential| Full {
            alignment: [potential.alignment, potential.alignment_error],
            chi_squared: [potential.chi_squared, potential.chi_squared_error],
            of,
        })
    };
    let mut report = Report {
        data: images.what.clone(),
        provenance,
        note: arguments.note.clone(),
        dimensions: images.rows.ncols(),
        threads: rayon::current_num_threads(),
        full,
        couplings: Vec::new(),
    };
    for trial in trials(arguments, rows, &images) {
        eprintln!("{}", trial.name);
        report.couplings.push(measure(trial, &images, &moments, key).map_err(Failure::run)?);
    }
    print!("{report}");
    if let Some(out) = &arguments.out {
        write(&report, out).map_err(Failure::run)?;
    }
    Ok(())
}

/// Prices that were fitted to the whole data set.
fn prices_of(path: &Path, images: &Images) -> Result<Semidiscrete> {
    let prices = Semidiscrete::load(path)?;
    let shown = path.display();
    ensure!(!prices.class_wise, "{shown}: the prices are for each class; fit them without --class-wise");
    ensure!(!prices.mirrored, "{shown}: the prices are for mirrored images too; fit them without --flip");
    prices.check(path, images.rows.view(), None)?;
    Ok(prices)
}

/// What is tried.
struct Trial {
    name: String,
    /// How many images are paired together.
    pool: usize,
    config: CouplingConfig,
    /// Images that noise is drawn for.
    rows: usize,
}

/// Every coupling of every size that was asked for, and on fewer images the variants that no other size changes much: those of
/// assignment with the largest pool that it pairs, those of KNN with the fewest candidates.
fn trials(arguments: &cli::CouplingBench, rows: usize, images: &Images) -> Vec<Trial> {
    let batch = BATCH.min(rows);
    let labelled = images.labels.is_some();
    let config = |kind: &str| CouplingConfig { kind: kind.into(), ..CouplingConfig::default() };
    let mut all = Vec::new();
    let mut add = |name: String, pool, config| all.push(Trial { name, pool, config, rows });
    add("independent".into(), batch, config("independent"));
    for &pool in &arguments.pools {
        let (kind, paired) = match pool {
            ..=MATRIX => ("assignment", config("assignment")),
            _ => ("window", CouplingConfig { window: pool, ..config("window") }),
        };
        add(format!("{kind} {pool}"), pool, paired.clone());
        if labelled {
            let class_wise = CouplingConfig { class_wise: true, ..paired };
            add(format!("{kind} {pool}, class-wise"), pool, class_wise);
        }
    }
    for &k in &arguments.candidates {
        let knn = CouplingConfig { k, ..config("knn") };
        add(format!("knn {k}"), batch, knn.clone());
        add(format!("knn {k}, dot"), batch, CouplingConfig { select: Select::Dot, ..knn });
        let priced = CouplingConfig { k, ..config("priced_knn") };
        add(format!("priced_knn {k}"), batch, priced.clone());
        if labelled {
            add(format!("priced_knn {k}, class-wise"), batch, CouplingConfig { class_wise: true, ..priced });
        }
        for control in ["norm_shrink", "mean_shift"] {
            add(format!("{control} {k}"), batch, CouplingConfig { k, ..config(control) });
        }
    }
    for (name, pool, config) in variants(arguments, batch, images) {
        all.push(Trial { name, pool, config, rows: rows.min(VARIANT.max(pool)) });
    }
    all
}

/// The variants of assignment and KNN: a name, how many images are paired together, and the config.
fn variants(
    arguments: &cli::CouplingBench,
    batch: usize,
    images: &Images,
) -> Vec<(String, usize, CouplingConfig)> {
    let mut all = Vec::new();
    if let Some(pool) = arguments.pools.iter().copied().filter(|pool| *pool <= MATRIX).max() {
        let own = CouplingConfig::default();
        let block = own.block.min(pool.div_ceil(4));
        let blocks = CouplingConfig { assigner: "blocks".into(), block, ..own.clone() };
        let l2 = CouplingConfig { cost: Cost::L2, ..own.clone() };
        for (what, config) in [
            ("squared_l2".to_owned(), CouplingConfig { cost: Cost::SquaredL2, ..own.clone() }),
            ("l2".into(), l2.clone()),
            ("l2 in f16".into(), CouplingConfig { precision: Some(Precision::F16), ..l2 }),
            ("l1".into(), CouplingConfig { cost: Cost::L1, ..own.clone() }),
            ("int8".into(), CouplingConfig { precision: Some(Precision::Int8), ..own.clone() }),
            (format!("blocks of {block}"), blocks),
            ("2 noises an image".into(), CouplingConfig { pool: 2, ..own.clone() }),
            ("standardised".into(), CouplingConfig { standardize: true, ..own.clone() }),
            ("flip".into(), CouplingConfig { flip: true, ..own.clone() }),
            ("shuffled".into(), CouplingConfig { shuffled: true, ..own }),
        ] {
            all.push((format!("assignment {pool}, {what}"), pool, config));
        }
    }
    if let Some(k) = arguments.candidates.iter().copied().min() {
        let knn = CouplingConfig { kind: "knn".into(), k, ..CouplingConfig::default() };
        let half = CouplingConfig { precision: Some(Precision::F16), ..knn.clone() };
        let flip = CouplingConfig { flip: true, ..knn.clone() };
        all.extend([(format!("knn {k}, l2 in f16"), batch, half), (format!("knn {k}, flip"), batch, flip)]);
        let grid = |[_, h, w]: [usize; 3]| {
            [8, 4, 2].into_iter().find(|&side| h > side && h % side == 0 && w % side == 0)
        };
        if let Some(side) = images.shape.and_then(grid) {
            let coarse = CouplingConfig { coarse: Some(side), ..knn };
            all.push((format!("knn {k}, {side}×{side} cells"), batch, coarse));
        }
    }
    all
}

/// Draws the noise of a trial's images, pool by pool.
fn measure(trial: Trial, images: &Images, moments: &Moments, key: Key) -> Result<Row> {
    let Trial { name, pool, config, rows } = trial;
    let paired = rows / pool * pool;
    // Touched before memory is looked at: it is not the coupling's.
    let mut noise = Array2::<f32>::ones((paired, images.rows.ncols()));
    let memory = Memory::begin();
    let mut coupling = config.build()?;
    coupling.fit(images.rows.view(), images.labels.as_deref())?;
    let host = coupling.host().with_context(|| format!("{name} draws on a device only"))?;
    let (mut before, mut after, mut seconds) = (0.0, 0.0, 0.0);
    for (step, first) in (0..paired).step_by(pool).enumerate() {
        let rows = Slice::from(first..first + pool);
        let labels = images.labels.as_ref().map(|labels| &labels[first..first + pool]);
        let context = PairContext { labels, shape: images.shape, ..PairContext::default() };
        let key = key.step(step as u64).stream(Stream::NOISE);
        let start = Instant::now();
        let drawn = host.draw_host(images.rows.slice_axis(Axis(0), rows), &context, key)?;
        seconds += start.elapsed().as_secs_f64();
        before += drawn.statistics.distance_before * pool as f64;
        after += drawn.statistics.distance_after * pool as f64;
        noise.slice_axis_mut(Axis(0), rows).assign(&drawn.noise);
    }
    let peak_bytes = memory.peak();
    let x = images.rows.slice_axis(Axis(0), Slice::from(..paired));
    let mean = x.mean_axis(Axis(0)).with_context(|| format!("{name}: no images"))?;
    let n = paired as f64;
    let terms: Vec<f64> =
        x.rows().into_iter().zip(noise.rows()).map(|(x, n)| f64::from((&x - &mean).dot(&n))).collect();
    let alignment = terms.iter().sum::<f64>() / n;
    let variance = terms.iter().map(|term| (term - alignment).powi(2)).sum::<f64>() / (n - 1.0);
    let marginal = Marginal::of(noise.view(), moments);
    let (leading, Marginal { mean_shift, energy, .. }) = (marginal.mean_leading(), marginal);
    let d = x.ncols() as f64;
    let normal = (energy - 1.0).abs() < 0.005 + 4.0 * (2.0 / (paired as f64 * d)).sqrt()
        && mean_shift < 1.5 + 4.0 * (2.0 / d).sqrt();
    let probe = images.labels.as_ref().map(|labels| {
        let Probe { accuracy, chance, error } = Probe::of(noise.view(), &labels[..paired]);
        [accuracy, chance, error]
    });
    Ok(Row {
        coupling: name,
        pool,
        images: paired,
        alignment,
        alignment_error: (variance / n).sqrt(),
        drop_percent: 100.0 * (1.0 - after / before),
        energy,
        mean_shift,
        leading,
        normal,
        probe,
        microseconds: 1e6 * seconds / paired as f64,
        peak_bytes,
    })
}

/// The largest resident set, in the words of Linux.
struct Memory {
    before: Option<u64>,
}

impl Memory {
    /// Lets the system forget the largest resident set so far.
    fn begin() -> Self {
        let reset = std::fs::write("/proc/self/clear_refs", "5").ok();
        Self { before: reset.and_then(|()| Self::line("VmRSS:")) }
    }

    /// By how much it has grown since.
    fn peak(&self) -> Option<u64> {
        Some(Self::line("VmHWM:")?.saturating_sub(self.before?))
    }

    fn line(name: &str) -> Option<u64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let kibibytes = status.lines().find_map(|line| line.strip_prefix(name))?;
        Some(kibibytes.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1024)
    }
}

/// Writes the table, the numbers and the plot.
fn write(report: &Report, out: &Path) -> Result<()> {
    let name = out.file_name().context("--out: write the name of the report, without an ending")?;
    let picture = name.display().to_string().replace(' ', "%20");
    let title = format!("# Couplings on {}\n\n![{}]({picture}.svg)\n\n", report.data, title(report));
    for (extension, text) in [
        ("md", format!("{title}{report}")),
        ("json", format!("{}\n", serde_json::to_string_pretty(report)?)),
        ("svg", plot(report)),
    ] {
        let path = out.with_added_extension(extension);
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        println!("{}", path.display());
    }
    Ok(())
}
