use ndarray::ArrayView2;

/// Why there is no number.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetricError {
    /// A set without samples.
    #[error("{what} is empty: a metric needs at least one sample")]
    Empty {
        /// The set.
        what: &'static str,
    },
    /// Samples of different length, or another number of labels than of samples.
    #[error("{what} is {found}, but {expected} is needed")]
    ShapeMismatch {
        /// The quantity that does not fit.
        what: &'static str,
        /// What the other argument asks for.
        expected: usize,
        /// What it is.
        found: usize,
    },
    /// A value that is not a number, or infinite.
    #[error("{what} holds {value} at row {row}, column {column}: every value must be finite")]
    NonFinite {
        /// The set.
        what: &'static str,
        /// Its row, from 0.
        row: usize,
        /// Its column, from 0.
        column: usize,
        /// The value.
        value: f32,
    },
    /// No direction to project on.
    #[error("a sliced distance needs at least one projection; 200 to 1,000 are usual")]
    NoProjections,
    /// Not enough real data for a floor of the same sample count.
    #[error(
        "{generated} generated samples need at least {needed} real ones, half of them held out to measure the floor, \
         but there are {real}: give more real samples or generate fewer",
        needed = 2 * generated
    )]
    TooFewReal {
        /// Number of generated samples.
        generated: usize,
        /// Number of real samples.
        real: usize,
    },
}

/// Accepts a non-empty set of finite values.
pub(crate) fn check(samples: ArrayView2<f32>, what: &'static str) -> Result<(), MetricError> {
    if samples.is_empty() {
        return Err(MetricError::Empty { what });
    }
    match samples.indexed_iter().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some(((row, column), &value)) => Err(MetricError::NonFinite { what, row, column, value }),
    }
}
