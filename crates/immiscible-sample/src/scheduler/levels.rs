//! What the classes that space noise levels sigma/alpha have in common.

use immiscible_schedule::{NoiseSchedule, Point, Time};

use super::discrete::{Spacing, Timesteps};
use super::fields::{Fields, refuse};
use crate::SampleError;
use crate::grid::{Ratios, evenly, exponential, karras, preserving, time_at};
use crate::sampler::Path;

/// How noise levels follow each other, if not as the timesteps do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Curve {
    Karras,
    Exponential,
}

impl Curve {
    pub(super) fn read(fields: &mut Fields) -> Result<Option<Self>, SampleError> {
        let mut given = |field| Ok::<bool, SampleError>(fields.take(field, Some(false))? == Some(true));
        let (karras, exponential) = (given("use_karras_sigmas")?, given("use_exponential_sigmas")?);
        fields.only("use_beta_sigmas", false)?;
        match (karras, exponential) {
            (true, true) => {
                Err(refuse("use_exponential_sigmas", &true, "use_karras_sigmas is true already; choose one"))
            }
            (true, false) => Ok(Some(Self::Karras)),
            (false, true) => Ok(Some(Self::Exponential)),
            (false, false) => Ok(None),
        }
    }

    pub(super) fn levels(self, most: f64, least: f64, steps: usize) -> Vec<f64> {
        match self {
            Self::Karras => karras(most, least, 7.0, steps),
            Self::Exponential => exponential(most, least, steps),
        }
    }
}

/// Where the last step ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Final {
    Zero,
    SigmaMin,
}

impl Final {
    pub(super) fn read(fields: &mut Fields) -> Result<Self, SampleError> {
        let kind = fields.take("final_sigmas_type", "zero".to_owned())?;
        match &*kind {
            "zero" => Ok(Self::Zero),
            "sigma_min" => Ok(Self::SigmaMin),
            _ => Err(refuse("final_sigmas_type", &kind, "zero and sigma_min are supported")),
        }
    }
}

/// The way of the classes whose x is x0 + (sigma/alpha) eps, and the standard deviation of x_T.
pub(super) struct Scaled {
    pub(super) timesteps: Timesteps,
    pub(super) curve: Option<Curve>,
    /// Ends of the curve, if not those of the timesteps.
    pub(super) ends: [Option<f64>; 2],
    pub(super) last: Final,
}

impl Scaled {
    pub(super) fn path(
        &self,
        schedule: &dyn NoiseSchedule,
        steps: usize,
    ) -> Result<(Path, Option<f64>), SampleError> {
        let Timesteps { total, spacing, .. } = self.timesteps;
        let ratios = Ratios::of(schedule, total)?;
        let times: Vec<f64> = match spacing {
            // Not rounded to whole ones, but to single precision.
            Spacing::Linspace => {
                self.timesteps.check(steps)?;
                evenly(0.0, (total - 1) as f64, steps).rev().map(|t| f64::from(t as f32)).collect()
            }
            _ => self.timesteps.whole(steps)?.into_iter().map(|t| t as f64).collect(),
        };
        if let Some(beyond) = times.iter().find(|t| **t > (total - 1) as f64) {
            let remedy = format!("with this many steps they begin at {beyond}; use a smaller one");
            return Err(refuse("steps_offset", &self.timesteps.offset, remedy));
        }
        let levels: Vec<f64> = times.iter().map(|t| ratios.at(*t)).collect();
        let mut points: Vec<Point> = match self.curve {
            None => times.iter().zip(&levels).map(|(t, level)| preserving(time_at(*t), *level)).collect(),
            Some(curve) => {
                let [least, most] = self.ends;
                let most = most.unwrap_or(levels[0]);
                let least = least.unwrap_or(levels[levels.len() - 1]);
                let levels = curve.levels(most, least, steps);
                levels.into_iter().map(|level| preserving(ratios.time(level), level)).collect()
            }
        };
        let start = points[0];
        points.push(match self.last {
            Final::Zero => Point::CLEAN,
            // What is returned is x0 + (sigma/alpha) eps.
            Final::SigmaMin => Point { time: Time::Index(0), alpha: 1.0, sigma: ratios.least() },
        });
        let prior = if spacing == Spacing::Leading { None } else { Some(start.sigma) };
        Ok((points.windows(2).map(|pair| (pair[0], pair[1])).collect(), prior))
    }
}

/// The way of DPM-Solver and its relatives, whose timesteps are whole and end one step above 0.
pub(super) struct Solver {
    pub(super) timesteps: Timesteps,
    pub(super) curve: Option<Curve>,
    /// Whether times of the curve are rounded down, and not to the nearest.
    pub(super) rounds_down: bool,
    pub(super) last: Final,
}

impl Solver {
    pub(super) fn path(&self, schedule: &dyn NoiseSchedule, steps: usize) -> Result<Path, SampleError> {
        let Timesteps { total, spacing, offset } = self.timesteps;
        self.timesteps.check(steps)?;
        let ratios = Ratios::of(schedule, total)?;
        let whole =
            |t: f64| Time::Index(if self.rounds_down { t as u32 } else { t.round_ties_even() as u32 });
        let mut points = match self.curve {
            Some(curve) => {
                let levels = curve.levels(ratios.most(), ratios.least(), steps);
                levels.into_iter().map(|level| preserving(whole(ratios.timestep(level)), level)).collect()
            }
            None => {
                let times = match spacing {
                    Spacing::Trailing => self.timesteps.whole(steps)?,
                    // One more than is taken; the one at 0 is left out.
                    Spacing::Linspace => evenly(0.0, (total - 1) as f64, steps + 1)
                        .map(|t| t.round_ties_even() as usize)
                        .rev()
                        .collect(),
                    Spacing::Leading => {
                        let step = total / (steps + 1);
                        (0..=steps).rev().map(|i| i * step + offset).collect()
                    }
                };
                let points = times.into_iter().take(steps).map(|t| schedule.at(Time::Index(t as u32)));
                points.collect::<Result<Vec<_>, _>>()?
            }
        };
        points.push(match self.last {
            Final::Zero => Point::CLEAN,
            Final::SigmaMin => schedule.at(Time::Index(0))?,
        });
        Ok(points.windows(2).map(|pair| (pair[0], pair[1])).collect())
    }
}
