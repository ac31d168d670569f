use immiscible_random::Key;

use super::NoiseSchedule;
use crate::{Point, ScheduleError, Time, Times};

/// A discrete variance-preserving schedule: alpha² + sigma² = 1 at T timesteps
/// (Ho et al. 2020, arXiv 2006.11239). The named ones differ only in their betas.
#[derive(Debug, Clone, PartialEq)]
pub struct VariancePreserving {
    name: String,
    /// Timestep 0 first.
    points: Vec<Point>,
}

impl VariancePreserving {
    /// The schedule with these noise increments, timestep 0 first.
    ///
    /// # Errors
    /// [`ScheduleError::NoTimesteps`] if there are none, [`ScheduleError::Beta`] if one is outside (0, 1).
    pub fn from_betas(
        name: impl Into<String>,
        betas: impl IntoIterator<Item = f64>,
    ) -> Result<Self, ScheduleError> {
        let name = name.into();
        let betas: Vec<f64> = betas.into_iter().collect();
        if betas.is_empty() {
            return Err(ScheduleError::NoTimesteps(name));
        }
        if let Some(index) = betas.iter().position(|beta| !(*beta > 0.0 && *beta < 1.0)) {
            return Err(ScheduleError::Beta { name, timesteps: betas.len(), index, beta: betas[index] });
        }
        let alpha_bars = betas.iter().scan(1.0, |alpha_bar: &mut f64, beta| {
            *alpha_bar *= 1.0 - beta; // DDPM eq. 4
            Some(*alpha_bar)
        });
        let points = alpha_bars.zip(0..).map(|(alpha_bar, i)| Point {
            time: Time::Index(i),
            alpha: alpha_bar.sqrt(),
            sigma: (1.0 - alpha_bar).sqrt(),
        });
        Ok(Self { name, points: points.collect() })
    }

    /// The same schedule with alphas moved and stretched so that the last one is 0 and the first one stays (Lin et al. 2024,
    /// arXiv 2305.08891, algorithm 1): training then sees the pure noise that sampling starts from. `last`, from 0 to below 1,
    /// takes the place of the 0 as alpha² of the last timestep, for methods that divide by it.
    ///
    /// # Errors
    /// [`ScheduleError::OneTimestep`] if there is no other timestep than the last.
    pub fn with_zero_terminal_snr(mut self, last: f64) -> Result<Self, ScheduleError> {
        let [first, .., end] = self.points[..] else {
            return Err(ScheduleError::OneTimestep(self.name));
        };
        let scale = first.alpha / (first.alpha - end.alpha);
        let count = self.points.len();
        for (i, point) in self.points.iter_mut().enumerate() {
            let alpha_bar = if i + 1 == count { last } else { ((point.alpha - end.alpha) * scale).powi(2) };
            (point.alpha, point.sigma) = (alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
        }
        Ok(self)
    }

    /// The points of the timesteps 0 to T − 1.
    pub fn points(&self) -> &[Point] {
        &self.points
    }
}

impl NoiseSchedule for VariancePreserving {
    fn name(&self) -> &str {
        &self.name
    }

    fn at(&self, time: Time) -> Result<Point, ScheduleError> {
        let found = match time {
            Time::Clean => Some(Point::CLEAN),
            Time::Index(i) => self.points.get(i as usize).copied(),
            Time::Between(_) | Time::Continuous(_) | Time::Sigma(_) => None,
        };
        found.ok_or_else(|| ScheduleError::Time {
            name: self.name.clone(),
            time,
            valid: format!("the timesteps 0 to {}", self.points.len() - 1),
        })
    }

    /// The nearest timestep on the scale of ln(sigma/alpha).
    fn nearest(&self, ratio: f64) -> Point {
        let noise = |point: &Point| (point.sigma / point.alpha).ln();
        let wanted = ratio.ln();
        let above = self.points.partition_point(|point| noise(point) < wanted).min(self.points.len() - 1);
        let below = above.saturating_sub(1);
        let nearer = wanted - noise(&self.points[below]) < noise(&self.points[above]) - wanted;
        self.points[if nearer { below } else { above }]
    }

    fn noisiest(&self) -> Point {
        self.points[self.points.len() - 1]
    }

    fn quantile(&self, u: f64) -> Point {
        let above = (u * self.points.len() as f64).ceil() as usize;
        self.points[above.clamp(1, self.points.len()) - 1]
    }

    /// Uniform timesteps 0 to T − 1.
    fn sample_t(&self, batch: usize, key: Key) -> Times {
        let timesteps = self.points.len();
        let index = |u: f64| ((u * timesteps as f64) as usize).min(timesteps - 1);
        (0..batch as u64).map(|row| self.points[index(key.uniform(row))]).collect::<Vec<_>>().into()
    }

    /// Trailing spacing, which starts at T − 1 whatever the number of steps
    /// (Lin et al. 2024, arXiv 2305.08891, table 2): timesteps round(T (S − i)/S) − 1 for i = 0 to S − 1.
    fn grid(&self, steps: usize) -> Result<Vec<Point>, ScheduleError> {
        let timesteps = self.points.len();
        if !(1..=timesteps).contains(&steps) {
            return Err(ScheduleError::Steps {
                name: self.name.clone(),
                steps,
                valid: format!("1 to {timesteps} steps"),
            });
        }
        let spacing = timesteps as f64 / steps as f64;
        let index = |left: usize| (left as f64 * spacing).round_ties_even() as usize - 1;
        let points = (1..=steps).rev().map(|left| self.points[index(left)]);
        Ok(points.chain([Point::CLEAN]).collect())
    }
}

/// # Errors
/// [`ScheduleError::Betas`] unless 0 < `beta_start` ≤ `beta_end` < 1.
pub(super) fn betas_in_order(
    name: &'static str,
    beta_start: f64,
    beta_end: f64,
) -> Result<(), ScheduleError> {
    if 0.0 < beta_start && beta_start <= beta_end && beta_end < 1.0 {
        return Ok(());
    }
    Err(ScheduleError::Betas { name, beta_start, beta_end })
}

/// `n` evenly spaced values from `first` to `last`, both included.
pub(super) fn linspace(first: f64, last: f64, n: usize) -> impl Iterator<Item = f64> {
    let step = (last - first) / n.saturating_sub(1).max(1) as f64;
    (0..n).map(move |i| first + i as f64 * step)
}
