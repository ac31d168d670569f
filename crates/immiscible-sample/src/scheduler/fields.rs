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

    /// All fields, if none is left.
    pub(super) fn finish(self) -> Result<Map<String, Value>, SampleError> {
        match self.given.keys().next() {
            Some(field) => Err(SampleError::SchedulerFile(format!("unknown field `{field}`"))),
            None => Ok(self.taken),
        }
    }
}

pub(super) fn refuse(
    field: &'static str,
    value: &(impl Serialize + ?Sized),
    remedy: impl Into<String>,
) -> SampleError {
    SampleError::Scheduler { field, value: json!(value).to_string(), remedy: remedy.into() }
}
