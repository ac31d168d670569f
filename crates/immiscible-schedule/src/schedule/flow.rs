//! The straight path of flow matching.

use immiscible_random::Key;

use super::NoiseSchedule;
use crate::{Point, ScheduleError, Time, Times};

/// x_t = (1 − t) x0 + t eps for t in (0, 1] (Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2023,
/// arXiv 2209.03003). Here t = 1 is noise, as in Stable Diffusion 3; the papers count the other way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flow {
    shift: f64,
}

/// Far more steps than any solver needs; beyond it is a slip of the keyboard.
const MAX_STEPS: usize = 100_000;

impl Default for Flow {
    /// Times as they are.
    fn default() -> Self {
        Self { shift: 1.0 }
    }
}

impl Flow {
    /// Moves the times of training and of sampling grids to s t/(1 + (s − 1) t) with s = `shift`: above 1 towards the noise,
    /// as large images need (Esser et al. 2024, arXiv 2403.03206, eq. 23); 1 leaves them.
    ///
    /// # Errors
    /// [`ScheduleError::Shift`] unless it is in [0.001, 1000].
    pub fn new(shift: f64) -> Result<Self, ScheduleError> {
        if !(1e-3..=1e3).contains(&shift) {
            return Err(ScheduleError::Shift(shift));
        }
        Ok(Self { shift })
    }

    fn point(t: f64) -> Point {
        Point { time: Time::Continuous(t), alpha: 1.0 - t, sigma: t }
    }

    fn shifted(&self, t: f64) -> Point {
        let s = self.shift;
        // This form has no rounding at t = 1; what it has elsewhere a shift of 1 is spared.
        Self::point(if s == 1.0 { t } else { s * t / (s * t + (1.0 - t)) })
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

    fn nearest(&self, ratio: f64) -> Point {
        Self::point((ratio / (1.0 + ratio)).max(f64::MIN_POSITIVE))
    }

    fn noisiest(&self) -> Point {
        Self::point(1.0)
    }

    fn quantile(&self, u: f64) -> Point {
        self.shifted(u)
    }

    /// Uniform on (0, 1], then shifted.
    fn sample_t(&self, batch: usize, key: Key) -> Times {
        (0..batch as u64).map(|row| self.shifted(1.0 - key.uniform(row))).collect::<Vec<_>>().into()
    }

    /// t = 1 − i/S for i = 0 to S − 1, shifted, then clean.
    fn grid(&self, steps: usize) -> Result<Vec<Point>, ScheduleError> {
        if !(1..=MAX_STEPS).contains(&steps) {
            let valid = format!("1 to {MAX_STEPS} steps");
            return Err(ScheduleError::Steps { name: self.name().into(), steps, valid });
        }
        let points = (1..=steps).rev().map(|left| self.shifted(left as f64 / steps as f64));
        Ok(points.chain([Point::CLEAN]).collect())
    }
}
