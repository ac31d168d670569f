//! CPU time and wall time of a call.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// How long one call took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    /// CPU time of the whole process, all its threads together: what other processes do does not count.
    pub(crate) cpu_ms: f64,
    pub(crate) wall_ms: f64,
}

/// What several calls took: [`typical`] times.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Timing {
    pub(crate) cpu_ms: f64,
    pub(crate) wall_ms: f64,
    pub(crate) repetitions: usize,
}

/// A time, or why there is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measured {
    Timed(Timing),
    Skipped(String),
}

impl Measured {
    /// Of calls that met `batches` in turn.
    pub(crate) fn of(samples: &[Sample], batches: usize) -> Self {
        timing(samples, batches).map_or_else(|| Self::Skipped("not run".into()), Self::Timed)
    }

    pub(crate) fn cpu_ms(&self) -> Option<f64> {
        self.timing().map(|timing| timing.cpu_ms)
    }

    pub(crate) fn timing(&self) -> Option<Timing> {
        match self {
            Self::Timed(timing) => Some(*timing),
            Self::Skipped(_) => None,
        }
    }
}

/// Times one call.
pub(crate) fn time<T>(call: impl FnOnce() -> T) -> (T, Sample) {
    let (cpu, wall) = (cpu_time(), Instant::now());
    let value = call();
    let (cpu, wall) = (cpu_time().saturating_sub(cpu), wall.elapsed());
    (value, Sample { cpu_ms: 1e3 * cpu.as_secs_f64(), wall_ms: 1e3 * wall.as_secs_f64() })
}

/// `None` without samples.
fn timing(samples: &[Sample], batches: usize) -> Option<Timing> {
    let of = |time: fn(&Sample) -> f64| typical(&samples.iter().map(time).collect::<Vec<_>>(), batches);
    Some(Timing {
        cpu_ms: of(|sample| sample.cpu_ms)?,
        wall_ms: of(|sample| sample.wall_ms)?,
        repetitions: samples.len(),
    })
}

/// The mean over the batches, which values meet in turn, of the medians of each; `None` without values.
pub(crate) fn typical(values: &[f64], batches: usize) -> Option<f64> {
    let of_batch = |first| median(values.iter().skip(first).step_by(batches).copied());
    let medians: Vec<f64> = (0..batches).filter_map(of_batch).collect();
    (!medians.is_empty()).then(|| medians.iter().sum::<f64>() / medians.len() as f64)
}

/// The middle value, or the mean of the two in the middle; `None` without values.
fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        even if even.is_multiple_of(2) => Some((values[middle - 1] + values[middle]) / 2.0),
        _ => Some(values[middle]),
    }
}

#[cfg(unix)]
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Where no such clock is at hand, wall time has to do.
#[cfg(not(unix))]
fn cpu_time() -> Duration {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    START.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([9.0, 1.0, 2.0, 4.0]), Some(3.0));
        let samples = [1.0, 2.0, 7.0].map(|cpu_ms| Sample { cpu_ms, wall_ms: 10.0 - cpu_ms });
        assert_eq!(timing(&samples, 1), Some(Timing { cpu_ms: 2.0, wall_ms: 8.0, repetitions: 3 }));
    }

    #[test]
    fn batches_count_alike() {
        assert_eq!(typical(&[1.0, 20.0, 3.0, 40.0, 2.0], 2), Some((2.0 + 30.0) / 2.0));
        assert_eq!(typical(&[1.0], 7), Some(1.0));
        assert_eq!(typical(&[], 7), None);
    }
}
