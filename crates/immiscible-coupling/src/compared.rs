use crate::{CouplingError, Draw, Statistics, download, fresh_noise, statistics::Sums, upload};
use burn::tensor::{DType, Int, Tensor, TensorData};
use immiscible_assign::{Assigner, Cost};
use immiscible_random::Key;
use ndarray::{Array1, Array2, Axis, parallel::prelude::*};
use std::{sync::Arc, time::Instant};

/// The half of a [comparison](crate::Coupling::compare) that stays on the device: the noises to choose from.
#[derive(Clone, Debug)]
pub struct Compared {
    /// `[M, C, H, W]`.
    noises: Tensor<4>,
}

/// The half of a comparison that crosses to the host. It holds host arrays only, so any thread may [solve](Self::solve) it.
pub struct Costs {
    open: Open,
    bytes_to_host: usize,
    bytes_to_device: usize,
    milliseconds: f64,
}

/// What is still to be done on the host.
enum Open {
    Assignment(Box<Products>),
    /// Nothing: the noises that are left are those of the images, one after the other.
    Nothing {
        rows: usize,
        statistics: Statistics,
    },
}

/// What images and noises cost each other, for an assignment.
struct Products {
    /// −⟨x, n⟩, `[B, M]`.
    products: Array2<f32>,
    /// |x|² of every image.
    squares: Array1<f32>,
    /// What was drawn, `[M, D]`.
    drawn: Array2<f32>,
    cost: Cost,
    image_scale: f32,
    groups: Option<Vec<u32>>,
    assigner: Arc<dyn Assigner>,
}

/// Which noise each image takes.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// For every image the row of its noise among those on the device.
    pub noise_of: Vec<u32>,
    /// What that does to the batch; the time is that of comparison and choice.
    pub statistics: Statistics,
    /// Wall-clock time of the choice alone.
    pub milliseconds: f64,
}

/// How an assignment compares.
pub(crate) struct Comparison {
    pub(crate) cost: Cost,
    /// Whether images and noises are rounded to bf16.
    pub(crate) rounded: bool,
    pub(crate) image_scale: f32,
    /// Noises for each image.
    pub(crate) pool: usize,
    /// Of every row.
    pub(crate) groups: Option<Vec<u32>>,
    pub(crate) assigner: Arc<dyn Assigner>,
}

impl Comparison {
    /// Draws noise for the images on a device, and compares the two there by one product of matrices. |x|² comes along with it, so
    /// that all [`Statistics`] follow on the host and the device is read once.
    pub(crate) fn of(self, x0: &Tensor<4>, key: Key) -> Result<(Compared, Costs), CouplingError> {
        let Self { cost, rounded, image_scale, pool, groups, assigner } = self;
        let device = x0.device();
        let [rows, channels, height, width] = x0.dims();
        let (noises, dimensions) = (pool * rows, channels * height * width);
        let drawn = fresh_noise(noises, dimensions, key);
        let on_device = upload(drawn.clone(), [noises, channels, height, width], &device);
        // What the device still has to do to make the images is no part of comparing them.
        device.sync().map_err(CouplingError::device)?;

        let start = Instant::now();
        let x = x0.clone().reshape([rows, dimensions]);
        let n = on_device.clone().reshape([noises, dimensions]);
        let squares: Tensor<1> = x.clone().square().sum_dim(1).reshape([rows]);
        let [x, n] = if rounded { [x, n].map(|it| it.cast(DType::BF16)) } else { [x, n] };
        let products: Tensor<1> = x.matmul(n.transpose()).cast(DType::F32).neg().reshape([rows * noises]);
        let mut values = download(Tensor::cat(vec![products, squares], 0))?;
        let squares: Array1<f32> = values.split_off(rows * noises).into();
        let products = Array2::from_shape_vec((rows, noises), values).map_err(CouplingError::device)?;
        let costs = Costs {
            bytes_to_host: size_of::<f32>() * (products.len() + squares.len()),
            bytes_to_device: size_of::<f32>() * drawn.len() + Compared::bytes_of_rows(rows),
            open: Open::Assignment(Box::new(Products {
                products,
                squares,
                drawn,
                cost,
                image_scale,
                groups,
                assigner,
            })),
            milliseconds: start.elapsed().as_secs_f64() * 1e3,
        };
        Ok((Compared { noises: on_device }, costs))
    }
}

impl Compared {
    /// Noises that were chosen on the device already, that of each image, after `milliseconds` that it took; with what had to be
    /// moved for it.
    pub(crate) fn chosen(
        noises: Tensor<4>,
        statistics: Statistics,
        [bytes_to_host, bytes_to_device]: [usize; 2],
        milliseconds: f64,
    ) -> (Self, Costs) {
        let [rows, ..] = noises.dims();
        let bytes_to_device = bytes_to_device + Self::bytes_of_rows(rows);
        let open = Open::Nothing { rows, statistics };
        (Self { noises }, Costs { open, bytes_to_host, bytes_to_device, milliseconds })
    }

    /// The numbers of the noises, which [`take`](Self::take) moves.
    fn bytes_of_rows(rows: usize) -> usize {
        size_of::<i64>() * rows
    }

    /// Gathers the noises of the batch on the device. On a device that works on by itself the time that is added to the
    /// statistics is that of asking for it.
    pub fn take(self, chosen: Chosen) -> Draw<Tensor<4>> {
        let start = Instant::now();
        let Chosen { noise_of, mut statistics, .. } = chosen;
        let rows: Vec<i64> = noise_of.into_iter().map(i64::from).collect();
        let shape = [rows.len()];
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, shape), &self.noises.device());
        let noise = self.noises.select(0, rows);
        statistics.milliseconds += start.elapsed().as_secs_f64() * 1e3;
        Draw { noise, statistics }
    }
}

impl Costs {
    /// Wall-clock time of the comparison: what the device computes, and its way to the host.
    pub fn milliseconds(&self) -> f64 {
        self.milliseconds
    }

    /// What was read from the device, in bytes.
    pub fn bytes_to_host(&self) -> usize {
        self.bytes_to_host
    }

    /// What is put on the device, in bytes: the noises that were drawn, and in the end the number of each image's.
    pub fn bytes_to_device(&self) -> usize {
        self.bytes_to_device
    }

    /// Chooses a noise for every image.
    ///
    /// # Errors
    /// [`CouplingError::NonFinite`] for images that cannot be compared, and what the assigner refuses.
    pub fn solve(self) -> Result<Chosen, CouplingError> {
        let compared = self.milliseconds;
        let chosen = match self.open {
            Open::Assignment(products) => products.solve()?,
            Open::Nothing { rows, statistics } => {
                let noise_of = (0..rows as u32).collect();
                Chosen { noise_of, statistics, milliseconds: 0.0 }
            }
        };
        let statistics = Statistics { milliseconds: compared + chosen.milliseconds, ..chosen.statistics };
        if !statistics.distance_after.is_finite() {
            return Err(CouplingError::NonFinite);
        }
        Ok(Chosen { statistics, ..chosen })
    }
}

impl Products {
    fn solve(self) -> Result<Chosen, CouplingError> {
        let start = Instant::now();
        let lengths: Array1<f32> = self.drawn.rows().into_iter().map(|n| n.dot(&n)).collect();
        if !self.squares.iter().chain(&self.products).all(|value| value.is_finite()) {
            return Err(CouplingError::NonFinite);
        }
        let noise_of = match self.cost {
            Cost::Dot => self.assigner.solve(self.products.view(), self.groups.as_deref())?.noise_of,
            _ => self.assigner.solve(self.distances(&lengths).view(), self.groups.as_deref())?.noise_of,
        };
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        let statistics = self.measure(&lengths, &noise_of);
        Ok(Chosen { noise_of, statistics, milliseconds })
    }

    /// |s·x − n|² = s²|x|² + |n|² − 2s⟨x, n⟩, or its root.
    fn distances(&self, lengths: &Array1<f32>) -> Array2<f32> {
        let (scale, root) = (self.image_scale, self.cost == Cost::L2);
        let mut costs = self.products.clone();
        let rows = costs.axis_iter_mut(Axis(0)).into_par_iter().zip(self.squares.axis_iter(Axis(0)));
        rows.for_each(|(mut row, square)| {
            let square = scale * scale * square.into_scalar();
            row.zip_mut_with(lengths, |cost, length| {
                // Rounding takes the distance of equal vectors below zero.
                let squared = (2.0 * scale * *cost + (square + length)).max(0.0);
                *cost = if root { squared.sqrt() } else { squared };
            });
        });
        costs
    }

    /// From the products, which hold all of it but the mean noise.
    fn measure(&self, lengths: &Array1<f32>, noise_of: &[u32]) -> Statistics {
        let rows = noise_of.len();
        let product = |i: usize, j: usize| -f64::from(self.products[(i, j)]);
        let (square, length) = (|i: usize| f64::from(self.squares[i]), |j: usize| f64::from(lengths[j]));
        let distance = |i, j| (square(i) + length(j) - 2.0 * product(i, j)).max(0.0).sqrt();
        let taken = || noise_of.iter().map(|&j| j as usize);
        let mean = |sum: f64| if rows == 0 { 0.0 } else { sum / rows as f64 };
        // How many images took each noise: without a pool, one.
        let mut times = Array1::<f32>::zeros(lengths.len());
        taken().for_each(|j| times[j] += 1.0);
        let sum_of_noise = times.dot(&self.drawn);
        let with_each = self.products.dot(&times);
        let sums = Sums {
            inner: taken().enumerate().map(|(i, j)| product(i, j)).sum(),
            image: (0..rows).map(square).sum(),
            noise: taken().map(length).sum(),
            means: -with_each.iter().map(|&sum| f64::from(sum)).sum::<f64>(),
            mean: f64::from(sum_of_noise.dot(&sum_of_noise)),
        };
        Statistics {
            distance_before: mean((0..rows).map(|i| distance(i, i)).sum()),
            distance_after: mean(taken().enumerate().map(|(i, j)| distance(i, j)).sum()),
            ..Statistics::of_sums((rows, self.drawn.ncols()), sums)
        }
    }
}
