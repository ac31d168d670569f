//! Which noise levels a run visits.

use immiscible_schedule::{NoiseSchedule, Point, ScheduleError, Time};
use serde::{Deserialize, Serialize};

use crate::SampleError;

/// How noise levels are spaced, in place of the schedule's own way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Multiples of T/S from the last timestep down; what discrete schedules do on their own.
    Trailing,
    /// Multiples of T/S from timestep 0 on; does not reach the last one.
    Leading,
    /// Evenly from timestep 0 to the last one.
    Linspace,
    /// From timestep 0 to the last one, closer to each other where there is less noise (Song et al. 2021, arXiv 2010.02502,
    /// appendix D.2).
    Quadratic,
    /// Evenly in the seventh root of sigma/alpha, or of sigma on the straight path (Karras et al. 2022, arXiv 2206.00364,
    /// eq. 5). On a discrete schedule the network is given times between the timesteps.
    Karras,
    /// Evenly in the logarithm of the same.
    Exponential,
}

/// The least noise of `karras` and `exponential` on the straight path, the smallest time of training in diffusers.
const LEAST_TIME: f64 = 0.001;

/// The points of a run, from the noisiest to clean.
pub(crate) fn grid(
    schedule: &dyn NoiseSchedule,
    spacing: Option<Spacing>,
    steps: usize,
) -> Result<Vec<Point>, SampleError> {
    let own = schedule.grid(steps)?;
    let Some(spacing) = spacing else {
        return Ok(own);
    };
    let noisiest = schedule.noisiest();
    let levels = |most, least| match spacing {
        Spacing::Karras => Some(karras(most, least, 7.0, steps)),
        Spacing::Exponential => Some(exponential(most, least, steps)),
        _ => None,
    };
    let at =
        |times: Vec<Time>| times.into_iter().map(|time| schedule.at(time)).collect::<Result<Vec<_>, _>>();
    let refused = || SampleError::Spacing { spacing, schedule: schedule.name().into() };
    let mut points = match noisiest.time {
        Time::Index(last) => {
            let timesteps = last as usize + 1;
            let indices = match spacing {
                Spacing::Trailing => return Ok(own),
                Spacing::Leading => leading(timesteps, steps),
                Spacing::Linspace => linspace(timesteps, steps),
                Spacing::Quadratic => quadratic(timesteps, steps),
                Spacing::Karras | Spacing::Exponential => vec![],
            };
            let ratios = Ratios::of(schedule, timesteps)?;
            match levels(ratios.most(), ratios.least()) {
                Some(levels) => {
                    levels.into_iter().map(|ratio| preserving(ratios.time(ratio), ratio)).collect()
                }
                None => at(indices.into_iter().map(|i| Time::Index(i as u32)).collect())?,
            }
        }
        Time::Sigma(most) => {
            // Two steps of its own grid go through the largest and the smallest level.
            let least = schedule.grid(2)?[1].sigma;
            at(levels(most, least).ok_or_else(refused)?.into_iter().map(Time::Sigma).collect())?
        }
        Time::Continuous(most) => {
            let levels = levels(most, LEAST_TIME).ok_or_else(refused)?;
            at(levels.into_iter().map(Time::Continuous).collect())?
        }
        Time::Clean | Time::Between(_) => return Err(refused()),
    };
    points.push(Point::CLEAN);
    Ok(points)
}

/// Multiples of T/S (rounded down), the largest first.
pub(crate) fn leading(timesteps: usize, steps: usize) -> Vec<usize> {
    (0..steps).rev().map(|i| i * (timesteps / steps)).collect()
}

/// T, and T/S less each time, rounded half to even as in numpy, less 1.
pub(crate) fn trailing(timesteps: usize, steps: usize) -> Vec<usize> {
    let step = timesteps as f64 / steps as f64;
    (0..steps).map(|i| (timesteps as f64 - i as f64 * step).round_ties_even() as usize - 1).collect()
}

/// Evenly from T − 1 to 0, rounded half to even as in numpy.
pub(crate) fn linspace(timesteps: usize, steps: usize) -> Vec<usize> {
    evenly(0.0, (timesteps - 1) as f64, steps).rev().map(|t| t.round_ties_even() as usize).collect()
}

fn quadratic(timesteps: usize, steps: usize) -> Vec<usize> {
    let squares =
        evenly(0.0, ((timesteps - 1) as f64).sqrt(), steps).map(|root| (root * root).round() as usize);
    // Where the squares are closer than timesteps, one timestep after the other is taken.
    let distinct = squares.scan(None, |before: &mut Option<usize>, t| {
        *before = Some(before.map_or(t, |before| t.max(before + 1)));
        *before
    });
    let mut indices: Vec<usize> = distinct.collect();
    indices.reverse();
    indices
}

/// `n` evenly spaced values; the first alone if `n` is 1.
pub(crate) fn evenly(first: f64, last: f64, n: usize) -> impl DoubleEndedIterator<Item = f64> {
    let step = (last - first) / n.saturating_sub(1).max(1) as f64;
    (0..n).map(move |i| first + i as f64 * step)
}

/// `n` levels from the largest to the smallest, even in their `rho`-th roots.
pub(crate) fn karras(most: f64, least: f64, rho: f64, n: usize) -> Vec<f64> {
    // The ends themselves, not what rounding leaves of them: they are the ends of the schedule.
    let roots = evenly(most.powf(1.0 / rho), least.powf(1.0 / rho), n).map(|root| root.powf(rho));
    roots.map(|level| level.clamp(least, most)).collect()
}

/// `n` levels from the largest to the smallest, even in their logarithms.
pub(crate) fn exponential(most: f64, least: f64, n: usize) -> Vec<f64> {
    evenly(most.ln(), least.ln(), n).map(|log| log.exp().clamp(least, most)).collect()
}

/// The point of a variance-preserving schedule at which sigma/alpha is `ratio`.
pub(crate) fn preserving(time: Time, ratio: f64) -> Point {
    let alpha = 1.0 / ratio.hypot(1.0);
    Point { time, alpha, sigma: ratio * alpha }
}

/// sigma/alpha of every timestep of a discrete schedule.
pub(crate) struct Ratios(Vec<f64>);

impl Ratios {
    pub(crate) fn of(schedule: &dyn NoiseSchedule, timesteps: usize) -> Result<Self, ScheduleError> {
        let ratio = |i: usize| schedule.at(Time::Index(i as u32)).map(|point| point.sigma / point.alpha);
        Ok(Self((0..timesteps).map(ratio).collect::<Result<_, _>>()?))
    }

    pub(crate) fn least(&self) -> f64 {
        self.0[0]
    }

    pub(crate) fn most(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// The ratio between timesteps, linearly.
    pub(crate) fn at(&self, t: f64) -> f64 {
        let below = (t as usize).min(self.0.len() - 1);
        let above = (below + 1).min(self.0.len() - 1);
        self.0[below] + (self.0[above] - self.0[below]) * (t - below as f64)
    }

    /// Where between the timesteps a ratio lies, linearly in its logarithm.
    pub(crate) fn timestep(&self, ratio: f64) -> f64 {
        let above = self.0.partition_point(|known| *known <= ratio).clamp(1, self.0.len().max(2) - 1);
        let Some(next) = self.0.get(above) else {
            return 0.0;
        };
        let [low, high, log] = [self.0[above - 1], *next, ratio].map(f64::ln);
        (above - 1) as f64 + ((log - low) / (high - low)).clamp(0.0, 1.0)
    }

    /// The same as a time.
    pub(crate) fn time(&self, ratio: f64) -> Time {
        time_at(self.timestep(ratio))
    }
}

/// A timestep if the number is whole, otherwise a place between two.
pub(crate) fn time_at(t: f64) -> Time {
    if t.fract() == 0.0 { Time::Index(t as u32) } else { Time::Between(t) }
}
