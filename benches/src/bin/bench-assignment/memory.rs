//! Peak memory, each measurement in a child process of its own, whose largest resident set (VmHWM) says it.

use std::{fs, path::Path, process::Command};

use anyhow::Context;
use immiscible_assign::{Candidates, Precision, Problem, by_name};
use ndarray::s;

use crate::{data::read_matrix, end_to_end::PRECISIONS};

/// The first argument of a child.
pub(crate) const COMMAND: &str = "peak";

/// What the child does.
#[derive(Clone, Copy)]
pub(crate) enum Work<'a> {
    /// The solution of a cost matrix; the matrix counts.
    Solve { cost: &'a Path },
    /// From images and noises, which do not count.
    Assign { precision: &'a str, images: &'a Path, noise: &'a Path },
}

/// Children of which the middle one counts: Linux counts pages by processor and adds them up in batches, so that each
/// may be wrong by hundreds of kibibytes.
const CHILDREN: usize = 5;
/// Where that is less than a hundredth, one child does.
const LARGE: u64 = 64 << 20;

/// Bytes at the peak of `work`, `None` where the system does not tell.
pub(crate) fn peak(assigner: &str, work: Work, threads: usize) -> Option<u64> {
    let mut peaks = vec![peak_of_a_child(assigner, work, threads)?];
    while peaks.len() < CHILDREN && peaks[0] < LARGE {
        peaks.push(peak_of_a_child(assigner, work, threads)?);
    }
    peaks.sort_unstable();
    Some(peaks[peaks.len() / 2])
}

fn peak_of_a_child(assigner: &str, work: Work, threads: usize) -> Option<u64> {
    let mut child = Command::new(std::env::current_exe().ok()?);
    child.args([COMMAND, assigner]).env("RAYON_NUM_THREADS", threads.to_string());
    match work {
        Work::Solve { cost } => child.arg(cost),
        Work::Assign { precision, images, noise } => child.arg(images).arg(noise).arg(precision),
    };
    let output = child.output().ok().filter(|output| output.status.success())?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

/// What a child does with the arguments after [`COMMAND`].
pub(crate) fn child(arguments: &[String]) -> anyhow::Result<()> {
    // The threads are there before, as they are in any program.
    rayon::join(|| (), || ());
    let peak = match arguments {
        [assigner, cost] => {
            // The code is in memory before, as it is at the second batch.
            let file = Path::new(cost);
            by_name(assigner)?.solve(read_matrix(file)?.slice(s![..2, ..]), None)?;
            let before = resident("VmRSS")?;
            let cost = read_matrix(file)?;
            by_name(assigner)?.solve(cost.view(), None)?;
            resident("VmHWM")?.saturating_sub(before)
        }
        [assigner, images, noise, precision] => {
            let [images, noise] = [read_matrix(Path::new(images))?, read_matrix(Path::new(noise))?];
            let before = resident("VmRSS")?;
            let problem = Problem {
                precision: precision_named(precision)?,
                ..Problem::new(images.view(), Candidates::Shared(noise.view()))
            };
            by_name(assigner)?.assign(&problem)?;
            resident("VmHWM")?.saturating_sub(before)
        }
        _ => anyhow::bail!("{COMMAND} ASSIGNER COST | {COMMAND} ASSIGNER IMAGES NOISE PRECISION"),
    };
    println!("{peak}");
    Ok(())
}

fn precision_named(name: &str) -> anyhow::Result<Precision> {
    let known = PRECISIONS.into_iter().find(|(known, _)| *known == name);
    Ok(known.context("no such precision")?.1)
}

/// A line of /proc/self/status in bytes.
fn resident(field: &str) -> anyhow::Result<u64> {
    status(&fs::read_to_string("/proc/self/status")?, field)
}

fn status(text: &str, field: &str) -> anyhow::Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix("kB")).context("no such line")?;
    Ok(1024 * kibibytes.trim().parse::<u64>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_status() {
        let text = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(status(text, "VmHWM").ok(), Some(2 << 20));
        assert_eq!(status(text, "VmRSS").ok(), Some(1 << 20));
        assert!(status(text, "VmSwap").is_err());
    }

    #[test]
    fn a_child_wants_its_arguments() {
        assert!(child(&[]).is_err());
        assert!(child(&["exact".into(), "/nowhere.npy".into()]).is_err());
    }
}
