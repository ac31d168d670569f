//! What of `metrics.jsonl` is drawn over the steps.

use immiscible_train::Record;

/// One number of every line.
pub(crate) struct Curve {
    /// Its key in `metrics.jsonl`.
    pub(crate) key: &'static str,
    /// What it belongs to, which is where TensorBoard shows it.
    pub(crate) group: &'static str,
    value: fn(&Record) -> Option<f64>,
}

impl Curve {
    /// The value of a line, unless none of its steps was taken, or the number is not one.
    pub(crate) fn of(&self, record: &Record) -> Option<f64> {
        record.loss?;
        (self.value)(record).filter(|value| value.is_finite())
    }
}

macro_rules! curves {
    ($($group:literal: $($key:ident),+;)+) => {
        /// All of them.
        pub(crate) const CURVES: &[Curve] =
            &[$($(Curve { key: stringify!($key), group: $group, value: |line| line.$key.into() }),+),+];
    };
}

curves! {
    "train": loss, loss_ema, gradient_norm, learning_rate;
    "speed": images_per_second, step_ms, waited_ms;
    "coupling": coupling_ms, coupling_visible_ms, coupling_hidden_ms, coupling_share_percent, distance_before,
        distance_after, distance_drop_percent, coefficient, energy, alignment, mean_shift;
    "latents": encode_ms, cost_ms, solve_ms, gather_ms, bytes_to_host, bytes_to_device;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_number_of_a_line_is_a_curve() {
        let line = r#"{"schema": 1, "step": 4, "loss": 0.5, "gradient_norm": 1.0, "learning_rate": 0.1,
            "images_per_second": 2.0, "step_ms": 3.0, "coupling_ms": 4.0, "coupling_share_percent": 5.0,
            "distance_before": 6.0, "distance_after": 7.0, "distance_drop_percent": 8.0, "coefficient": 9.0, "energy": 10.0}"#;
        let record: Record = serde_json::from_str(line).unwrap();
        let written = serde_json::to_value(&record).unwrap();
        let keys: BTreeSet<&str> = written.as_object().unwrap().keys().map(String::as_str).collect();
        let drawn: BTreeSet<&str> = CURVES.iter().map(|curve| curve.key).collect();
        let others: Vec<_> = keys.symmetric_difference(&drawn).copied().collect();
        // One first step a process is no curve.
        assert_eq!(others, ["first_step_ms", "schema", "skipped", "step"]);
        for curve in CURVES {
            assert_eq!(curve.of(&record), written[curve.key].as_f64(), "{}", curve.key);
            assert_eq!(curve.of(&Record { loss: None, ..record.clone() }), None);
        }
    }
}
