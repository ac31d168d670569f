use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// How samples spread over labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// The samples of each label that has any.
    pub histogram: BTreeMap<u32, usize>,
}

/// Counts `labels`, usually those that [`NearestNeighbour`](crate::NearestNeighbour) gave to generated samples.
pub fn coverage(labels: &[u32]) -> Coverage {
    let mut coverage = Coverage::default();
    for &label in labels {
        *coverage.histogram.entry(label).or_default() += 1;
    }
    coverage
}

impl Coverage {
    /// How many labels there are among the samples.
    pub fn distinct(&self) -> usize {
        self.histogram.len()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} labels:", self.distinct())?;
        self.histogram.iter().try_for_each(|(label, count)| write!(f, " {label}×{count}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_labels() {
        let found = coverage(&[7, 1, 7, 7]);
        assert_eq!(found.distinct(), 2);
        assert_eq!(found.histogram, BTreeMap::from([(1, 1), (7, 3)]));
        assert_eq!(found.to_string(), "2 labels: 1×1 7×3");
        assert_eq!(coverage(&[]).distinct(), 0);
    }
}
