use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::SampleError;

/// The fields of a `scheduler_config.json`, taken one by one.
pub(super) struct Fields {
    given: Map<String, Value>,
    taken: Map<String, Value>,
}

impl Fields {
    pub(super) fn new(given: Map<String, Value>) -> Self {
        Self { given, taken: Map::new() }
    }

    /// The value of a field.
    pub(super) fn take<T: DeserializeOwned + Serialize>(
        &mut self,
        field: &'static str,
        default: T,
    ) -> Result<T, SampleError> {
        let value = match self.given.remove(field) {
            None => default,
            Some(value) => T::deserialize(&value)
                .map_err(|reason| SampleError::SchedulerFile(format!("`{field}` = {value}: {reason}")))?,
        };
        self.taken.insert(field.into(), json!(value));
        Ok(value)
    }

    /// A field that must have its default value; null stands for it.
    pub(super) fn only<T: Serialize>(&mut self, field: &'static str, value: T) -> Result<(), SampleError> {
        let value = json!(value);
        match self.given.remove(field) {
            Some(given) if given != value && !given.is_null() => {
                Err(refuse(field, &given, format!("only {value} is supported")))
            }
            _ => {
                self.taken.insert(field.into(), value);
                Ok(())
            }
        }
    }

    /// Whether a field that was taken has this value.
    pub(super) fn is(&self, field: &str, value: &str) -> bool {
        self.taken.get(field).and_then(Value::as_str) == Some(value)
    }

    /// Leaves out a field that was taken: its value cannot be written.
    pub(super) fn forget(&mut self, field: &str) {
        self.taken.remove(field);
    }

    /// Fields that are not looked at.
    pub(super) fn ignore(&mut self, fields: &[&'static str]) {
        for field in fields {
            if let Some(value) = self.given.remove(*field) {
                self.taken.insert((*field).into(), value);
            }
        }
    }

    /// All fields, if none is left but those that the class ignores.
    pub(super) fn finish(mut self) -> Result<Map<String, Value>, SampleError> {
        if let Some(field) = self.given.keys().find(|field| !OF_OTHERS.contains(&&***field)) {
            return Err(SampleError::SchedulerFile(format!("unknown field `{field}`")));
        }
        self.taken.append(&mut self.given);
        Ok(self.taken)
    }
}

/// Fields of some classes, which files of other classes have as well: a pipeline that was given another scheduler keeps them. The
/// package ignores them there.
const OF_OTHERS: [&str; 20] = [
    "algorithm_type",
    "clip_sample",
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "euler_at_final",
    "final_sigmas_type",
    "interpolation_type",
    "lower_order_final",
    "rescale_betas_zero_snr",
    "sample_max_value",
    "set_alpha_to_one",
    "skip_prk_steps",
    "solver_order",
    "solver_type",
    "thresholding",
    "timestep_type",
    "use_exponential_sigmas",
    "use_karras_sigmas",
    "use_lu_lambdas",
    "variance_type",
];

pub(super) fn refuse(
    field: &'static str,
    value: &(impl Serialize + ?Sized),
    remedy: impl Into<String>,
) -> SampleError {
    SampleError::Scheduler { field, value: json!(value).to_string(), remedy: remedy.into() }
}
