//! The checks of single fields that the configurations share.

use serde::Serialize;

use crate::ModelError;
use crate::error::json;

/// Refuses every value but the one that is supported.
pub(crate) fn only<T: Serialize + PartialEq + ?Sized>(
    field: &'static str,
    value: &T,
    supported: &T,
) -> Result<(), ModelError> {
    if value == supported {
        return Ok(());
    }
    Err(ModelError::config(field, value, format!("only {} is supported", json(supported))))
}

/// No size of a network comes near it, and products of two sizes below it cannot overflow.
const LARGEST: usize = 1 << 24;

/// Refuses zero, and sizes that no device could hold.
pub(crate) fn positive(field: &'static str, value: usize) -> Result<(), ModelError> {
    if (1..=LARGEST).contains(&value) {
        return Ok(());
    }
    Err(ModelError::config(field, &value, format!("use 1 to {LARGEST}")))
}

/// Refuses what is not in [0, 1).
pub(crate) fn probability(field: &'static str, value: f64) -> Result<(), ModelError> {
    if (0.0..1.0).contains(&value) {
        return Ok(());
    }
    Err(ModelError::config(field, &value, "use a number from 0 up to, but not including, 1"))
}

/// Refuses what is not a small positive number.
pub(crate) fn epsilon(field: &'static str, value: f64) -> Result<(), ModelError> {
    if value > 0.0 && value < 1.0 {
        return Ok(());
    }
    Err(ModelError::config(field, &value, "use a small positive number such as 1e-5"))
}
