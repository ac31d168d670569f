use crate::Moments;
use ndarray::{Array1, Array2, ArrayView2, Axis};
use std::collections::BTreeMap;

/// The distribution of many noises, the images not looked at. All numbers are 1 for standard normal noise.
#[derive(Clone, Debug, PartialEq)]
pub struct Marginal {
    /// |ε̄|² N / D: the squared mean over what chance gives it, 1 ± √(2/D). It grows with N where the mean is not 0.
    pub mean_shift: f64,
    /// Σ|ε|² / (N·D).
    pub energy: f64,
    /// Variance along each of the components of the data that [`Moments`] has, 1 ± √(2/N).
    pub leading: Vec<f64>,
}

impl Marginal {
    /// Of the rows of `noise`, seen along the components of the data's moments.
    ///
    /// # Shapes
    /// `noise` is `[N, D]` with N and D at least 1, and the moments are of images of D values.
    pub fn of(noise: ArrayView2<f32>, moments: &Moments) -> Self {
        let (n, d) = (noise.nrows() as f64, noise.ncols() as f64);
        let mut mean = Array1::<f64>::zeros(noise.ncols());
        let mut square = 0.0;
        for row in noise.rows() {
            mean.zip_mut_with(&row, |mean, x| *mean += f64::from(*x) / n);
            square += f64::from(row.dot(&row));
        }
        let along = noise.dot(&moments.components.t());
        let variance = |column: ndarray::ArrayView1<f32>| {
            let values = column.mapv(f64::from);
            values.mapv(|z| z * z).sum() / n - (values.sum() / n).powi(2)
        };
        Self {
            mean_shift: mean.dot(&mean) * n / d,
            energy: square / (n * d),
            leading: along.columns().into_iter().map(variance).collect(),
        }
    }

    /// The mean variance along the components, 1 if there are none.
    pub fn mean_leading(&self) -> f64 {
        match &self.leading[..] {
            [] => 1.0,
            variances => variances.iter().sum::<f64>() / variances.len() as f64,
        }
    }
}

/// How well a label can be told from its noise alone.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Probe {
    /// Share of the noises whose label is told.
    pub accuracy: f64,
    /// What it would be by always saying the most frequent label.
    pub chance: f64,
    /// Standard error of the accuracy at chance.
    pub error: f64,
}

impl Probe {
    /// By the mean noises of each label in the first half of the rows, which tell the label in the second half by the nearest:
    /// the best linear probe for noises that are normal around those means.
    ///
    /// # Shapes
    /// `noise` is `[N, D]`, `labels` `[N]`, with N at least 2.
    pub fn of(noise: ArrayView2<f32>, labels: &[u32]) -> Self {
        let half = labels.len() / 2;
        let mut number = BTreeMap::new();
        for label in &labels[..half] {
            let next = number.len();
            number.entry(*label).or_insert(next);
        }
        let mut means = Array2::<f32>::zeros((number.len(), noise.ncols()));
        let mut counts = Array1::<f32>::zeros(number.len());
        for (row, label) in noise.rows().into_iter().zip(&labels[..half]) {
            let mut mean = means.row_mut(number[label]);
            mean += &row;
            counts[number[label]] += 1.0;
        }
        means /= &counts.view().insert_axis(Axis(1));
        // ‖ε − μ‖² is smallest where ⟨ε, μ⟩ − |μ|²/2 is largest.
        let offsets: Array1<f32> = means.rows().into_iter().map(|mean| 0.5 * mean.dot(&mean)).collect();
        let told = |(row, label): &(ndarray::ArrayView1<f32>, &u32)| {
            let scores = means.dot(row) - &offsets;
            let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            number.get(label).copied() == best
        };
        let rest = labels.len() - half;
        let told = noise.rows().into_iter().zip(labels).skip(half).filter(told).count();
        let mut seen = BTreeMap::<u32, usize>::new();
        labels[half..].iter().for_each(|label| *seen.entry(*label).or_default() += 1);
        let chance = seen.values().copied().max().unwrap_or_default() as f64 / rest as f64;
        Self {
            accuracy: told as f64 / rest as f64,
            chance,
            error: (chance * (1.0 - chance) / rest as f64).sqrt(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fresh_noise;
    use immiscible_random::Key;

    #[test]
    fn what_is_wrong_with_noise_is_seen() {
        let (rows, d) = (4096, 32);
        let mut components = Array2::zeros((2, d));
        (components[(0, 0)], components[(1, 3)]) = (1.0, 1.0);
        let moments = Moments { mean: Array1::zeros(d), components, variances: vec![2.0, 1.0], rest: 1.0 };
        let noise = fresh_noise(rows, d, Key::new(1));
        let found = Marginal::of(noise.view(), &moments);
        assert!((found.mean_shift - 1.0).abs() < 4.0 * (2.0 / d as f64).sqrt(), "{found:?}");
        assert!((found.energy - 1.0).abs() < 4.0 * (2.0 / (rows * d) as f64).sqrt(), "{found:?}");
        let standard = |variance: &f64| (variance - 1.0).abs() < 4.0 * (2.0 / rows as f64).sqrt();
        assert!(found.leading.len() == 2 && found.leading.iter().all(standard), "{found:?}");

        // A mean of 0.1 everywhere adds N/100; twice the first coordinate is a variance of 4 and 3/D of the energy.
        let shifted = Marginal::of((&noise + 0.1).view(), &moments);
        assert!((shifted.mean_shift / (rows as f64 / 100.0) - 1.0).abs() < 0.1, "{shifted:?}");
        let mut stretched = noise.clone();
        stretched.column_mut(0).mapv_inplace(|z| 2.0 * z);
        let stretched = Marginal::of(stretched.view(), &moments);
        assert!((stretched.leading[0] - 4.0).abs() < 0.4 && standard(&stretched.leading[1]), "{stretched:?}");
        assert!((stretched.mean_leading() - 2.5).abs() < 0.2, "{stretched:?}");
        assert!((stretched.energy - found.energy - 3.0 / d as f64).abs() < 0.01, "{stretched:?}");
    }

    #[test]
    fn a_probe_finds_means_that_differ_and_nothing_else() {
        let noise = fresh_noise(6000, 8, Key::new(2));
        let labels: Vec<u32> = (0..6000).map(|row| [7, 2, 9][row % 3]).collect();
        let chance = Probe::of(noise.view(), &labels);
        assert!(
            (chance.chance - 1.0 / 3.0).abs() < 1e-3
                && (chance.accuracy - chance.chance).abs() < 4.0 * chance.error
        );
        let mut moved = noise;
        for (mut row, label) in moved.rows_mut().into_iter().zip(&labels) {
            row[0] += if *label == 7 { 3.0 } else { 0.0 };
        }
        let told = Probe::of(moved.view(), &labels);
        // All of one label but those below 1.5, and half of the others.
        assert!((told.accuracy - (0.93 + 0.93) / 3.0).abs() < 0.04, "{told:?}");
    }
}
