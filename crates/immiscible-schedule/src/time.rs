use std::fmt;

use burn::prelude::*;

/// One instant of the forward process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Time {
    /// The data themselves: alpha = 1, sigma = 0. Where sampling ends; never trained on.
    Clean,
    /// A timestep of a discrete schedule, 0 is the least noisy.
    Index(u32),
    /// A place between timesteps of a discrete schedule, where a grid of noise levels has one there.
    Between(f64),
    /// A flow time in (0, 1], 1 is pure noise.
    Continuous(f64),
    /// The noise level sigma itself, above 0, of a schedule that leaves the data as they are.
    Sigma(f64),
}

impl Time {
    /// The number a network embeds: `i` for [`Index(i)`](Time::Index) and [`Between(i)`](Time::Between), `1000 t`
    /// for [`Continuous(t)`](Time::Continuous), so that one embedding serves both; 0 for [`Clean`](Time::Clean).
    /// For [`Sigma`](Time::Sigma) it is ln(sigma)/4 (Karras et al. 2022, arXiv 2206.00364, table 1).
    pub fn network_time(self) -> f32 {
        match self {
            Time::Clean => 0.0,
            Time::Index(i) => i as f32,
            Time::Between(t) => t as f32,
            Time::Continuous(t) => (1000.0 * t) as f32,
            Time::Sigma(sigma) => (sigma.ln() / 4.0) as f32,
        }
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Time::Clean => write!(f, "clean time"),
            Time::Index(i) => write!(f, "timestep {i}"),
            Time::Between(t) => write!(f, "timestep {t}"),
            Time::Continuous(t) => write!(f, "flow time {t}"),
            Time::Sigma(sigma) => write!(f, "noise level {sigma}"),
        }
    }
}

/// A time with its coefficients in x_t = alpha x0 + sigma eps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When.
    pub time: Time,
    /// What is left of x0, in [0, 1].
    pub alpha: f64,
    /// Standard deviation of the noise, at least 0.
    pub sigma: f64,
}

impl Point {
    /// Where every schedule ends.
    pub const CLEAN: Point = Point { time: Time::Clean, alpha: 1.0, sigma: 0.0 };

    /// This point for a whole batch.
    ///
    /// # Shapes
    /// Both tensors are `[1, 1, 1, 1]` and broadcast.
    pub fn levels(&self, device: &Device) -> Levels {
        Levels::of(&[*self], device)
    }

    /// Signal-to-noise ratio alpha²/sigma²; infinite at the clean end.
    pub fn snr(&self) -> f64 {
        (self.alpha / self.sigma).powi(2)
    }
}

/// The times of a batch, one per sample.
#[derive(Debug, Clone, PartialEq)]
pub struct Times(Vec<Point>);

impl Times {
    /// Time, alpha and sigma of every sample.
    pub fn points(&self) -> &[Point] {
        &self.0
    }

    /// Uploads alpha and sigma.
    ///
    /// # Shapes
    /// Both tensors are `[B, 1, 1, 1]`.
    pub fn levels(&self, device: &Device) -> Levels {
        Levels::of(&self.0, device)
    }
}

impl From<Vec<Point>> for Times {
    fn from(points: Vec<Point>) -> Self {
        Self(points)
    }
}

/// alpha and sigma on the device, one per sample or one for all of them.
///
/// # Shapes
/// `[B, 1, 1, 1]` or `[1, 1, 1, 1]`: they broadcast over `[B, C, H, W]`.
#[derive(Debug, Clone)]
pub struct Levels {
    /// What is left of x0.
    pub alpha: Tensor<4>,
    /// Standard deviation of the noise.
    pub sigma: Tensor<4>,
}

impl Levels {
    fn of(points: &[Point], device: &Device) -> Self {
        let upload = |value: fn(&Point) -> f64| {
            let values: Vec<f32> = points.iter().map(|point| value(point) as f32).collect();
            Tensor::<1>::from_floats(values.as_slice(), device).reshape([points.len(), 1, 1, 1])
        };
        Self { alpha: upload(|point| point.alpha), sigma: upload(|point| point.sigma) }
    }
}
