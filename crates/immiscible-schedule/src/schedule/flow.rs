//! The straight path of flow matching.

use immiscible_random::Key;

use super::NoiseSchedule;
use crate::{Point, ScheduleError, Time, Times};

/// x_t = (1 − t) x0 + t eps for t in (0, 1] (Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2023,
/// arXiv 2209.03003). Here t = 1 is noise, as in Stable Diffusion 3; the papers count the other way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow;

/// Far more steps than any solver needs; beyond it is a slip of the keyboard.
const MAX_STEPS: usize = 100_000;

impl Flow {
    fn point(t: f64) -> Point {
        Point { time: Time::Continuous(t), alpha: 1.0 - t, sigma: t }
    }
}

impl NoiseSchedule for Flow {
    fn name(&self) -> &str {
        "flow"
    }

    fn at(&self, time: Time) -> Result<Point, ScheduleError> {
        match time {
            Time::Clean => Ok(Point::CLEAN),
            Time::Continuous(t) if t > 0.0 && t <= 1.0 => Ok(Self::point(t)),
            _ => Err(ScheduleError::Time {
                name: self.name().into(),
                time,
                valid: "the flow times above 0 up to 1".into(),
            }),
        }
    }

    fn noisiest(&self) -> Point {
        Self::point(1.0)
    }

    /// Uniform on (0, 1].
    fn sample_t(&self, batch: usize, key: Key) -> Times {
        (0..batch as u64).map(|row| Self::point(1.0 - key.uniform(row))).collect::<Vec<_>>().into()
    }

    /// t = 1 − i/S for i = 0 to S − 1, then clean.
    fn grid(&self, steps: usize) -> Result<Vec<Point>, ScheduleError> {
        if !(1..=MAX_STEPS).contains(&steps) {
            let valid = format!("1 to {MAX_STEPS} steps");
            return Err(ScheduleError::Steps { name: self.name().into(), steps, valid });
        }
        let points = (1..=steps).rev().map(|left| Self::point(left as f64 / steps as f64));
        Ok(points.chain([Point::CLEAN]).collect())
    }
}
