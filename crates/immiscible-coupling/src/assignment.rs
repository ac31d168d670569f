use crate::{
    Coupling, CouplingError, Draw, HostCoupling, PairContext, Statistics, draw_through_host, fresh_noise,
};
use burn::tensor::Tensor;
use immiscible_assign::{Assigner, Candidates, Cost, Precision, Problem};
use immiscible_random::Key;
use ndarray::{Array2, ArrayView2, Axis};
use std::{collections::BTreeMap, time::Instant};

/// Linear assignment (arXiv 2406.12303, Algorithm 1): the noises of the batch are permuted so that their total
/// distance to the images is smallest.
///
/// The batch of noises stays the batch that was drawn, so its marginal stays standard normal; only which image
/// takes which noise changes.
pub struct Assignment {
    /// The solver.
    pub assigner: Box<dyn Assigner>,
    /// The distance that it makes small.
    pub cost: Cost,
    /// Whether noises move inside each label only, which keeps them independent of the label.
    pub class_wise: bool,
    /// The precision of the distances.
    pub precision: Precision,
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
        let problem = Problem {
            cost: self.cost,
            groups: groups.as_deref(),
            precision: self.precision,
            ..Problem::new(x0, Candidates::Shared(drawn))
        };
        Ok(self.assigner.assign(&problem)?.noise_of)
    }

    /// Group number of every row, from the labels (if class-wise) and the context's own groups.
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
        Ok(match (labels, pairing.group) {
            (None, None) => None,
            (Some(only), None) | (None, Some(only)) => Some(only.to_vec()),
            (Some(labels), Some(groups)) => {
                let mut number = BTreeMap::new();
                Some(
                    labels
                        .iter()
                        .zip(groups)
                        .map(|pair| {
                            let next = number.len() as u32;
                            *number.entry(pair).or_insert(next)
                        })
                        .collect(),
                )
            }
        })
    }
}

impl Coupling for Assignment {
    fn name(&self) -> &'static str {
        "assignment"
    }

    fn draw(
        &self,
        x0: &Tensor<4>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Tensor<4>>, CouplingError> {
        draw_through_host(self, x0, pairing, key)
    }

    fn host(&self) -> Option<&dyn HostCoupling> {
        Some(self)
    }
}

impl HostCoupling for Assignment {
    fn draw_host(
        &self,
        x0: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        let drawn = fresh_noise(x0.nrows(), x0.ncols(), key);
        let start = Instant::now();
        let noise_of = self.choose(x0, drawn.view(), pairing)?;
        let rows: Vec<usize> = noise_of.iter().map(|&j| j as usize).collect();
        let noise = drawn.select(Axis(0), &rows);
        let milliseconds = start.elapsed().as_secs_f64() * 1e3;
        let statistics = Statistics::measure(x0, drawn.view(), noise.view(), milliseconds)?;
        Ok(Draw { noise, statistics })
    }
}
