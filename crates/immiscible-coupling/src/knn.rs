use crate::{
    Compared, Costs, Coupling, CouplingError, Draw, HostCoupling, PairContext,
    candidates::{best_of, best_of_on_device, check_mask, keep_counted},
};
use burn::tensor::Tensor;
use immiscible_assign::half_distance;
use immiscible_random::Key;
use ndarray::{Array2, ArrayView1, ArrayView2, Axis};
use serde::{Deserialize, Serialize};

/// By what the nearest of the candidates is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// The smallest |x − n|, as in the paper.
    #[default]
    L2,
    /// The largest ⟨x, n⟩, which does not prefer short noises. Where the mean image is not zero, as it hardly ever is, it
    /// moves the mean of the noise even more; [`PricedKnn`](crate::PricedKnn) does not.
    Dot,
}

/// Nearest of k (arXiv 2505.18521, Algorithm 1): every image takes the nearest of its own k noises.
///
/// It needs no other image, so it works at batch size 1 and needs no communication between devices. Unlike an
/// assignment it does not keep the marginal: short noises are nearer, so the energy falls below 1, and the mean
/// moves along the data's. [`Statistics`](crate::Statistics) shows both.
///
/// All is drawn on the host by address, so that every device has the same candidates. The first one is the independent noise, so
/// `k = 1` is ordinary training bit for bit.
#[derive(Clone, Copy, Debug)]
pub struct Knn {
    /// Candidates per image, at least 1.
    pub k: usize,
    /// By what the nearest is told.
    pub select: Select,
    /// Side of the grid of cells whose means are compared in place of pixels, for images so large that k noises of k are all
    /// alike (8 is used for video latents). It must divide height and width.
    pub coarse: Option<usize>,
    /// The images are compared as if multiplied by this; what is trained on stays as it is. [`Select::L2`] comes the nearer to
    /// [`Select::Dot`] the larger it is.
    pub image_scale: f32,
    /// Whether the distances of [`Select::L2`] are those of half precision throughout, as in the paper's code: ‖h(x) − h(n)‖,
    /// where h and the difference round, and the norm does, whose sum does not. Of candidates that are then equally near the first
    /// one is taken.
    pub half: bool,
}

impl Knn {
    /// The nearest of `k` in L2, as in the paper.
    pub const fn new(k: usize) -> Self {
        Self { k, select: Select::L2, coarse: None, image_scale: 1.0, half: false }
    }

    /// The share of the energy that noise of so many dimensions loses to the choice by [`Select::L2`], at most: 2m_k/√(2D), where
    /// m_k is the expected maximum of k standard normals; less the longer the images are.
    pub fn energy_loss(&self, dimensions: usize) -> f64 {
        2.0 * expected_maximum(self.k) / (2.0 * dimensions as f64).sqrt()
    }

    /// The score of candidates; the nearest has the highest.
    ///
    /// # Shapes
    /// `x` is `[d]`, `candidates` are `[c, d]`, of the values that are compared.
    fn scores(&self, x: ArrayView1<f32>, candidates: ArrayView2<f32>) -> Vec<f64> {
        let each = candidates.rows().into_iter();
        match self.select {
            Select::L2 if self.half => each.map(|n| -f64::from(half_distance(x, n))).collect(),
            // |x − n|² without |x|², which all candidates share.
            Select::L2 => each.map(|n| 2.0 * f64::from(x.dot(&n)) - f64::from(n.dot(&n))).collect(),
            Select::Dot => each.map(|n| f64::from(x.dot(&n))).collect(),
        }
    }

    /// The choice where the images are.
    fn choose_on_device(&self, x0: &Tensor<4>, key: Key) -> Result<(Compared, Costs), CouplingError> {
        let score = |x: &Tensor<3>, n: &Tensor<3>| {
            let product = (x.clone() * n.clone()).sum_dim(2) * self.image_scale;
            match self.select {
                // As `scores`.
                Select::L2 => product * 2.0 - n.clone().square().sum_dim(2),
                Select::Dot => product,
            }
        };
        best_of_on_device(self.k, x0, key, score)
    }

    /// Where values of an image are compared by the means of cells: its shape, which the cells divide.
    fn cells(&self, dimensions: usize, shape: Option<[usize; 3]>) -> Result<Option<Cells>, CouplingError> {
        let Some(side) = self.coarse else { return Ok(None) };
        let Some(shape @ [_, height, width]) =
            shape.filter(|shape| shape.iter().product::<usize>() == dimensions)
        else {
            return Err(CouplingError::NoShape { dimensions, shape });
        };
        if height % side != 0 || width % side != 0 {
            return Err(CouplingError::Option {
                option: "coarse",
                value: side.to_string(),
                remedy: "write a number that divides the images' height and width",
            });
        }
        Ok(Some(Cells { shape, side }))
    }
}

/// A grid of cells on images.
struct Cells {
    shape: [usize; 3],
    side: usize,
}

impl Cells {
    /// Images or noises `[n, C·H·W]` as the means of their cells, `[n, C·side·side]`.
    fn means(&self, values: ArrayView2<f32>) -> Array2<f32> {
        let Self { shape: [channels, height, width], side } = *self;
        let (cell_height, cell_width) = (height / side, width / side);
        let mut means = Array2::zeros((values.nrows(), channels * side * side));
        for (values, mut means) in values.rows().into_iter().zip(means.rows_mut()) {
            for (place, value) in values.iter().enumerate() {
                let (line, x) = (place / width, place % width);
                let (channel, y) = (line / height, line % height);
                means[(channel * side + y / cell_height) * side + x / cell_width] += value;
            }
        }
        means / (cell_height * cell_width) as f32
    }
}

impl Coupling for Knn {
    fn name(&self) -> &'static str {
        "knn"
    }

    /// On a device with memory of its own, where all coordinates are compared as they are. On the CPU nothing has to be moved, and a
    /// thread beside the step chooses.
    fn compare(
        &self,
        x0: &Tensor<4>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Option<(Compared, Costs)>, CouplingError> {
        let on_the_cpu = x0.device().memory_pool_usage().is_none();
        if on_the_cpu || self.half || self.coarse.is_some() || pairing.mask.is_some() || x0.dims()[0] == 0 {
            return Ok(None);
        }
        self.choose_on_device(x0, key).map(Some)
    }

    fn exact_marginal(&self) -> bool {
        self.k == 1
    }

    fn host(&self) -> Option<&dyn HostCoupling> {
        Some(self)
    }
}

impl HostCoupling for Knn {
    fn draw_host(
        &self,
        x0: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        check_mask(x0, pairing.mask)?;
        let cells = self.cells(x0.ncols(), pairing.shape)?;
        // Of images and noises: the values that count, or their means over cells.
        let compared = |row: usize, mut values: Array2<f32>| {
            keep_counted(&mut values, pairing.mask.map(|mask| mask.index_axis_move(Axis(0), row)));
            match &cells {
                Some(cells) => cells.means(values.view()),
                None => values,
            }
        };
        best_of(self.k, x0, key, |row, candidates| {
            let x = (&x0.row(row) * self.image_scale).insert_axis(Axis(0));
            self.scores(compared(row, x).row(0), compared(row, candidates).view())
        })
    }
}

/// 2m_k/s of every image, with s = √(2D + 4|x|²): the share of an image that its nearest of k noises carries, and by which the
/// energy of that noise falls below 1; for D large.
pub(crate) fn shares(x0: ArrayView2<f32>, k: usize) -> Vec<f64> {
    let m_k = expected_maximum(k);
    let share = |square: f64| 2.0 * m_k / (2.0 * x0.ncols() as f64 + 4.0 * square).sqrt();
    x0.rows().into_iter().map(|x| share(f64::from(x.dot(&x)))).collect()
}

/// m_k, the expected maximum of k standard normals: ∫₀^∞ 1 − Φ(z)ᵏ − Φ(−z)ᵏ dz.
pub(crate) fn expected_maximum(k: usize) -> f64 {
    const STEP: f64 = 1e-3;
    let density = |z: f64| (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    let mut integral = 0.0;
    // Φ(z), by the same midpoint rule.
    let mut below = 0.5;
    for i in 0..9_000 {
        let left = i as f64 * STEP;
        let middle: f64 = below + density(left + STEP / 4.0) * STEP / 2.0;
        integral += (1.0 - middle.powf(k as f64) - (1.0 - middle).max(0.0).powf(k as f64)) * STEP;
        below += density(left + STEP / 2.0) * STEP;
    }
    integral
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};

    #[test]
    fn candidates_on_the_device_are_chosen_as_on_the_host() {
        const SHAPE: [usize; 4] = [5, 2, 4, 4];
        let (rows, dimensions, key) = (SHAPE[0], 32, Key::new(5));
        let mut x0 = Array2::zeros((rows, dimensions));
        key.step(1).fill_normals(0, dimensions, x0.as_slice_mut().unwrap());
        let data = TensorData::new(x0.iter().copied().collect::<Vec<f32>>(), SHAPE);
        let on_device = Tensor::<4>::from_data(data, &Device::flex());
        for knn in [
            Knn::new(1),
            Knn::new(4),
            // More than are compared at once.
            Knn::new(39),
            Knn { image_scale: 3.0, ..Knn::new(4) },
            Knn { select: Select::Dot, ..Knn::new(4) },
        ] {
            let (compared, costs) = knn.choose_on_device(&on_device, key).unwrap();
            assert_eq!(costs.bytes_to_host(), 4 * 7, "{knn:?}");
            assert_eq!(costs.bytes_to_device(), 4 * knn.k * rows * dimensions + 8 * rows, "{knn:?}");
            let Draw { noise, statistics: found } = compared.take(costs.solve().unwrap());
            let noise: Vec<f32> = noise.into_data().try_into_vec_as().unwrap();
            let host = knn.draw_host(x0.view(), &PairContext::default(), key).unwrap();
            assert!(noise == host.noise.as_slice().unwrap(), "{knn:?}");
            let expected = host.statistics;
            for (what, found, expected) in [
                ("before", found.distance_before, expected.distance_before),
                ("after", found.distance_after, expected.distance_after),
                ("coefficient", found.coefficient, expected.coefficient),
                ("alignment", found.alignment, expected.alignment),
                ("energy", found.energy, expected.energy),
                ("mean shift", found.mean_shift, expected.mean_shift),
            ] {
                let off = (found - expected).abs();
                assert!(off < 1e-3 * expected.abs(), "{knn:?}: {what} {found} instead of {expected}");
            }
        }
        let bad = Tensor::<4>::full(SHAPE, f32::NAN, &Device::flex());
        let (_, costs) = Knn::new(4).choose_on_device(&bad, key).unwrap();
        assert!(matches!(costs.solve(), Err(CouplingError::NonFinite)));
    }

    #[test]
    fn expected_maxima_are_those_of_the_tables() {
        for (k, expected) in
            [(1, 0.0), (2, 0.564_19), (4, 1.029_38), (8, 1.423_60), (16, 1.765_99), (64, 2.343_73)]
        {
            let found = expected_maximum(k);
            assert!((found - expected).abs() < 1e-4, "m_{k} = {found}");
        }
        // √(2D) = 64 for D = 2,048.
        assert!((Knn::new(4).energy_loss(2048) - 2.0 * 1.029_38 / 64.0).abs() < 1e-5);
        assert!(Knn::new(1).energy_loss(64).abs() < 1e-5);
    }
}
