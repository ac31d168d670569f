use crate::{
    Compared, Costs, Coupling, CouplingError, Draw, HostCoupling, PairContext, compared::Comparison,
    fresh_noise,
};
use burn::tensor::{DType, Tensor};
use immiscible_assign::{Assigner, Candidates, Cost, Exact, Precision, Problem};
use immiscible_random::Key;
use ndarray::parallel::prelude::*;
use ndarray::{Array2, ArrayView2, Axis, CowArray, Ix2, Slice};
use std::{collections::BTreeMap, sync::Arc, time::Instant};

/// Linear assignment (arXiv 2406.12303, Algorithm 1): the noises of the batch are permuted so that their total
/// distance to the images is smallest.
///
/// The batch of noises stays the batch that was drawn, so its marginal stays standard normal; only which image
/// takes which noise changes.
pub struct Assignment {
    /// The solver.
    pub assigner: Arc<dyn Assigner>,
    /// The distance that it makes small.
    pub cost: Cost,
    /// Whether noises move inside each label only, which keeps them independent of the label.
    pub class_wise: bool,
    /// The precision of the distances. If absent, `Int8` from 4,096 images on, and so no matrix of distances, and `F32` below.
    pub precision: Option<Precision>,
    /// Noises that are drawn for each image, at least 1. With more than 1 the noise that is taken is nearer than a permutation
    /// brings it, but no longer normal: what is left over is not left over at random.
    pub pool: usize,
    /// Whether images are compared after every coordinate was brought to mean 0 and variance 1 over the batch (or window), so
    /// that coordinates of a large scale do not decide alone.
    pub standardize: bool,
    /// The images are compared as if multiplied by this; what is trained on stays as it is. It matters to the distances that are
    /// no products, `l2` and `l1`: the larger it is, the less does the length of a noise count.
    pub image_scale: f32,
    /// Consecutive images of a batch that exchange noise among themselves only, at least 1; all if absent.
    pub micro_batch: Option<usize>,
}

/// Images from which on a matrix of their distances would be large.
const LARGE: usize = 4096;

impl Default for Assignment {
    /// The exact minimum of −⟨x, n⟩ over the batch.
    fn default() -> Self {
        Self {
            assigner: Arc::new(Exact),
            cost: Cost::Dot,
            class_wise: false,
            precision: None,
            pool: 1,
            standardize: false,
            image_scale: 1.0,
            micro_batch: None,
        }
    }
}

impl Assignment {
    /// Which of the drawn noises each image takes.
    pub(crate) fn choose(
        &self,
        x0: ArrayView2<f32>,
        drawn: ArrayView2<f32>,
        pairing: &PairContext,
    ) -> Result<Vec<u32>, CouplingError> {
        let groups = self.groups(x0.nrows(), pairing)?;
        let images = self.compared(x0);
        let permutes = drawn.nrows() == x0.nrows() && pairing.mask.is_none();
        let problem = Problem {
            // ‖x‖² and ‖n‖² add up to the same for every permutation, and a product needs no matrix.
            cost: if self.cost == Cost::SquaredL2 && permutes { Cost::Dot } else { self.cost },
            groups: groups.as_deref(),
            mask: pairing.mask,
            precision: self.precision_of(x0.nrows()),
            ..Problem::new(images.view(), Candidates::Shared(drawn))
        };
        Ok(self.assigner.assign(&problem)?.noise_of)
    }

    /// The precision of the distances of so many images.
    fn precision_of(&self, images: usize) -> Precision {
        self.precision.unwrap_or(if images < LARGE { Precision::F32 } else { Precision::Int8 })
    }

    /// The images as they are compared with the noises.
    fn compared<'a>(&self, x0: ArrayView2<'a, f32>) -> CowArray<'a, f32, Ix2> {
        if !self.standardize && self.image_scale == 1.0 {
            return x0.into();
        }
        let mut images = x0.to_owned();
        if self.standardize {
            for mut column in images.columns_mut() {
                let rows = column.len() as f64;
                let mean = column.iter().map(|&x| f64::from(x)).sum::<f64>() / rows;
                let variance = column.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / rows;
                // A coordinate that is the same in all images tells nothing.
                let scale = if variance > 0.0 { variance.sqrt().recip() } else { 0.0 };
                column.mapv_inplace(|x| ((f64::from(x) - mean) * scale) as f32);
            }
        }
        images *= self.image_scale;
        images.into()
    }

    /// Group number of every row, from the labels (if class-wise), the context's own groups, and the micro-batches.
    fn groups(&self, rows: usize, pairing: &PairContext) -> Result<Option<Vec<u32>>, CouplingError> {
        let labels = match (self.class_wise, pairing.labels) {
            (true, None) => return Err(CouplingError::LabelsRequired),
            (true, labels) => labels,
            (false, _) => None,
        };
        for (what, part) in [("labels have", labels), ("groups have", pairing.group)] {
            if let Some(found) = part.map(<[u32]>::len).filter(|&found| found != rows) {
                return Err(CouplingError::ContextRows { what, rows, found });
            }
        }
        let micro_batch = |size: usize| (0..rows).map(|row| (row / size.max(1)) as u32).collect();
        let parts: [Option<Vec<u32>>; 3] = [
            labels.map(<[u32]>::to_vec),
            pairing.group.map(<[u32]>::to_vec),
            self.micro_batch.map(micro_batch),
        ];
        Ok(parts.into_iter().flatten().reduce(|a, b| intersections(&a, &b)))
    }
}

/// Groups of the rows that are together in both.
fn intersections(a: &[u32], b: &[u32]) -> Vec<u32> {
    let mut numbers = BTreeMap::new();
    let pairs = a.iter().zip(b);
    pairs
        .map(|pair| {
            let next = numbers.len() as u32;
            *numbers.entry(pair).or_insert(next)
        })
        .collect()
}

impl Coupling for Assignment {
    fn name(&self) -> &'static str {
        "assignment"
    }

    fn exact_marginal(&self) -> bool {
        self.pool == 1
    }

    fn host(&self) -> Option<&dyn HostCoupling> {
        Some(self)
    }

    /// Where distances are products of matrices and all coordinates count alike. For [`Precision::Int8`] they are products of numbers
    /// that are rounded to bf16, which have 8 bits too, where the device has them and the matrix is not large.
    fn compare(
        &self,
        x0: &Tensor<4>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Option<(Compared, Costs)>, CouplingError> {
        let rounded = match self.precision_of(x0.dims()[0]) {
            Precision::F32 => false,
            Precision::Int8 if x0.dims()[0] < LARGE && x0.device().supports_dtype(DType::BF16) => true,
            _ => return Ok(None),
        };
        if self.cost == Cost::L1 || self.standardize || pairing.mask.is_some() {
            return Ok(None);
        }
        let comparison = Comparison {
            cost: self.cost,
            rounded,
            image_scale: self.image_scale,
            pool: self.pool,
            groups: self.groups(x0.dims()[0], pairing)?,
            assigner: Arc::clone(&self.assigner),
        };
        comparison.of(x0, key).map(Some)
    }
}

impl HostCoupling for Assignment {
    fn draw_host(
        &self,
        x0: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        let rows = x0.nrows();
        let drawn = fresh_noise(self.pool * rows, x0.ncols(), key);
        let start = Instant::now();
        let noise_of = self.choose(x0, drawn.view(), pairing)?;
        let mut noise = Array2::zeros(x0.dim());
        let rows_of_noise = noise.axis_iter_mut(Axis(0)).into_par_iter().zip(&noise_of);
        rows_of_noise.for_each(|(mut row, &j)| row.assign(&drawn.row(j as usize)));
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        Draw::measured(x0, drawn.slice_axis(Axis(0), Slice::from(..rows)), noise, milliseconds)
    }
}
