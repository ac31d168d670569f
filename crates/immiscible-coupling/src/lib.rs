#![doc = include_str!("../README.md")]

mod assignment;
mod candidates;
mod compared;
mod config;
mod context;
mod control;
mod error;
mod independent;
mod knn;
mod marginal;
mod mean_shift;
mod moments;
mod norm_shrink;
mod priced_knn;
mod semidiscrete;
mod sometimes;
mod state;
mod statistics;
mod transfer;
mod window;

pub use assignment::Assignment;
pub use compared::{Chosen, Compared, Costs};
pub use config::{COUPLINGS, CouplingConfig, Entry, Scope};
pub use context::PairContext;
pub use control::{After, Control};
pub use error::CouplingError;
pub use independent::Independent;
pub use knn::{Knn, Select};
pub use marginal::{Marginal, Probe};
pub use mean_shift::{Mean, MeanShift};
pub use moments::Moments;
pub use norm_shrink::NormShrink;
pub use priced_knn::{Price, PricedKnn, Prices};
pub use semidiscrete::{Potential, Semidiscrete, SemidiscreteOptions};
pub use sometimes::Sometimes;
pub use statistics::Statistics;
pub use transfer::{DownloadError, download, downloads, upload};
pub use window::Window;

use burn::tensor::Tensor;
use immiscible_assign::mean_distance;
use immiscible_random::Key;
use ndarray::{Array2, ArrayView2};

/// The noise of one batch, in image order, and what choosing it did.
#[derive(Clone, Debug)]
pub struct Draw<N> {
    /// Row `i` is the noise of image `i`.
    pub noise: N,
    /// What the choice did to this batch.
    pub statistics: Statistics,
}

impl Draw<Array2<f32>> {
    /// `noise` for a batch in place of what was `drawn` for it, and what that did; `milliseconds` is how long the choice took.
    ///
    /// # Shapes
    /// All three `[B, D]`.
    ///
    /// # Errors
    /// [`CouplingError::Assign`] if the shapes differ.
    pub fn measured(
        x0: ArrayView2<f32>,
        drawn: ArrayView2<f32>,
        noise: Array2<f32>,
        milliseconds: f64,
    ) -> Result<Self, CouplingError> {
        Self::measured_since(x0, mean_distance(x0, drawn)?, noise, milliseconds)
    }

    /// The same, given only the [mean distance](mean_distance) to what was drawn.
    ///
    /// # Errors
    /// [`CouplingError::Assign`] if the shapes differ.
    pub fn measured_since(
        x0: ArrayView2<f32>,
        distance_before: f64,
        noise: Array2<f32>,
        milliseconds: f64,
    ) -> Result<Self, CouplingError> {
        let statistics = Statistics::measure(x0, distance_before, noise.view(), milliseconds)?;
        Ok(Self { noise, statistics })
    }
}

/// Chooses the noise of every image of a batch.
///
/// A draw is a pure function of its arguments: the same images, context and key give the same noise.
pub trait Coupling: Send + Sync {
    /// The name under which a config selects it.
    fn name(&self) -> &'static str;

    /// Whether the noise keeps its distribution exactly: standard normal, each noise independent of the others, as long as the
    /// images are not looked at.
    fn exact_marginal(&self) -> bool {
        false
    }

    /// Whether it must [`fit`](Self::fit) the data set before it draws.
    fn needs_data(&self) -> bool {
        false
    }

    /// Learns what it must know of the data set, where it must know anything.
    ///
    /// # Shapes
    /// `x0` is `[N, D]`, the images or enough of them; `labels` has N entries.
    ///
    /// # Errors
    /// When labels are missing, a value is not finite, or a state file cannot be used.
    fn fit(&mut self, _x0: ArrayView2<f32>, _labels: Option<&[u32]>) -> Result<(), CouplingError> {
        Ok(())
    }

    /// Draws the noise of the batch `x0` on the device that holds it: by [comparing](Self::compare) there, where the coupling
    /// does; else by the form for [host](Self::host) arrays, unless the coupling has one of its own for the device. It must have
    /// one of them.
    ///
    /// # Shapes
    /// `x0` and the noise are `[B, C, H, W]`. `x0` must be a plain tensor, outside any autodiff graph.
    ///
    /// # Errors
    /// When a needed part of `pairing` is missing, or the images hold values that cannot be compared.
    fn draw(
        &self,
        x0: &Tensor<4>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Tensor<4>>, CouplingError> {
        if let Some((compared, costs)) = self.compare(x0, pairing, key)? {
            return Ok(compared.take(costs.solve()?));
        }
        match self.host() {
            Some(host) => draw_through_host(host, x0, pairing, key),
            None => Err(CouplingError::DrawsNowhere { name: self.name() }),
        }
    }

    /// The first half of a draw for images that are on a device: compares them there with their noises, and reads what the host needs
    /// to choose, so that it can do so beside other work of the device; nothing but the statistics where the device chooses. None
    /// where this draw has no such form.
    ///
    /// It pairs as the form for [host](Self::host) arrays does, but for the rounding of the costs: pairs that differ by no more
    /// than that, a few units in the last place of a cost, may be exchanged.
    ///
    /// # Shapes
    /// As [`draw`](Self::draw).
    ///
    /// # Errors
    /// As [`draw`](Self::draw); values that cannot be compared are found by [`Costs::solve`].
    fn compare(
        &self,
        _x0: &Tensor<4>,
        _pairing: &PairContext,
        _key: Key,
    ) -> Result<Option<(Compared, Costs)>, CouplingError> {
        Ok(None)
    }

    /// The same draw on host arrays, where the coupling has one. A trainer whose images come from the host
    /// runs it in the loader's pipeline, a batch ahead, so that nothing of it delays the step.
    fn host(&self) -> Option<&dyn HostCoupling> {
        None
    }
}

/// A coupling whose whole work happens on host arrays.
pub trait HostCoupling: Send + Sync {
    /// Draws the noise of the batch `x0`.
    ///
    /// # Shapes
    /// `x0` and the noise are `[B, D]`, one flattened image a row.
    ///
    /// # Errors
    /// As [`Coupling::draw`].
    fn draw_host(
        &self,
        x0: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError>;

    /// The part that pairs the rows of several coming batches at once, where the coupling has one. A trainer that knows
    /// those batches runs it in place of [`draw_host`](Self::draw_host), and hands the noise out batch by batch.
    fn lookahead(&self) -> Option<&dyn Lookahead> {
        None
    }
}

/// Pairs a window: the rows of the coming batches, one after the other.
pub trait Lookahead: Send + Sync {
    /// Rows of a window.
    fn rows(&self) -> usize;

    /// Which of the `drawn` noises each row takes; row i of them is what image i has without a pairing. No noise is taken
    /// twice. `key` is for what the pairing itself leaves to chance.
    ///
    /// # Shapes
    /// `x0` and `drawn` are `[W, D]`; W entries, each below W.
    ///
    /// # Errors
    /// As [`Coupling::draw`].
    fn pair(
        &self,
        x0: ArrayView2<f32>,
        drawn: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Vec<u32>, CouplingError>;
}

/// Independent standard normal rows `0..rows`, the noise that every coupling starts from.
fn fresh_noise(rows: usize, dimensions: usize, key: Key) -> Array2<f32> {
    let mut noise = Array2::zeros((rows, dimensions));
    if let Some(values) = noise.as_slice_mut() {
        key.fill_normals(0, dimensions, values);
    }
    noise
}

/// The device form of a host coupling: the images are read back, the noise is uploaded.
fn draw_through_host(
    coupling: &dyn HostCoupling,
    x0: &Tensor<4>,
    pairing: &PairContext,
    key: Key,
) -> Result<Draw<Tensor<4>>, CouplingError> {
    let [_, channels, height, width] = x0.dims();
    let pairing = PairContext { shape: Some([channels, height, width]), ..*pairing };
    let Draw { noise, statistics } = coupling.draw_host(read(x0)?.view(), &pairing, key)?;
    Ok(Draw { noise: upload(noise, x0.dims(), &x0.device()), statistics })
}

/// Images or noise of a device, `[B, C, H, W]`, as host rows `[B, D]`.
fn read(values: &Tensor<4>) -> Result<Array2<f32>, CouplingError> {
    let [rows, channels, height, width] = values.dims();
    let values = download(values.clone())?;
    Array2::from_shape_vec((rows, channels * height * width), values).map_err(CouplingError::device)
}
