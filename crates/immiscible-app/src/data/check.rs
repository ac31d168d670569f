//! `immiscible data check`.

use super::options;
use crate::{Failure, cli};
use anyhow::anyhow;
use immiscible_data::{DataError, DataOptions, Source, build};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

/// Damaged samples that are named one by one.
const NAMED: usize = 100;
/// Classes whose images are counted one by one.
const CLASSES: usize = 1000;
/// Samples that are read between two looks at the damaged ones; bounds the memory.
const CHUNK: usize = 4096;

/// Reads everything, and says what it found.
pub(crate) fn run(arguments: &cli::DataCheck) -> Result<(), Failure> {
    let path = &arguments.path;
    let name = arguments.kind.clone().unwrap_or_else(|| kind(path).into());
    let options = options(&name, Some(path), &arguments.set).map_err(Failure::usage)?;
    // All may be damaged here: they are counted, not refused.
    let source = build(&DataOptions { max_bad: Some(1.0), ..options.clone() }).map_err(Failure::usage)?;
    let found = scan(&*source).map_err(Failure::run)?;

    let [c, h, w] = source.shape();
    println!("data      {name}: {}", path.display());
    let sound = source.len() - found.of_other_size.len() - found.damaged.len();
    println!("samples   {sound} of {c}×{h}×{w}");
    for ((width, height), count) in &found.sizes {
        println!("size      {width}×{height} pixels: {count} more; set image_size to bring all to one");
    }
    if let Some(classes) = source.classes() {
        println!("classes   {}", classes.len());
        for (class, count) in classes.iter().zip(found.classes(&*source)).take(CLASSES) {
            println!("          {count:8} {class}");
        }
    }
    for (channel, (mean, deviation)) in found.moments().into_iter().enumerate() {
        println!("channel {channel} mean {mean:+.4}, deviation {deviation:.4}");
    }
    let allowed = options.most_bad(source.len()).map_err(Failure::usage)?;
    for (_, reason) in found.damaged.iter().take(NAMED) {
        println!("damaged   {reason}");
    }
    match found.damaged.len() {
        0 => {
            println!("damaged   none");
            Ok(())
        }
        damaged => Err(Failure::usage(anyhow!(
            "{damaged} of {} samples of {} are damaged; mend or remove them; training passes over {allowed} at most",
            source.len(),
            path.display()
        ))),
    }
}

/// What a file or folder looks like, by its name and the names in it.
fn kind(path: &Path) -> &'static str {
    let named = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let of_file = |name: &str| {
        let endings = [
            (".npy", "npy"),
            (".npz", "npz"),
            (".parquet", "parquet"),
            (".safetensors", "latents"),
            ("cifar-10-binary.tar.gz", "cifar10"),
            ("cifar-100-binary.tar.gz", "cifar100"),
            (".tar", "tar"),
            (".bin", "cifar10"),
            (".bin.gz", "cifar10"),
        ];
        endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, kind)| kind)
    };
    if !path.is_dir() {
        return of_file(&named(path)).unwrap_or("folder");
    }
    let mut names: Vec<String> =
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| named(&entry.path())).collect();
    names.sort();
    let of_member = |name: &String| match name {
        name if name.contains("-images-idx3-ubyte") => Some("idx"),
        name if name.starts_with("data_batch") || name.starts_with("test_batch") => Some("cifar10"),
        name if name.starts_with("train.bin") || name.starts_with("test.bin") => Some("cifar100"),
        name => of_file(name).filter(|kind| ["tar", "parquet", "cifar10", "cifar100"].contains(kind)),
    };
    names.iter().find_map(of_member).unwrap_or("folder")
}

#[derive(Default)]
struct Found {
    /// Index and reason.
    damaged: Vec<(usize, String)>,
    /// Images of another size than most, and how many.
    sizes: BTreeMap<(u32, u32), usize>,
    /// Number of values, their sum and that of their squares, for each channel.
    sums: Vec<(f64, f64, f64)>,
    of_other_size: Vec<usize>,
}

fn scan(source: &dyn Source) -> Result<Found, DataError> {
    let [channels, height, width] = source.shape();
    let mut found = Found { sums: vec![(0.0, 0.0, 0.0); channels], ..Found::default() };
    for start in (0..source.len()).step_by(CHUNK) {
        let read = |index| {
            let mut values = vec![0.0; channels * height * width];
            source.read(index, &mut values)?;
            let sums = values.chunks_exact(height * width).map(|plane| {
                let sum = |f: fn(f64) -> f64| plane.iter().map(|&v| f(v.into())).sum::<f64>();
                (plane.len() as f64, sum(|v| v), sum(|v| v * v))
            });
            Ok(sums.collect::<Vec<_>>())
        };
        let end = source.len().min(start + CHUNK);
        let chunk: Vec<Result<_, DataError>> = (start..end).into_par_iter().map(read).collect();
        for (index, sums) in (start..end).zip(chunk) {
            match sums {
                Ok(sums) => {
                    for (all, (n, sum, squares)) in found.sums.iter_mut().zip(sums) {
                        *all = (all.0 + n, all.1 + sum, all.2 + squares);
                    }
                }
                Err(DataError::ImageSize { width, height, .. }) => {
                    *found.sizes.entry((width, height)).or_default() += 1;
                    found.of_other_size.push(index);
                }
                Err(error) if error.is_damage() => found.damaged.push((index, error.to_string())),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

impl Found {
    /// Samples of each class that are not damaged.
    fn classes(&self, source: &dyn Source) -> Vec<usize> {
        let mut counts = vec![0; source.classes().map_or(0, <[String]>::len)];
        let damaged: Vec<usize> = self.damaged.iter().map(|(index, _)| *index).collect();
        for index in (0..source.len()).filter(|index| damaged.binary_search(index).is_err()) {
            if let Some(count) = source.label(index).and_then(|label| counts.get_mut(label as usize)) {
                *count += 1;
            }
        }
        counts
    }

    /// Mean and deviation of each channel, in [−1, 1].
    fn moments(&self) -> Vec<(f64, f64)> {
        let moments = |&(n, sum, squares): &(f64, f64, f64)| {
            let mean = sum / n;
            (mean, (squares / n - mean * mean).max(0.0).sqrt())
        };
        self.sums.iter().filter(|(n, ..)| *n > 0.0).map(moments).collect()
    }
}
