//! What the classes with timesteps have in common: betas, what the network predicts, timesteps, clamping.

use immiscible_schedule::schedule::{cosine::cosine, linear::linear, scaled_linear::scaled_linear};
use immiscible_schedule::{NoiseSchedule, Objective, ObjectiveConfig, Point, Time, VariancePreserving};
use serde::{Deserialize, Serialize};

use super::fields::{Fields, refuse};
use crate::SampleError;
use crate::clip::{Clip, Range};
use crate::grid::{evenly, leading, linspace, trailing};
use crate::sampler::Path;

/// Names of objectives here and of prediction types there.
pub(super) const PREDICTION_TYPES: [(&str, &str); 3] =
    [("epsilon", "epsilon"), ("x0", "sample"), ("v", "v_prediction")];

/// As many as any schedule of this project has.
pub(super) const MOST_TIMESTEPS: usize = 100_000;

/// The first and last beta of most classes.
pub(super) const BETAS: [f64; 2] = [1e-4, 0.02];

/// The schedule of the fields that tell the betas.
pub(super) fn betas(fields: &mut Fields, default: [f64; 2]) -> Result<VariancePreserving, SampleError> {
    let timesteps = fields.take("num_train_timesteps", 1000_usize)?;
    let [start, end] = [fields.take("beta_start", default[0])?, fields.take("beta_end", default[1])?];
    let kind = fields.take("beta_schedule", "linear".to_owned())?;
    let trained: Option<Vec<f64>> = fields.take("trained_betas", None)?;
    if !(1..=MOST_TIMESTEPS).contains(&timesteps) {
        return Err(refuse("num_train_timesteps", &timesteps, format!("use 1 to {MOST_TIMESTEPS}")));
    }
    if let Some(betas) = trained {
        if betas.len() != timesteps {
            let remedy = format!("it has {} betas; set it to that", betas.len());
            return Err(refuse("num_train_timesteps", &timesteps, remedy));
        }
        return Ok(VariancePreserving::from_betas("trained_betas", betas)?);
    }
    let usual = |first: f64, last: f64| (start, end, timesteps) == (first, last, 1000);
    Ok(match &*kind {
        "linear" if usual(1e-4, 0.02) => linear(timesteps)?,
        "scaled_linear" if usual(0.00085, 0.012) => scaled_linear(timesteps)?,
        "linear" => VariancePreserving::from_betas("linear", evenly(start, end, timesteps))?,
        "scaled_linear" => {
            let roots = evenly(start.sqrt(), end.sqrt(), timesteps);
            VariancePreserving::from_betas("scaled_linear", roots.map(|root| root * root))?
        }
        "squaredcos_cap_v2" => cosine(timesteps)?,
        other => {
            let remedy = "linear, scaled_linear and squaredcos_cap_v2 are supported";
            return Err(refuse("beta_schedule", other, remedy));
        }
    })
}

/// The same with `rescale_betas_zero_snr`; `last` is alpha² of the last timestep then.
pub(super) fn betas_or_zero_snr(fields: &mut Fields, last: f64) -> Result<VariancePreserving, SampleError> {
    let schedule = betas(fields, BETAS)?;
    Ok(match fields.take("rescale_betas_zero_snr", false)? {
        true => schedule.with_zero_terminal_snr(last)?,
        false => schedule,
    })
}

/// In place of an alpha² of 0, in classes that divide by it.
pub(super) const NEARLY_ZERO: f64 = 1.0 / 16_777_216.0;

/// What the network predicts; `supported` are names of the package.
pub(super) fn prediction(fields: &mut Fields, supported: &[&str]) -> Result<Box<dyn Objective>, SampleError> {
    let kind = fields.take("prediction_type", "epsilon".to_owned())?;
    let known = PREDICTION_TYPES.iter().find(|(_, name)| *name == kind && supported.contains(name));
    let Some((own, _)) = known else {
        let remedy = format!("supported: {}", supported.join(", "));
        return Err(refuse("prediction_type", &kind, remedy));
    };
    Ok(ObjectiveConfig::new(*own).build()?)
}

/// All that the network can predict.
pub(super) const ALL: &[&str] = &["epsilon", "sample", "v_prediction"];

/// How the timesteps of sampling are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Spacing {
    /// Evenly spaced, both ends included.
    Linspace,
    /// Multiples of T/S from 0 on.
    Leading,
    /// Multiples of T/S from T − 1 down.
    Trailing,
}

/// The timesteps of a run.
pub(super) struct Timesteps {
    pub(super) total: usize,
    pub(super) spacing: Spacing,
    pub(super) offset: usize,
}

impl Timesteps {
    pub(super) fn read(
        fields: &mut Fields,
        schedule: &VariancePreserving,
        default: Spacing,
    ) -> Result<Self, SampleError> {
        let total = schedule.points().len();
        let spacing = fields.take("timestep_spacing", default)?;
        let offset = fields.take("steps_offset", 0)?;
        if offset >= total {
            return Err(refuse("steps_offset", &offset, format!("use less than {total}")));
        }
        Ok(Self { total, spacing, offset })
    }

    /// Refuses a number of steps that there are no timesteps for.
    pub(super) fn check(&self, steps: usize) -> Result<(), SampleError> {
        let total = self.total;
        if (1..=total).contains(&steps) {
            return Ok(());
        }
        Err(refuse("steps", &steps, format!("the model has {total} timesteps; use 1 to {total}")))
    }

    /// Whole timesteps, the noisiest first.
    pub(super) fn whole(&self, steps: usize) -> Result<Vec<usize>, SampleError> {
        self.check(steps)?;
        Ok(match self.spacing {
            Spacing::Linspace => linspace(self.total, steps),
            Spacing::Leading => leading(self.total, steps).into_iter().map(|t| t + self.offset).collect(),
            Spacing::Trailing => trailing(self.total, steps),
        })
    }

    /// From noise to data. The steps of DDIM, which do not `join`, go T/S timesteps down (rounded down) also where the next one
    /// starts elsewhere.
    pub(super) fn path(
        &self,
        schedule: &dyn NoiseSchedule,
        steps: usize,
        last: Point,
        join: bool,
    ) -> Result<Path, SampleError> {
        let from = self.whole(steps)?;
        let point = |t: usize| schedule.at(Time::Index(t as u32));
        let pairs = from.iter().enumerate().map(|(i, &t)| {
            let to = if join { from.get(i + 1).copied() } else { t.checked_sub(self.total / steps) };
            Ok((point(t)?, to.map_or(Ok(last), point)?))
        });
        pairs.collect()
    }
}

/// The clamping of classes that clamp x0 and leave the noise as it was predicted.
pub(super) fn clip(fields: &mut Fields, clamps: Option<bool>) -> Result<Option<Clip>, SampleError> {
    let clamps = match clamps {
        Some(default) => fields.take("clip_sample", default)?,
        None => false,
    };
    let range = if clamps { fields.take("clip_sample_range", 1.0)? } else { 1.0 };
    fields.ignore(&["clip_sample_range"]);
    let thresholds = fields.take("thresholding", false)?;
    let ratio = fields.take("dynamic_thresholding_ratio", 0.995)?;
    let most: f64 = fields.take("sample_max_value", 1.0)?;
    if !(range > 0.0 && f64::is_finite(range)) {
        return Err(refuse("clip_sample_range", &range, "use a positive number"));
    }
    if !(ratio > 0.0 && ratio <= 1.0) {
        return Err(refuse("dynamic_thresholding_ratio", &ratio, "use a number above 0 and up to 1"));
    }
    if most.is_nan() || most < 1.0 {
        return Err(refuse("sample_max_value", &most, "use at least 1"));
    }
    let range = if thresholds { Range::Dynamic { range: 1.0, ratio, most } } else { Range::Fixed(range) };
    Ok((thresholds || clamps).then_some(Clip { range, noise_follows: false }))
}
