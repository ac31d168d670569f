use crate::TrainError;
use burn::tensor::{Tensor, TensorData};
use immiscible_schedule::{
    Distance, DistanceConfig, LearnedVariance, Levels, NoiseSchedule, Objective, Times, Weighting,
    WeightingConfig,
};
use serde::{Deserialize, Serialize};

/// The `[loss]` table of a config. The default is the plain mean squared error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossConfig {
    /// How far an output is from its target.
    pub distance: DistanceConfig,
    /// How much each noise level counts.
    pub weighting: WeightingConfig,
    /// Weight λ >= 0 of the variational bound that trains the variance of a network with twice the channels, on a discrete
    /// schedule (Nichol & Dhariwal 2021, arXiv 2102.09672, eq. 16; 0.001 there). Absent for other networks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlb_weight: Option<f64>,
}

impl LossConfig {
    /// Builds the loss for networks that are trained with `objective` on `schedule`.
    ///
    /// # Errors
    /// If a name is unknown, an option is outside its range, or the parts do not go together.
    pub fn build(&self, schedule: &dyn NoiseSchedule, objective: &dyn Objective) -> Result<Loss, TrainError> {
        let bound = match self.vlb_weight {
            Some(weight) if !(weight >= 0.0 && weight.is_finite()) => {
                let (key, remedy) = ("loss.vlb_weight", "write a value >= 0; 0.001 is usual");
                return Err(TrainError::Option { key, value: weight.to_string(), remedy });
            }
            Some(weight) => Some((weight, LearnedVariance::new(schedule)?)),
            None => None,
        };
        let weighting = self.weighting.build_for(schedule, objective)?;
        Ok(Loss { distance: self.distance.build()?, weighting, bound })
    }
}

/// What a batch of outputs costs: mean over the batch of weight × distance, and the variational bound where a variance is
/// learned.
pub struct Loss {
    distance: Box<dyn Distance>,
    weighting: Box<dyn Weighting>,
    bound: Option<(f64, LearnedVariance)>,
}

/// A noisy batch as the loss sees it.
pub(crate) struct Noised<'a> {
    pub(crate) x0: &'a Tensor<4>,
    pub(crate) x_t: &'a Tensor<4>,
    pub(crate) target: Tensor<4>,
    pub(crate) times: &'a Times,
    pub(crate) levels: &'a Levels,
}

impl Loss {
    /// The loss of a network's whole output, `[1]`.
    ///
    /// # Errors
    /// [`TrainError::Option`] if the output has not the target's channels, or twice as many where a variance is learned.
    pub(crate) fn of(
        &self,
        objective: &dyn Objective,
        output: Tensor<4>,
        noised: Noised<'_>,
    ) -> Result<Tensor<1>, TrainError> {
        let Noised { x0, x_t, target, times, levels } = noised;
        let channels = target.dims()[1];
        let expected = if self.bound.is_some() { 2 * channels } else { channels };
        if output.dims()[1] != expected {
            return Err(TrainError::Option {
                key: "model.out_channels",
                value: output.dims()[1].to_string(),
                remedy: "write the channels of the images, or twice as many together with loss.vlb_weight",
            });
        }
        let Some((lambda, variance)) = &self.bound else {
            return Ok(self.weighted(objective, output - target, times));
        };
        let v = output.clone().narrow(1, channels, channels);
        let output = output.narrow(1, 0, channels);
        // The bound is noisy; the mean is left to the distance.
        let estimate = objective.read(output.clone().detach(), x_t, levels).x0;
        let bound = variance.bits(v, estimate, x0, times).mean() * variance.timesteps() as f64;
        Ok(self.weighted(objective, output - target, times) + bound * *lambda)
    }

    fn weighted(&self, objective: &dyn Objective, error: Tensor<4>, times: &Times) -> Tensor<1> {
        let device = error.device();
        let weights = times.points().iter().map(|point| self.weighting.weight(objective, *point) as f32);
        let weights = TensorData::new(weights.collect::<Vec<f32>>(), [times.points().len(), 1, 1, 1]);
        (self.distance.of(error) * Tensor::<4>::from_data(weights, &device)).mean()
    }
}
