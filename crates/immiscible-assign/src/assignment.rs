use ndarray::{Array2, Axis};

use crate::{AssignError, Candidates};

/// The noise that each image takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Assignment {
    /// Image i takes noise `noise_of[i]`: a row of [`Candidates::Shared`], or one of its own candidates 0 .. k of
    /// [`Candidates::PerImage`].
    pub noise_of: Vec<u32>,
    /// The sum over the images of the cost of the noise they take, in the unit of the problem's cost.
    pub cost: f64,
    /// The same sum if every image i kept noise i (its first candidate): what `cost` is to be compared with.
    pub identity_cost: f64,
    /// What any assignment of this problem costs at least, if the assigner can prove it.
    pub lower_bound: Option<f64>,
}

impl Assignment {
    /// The most that a better assignment could still gain, in per cent of the gain that the best one could have over the
    /// identity, which is a random pairing; 0 if it is proven optimal. `None` if the assigner proves nothing.
    pub fn gap_percent(&self) -> Option<f64> {
        self.lower_bound.map(|bound| {
            let (gap, gain) = (self.cost - bound, self.identity_cost - bound);
            // Where all assignments cost the same, gap and gain are what the sums were rounded by.
            let rounding = 1e-14 * self.cost.abs();
            if gap <= rounding { 0.0 } else { 100.0 * gap / gain }
        })
    }

    /// The noises in the order of the images: row i is the noise that image i takes, bit for bit.
    ///
    /// # Shapes
    /// The result is [B, D].
    ///
    /// # Errors
    /// If `candidates` are not those of this assignment: another number of images, or a noise that is not there.
    pub fn gather(&self, candidates: &Candidates) -> Result<Array2<f32>, AssignError> {
        let images = self.noise_of.len();
        let chosen: Vec<usize> = self.noise_of.iter().map(|&j| j as usize).collect();
        let needed = chosen.iter().map(|j| j + 1).max().unwrap_or(0);
        let mismatch = |expected, found: &[usize]| {
            Err(AssignError::ShapeMismatch { what: "candidates", expected, found: found.to_vec() })
        };
        match candidates {
            Candidates::Shared(noise) if needed > noise.nrows() => {
                mismatch(vec![needed, noise.ncols()], noise.shape())
            }
            Candidates::Shared(noise) => Ok(noise.select(Axis(0), &chosen)),
            Candidates::PerImage(noise) => {
                let (batch, k, dimension) = noise.dim();
                if batch != images || needed > k {
                    return mismatch(vec![images, needed, dimension], noise.shape());
                }
                let mut gathered = Array2::zeros((images, dimension));
                for ((mut row, own), j) in gathered.rows_mut().into_iter().zip(noise.outer_iter()).zip(chosen)
                {
                    row.assign(&own.row(j));
                }
                Ok(gathered)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{Array3, array};

    use super::*;

    fn taking(noise_of: &[u32]) -> Assignment {
        Assignment { noise_of: noise_of.to_vec(), ..Assignment::default() }
    }

    #[test]
    fn gaps_are_shares_of_the_gain() {
        let proven =
            |lower_bound| Assignment { cost: 6.0, identity_cost: 10.0, lower_bound, ..Assignment::default() };
        assert_eq!(proven(Some(5.0)).gap_percent(), Some(20.0));
        assert_eq!(proven(Some(6.0)).gap_percent(), Some(0.0));
        assert_eq!(proven(None).gap_percent(), None);
    }

    #[test]
    fn image_i_gets_its_noise_and_not_the_inverse() {
        let noise = array![[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]];
        let gathered = taking(&[1, 2, 0]).gather(&Candidates::Shared(noise.view()));
        assert_eq!(gathered, Ok(array![[1.0, 1.5], [2.0, 2.5], [0.0, 0.5]]));
    }

    #[test]
    fn image_i_gets_all_of_its_own_candidate() {
        let noise = Array3::from_shape_fn((2, 3, 2), |(i, k, d)| (100 * i + 10 * k + d) as f32);
        let gathered = taking(&[2, 0]).gather(&Candidates::PerImage(noise.view()));
        assert_eq!(gathered, Ok(array![[20.0, 21.0], [100.0, 101.0]]));
    }

    #[test]
    fn other_candidates_are_refused() {
        let few = array![[0.0], [1.0]];
        assert!(taking(&[0, 2]).gather(&Candidates::Shared(few.view())).is_err());
        let noise = Array3::zeros((2, 3, 1));
        assert!(taking(&[0, 3]).gather(&Candidates::PerImage(noise.view())).is_err());
        assert!(taking(&[0]).gather(&Candidates::PerImage(noise.view())).is_err());
    }
}
